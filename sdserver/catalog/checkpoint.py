"""One entry of the list of checkpoints: its names, hashes and place."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint file or diffusers folder, as A1111's `GET /sdapi/v1/sd-models` lists it.

    Attributes:
        filename: absolute path; also the identity by which a job names its checkpoint.
        name: path relative to the models directory, with `/`; the bare name outside of it.
        old_hash: A1111's first hash, 8 hex digits of a sample of the file; None for a folder.
        sha256: 64 hex digits of the file; None while it was never computed, and for a folder.
        config: absolute path of the yaml file beside the checkpoint, if there is one.
    """

    filename: str
    name: str
    old_hash: str | None
    sha256: str | None
    config: str | None

    @property
    def is_folder(self) -> bool:
        """Whether this is a diffusers folder."""
        return self.old_hash is None

    @property
    def model_name(self) -> str:
        """The name without its extension, directories joined by `_`."""
        flat = self.name.replace("/", "_")
        return flat if self.is_folder else str(Path(flat).with_suffix(""))

    @property
    def stem(self) -> str:
        """The bare file name without its extension."""
        last = self.name.rsplit("/", 1)[-1]
        return last if self.is_folder else Path(last).stem

    @property
    def short_hash(self) -> str | None:
        """The first 10 hex digits of the sha256."""
        return self.sha256[:10] if self.sha256 else None

    @property
    def title(self) -> str:
        """The name, and the short hash in brackets once it is known."""
        return f"{self.name} [{self.short_hash}]" if self.sha256 else self.name

    @property
    def aliases(self) -> tuple[str, ...]:
        """Every text that means exactly this checkpoint, the most telling ones first (A1111's list)."""
        found = [self.title, self.name, self.model_name, self.stem]
        if self.sha256:
            short = self.sha256[:10]
            found += [self.sha256, short, f"{self.stem} [{short}]"]
        if self.old_hash:
            found += [f"{self.name} [{self.old_hash}]", self.old_hash]
        return tuple(found)
