"""One file beside the checkpoints: a LoRA, embedding, hypernetwork, VAE or upscaler."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

NetworkKind = Literal["lora", "embedding", "hypernetwork", "vae", "upscaler"]

_SHORT_HASH = 12
_SHORT_VAE_HASH = 10


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """A file as AUTOMATIC1111's lists and prompts name it.

    Attributes:
        kind: which of the lists it stands in.
        name: as A1111 shows it: the file name without its ending; with it for a VAE.
        path: absolute.
        alias: a LoRA's `ss_output_name`; the name where there is none, and for other kinds.
        sha256: 64 hex digits, or None while not computed (see `Networks.hashed`): of the file, but of a
            LoRA in safetensors of what stands behind its header (or what the header's
            `sshs_model_hash` says), so that editing its metadata does not change it.
        metadata: a LoRA's, as `GET /sdapi/v1/loras` answers with it: values that are JSON objects are
            decoded.
    """

    kind: NetworkKind
    name: str
    path: str
    alias: str
    sha256: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    @property
    def short_hash(self) -> str | None:
        """As infotexts print it: 12 digits in `Lora hashes` and `TI hashes`, 10 in `VAE hash`."""
        if self.sha256 is None:
            return None
        return self.sha256[: _SHORT_VAE_HASH if self.kind == "vae" else _SHORT_HASH]
