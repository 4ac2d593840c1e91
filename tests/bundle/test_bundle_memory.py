"""What is told of the device's memory, and that unloading frees it."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bundle_calls import encode, predict, random, text_call, use
from tiny_checkpoints import Write

from sdserver.bundle import memory
from sdserver.bundle.bundle import Bundle
from sdserver.bundle.memory import (
    GIB,
    DeviceMemory,
    HostMemory,
    hold_freed,
    host_memory,
    measure,
    memory_of,
    release,
    spare_of,
    with_peaks,
)
from sdserver.errors import UnreadableCheckpoint
from sdserver.jobs.keeping import Keeping

COUNTS = ("allocated_bytes", "reserved_bytes", "active_bytes", "inactive_split_bytes")


def test_torchs_counts_go_by_our_names() -> None:
    stats = {f"{what}.all.{when}": 0 for what in COUNTS for when in ("current", "peak")}
    stats = {name: 100 + place for place, name in enumerate(stats)}
    stats |= {"num_alloc_retries": 3, "num_ooms": 2, "active_bytes.large_pool.peak": 9}
    assert memory_of(1, 2, stats) == DeviceMemory(
        free=1,
        total=2,
        allocated=100,
        allocated_peak=101,
        reserved=102,
        reserved_peak=103,
        active=104,
        active_peak=105,
        inactive=106,
        inactive_peak=107,
        retries=3,
        ooms=2,
    )


def test_before_the_first_allocation_all_is_0() -> None:
    assert set(memory_of(0, 0, {})) == {0}


def test_a_cpu_has_no_such_memory() -> None:
    assert set(measure(torch.device("cpu"))) == {None}


def answered(bundle: Bundle, path: Path) -> torch.Tensor:
    conditionings = encode(bundle, [text_call(path, "a cat")])
    return predict(bundle, path, random(1, 4, 8, 8), torch.tensor([500.0]), conditionings)


def test_on_a_cpu_unloading_frees_the_checkpoint_and_the_next_call_reads_it_again(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu", "fp32")
    use(bundle, path)
    before = answered(bundle, path)
    weights = [weakref.ref(value) for value in gc.get_objects() if type(value) is torch.nn.Conv2d]
    held = len([one for one in weights if one() is not None])
    bundle.unload()
    assert len([one for one in weights if one() is not None]) < held
    assert torch.equal(answered(bundle, path), before)
    moved = path.rename(path.with_name("gone.safetensors"))
    assert torch.equal(answered(bundle, path), before), "it is loaded: the file is not read again"
    moved.rename(path)


def test_what_was_unloaded_is_read_from_its_file(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu", "fp32")
    use(bundle, path)
    bundle.unload()
    bundle.settle()
    path.unlink()
    with pytest.raises(UnreadableCheckpoint, match="tiny"):
        use(bundle, path)


@pytest.fixture
def aside(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Bundle]:
    """A bundle that sets checkpoints aside, as on an accelerator."""

    def build(max_cached: int) -> Bundle:
        bundle = Bundle("cpu", "fp32", max_cached=max_cached)
        monkeypatch.setattr(bundle._checkpoints, "sets_aside", True)
        return bundle

    return build


def test_what_was_set_aside_comes_back_without_its_file(
    checkpoint: Write, aside: Callable[[int], Bundle]
) -> None:
    path, _ = checkpoint("sd1")
    bundle = aside(1)
    use(bundle, path)
    before = answered(bundle, path)
    bundle.unload()
    bundle.unload()
    gone = path.rename(path.with_name("gone.safetensors"))
    assert torch.equal(answered(bundle, path), before)
    gone.rename(path)


def test_what_was_set_aside_makes_room_first(checkpoint: Write, aside: Callable[[int], Bundle]) -> None:
    paths = [checkpoint("sd1", name=f"tiny{k}")[0] for k in range(3)]
    bundle = aside(2)
    use(bundle, paths[0])
    bundle.unload()
    for path in paths[1:]:
        use(bundle, path)
    for path in paths:
        path.unlink()
    for path in paths[1:]:
        use(bundle, path)
    with pytest.raises(UnreadableCheckpoint):
        use(bundle, paths[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
def test_an_accelerators_memory_is_freed_and_the_answers_stay(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cuda", "fp16")
    with torch.inference_mode():
        use(bundle, path)
        before = answered(bundle, path)
        held = bundle.memory_facts().allocated
        bundle.unload()
        left = bundle.memory_facts().allocated
        path.unlink()
        after = answered(bundle, path)
    assert held is not None
    assert left is not None
    assert left < held / 2
    assert torch.equal(after, before)


MEMINFO = "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\nHugePages_Total: 0\n"


def files(folder: Path, contents: dict[str, str]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("contents", "wanted"),
    [
        ({}, HostMemory(600 << 10, 1000 << 10)),
        ({"memory.max": "max"}, HostMemory(600 << 10, 1000 << 10)),
        (
            {
                "memory.max": "500000\n",
                "memory.current": "300000\n",
                "memory.stat": "anon 5\ninactive_file 50000\n",
            },
            HostMemory(250_000, 500_000),
        ),
        (
            {
                "memory/memory.limit_in_bytes": "400000",
                "memory/memory.usage_in_bytes": "390000",
                "memory/memory.stat": "total_inactive_file 10000",
            },
            HostMemory(20_000, 400_000),
        ),
        (
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "390000",
                "memory/memory.stat": "",
            },
            HostMemory(600 << 10, 1000 << 10),
        ),
    ],
)
def test_the_machine_and_the_container_bound_memory(
    tmp_path: Path, contents: dict[str, str], wanted: HostMemory
) -> None:
    meminfo = files(tmp_path, {"meminfo": MEMINFO}) / "meminfo"
    assert host_memory(meminfo, files(tmp_path / "cgroup", contents)) == wanted


def test_where_the_system_does_not_tell_nobody_knows(tmp_path: Path) -> None:
    assert host_memory(tmp_path / "none", tmp_path) is None
    assert spare_of(None) is None


def test_some_memory_is_left_to_others() -> None:
    gib = 1 << 30
    assert spare_of(HostMemory(10 * gib, 16 * gib)) == 10 * gib - 16 * gib // 10
    assert spare_of(HostMemory(3 * gib, 8 * gib)) == 2 * gib
    assert spare_of(HostMemory(gib // 2, 8 * gib)) == 0


def test_peaks_of_earlier_counts_are_not_forgotten() -> None:
    stats = {"allocated_bytes.all.peak": 5, "allocated_bytes.all.current": 3}
    peaks = {"allocated_bytes.all.peak": 9, "reserved_bytes.all.peak": 2}
    assert memory_of(0, 0, with_peaks(stats, peaks))[:4] == (0, 0, 3, 0)
    assert memory_of(0, 0, with_peaks(stats, peaks)).allocated_peak == 9
    assert memory_of(0, 0, with_peaks(stats, {"allocated_bytes.all.peak": 4})).allocated_peak == 5


def test_several_checkpoints_stay_on_a_cpu_as_asked(checkpoint: Write) -> None:
    paths = [checkpoint("sd1", name=f"tiny{k}")[0] for k in range(3)]
    bundle = Bundle("cpu", "fp32")
    bundle.keep(Keeping(1, 1))
    for path in paths:
        use(bundle, path)
    for path in paths:
        path.unlink()
    for path in paths[1:]:
        use(bundle, path)
    with pytest.raises(UnreadableCheckpoint):
        use(bundle, paths[0])


@pytest.mark.parametrize(("free", "held"), [(9 * GIB, [GIB // 2]), (GIB // 2, []), (None, [])])
def test_a_part_of_the_spare_memory_is_held(
    monkeypatch: pytest.MonkeyPatch, free: int | None, held: list[int]
) -> None:
    told: list[int] = []
    known = None if free is None else HostMemory(free, 10 * GIB)
    monkeypatch.setattr(memory, "host_memory", lambda: known)
    monkeypatch.setattr(memory, "hold", told.append)
    hold_freed()
    assert told == held


def test_what_is_held_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    monkeypatch.setattr(memory, "give_back", lambda: given.append(True))
    release(torch.device("cpu"))
    assert given == [True]
