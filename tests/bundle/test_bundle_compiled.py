"""Compiled networks, with a twin in the place of machine code. `bench.compiled` compiles a real one."""

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_calls import random
from diffusers import UNet2DConditionModel
from patience import wait_until
from torch import Tensor, nn

from sdserver.bundle.compiled.blank import STEP, Evaluation, NotCompilable, blank
from sdserver.bundle.compiled.blueprint import Blueprint, blueprint
from sdserver.bundle.compiled.build import PACKAGE, REASON
from sdserver.bundle.compiled.compiled import Compiled
from sdserver.bundle.compiled.package import PREFIX
from sdserver.bundle.compiled.race import HEATS, KNOWN, Race, Way
from sdserver.bundle.compiled.store import KEPT, Store, Untrusted
from sdserver.bundle.compiled.workshop import CannotCompile, Workshop, make_beside, workshop_in
from sdserver.bundle.device import resolve
from sdserver.bundle.unet import replace_upsampling

CPU = resolve("cpu", "fp32", "sdpa")
SMALLEST: dict[str, Any] = {
    "block_out_channels": [16],
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
}


class Twin:
    """The network that would have been compiled, evaluated by torch.

    Attributes:
        runs: how often.
        wrong: added to what comes out.
        error: raised instead.
    """

    def __init__(self, config: str) -> None:
        self._network = blank(config, torch.float32, torch.device("cpu"))
        self._bound: dict[str, Tensor] = {}
        self.names = tuple(name.removeprefix(PREFIX) for name, _ in self._network.named_parameters())
        self.owner: object | None = None
        self.runs = 0
        self.wrong = 0.0
        self.error: Exception | None = None

    def bind(self, tensors: Mapping[str, Tensor]) -> None:
        assert set(tensors) == set(self.names)
        self._bound = {PREFIX + name: tensor for name, tensor in tensors.items()}

    def run(self, inputs: Sequence[Tensor]) -> Tensor:
        self.runs += 1
        if self.error is not None:
            raise self.error
        found: Tensor = torch.func.functional_call(self._network, self._bound, tuple(inputs))
        return found + self.wrong


class Won(Race):
    """A race that the code has won."""

    def next_way(self, shape: Hashable) -> Way:
        return "compiled"


class Rig:
    """A network with its twin at once ready."""

    def __init__(self, folder: Path) -> None:
        self.unet = network()
        self.twin = Twin(blueprint(self.unet, CPU).config)
        self.made: list[Blueprint] = []
        self.workshop = Workshop(Store(folder), self.make, lambda _: self.twin)
        self.compiled = Compiled(self.unet, CPU, self.workshop, Won())
        self.width = self.unet.config.cross_attention_dim
        key = blueprint(self.unet, CPU).key()
        wait_until(lambda: self.workshop.ask(key, blueprint(self.unet, CPU)) is not None)

    def make(self, wanted: Blueprint, folder: Path) -> None:
        self.made.append(wanted)
        (folder / PACKAGE).write_bytes(b"code")

    def ask(self, rows: int = 2, height: int = 16, width: int = 24, seed: int = 0) -> Tensor:
        """An answer, which must be the network's own."""
        sample = random(rows, 4, height, width, seed=seed).contiguous(memory_format=torch.channels_last)
        timesteps, context = torch.full((rows,), 500.0), random(rows, 77, self.width, seed=seed)

        def evaluate() -> Tensor:
            (found,) = self.unet(sample, timesteps, encoder_hidden_states=context, return_dict=False)
            result: Tensor = found
            return result

        with torch.inference_mode():
            found = self.compiled.predict(evaluate, sample, timesteps, lambda: context, None)
            torch.testing.assert_close(found, evaluate(), atol=2e-5, rtol=1e-4)
        return found


