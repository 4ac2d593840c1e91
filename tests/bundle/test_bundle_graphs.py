"""Graphs, with a recorder that keeps inputs and output where they lie, as a CUDA graph does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdserver.bundle.graphs import KEPT, MOST_ROWS, WARM, Graphs, Recorded


class Net(nn.Module):
    """Anything with a convolution at its entrance."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, 4, 3, padding=1)

    def pure(
        self, sample: Tensor, timesteps: Tensor, context: Tensor, vector: Tensor | None = None
    ) -> Tensor:
        moved: Tensor = self.conv_in(sample) + timesteps[:, None, None, None] + context.sum()
        return moved if vector is None else moved + vector.sum()


class FakeRecorder:
    """Replays a function into one and the same output.

    Attributes:
        error: raised instead of recording.
        wrong: added to what is replayed.
    """

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0
        self.error: Exception | None = None
        self.wrong = 0.0

    def record(self, evaluate: Callable[[], Tensor]) -> Recorded:
        if self.error is not None:
            raise self.error
        self.recorded += 1
        output = evaluate().clone()

        def replay() -> None:
            self.replayed += 1
            output.copy_(evaluate() + self.wrong)

        return Recorded(replay, output)


class Rig:
    def __init__(self) -> None:
        self.net = Net().requires_grad_(False)
        self.recorder = FakeRecorder()
        self.graphs = Graphs(self.net, self.net.pure, self.recorder)
        self.eager = 0

    def ask(self, rows: int = 2, seed: int = 0, vector: Tensor | None = None) -> Tensor:
        """An answer, which must be the network's."""
        generator = torch.Generator().manual_seed(seed)
        given: list[Any] = [
            torch.empty(shape).normal_(generator=generator)
            for shape in ((rows, 4, 8, 8), (rows,), (rows, 7, 5))
        ]

        def evaluate() -> Tensor:
            self.eager += 1
            return self.net.pure(*given, vector)

        found = self.graphs.predict(evaluate, given[0], given[1], lambda: given[2], vector)
        torch.testing.assert_close(found, self.net.pure(*given, vector))
        return found

    def warm(self, rows: int = 2) -> None:
        for seed in range(WARM):
            self.ask(rows, seed)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_shape_is_recorded_when_it_is_warm_and_replayed_from_then_on(rig: Rig) -> None:
    rig.warm()
    assert (rig.recorder.recorded, rig.eager) == (1, WARM)
    for seed in range(10, 13):
        rig.ask(seed=seed)
    assert (rig.recorder.recorded, rig.eager) == (1, WARM)


def test_an_answer_stays_as_it_is(rig: Rig) -> None:
    rig.warm()
    first = rig.ask(seed=20)
    before = first.clone()
    rig.ask(seed=21)
    assert torch.equal(first, before)


def test_each_shape_has_its_own(rig: Rig) -> None:
    rig.warm(2)
    rig.warm(3)
    for _ in range(WARM):
        rig.ask(vector=torch.ones(2, 3))
    assert rig.recorder.recorded == 3


def test_there_are_no_more_than_so_many(rig: Rig) -> None:
    for rows in range(1, KEPT + 2):
        rig.warm(rows)
    rig.ask(1)
    assert rig.recorder.recorded == KEPT + 2, "the oldest was dropped, and is warm still"


def test_large_batches_are_not_recorded(rig: Rig) -> None:
    rig.warm(MOST_ROWS + 1)
    assert rig.recorder.recorded == 0


def test_other_parameters_need_another_recording(rig: Rig) -> None:
    rig.warm()
    own = rig.net.conv_in._parameters["weight"]
    rig.net.conv_in._parameters["weight"] = nn.Parameter(torch.ones(4, 4, 3, 3), requires_grad=False)
    rig.ask()
    assert rig.eager == WARM + 1
    rig.net.conv_in._parameters["weight"] = own
    rig.warm()
    assert rig.recorder.recorded == 2


@pytest.mark.parametrize("change", ["tiling", "hook"])
def test_a_network_that_runs_otherwise_is_evaluated(rig: Rig, change: str) -> None:
    rig.warm()
    handle = None
    if change == "tiling":
        rig.net.conv_in.padding_mode = "circular"
    else:
        handle = rig.net.conv_in.register_forward_hook(lambda *_: None)
    rig.ask(seed=5)
    assert rig.eager == WARM + 1
    rig.net.conv_in.padding_mode = "zeros"
    if handle is not None:
        handle.remove()
    rig.ask(seed=5)
    assert rig.eager == WARM + 1


@pytest.mark.parametrize(
    "error", [RuntimeError("operation not permitted when stream is capturing"), torch.OutOfMemoryError("no")]
)
def test_a_failure_ends_it_and_no_call(rig: Rig, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    rig.recorder.error = error
    rig.warm()
    rig.recorder.error = None
    rig.warm()
    assert rig.recorder.recorded == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_wrong_graph_is_never_used(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.recorder.wrong = 5.0
    rig.warm()
    rig.warm()
    assert rig.eager == 2 * WARM
    assert "off by" in caplog.text


def test_nothing_is_held_after_a_release(rig: Rig) -> None:
    rig.warm()
    replayed = rig.recorder.replayed
    rig.graphs.release()
    rig.ask()
    assert rig.recorder.replayed == replayed
