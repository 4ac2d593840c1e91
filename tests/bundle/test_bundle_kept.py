"""Which checkpoints stay in memory, on the device and beside it."""

from collections.abc import Callable, Iterable

import pytest
import torch

from sdserver.bundle.kept import Checkpoints
from sdserver.jobs.keeping import Keeping

CPU = torch.device("cpu")
GPU = torch.device("cuda:0")


@pytest.fixture(autouse=True)
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdserver.bundle.kept.release", lambda _: None)


class Fake:
    """A checkpoint of 10 bytes that says where it lies."""

    bytes = 10

    def __init__(self, fails: Iterable[str] = ()) -> None:
        self.moves: list[str] = []
        self.fails = fails
        self.gone: Callable[[], None] = lambda: None

    def __del__(self) -> None:
        self.gone()

    def move(self, device: torch.device) -> None:
        if device.type in self.fails:
            raise torch.OutOfMemoryError
        self.moves.append(device.type)


Shelf = Checkpoints[Fake]


def used(shelf: Shelf, *names: str) -> None:
    """Use checkpoints as the bundle does."""
    for name in names:
        if shelf.get(name) is None:
            shelf.make_room(10)
            shelf.put(name, Fake())


def on_device(shelf: Shelf) -> list[str]:
    return [name for name in "abcdef" if shelf.peek(name)]


def in_memory(shelf: Shelf) -> list[str]:
    """Names that need not be read; asking changes nothing that is looked at later."""
    return [name for name in "abcdef" if name in shelf._loaded or name in shelf._aside]


@pytest.mark.parametrize(
    ("device", "keeping", "there", "kept"),
    [
        (GPU, Keeping(1, 0), "d", "d"),
        (GPU, Keeping(1, 2), "d", "bcd"),
        (GPU, Keeping(2, 0), "cd", "cd"),
        (GPU, Keeping(2, 1), "cd", "bcd"),
        (CPU, Keeping(1, 0), "d", "d"),
        (CPU, Keeping(1, 2), "bcd", "bcd"),
        (CPU, Keeping(2, 1), "bcd", "bcd"),
    ],
)
def test_the_last_ones_stay(device: torch.device, keeping: Keeping, there: str, kept: str) -> None:
    shelf: Shelf = Checkpoints(device, keeping, lambda: None)
    used(shelf, *"abcd")
    assert (on_device(shelf), in_memory(shelf)) == (list(there), list(kept))


def test_one_that_is_dropped_is_not_copied_first() -> None:
    shelf: Shelf = Checkpoints(GPU, Keeping(1, 0), lambda: None)
    used(shelf, "a")
    first = shelf.get("a")
    used(shelf, "b")
    assert first is not None
    assert first.moves == []


def test_what_was_set_aside_comes_back_and_another_goes() -> None:
    shelf: Shelf = Checkpoints(GPU, Keeping(1, 1), lambda: None)
    used(shelf, "a", "b", "a")
    (first,) = shelf
    assert first.moves == ["cpu", "cuda"]
    assert (on_device(shelf), in_memory(shelf)) == (["a"], ["a", "b"])


def test_those_set_aside_make_room_for_a_later_one() -> None:
    free = [10]
    shelf: Shelf = Checkpoints(GPU, Keeping(1, 5), lambda: free[0])
    used(shelf, "a", "b", "c")
    assert in_memory(shelf) == ["a", "b", "c"]
    free[0] = 0
    shelf._aside["a"].gone = lambda: free.__setitem__(0, 10)
    used(shelf, "d")
    assert in_memory(shelf) == ["b", "c", "d"]


def test_on_a_cpu_memory_bounds_how_many_stay() -> None:
    shelf: Shelf = Checkpoints(CPU, Keeping(1, 5), lambda: 10)
    used(shelf, "a", "b")
    assert on_device(shelf) == ["a", "b"]
    short: Shelf = Checkpoints(CPU, Keeping(1, 5), lambda: 9)
    used(short, "a", "b")
    assert on_device(short) == ["b"]


def test_fewer_from_now_on() -> None:
    shelf: Shelf = Checkpoints(GPU, Keeping(2, 2), lambda: None)
    used(shelf, *"abcd")
    assert (on_device(shelf), in_memory(shelf)) == (["c", "d"], list("abcd"))
    shelf.limits = Keeping(1, 1)
    assert (on_device(shelf), in_memory(shelf)) == (["d"], ["c", "d"])


def test_leaving_the_device() -> None:
    shelf: Shelf = Checkpoints(GPU, Keeping(2, 0), lambda: None)
    used(shelf, "a", "b")
    assert shelf.leave_device()
    assert (on_device(shelf), in_memory(shelf)) == ([], ["a", "b"])
    assert not shelf.leave_device()
    on_cpu: Shelf = Checkpoints(CPU, Keeping(2, 0), lambda: None)
    used(on_cpu, "a")
    assert on_cpu.leave_device()
    assert in_memory(on_cpu) == []


def test_one_that_does_not_fit_when_it_comes_back_is_read_again() -> None:
    shelf: Shelf = Checkpoints(GPU, Keeping(1, 1), lambda: None)
    shelf.put("a", Fake(fails=["cuda"]))
    used(shelf, "b")
    assert in_memory(shelf) == ["a", "b"]
    assert shelf.get("a") is None
    assert "a" not in in_memory(shelf)


def test_a_faulty_device_is_no_lack_of_memory() -> None:
    class Broken(Fake):
        def move(self, device: torch.device) -> None:
            raise RuntimeError("CUDA error: device-side assert triggered")

    shelf: Shelf = Checkpoints(GPU, Keeping(1, 1), lambda: None)
    shelf.put("a", Broken())
    with pytest.raises(RuntimeError, match="assert"):
        used(shelf, "b")


def test_what_no_longer_suits_is_dropped() -> None:
    shelf: Shelf = Checkpoints(GPU, Keeping(1, 1), lambda: None)
    used(shelf, "a", "b")
    shelf.drop_unless("a", lambda _: True)
    shelf.drop_unless("b", lambda _: False)
    shelf.drop_unless("c", lambda _: False)
    assert in_memory(shelf) == ["a"]
