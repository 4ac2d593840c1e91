"""What an answer tells that was not known when the request was resolved."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sdserver.api.translate.plan import Plan
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.catalog.network_file import NetworkFile
from sdserver.catalog.networks import Networks
from sdserver.jobs.events import Cancelled, Finished, Used

log = logging.getLogger(__name__)

NOTHING_USED = Used()


@dataclass(frozen=True, slots=True)
class Facts:
    """Hashes of the files, and what the engine found.

    Attributes:
        checkpoints: by file name, with their hashes where those are known by now.
        version: the program's, for the infotexts.
        vae: the plan's.
        lora_hashes: of both passes, by the names that prompts gave them.
        embedding_hashes: by name.
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
        embedding_hashes={name: known for name, known in embeddings.items() if known},
    )


def _short_hash(file: NetworkFile, networks: Networks) -> str | None:
    return _hashed(file, networks).short_hash


def _hashed(file: NetworkFile, networks: Networks) -> NetworkFile:
    try:
        return networks.hashed(file)
    except OSError as error:
        log.warning("the file %s cannot be hashed: %s", file.path, error)
        return file
