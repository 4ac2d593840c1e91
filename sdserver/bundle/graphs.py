"""CUDA graphs: a network's kernels recorded once for a shape, then launched all at once.

Batches of few rows wait for their launches, not for the device. A graph runs the same kernels as the eager
call it was recorded from, on the same addresses; so it belongs to one shape and one set of parameters.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from sdserver.bundle.faster import Evaluate
from sdserver.bundle.memory import is_out_of_memory

log = logging.getLogger(__name__)

WARM: Final = 4
"""Calls of a shape, one after another under the same parameters, before it is recorded."""

MOST_ROWS: Final = 16
"""Larger batches keep the device busy by themselves."""

KEPT: Final = 12
TOLERANCE: Final = 3e-2
"""How far a graph's output may be from the eager one, as a share of its greatest value."""

_LEAST: Final = 1e-12

Shape = tuple[torch.Size, ...]
Pure = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """A recording.

    Attributes:
        replay: computes `output` anew from what its inputs hold now.
    """

    replay: Callable[[], None]
    output: Tensor


class Recorder(Protocol):
    """What a device records with."""

    def record(self, evaluate: Evaluate) -> Recorded:
        """Record what the function does on the device.

        Raises:
            RuntimeError: it cannot be recorded.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    inputs: tuple[Tensor, ...]
    recorded: Recorded


class Graphs:
    """Stands between a network and its callers, and replays the shapes that come again and again.

    Where the network is changed otherwise than by its parameters (hypernetworks, merged tokens, tiles,
    circular padding), it is evaluated as ever. A graph is compared with the eager call before it is used; a
    failure of any kind ends recording for good.

    Args:
        unet: diffusers' UNet2DConditionModel as it runs.
        pure: evaluates it on its device, keeping nothing from one call to the next.
        recorder: the device's.
    """

    def __init__(self, unet: nn.Module, pure: Pure, recorder: Recorder) -> None:
        self._unet: Any = unet
        self._pure = pure
        self._recorder = recorder
        self._modules = list(unet.modules())
        self._places: list[int] = []
        self._held: list[tuple[Tensor, Tensor]] = []
        self._calls: Counter[Shape] = Counter()
        self._kept: OrderedDict[Shape, _Kept] = OrderedDict()
        self._is_given_up = False

    def predict(
        self,
        evaluate: Evaluate,
        sample: Tensor,
        timesteps: Tensor,
        context: Evaluate,
        vector: Tensor | None,
    ) -> Tensor:
        """See `faster.Faster`."""
        if self._is_given_up or len(sample) > MOST_ROWS or self._is_changed():
            return evaluate()
        self._follow_weights()
        given = (sample, timesteps, context(), *(() if vector is None else (vector,)))
        shape = tuple(one.shape for one in given)
        kept = self._kept.get(shape)
        if kept is not None:
            self._kept.move_to_end(shape)
            return _replayed(kept, given)
        self._calls[shape] += 1
        if self._calls[shape] < WARM:
            return evaluate()
        return self._record(shape, given, evaluate)

    def release(self) -> None:
        """Let go of the network's parameters, and of the graphs' memory."""
        self._kept.clear()
        self._calls.clear()
        self._places, self._held = [], []

    def _is_changed(self) -> bool:
        if self._unet.conv_in.padding_mode != "zeros":
            return True
        return any(module._forward_pre_hooks or module._forward_hooks for module in self._modules)

    def _follow_weights(self) -> None:
        """Drop the graphs if the parameters lie elsewhere now. They are held: nothing else may come to lie at
        an address that a graph reads.
        """
        now = [one for module in self._modules for one in module._parameters.values() if one is not None]
        places = [one.data_ptr() for one in now]
        is_same = all(one is own for one, (own, _) in zip(now, self._held, strict=False))
        if places != self._places or not is_same:
            self.release()
            self._places, self._held = places, [(one, one.detach()) for one in now]

    def _record(self, shape: Shape, given: tuple[Tensor, ...], evaluate: Evaluate) -> Tensor:
        """The eager output, with which the graph's is compared."""
        expected = evaluate()
        try:
            inputs = tuple(one.clone() for one in given)
            kept = _Kept(inputs, self._recorder.record(lambda: self._pure(*_whole(inputs))))
            found = _replayed(kept, given)
            difference = ((found - expected).abs().max() / expected.abs().max().clamp_min(_LEAST)).item()
        except (RuntimeError, MemoryError) as error:
            why = "memory does not suffice" if is_out_of_memory(error) else str(error).splitlines()[0]
            return self._give_up(why, expected)
        if not expected.isfinite().all():
            return expected
        if not difference <= TOLERANCE:
            return self._give_up(f"one is off by {difference:.1e} of the greatest value", expected)
        self._kept[shape] = kept
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        log.info("Recorded a CUDA graph for %d rows of %s.", shape[0][0], tuple(shape[0][2:]))
        return expected

    def _give_up(self, why: str, expected: Tensor) -> Tensor:
        log.warning("CUDA graphs are not used any more: %s.", why)
        self._is_given_up = True
        self.release()
        return expected


def _whole(inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    sample, timesteps, context, *vector = inputs
    return sample, timesteps, context, vector[0] if vector else None


def _replayed(kept: _Kept, given: tuple[Tensor, ...]) -> Tensor:
    """The graph's output for new inputs; a copy, for the next replay writes to the same place."""
    for buffer, one in zip(kept.inputs, given, strict=True):
        buffer.copy_(one, non_blocking=True)
    kept.recorded.replay()
    return kept.recorded.output.clone()


class CudaRecorder:
    """Records on a CUDA device; all graphs share one pool of memory, for only one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def record(self, evaluate: Evaluate) -> Recorded:
        """See `Recorder`."""
        with torch.cuda.device(self._device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            # Libraries set themselves up at the first call on a stream, which must not be recorded.
            cuda: Any = torch.cuda
            beside = cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                evaluate()
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = evaluate()
        return Recorded(graph.replay, output)