def network(seed: int = 0, **changes: object) -> Any:
    """A UNet with random weights, as it is run."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet: Any = UNet2DConditionModel.from_config({**SMALLEST, **changes})
    replace_upsampling(unet)
    return unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "compiled")


def test_it_is_proven_once_and_used_from_then_on(rig: Rig) -> None:
    rig.ask()
    assert rig.twin.runs == 1
    rig.twin.wrong = 1e-6
    eager = rig.ask(seed=1)
    rig.twin.wrong = 0.0
    assert not torch.equal(eager, rig.ask(seed=1)), "what came out was the code's"
    assert rig.twin.runs == 3


def test_each_special_kind_is_proven(rig: Rig) -> None:
    rig.ask()
    rig.twin.wrong = 9.0
    for special in ({"rows": 1}, {"height": STEP}, {"width": STEP}):
        rig.compiled._is_given_up = False
        rig.ask(**special)
        assert rig.compiled._is_given_up, "compared, and found wrong"


def test_other_parameters_are_read_at_once(rig: Rig) -> None:
    rig.ask()
    layer = rig.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    own = layer._parameters["weight"]
    layer._parameters["weight"] = nn.Parameter(own.detach() * 3, requires_grad=False)
    rig.ask()
    layer._parameters["weight"] = own
    rig.ask()
    rig.unet.conv_out._parameters["bias"] = nn.Parameter(torch.full((4,), 0.5), requires_grad=False)
    rig.ask()
    assert rig.twin.runs == 4


def test_two_networks_share_their_code(rig: Rig) -> None:
    other = network(seed=7)
    second = Rig.__new__(Rig)
    second.unet, second.twin, second.width = other, rig.twin, rig.width
    second.compiled = Compiled(other, CPU, rig.workshop, Won())
    for _ in range(2):
        rig.ask()
        second.ask()
    assert len(rig.made) == 1
    assert rig.twin.runs == 4


@pytest.mark.parametrize("change", ["tiling", "hook", "pre-hook", "odd size", "layout"])
def test_what_is_not_supported_is_evaluated(rig: Rig, change: str) -> None:
    rig.ask()
    layer = rig.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_k
    if change == "tiling":
        rig.unet.conv_in.padding_mode = "circular"
    elif change == "hook":
        layer.register_forward_hook(lambda _module, _given, result: 2 * result)
    elif change == "pre-hook":
        layer.register_forward_pre_hook(lambda _module, given: (2 * given[0],))
    elif change == "layout":
        layer._parameters["weight"] = nn.Parameter(layer.weight.detach().t(), requires_grad=False)
    rig.ask(height=12 if change == "odd size" else 16)
    assert rig.twin.runs == 1


def test_wrong_code_is_never_used(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.twin.wrong = 0.5
    rig.ask()
    rig.ask()
    assert rig.twin.runs == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_code_that_fails_later_is_not_used_any_more(rig: Rig) -> None:
    rig.ask()
    rig.twin.error = RuntimeError("illegal")
    rig.ask()
    rig.ask()
    assert rig.twin.runs == 2


def test_too_little_memory_is_the_bundles_matter(rig: Rig) -> None:
    rig.ask()
    rig.twin.error = torch.OutOfMemoryError("none left")
    with pytest.raises(torch.OutOfMemoryError):
        rig.ask()
    rig.twin.error = None
    rig.ask()
    assert rig.twin.runs == 3


def test_until_it_is_there_the_network_is_evaluated(tmp_path: Path) -> None:
    waiting: list[Path] = []

    def never(_blueprint: Blueprint, folder: Path) -> None:
        waiting.append(folder)
        raise CannotCompile("no")

    rig = Rig.__new__(Rig)
    rig.unet, rig.width = network(), SMALLEST["cross_attention_dim"]
    rig.compiled = Compiled(rig.unet, CPU, Workshop(Store(tmp_path / "compiled"), never))
    rig.ask()
    wait_until(lambda: len(waiting) == 1)


@pytest.mark.parametrize(("eager", "compiled", "winner"), [(2.0, 1.0, "compiled"), (1.0, 2.0, "eager")])
def test_the_faster_way_wins(eager: float, compiled: float, winner: Way) -> None:
    now = 0.0
    race = Race(lambda: now)
    ways: list[Way] = []

    def call() -> None:
        nonlocal now
        # The first call of each way is slow, as first calls are.
        now += {"eager": eager, "compiled": compiled}[ways[-1]] * (10 if ways.count(ways[-1]) == 1 else 1)

    for _ in range(2 * HEATS + 4):
        ways.append(race.next_way((2, 4, 8, 8)))
        race.timed((2, 4, 8, 8), ways[-1], call)
    assert sorted(ways[: 2 * HEATS]) == ["compiled"] * HEATS + ["eager"] * HEATS
    assert set(ways[2 * HEATS :]) == {winner}
    assert race.next_way((4, 4, 8, 8)) == "compiled", "each shape has its own race"


def test_races_are_forgotten_at_last() -> None:
    race = Race()
    for number in range(KNOWN + 5):
        race.timed(number, "compiled", lambda: None)
    assert len(race._times) == KNOWN


def test_where_the_code_is_slower_the_network_is_evaluated(rig: Rig) -> None:
    rig.ask()
    rig.compiled._race = Race(lambda: 60.0 * rig.twin.runs)
    for _ in range(2 * HEATS):
        rig.ask()
    runs = rig.twin.runs
    rig.ask()
    assert (runs, rig.twin.runs) == (1 + HEATS, runs)


def test_a_failure_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tries: list[Blueprint] = []

    def fail(wanted: Blueprint, _folder: Path) -> None:
        tries.append(wanted)
        raise CannotCompile("there is no C++ compiler")

    workshop, wanted = Workshop(Store(tmp_path / "compiled"), fail), Blueprint("{}", "float32", "cpu", 1)
    assert workshop.ask("k", wanted) is None
    wait_until(lambda: bool(caplog.records))
    for _ in range(3):
        assert workshop.ask("k", wanted) is None
    assert len(tries) == 1
    assert "there is no C++ compiler" in caplog.text
    assert not list((tmp_path / "compiled").glob("*"))


def test_the_next_process_finds_it(tmp_path: Path) -> None:
    first = Rig(tmp_path / "compiled")
    second = Rig(tmp_path / "compiled")
    assert (len(first.made), len(second.made)) == (1, 0)


def test_code_that_ended_a_process_is_not_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, wanted = Store(tmp_path / "compiled"), Blueprint("{}", "float32", "cpu", 1)
    store.mark("k")
    workshop = Workshop(store, lambda *_: pytest.fail("made"), lambda _: pytest.fail("loaded"))
    workshop.ask("k", wanted)
    wait_until(lambda: bool(caplog.records))
    assert "has ended a process" in caplog.text


def test_the_mark_goes_when_it_was_tried(rig: Rig, tmp_path: Path) -> None:
    key = blueprint(rig.unet, CPU).key()
    marks: list[bool] = []
    run = rig.twin.run

    def watched(inputs: Sequence[Tensor]) -> Tensor:
        marks.append(Store(tmp_path / "compiled").is_marked(key))
        return run(inputs)

    rig.twin.run = watched  # type: ignore[method-assign]
    rig.ask()
    rig.ask()
    assert marks == [True, False]
    assert not Store(tmp_path / "compiled").is_marked(key)


def test_the_store_is_bounded_and_keeps_what_is_used(tmp_path: Path) -> None:
    store = Store(tmp_path / "compiled")
    for number in range(KEPT + 1):
        with store.making() as folder:
            (folder / PACKAGE).write_bytes(b"code")
            path = store.keep(f"k{number}", folder)
        os.utime(path, (number, number))
        if number == KEPT - 1:
            assert store.find("k0") == tmp_path / "compiled" / "k0.pt2"
    assert store.find("k1") is None
    assert store.find("k0") is not None


def test_what_was_left_is_removed(tmp_path: Path) -> None:
    store = Store(tmp_path / "compiled")
    left = tmp_path / "compiled" / "making-x"
    left.mkdir()
    (left / "half.cpp").touch()
    with store.making() as made:
        os.utime(left, (1, 1))
        store.tidy()
        assert made.exists(), "somebody works in it"
    assert not left.exists()


def test_a_folder_that_others_may_write_to_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "compiled"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(Untrusted, match="chmod it to 700"):
        Store(folder)
    assert workshop_in(folder, CPU) is None
    assert "--compile does nothing" in caplog.text


def test_a_folder_is_made_for_oneself(tmp_path: Path) -> None:
    Store(tmp_path / "a" / "compiled")
    assert (tmp_path / "a" / "compiled").stat().st_mode & 0o777 == 0o700


def test_the_key_is_of_all_that_the_code_hangs_on() -> None:
    unet = network()
    found = blueprint(unet, CPU)
    torch.set_num_threads(2)
    others = [
        blueprint(unet, CPU),
        blueprint(unet, resolve("cpu", "bf16", "sdpa")),
        blueprint(network(layers_per_block=2), CPU),
    ]
    torch.set_num_threads(1)
    assert blueprint(network(seed=3), CPU).key() == found.key(), "weights are not part of it"
    assert len({found.key(), *(other.key() for other in others)}) == 4


def test_a_parameter_of_few_values_would_become_part_of_the_code() -> None:
    unet = network()
    unet.conv_norm_out.bias = nn.Parameter(torch.zeros(2))
    with pytest.raises(NotCompilable, match=r"conv_norm_out\.bias"):
        Evaluation(unet)


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotCompile, match="install g\\+\\+"):
        make_beside(Blueprint("{}", "float32", "cpu", 1), tmp_path)


@pytest.mark.slow
def test_a_failing_process_tells_why(tmp_path: Path) -> None:
    with pytest.raises(CannotCompile, match="the compiler failed"):
        make_beside(Blueprint('{"nothing": "like it"', "float32", "cpu", 1), tmp_path)
    assert "JSONDecodeError" in (tmp_path / REASON).read_text()
