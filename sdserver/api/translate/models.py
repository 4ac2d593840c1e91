"""Checkpoints and what they run with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sdserver.api.options import CHECKPOINT, Snapshot
from sdserver.api.translate.plan import Sources
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.catalog.network_file import NetworkFile
from sdserver.errors import InvalidField, NotReady
from sdserver.jobs.model import Adapter, Attention, Embedding, Model, Storage, VaeMethod

METHODS: Final[Mapping[str, VaeMethod]] = {"Full": "full", "TAESD": "taesd"}
STORAGES: Final[Mapping[str, Storage]] = {
    "Disable": "full",
    "Enable for SDXL": "fp8 for sdxl",
    "Enable": "fp8",
}
_AUTOMATIC_VAE = "Automatic"


@dataclass(frozen=True, slots=True)
class Models:
    """Makes the models of a request's passes.

    Attributes:
        embeddings: that may stand in any of its prompts.
        attention: of the passes whose models are made.
        vaes: that were found, by the checkpoint's file.
    """

    sources: Sources
    options: Snapshot
    tiling: bool
    embeddings: tuple[Embedding, ...] = field(default=())
    attention: Attention = field(default=Attention())
    vaes: dict[str, NetworkFile | None] = field(default_factory=dict)

    def model(self, checkpoint: Checkpoint, adapters: tuple[Adapter, ...]) -> Model:
        """What a pass runs on."""
        vae, options = self.vae(checkpoint), self.options
        return Model(
            checkpoint=checkpoint.filename,
            vae=vae.path if vae else "",
            adapters=adapters,
            embeddings=self.embeddings,
            tiling=self.tiling,
            attention=self.attention,
            encoder=METHODS[options.text("sd_vae_encode_method")],
            decoder=METHODS[options.text("sd_vae_decode_method")],
            storage=STORAGES[options.text("fp8_storage")],
            keeps_fp16=options.flag("cache_fp16_weight"),
        )

    def vae(self, checkpoint: Checkpoint) -> NetworkFile | None:
        """The VAE that a checkpoint runs with, None for its own.

        Raises:
            InvalidField: the option names one that is not there.
        """
        name = checkpoint.filename
        if name not in self.vaes:
            self.vaes[name] = self._vae(checkpoint, self.options.text("sd_vae") or _AUTOMATIC_VAE)
        return self.vaes[name]

    def _vae(self, checkpoint: Checkpoint, chosen: str) -> NetworkFile | None:
        prefers_own = self.options.flag("sd_vae_overrides_per_model_preferences")
        try:
            return self.sources.networks.vae_for(checkpoint.filename, chosen, overrides_per_model=prefers_own)
        except InvalidField:
            if not self.sources.config.a1111_quirks or chosen == "None":
                raise
            return self._vae(checkpoint, "None")


def chosen_checkpoint(options: Snapshot, sources: Sources) -> Checkpoint:
    """The one that the options name.

    Raises:
        NotReady: none is chosen.
        UnknownCheckpoint: there is none of that name.
    """
    name = options.text(CHECKPOINT)
    if not name:
        raise NotReady("No checkpoint is chosen: set the option sd_model_checkpoint.", 10)
    return sources.checkpoints.find(name)
