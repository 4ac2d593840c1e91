"""What the node is doing, for whoever asks on the maintenance port.

One writer, the event loop, moves the node through its phases; a download thread may replace the
progress. Every write replaces a whole immutable value, so readers on any thread need no lock.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from sdserver.engine.member import DeviceFacts
from sdserver.engine.messages import Beat, FromEngine, Loaded, LoadFailed, MemoryFacts
from sdserver.jobs.events import Failed
from sdserver.ops.downloads.progress import DownloadProgress
from sdserver.ops.uploads.facts import UploadFacts

Phase = Literal["starting", "downloading", "loading", "ready", "draining", "restarting", "failed"]

MAY_FOLLOW: Mapping[Phase, frozenset[Phase]] = MappingProxyType(
    {
        "starting": frozenset({"downloading", "loading", "draining", "failed"}),
        "downloading": frozenset({"loading", "draining", "failed"}),
        "loading": frozenset({"downloading", "ready", "restarting", "draining", "failed"}),
        "ready": frozenset({"downloading", "loading", "restarting", "draining", "failed"}),
        "restarting": frozenset({"loading", "ready", "draining", "failed"}),
        "draining": frozenset({"failed"}),
        "failed": frozenset(),
    }
)
HISTORY, ERRORS = 32, 16
ID_LENGTH, REASON_LENGTH = 128, 500


@dataclass(frozen=True, slots=True)
class PhaseChange:
    """The node entered `phase`, `age` seconds ago."""

    phase: Phase
    reason: str
    age: float


@dataclass(frozen=True, slots=True)
class SeenError:
    """A job or a load failed, `age` seconds ago.

    Attributes:
        error: name of the class in `sdserver.errors`. Its message is left out: it may quote a prompt.
        id: the job's, or "" where no job was at fault.
    """

    error: str
    id: str
    age: float


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """The node at one moment. All ages are seconds on a monotonic clock.

    Attributes:
        phase_age: since the phase was entered.
        started: whether the node has been ready at least once.
        history: the last phases, oldest first.
        download: of the file being fetched, or the last one fetched; None before.
        model: the checkpoint that the engine holds, None while there is none.
        memory: the engine's, None before its first beat.
        restarts: of the engine process, since the node started.
        errors: the last ones, oldest first.
        beat_age: since the engine was last heard, None before that.
        uploads: of saved pictures, None where none are uploaded.
        devices: each one's engine.
        certificate_ends: when that of TLS does, in seconds since 1970; None without TLS.
    """

    version: str
    phase: Phase
    reason: str
    phase_age: float
    uptime: float
    started: bool
    history: tuple[PhaseChange, ...]
    download: DownloadProgress | None
    model: Loaded | None
    memory: MemoryFacts | None
    restarts: int
    errors: tuple[SeenError, ...]
    beat_age: float | None
    uploads: UploadFacts | None = None
    devices: tuple[DeviceFacts, ...] = ()
    certificate_ends: float | None = None


class Node:
    """The node's observable state machine: starting, downloading, loading, ready, ...

    Args:
        version: of the server, for people.
        clock: monotonic seconds.
    """

    def __init__(self, version: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._version = version
        self._clock = clock
        self._born = clock()
        self._history: tuple[tuple[Phase, str, float], ...] = (("starting", "", self._born),)
        self._started = False
        self._download: DownloadProgress | None = None
        self._model: Loaded | None = None
        self._memory: MemoryFacts | None = None
        self._restarts = 0
        self._errors: deque[tuple[str, str, float]] = deque(maxlen=ERRORS)
        self._beat: float | None = None
        self._uploads: Callable[[], UploadFacts] | None = None
        self._devices: Callable[[], tuple[DeviceFacts, ...]] | None = None
        self._certificate_ends: Callable[[], float] | None = None
        self._probed_at: float | None = None

    @property
    def probed_at(self) -> float | None:
        """When somebody last asked whether requests may be sent, by the node's clock; None for never."""
        return self._probed_at

    def probed(self) -> None:
        """Somebody asks whether requests may be sent."""
        self._probed_at = self._clock()

    @property
    def phase(self) -> Phase:
        """The phase now."""
        return self._history[-1][0]

    def enter(self, phase: Phase, reason: str = "") -> bool:
        """Move to a phase, if it may follow the present one (`MAY_FOLLOW`).

        A late event must not revive a node: a checkpoint that is loaded while the node drains leaves
        it draining. Entering the present phase again renews its reason, not its age.

        Args:
            phase: where to.
            reason: one sentence without secrets; people read it.

        Returns:
            Whether the node is in that phase now.
        """
        now, text = self._clock(), plain(reason, REASON_LENGTH)
        present, _, since = self._history[-1]
        if phase == present:
            self._history = (*self._history[:-1], (phase, text, since))
            return True
        if phase not in MAY_FOLLOW[present]:
            return False
        self._history = (*self._history[1 - HISTORY :], (phase, text, now))
        self._started = self._started or phase == "ready"
        return True

    def take_back(self) -> bool:
        """Serve again after draining; whether the node was draining."""
        if self.phase != "draining":
            return False
        phase: Phase = "ready" if self._model is not None else "restarting"
        self._history = (*self._history[1 - HISTORY :], (phase, "Draining was taken back.", self._clock()))
        return True

    def watch_uploads(self, uploads: Callable[[], UploadFacts]) -> None:
        """Tell from now on how the uploads of saved pictures go, too."""
        self._uploads = uploads

    def watch_devices(self, devices: Callable[[], tuple[DeviceFacts, ...]]) -> None:
        """Tell from now on how each device's engine is, too."""
        self._devices = devices

    def watch_certificate(self, ends: Callable[[], float]) -> None:
        """Tell from now on when the certificate of TLS ends, too: seconds since 1970."""
        self._certificate_ends = ends

    def progressed(self, progress: DownloadProgress) -> None:
        """Note how far a download is. Any thread may call this."""
        self._download = progress

    def observe(self, message: FromEngine) -> None:
        """Take in what the engine says. Every message shows that it lives; none changes the phase."""
        self._beat = self._clock()
        match message:
            case Loaded():
                self._model = message
            case Beat(memory=memory):
                self._memory = memory
            case LoadFailed(checkpoint=checkpoint, error=error):
                # Another checkpoint than the one that serves: that one goes on serving.
                if self._model is not None and self._model.checkpoint == checkpoint:
                    self._model = None
                self._note(error, "")
            case Failed(job=job, error=error):
                self._note(error, job)
            case _:
                pass

    def engine_restarted(self, reason: str, *, is_serving: bool = False) -> None:
        """An engine process died and another is started: what it held is gone.

        Args:
            reason: why, for people.
            is_serving: whether another engine takes jobs meanwhile, so that the node stays as it is.
        """
        self._restarts += 1
        if is_serving:
            return
        self._model = self._memory = self._beat = None
        self.enter("restarting", reason)

    def facts(self) -> NodeFacts:
        """A frozen picture of everything. Any thread may call this."""
        now, history, beat = self._clock(), self._history, self._beat
        phase, reason, since = history[-1]
        return NodeFacts(
            version=self._version,
            phase=phase,
            reason=reason,
            phase_age=now - since,
            uptime=now - self._born,
            started=self._started,
            history=tuple(PhaseChange(p, r, now - at) for p, r, at in history),
            download=self._download,
            model=self._model,
            memory=self._memory,
            restarts=self._restarts,
            errors=tuple(SeenError(error, job, now - at) for error, job, at in tuple(self._errors)),
            beat_age=None if beat is None else now - beat,
            uploads=None if self._uploads is None else self._uploads(),
            devices=() if self._devices is None else self._devices(),
            certificate_ends=None if self._certificate_ends is None else self._certificate_ends(),
        )

    def _note(self, error: str, job: str) -> None:
        self._errors.append((plain(error, ID_LENGTH), plain(job, ID_LENGTH), self._clock()))


def plain(text: str, length: int) -> str:
    """Text cut to a length, with everything unprintable (line ends, terminal codes, surrogates) as '?'."""
    return "".join(char if char.isprintable() else "?" for char in text[:length])
