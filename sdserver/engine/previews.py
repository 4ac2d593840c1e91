"""Looks at pictures on their way. They cost the jobs little time, and never a bit of their result."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from torch import Tensor

from sdserver.calls import Preview, Report
from sdserver.engine.messages import FromEngine, PreviewMethod
from sdserver.jobs.events import Picture, Previewed
from sdserver.jobs.model import Model

log = logging.getLogger(__name__)

SHARE: Final = 0.04
LEARNING: Final = 0.3
GUESSED_STEPS: Final = {"cheap": 0.02, "taesd": 0.2, "full": 2.0}


class PreviewBudget:
    """How much time previews may take: a share of what the jobs have taken.

    Time is saved up while jobs work, at most the price of the previews that are asked for, and previews
    wait until there is enough. What they cost is learnt as they are made. Pure: it is told all times.

    Args:
        share: of the jobs' time.
    """

    def __init__(self, share: float = SHARE) -> None:
        self._share = share
        self._saved = 0.0
        self._step_seconds: float | None = None
        self._cell_seconds: dict[PreviewMethod, float] = {}
        self._begun: set[PreviewMethod] = set()

    def worked(self, seconds: float) -> None:
        """The jobs' step took that long."""
        if self._step_seconds is None:
            self._step_seconds = seconds
        self._step_seconds += LEARNING * (seconds - self._step_seconds)
        self.waited(seconds)

    def waited(self, seconds: float) -> None:
        """So long the device still worked for the jobs after a step had been asked of it."""
        self._saved += self._share * seconds

    def affordable(self, method: PreviewMethod, cells: int, wanted: int) -> int:
        """How many of `wanted` previews may be made now, each of a latent of so many cells."""
        price = self._price(method, cells)
        self._saved = min(self._saved, price * wanted)
        if price == 0:
            return wanted
        return max(0, min(wanted, int(self._saved / price * (1 + 1e-9))))

    def spent(self, method: PreviewMethod, cells: int, count: int, seconds: float) -> None:
        """So many previews took that long together.

        A method's first ones load and prepare what later ones find done: they are no measure, and are not
        owed for, or nothing would be shown of the first picture after a start.
        """
        if method not in self._begun:
            self._begun.add(method)
            self._saved = 0.0
            return
        known = self._price(method, cells) / cells
        self._cell_seconds[method] = known + LEARNING * (seconds / (cells * count) - known)
        self._saved -= seconds

    def _price(self, method: PreviewMethod, cells: int) -> float:
        """Seconds that one preview is expected to take; before the first one, by the length of a step."""
        if method in self._cell_seconds:
            return self._cell_seconds[method] * cells
        return GUESSED_STEPS[method] * (self._step_seconds or 0.0)


class PreviewDevice(Protocol):
    """What makes previews."""

    def run(self, calls: Sequence[Preview]) -> list[Any]:
        """One result per call, in order; an exception object where a call failed."""
        ...

    def settle(self) -> None:
        """Wait until all that was asked of the device is done."""
        ...


@dataclass(slots=True)
class Watched:
    """A job that somebody looks at.

    Attributes:
        every: evaluations between two previews.
        shown: the evaluation after which the last one was made.
        step: the last evaluation, with its model and what came of it.
    """

    every: int
    method: PreviewMethod
    shown: int = 0
    step: int = 0
    model: Model | None = None
    latent: Tensor | None = None


class Previews:
    """The watched jobs, and the making of their previews.

    Args:
        device: makes them.
        emit: told every preview.
        clock: seconds, monotonic.
        budget: how much time they may take.
    """

    def __init__(
        self,
        device: PreviewDevice,
        emit: Callable[[FromEngine], None],
        clock: Callable[[], float],
        budget: PreviewBudget,
    ) -> None:
        self._device = device
        self._emit = emit
        self._clock = clock
        self._budget = budget
        self._watched: dict[str, Watched] = {}
        self._told: set[PreviewMethod] = set()

    def watch(self, job_id: str, every: int, method: PreviewMethod) -> None:
        """Show a job every so many evaluations, not at all for 0."""
        watched = self._watched.get(job_id)
        if every <= 0:
            self.forget(job_id)
        elif watched is None:
            self._watched[job_id] = Watched(every, method)
        else:
            watched.every, watched.method = every, method

    def forget(self, job_id: str) -> None:
        """The job ended."""
        self._watched.pop(job_id, None)

    def note(self, job_id: str, report: Report) -> None:
        """Keep hold of what a job told last; nothing is copied."""
        watched = self._watched.get(job_id)
        if watched is not None and report.latent is not None:
            watched.step, watched.model, watched.latent = report.step, report.model, report.latent

    def stepped(self, checkpoint: str | None, seconds: float) -> None:
        """The jobs' batch took that long: make the previews that are due and affordable.

        They are of jobs whose last model's checkpoint is the one on the device, of one shape, and those
        that waited longest for one come first. One decode of the VAE takes as long as steps do, so such
        previews are made one at a time.
        """
        if not self._watched:
            return
        self._budget.worked(seconds)
        due = self._due(checkpoint)
        if not due:
            return
        first, wanted = due[0][1], len(due) if due[0][1].method != "full" else 1
        cells = first.latent.shape[-2] * first.latent.shape[-1] if first.latent is not None else 1
        count = self._budget.affordable(first.method, cells, wanted)
        if count:
            self._show(due[:count], first.method, cells)

    def _due(self, checkpoint: str | None) -> list[tuple[str, Watched, Preview]]:
        """Jobs of one batch key, those first whose last preview is the longest ago."""
        found = [
            (job_id, watched, Preview(watched.model, watched.latent, watched.method))
            for job_id, watched in self._watched.items()
            if watched.model is not None and watched.latent is not None
            if watched.step - watched.shown >= watched.every and watched.model.weights == checkpoint
        ]
        found.sort(key=lambda one: one[1].shown - one[1].step)
        return [one for one in found if one[2].batch_key() == found[0][2].batch_key()]

    def _show(self, due: Sequence[tuple[str, Watched, Preview]], method: PreviewMethod, cells: int) -> None:
        begun = self._clock()
        results, settled = self._made([call for _, _, call in due])
        # What the device still had to do for the jobs is no price of the previews.
        self._budget.waited(settled - begun)
        for (job_id, watched, _), result in zip(due, results, strict=True):
            watched.shown, watched.model, watched.latent = watched.step, None, None
            if isinstance(result, Picture):
                self._emit(Previewed(job_id, watched.step, result))
            elif method not in self._told:
                self._told.add(method)
                log.warning("previews by method %r fail, jobs go on without: %s", method, result)
        self._budget.spent(method, cells, len(due), self._clock() - settled)

    def _made(self, calls: list[Preview]) -> tuple[list[Any], float]:
        """One result per call, and when the device was free for them."""
        settled = self._clock()
        try:
            self._device.settle()
            settled = self._clock()
            return self._device.run(calls), settled
        except Exception as error:  # noqa: BLE001 - a preview must not fail its job
            return [error] * len(calls), settled
