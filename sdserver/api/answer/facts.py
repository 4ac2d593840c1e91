"""What an answer tells that was not known when the request was resolved."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sdserver.api.translate.plan import Plan
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.catalog.network_file import NetworkFile
from sdserver.catalog.networks import Networks
from sdserver.catalog.safetensors_header import read_header
from sdserver.jobs.events import Cancelled, Finished, Used

log = logging.getLogger(__name__)

NOTHING_USED = Used()
BUNDLED: Final = "bundle_emb."
"""What the names of textual inversions' tensors inside a LoRA begin with."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Hashes of the files, and what the engine found.

    Attributes:
        checkpoints: by file name, with their hashes where those are known by now.
        version: the program's, for the infotexts.
        vae: the plan's.
        lora_hashes: of both passes, by the names that prompts gave them.
        embedding_hashes: by name; of those inside a LoRA the name that the prompt gave it.
        init_hash: of the last picture that the client sent, where they are saved.
    """

    checkpoints: Mapping[str, Checkpoint]
    version: str
    used: Used = NOTHING_USED
    vae: NetworkFile | None = None
    lora_hashes: Mapping[str, str] = field(default_factory=dict)
    embedding_hashes: Mapping[str, str] = field(default_factory=dict)
    init_hash: str | None = None

    def known(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with its hash, if that is known."""
        return self.checkpoints.get(checkpoint.filename, checkpoint)


def collect(
    plan: Plan,
    ends: Sequence[Finished | Cancelled],
    checkpoints: Sequence[Checkpoint],
    networks: Networks,
    version: str,
) -> Facts:
    """Gather the facts. Reads each file once that was never hashed: call it in a worker thread.

    Args:
        plan: what was asked.
        ends: the jobs' ends; the first picture's finds stand for all.
        checkpoints: the plan's, hashed.
        networks: hash the others.
        version: the program's.
    """
    used = next((end.used for end in ends if isinstance(end, Finished)), NOTHING_USED)
    named = [*plan.loras, *(plan.hires.loras if plan.hires else ())]
    loras = {lora.mentioned: _short_hash(lora.file, networks) for lora in named}
    found = {file.name: file for file in plan.embeddings if file.name in used.embeddings}
    embeddings = {name: _short_hash(file, networks) for name, file in found.items()}
    return Facts(
        checkpoints={checkpoint.filename: checkpoint for checkpoint in checkpoints},
        version=version,
        used=used,
        vae=_hashed(plan.vae, networks) if plan.vae else None,
        lora_hashes={name: known for name, known in loras.items() if name and known},
        embedding_hashes=_bundled(plan, used) | {name: known for name, known in embeddings.items() if known},
    )


def _bundled(plan: Plan, used: Used) -> dict[str, str]:
    """Textual inversions that were found inside LoRAs; A1111 tells the LoRA's name for their hash."""
    known = {file.name for file in plan.embeddings}
    names = {name for name in used.embeddings if name not in known}
    if not names or not plan.options.flag("lora_bundled_ti_to_infotext"):
        return {}
    found: dict[str, str] = {}
    for lora in plan.loras:
        try:
            keys = read_header(Path(lora.file.path)).shapes
        except (OSError, ValueError):
            continue  # a pickle, or gone by now
        inside = {key.removeprefix(BUNDLED).partition(".")[0] for key in keys if key.startswith(BUNDLED)}
        found = dict.fromkeys(names & inside, lora.mentioned) | found
    return found


def _short_hash(file: NetworkFile, networks: Networks) -> str | None:
    return _hashed(file, networks).short_hash


def _hashed(file: NetworkFile, networks: Networks) -> NetworkFile:
    try:
        return networks.hashed(file)
    except OSError as error:
        log.warning("the file %s cannot be hashed: %s", file.path, error)
        return file
