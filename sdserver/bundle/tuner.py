"""What is measured, compiled and recorded once a checkpoint is loaded, so that its UNet runs faster."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sdserver.bundle.attention_kernel import fastest, head_sizes, timed_on, ways
from sdserver.bundle.compiled.compiled import Compiled
from sdserver.bundle.compiled.workshop import Workshop, workshop_in
from sdserver.bundle.device import Placement
from sdserver.bundle.graphs import CudaRecorder, Graphs
from sdserver.bundle.spec import Spec
from sdserver.bundle.threads import ROWS, SMALL_NETWORK, Work, choose, cores, stand_ins
from sdserver.bundle.unet import Network

log = logging.getLogger(__name__)

SIDE = 8
"""Of the latents that a small network is measured with."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What may be done for speed. By default nothing: all runs as it is called.

    Attributes:
        threads: measure how many of the processor to use.
        attention: measure which attention kernel to use; CUDA only.
        graphs: record CUDA graphs.
        compiled: folder of compiled networks, None for none.
    """

    threads: bool = False
    attention: bool = False
    graphs: bool = False
    compiled: Path | None = None


class Tuner:
    """Tunes the UNets of one device.

    Args:
        placement: where they run; the thread that loads them is the one that runs them.
    """

    def __init__(self, placement: Placement, tuning: Tuning) -> None:
        self._placement = placement
        self._tuning = tuning
        self._workshop: Workshop | None = None
        self._has_threads = False
        if tuning.compiled is not None:
            self._workshop = workshop_in(tuning.compiled, placement)

    def tune(self, network: Network, unet: nn.Module, spec: Spec, *, is_settled: bool) -> None:
        """Make a network faster that was just loaded.

        Args:
            network: about to run for the first time.
            unet: its own.
            spec: its checkpoint's.
            is_settled: whether its parameters stay on the device in the network's number format.
        """
        device, dtype = self._placement.device, self._placement.dtype
        if self._tuning.attention and device.type == "cuda":
            network.attend_by(fastest(ways(device), head_sizes(unet), timed_on(device, dtype)))
        if self._tuning.threads and device.type == "cpu" and not self._has_threads:
            self._has_threads = True
            self._choose_threads(network, unet, spec)
        if not is_settled:
            return
        if self._workshop is not None:
            network.hasten(Compiled(unet, self._placement, self._workshop))
        elif self._tuning.graphs and device.type == "cuda":
            network.hasten(Graphs(unet, network.evaluate, CudaRecorder(device)))

    def _choose_threads(self, network: Network, unet: nn.Module, spec: Spec) -> None:
        """By the network itself, or, if that takes long, by what stands for it."""
        is_small = sum(parameter.numel() for parameter in unet.parameters()) <= SMALL_NETWORK
        works = _calls(network, spec) if is_small else stand_ins(self._placement.dtype)
        best, times = choose(works, cores())
        told = ", ".join(
            f"{count}: {' and '.join(f'{1000 * one:.1f}' for one in found)} ms"
            for count, found in times.items()
        )
        log.info("Computing with %d threads (%s).", best, told)


def _calls(network: Network, spec: Spec) -> list[Work]:
    """Calls of a few and of many rows."""

    def call(rows: int) -> Work:
        sample = torch.zeros(rows, spec.in_channels, SIDE, SIDE)
        context = torch.zeros(rows, 77, spec.context_dim)
        vector = None if spec.vector_dim is None else torch.zeros(rows, spec.vector_dim)
        timesteps = torch.full((rows,), 500.0)
        return lambda: network.predict(sample, timesteps, context, vector)

    return [call(rows) for rows in ROWS]
