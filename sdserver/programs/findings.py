"""What turns out while a job runs and belongs into its infotext."""

from dataclasses import dataclass

from sdserver.jobs.events import Used


@dataclass(slots=True)
class Findings:
    """One job's, filled in as it runs. The fields are those of `jobs.events.Used`."""

    embeddings: tuple[str, ...] = ()
    inpainting: bool = False
    refined: bool = False
    skipped_uncond: bool = False
    padded: bool = False
    fp8: bool = False

    def used(self) -> Used:
        """What has turned out so far."""
        return Used(
            self.embeddings, self.inpainting, self.refined, self.skipped_uncond, self.padded, self.fp8
        )
