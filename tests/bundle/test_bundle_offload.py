"""Networks that take turns: which lie on the device while what is asked, and that nothing else changes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_calls import decode, encode, predict, random, text_call, use
from tiny_checkpoints import Write
from torch import Tensor, nn

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.offload import Mover, Offload, Offloading
from sdserver.calls import Encode
from sdserver.jobs.model import Family, Model


class Recording(Mover):
    """A CPU as home and device: copies are what is on the device."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.there_now: dict[int, Tensor] = {}
        self.copies = 0
        self.most = 0

    @property
    def is_of_use(self) -> bool:
        return True

    def there(self, tensor: Tensor) -> Tensor:
        self.copies += 1
        copy = tensor.clone(memory_format=torch.preserve_format)
        self.there_now[copy.data_ptr()] = copy
        return copy


class Turns:
    """A bundle whose networks take turns, and which of them are on its device."""

    def __init__(self, offloading: Offloading) -> None:
        self.mover = Recording()
        self.bundle = Bundle("cpu", "fp32")
        self.bundle.take_turns(offloading, self.mover)

    def there(self) -> set[str]:
        """The networks, or pieces of the UNet, any of whose parameters is a copy."""
        (loaded,) = self.bundle._checkpoints
        unet, *text = loaded.modules
        named: dict[str, nn.Module] = {"unet": unet, "vae": loaded.vaes._module}
        named |= {f"text{k}": one for k, one in enumerate(text)}
        return {name for name, network in named.items() if self.on_device(network)}

    def on_device(self, network: nn.Module) -> int:
        """How many of its parameters are copies."""
        return sum(one.data_ptr() in self.mover.there_now for one in network.parameters())


def answers(bundle: Bundle, path: Path) -> list[Any]:
    conditionings = encode(bundle, [text_call(path, "a cat")])
    predicted = predict(bundle, path, random(1, 4, 8, 8), torch.tensor([500.0]), conditionings)
    (picture,) = decode(bundle, path, random(1, 4, 8, 8))
    (latent,) = bundle.run([Encode(Model(str(path)), random(1, 3, 16, 16)[0])])
    return [conditionings[0].context, predicted, picture.pixels, latent]


def test_one_network_at_a_time_is_on_the_device(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    turns = Turns("models")
    bundle = turns.bundle
    use(bundle, path)
    assert turns.there() == set()
    conditionings = encode(bundle, [text_call(path, "a cat")])
    assert turns.there() == {"text0"}
    predict(bundle, path, random(1, 4, 8, 8), torch.tensor([500.0]), conditionings)
    assert turns.there() == {"unet"}
    encode(bundle, [text_call(path, "a cat")])
    assert turns.there() == {"unet"}, "the text is known: nothing has to come for it"
    decode(bundle, path, random(1, 4, 8, 8))
    assert turns.there() == {"vae"}
    bundle.unload()
    bundle.run([Encode(Model(str(path)), random(1, 3, 16, 16)[0])])
    assert turns.there() == {"vae"}


def test_steps_copy_the_network_once(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    turns = Turns("models")
    conditionings = encode(turns.bundle, [text_call(path, "a cat")])
    found = []
    for _ in range(3):
        predict(turns.bundle, path, random(1, 4, 8, 8), torch.tensor([500.0]), conditionings)
        found.append(turns.mover.copies)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("offloading", ["models", "layers"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_answers_are_those_of_networks_that_stay(
    checkpoint: Write, family: Family, offloading: Offloading
) -> None:
    path, _ = checkpoint(family)
    staying = Bundle("cpu", "fp32")
    use(staying, path)
    if offloading == "layers":
        (loaded,) = staying._checkpoints
        loaded.network.call_modules()
    for one, other in zip(answers(staying, path), answers(Turns(offloading).bundle, path), strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def test_of_the_unet_one_piece_at_a_time_is_there(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    turns = Turns("layers")
    conditionings = encode(turns.bundle, [text_call(path, "a cat")])
    (loaded,) = turns.bundle._checkpoints
    unet: Any = loaded.modules[0]
    pieces = [
        one for block in unet.down_blocks for one in (*block.resnets, *getattr(block, "attentions", ()))
    ]
    seen: list[int] = []
    for piece in pieces:
        piece.register_forward_hook(
            lambda *_: seen.append(sum(turns.on_device(other) > 0 for other in pieces))
        )
    predict(turns.bundle, path, random(1, 4, 8, 8), torch.tensor([500.0]), conditionings)
    assert seen == [1] * len(pieces)
    assert turns.on_device(unet.conv_in)


def test_only_sdxl_may_be_meant(checkpoint: Write) -> None:
    for family, there in (("sd1", set()), ("sdxl", {"text0", "text1"})):
        path, _ = checkpoint(family, name=family)
        turns = Turns("models-sdxl")
        encode(turns.bundle, [text_call(path, "a cat")])
        assert turns.there() == there
        (loaded,) = turns.bundle._checkpoints
        assert (loaded.offload is None) == (family == "sd1")


def test_a_cpu_has_nothing_to_offload(checkpoint: Write, caplog: pytest.LogCaptureFixture) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu", "fp32")
    bundle.take_turns("models")
    use(bundle, path)
    (loaded,) = bundle._checkpoints
    assert loaded.offload is None
    assert [record.message for record in caplog.records] == [
        "--offload models has no effect on a CPU: networks lie in its memory anyway."
    ]


@pytest.fixture
def network() -> nn.Linear:
    return nn.Linear(3, 3).requires_grad_(requires_grad=False)


def test_what_stands_in_for_parameters_comes_along_and_goes(network: nn.Linear) -> None:
    mover = Recording()
    offload = Offload(mover)
    offload.lodge("one", network)
    own, other = network.weight, nn.Parameter(torch.ones(3, 3), requires_grad=False)
    network._parameters["weight"] = other
    before = other.data_ptr()
    offload.have("one")
    assert other.data_ptr() in mover.there_now
    assert own.data_ptr() not in mover.there_now
    offload.come_home()
    assert other.data_ptr() == before


def test_a_network_that_was_made_wider_on_the_device_stays_so(network: nn.Linear) -> None:
    network.half()
    offload = Offload(Recording())
    offload.lodge("one", network)
    offload.have("one")
    network.float()
    offload.come_home()
    assert network.weight.dtype == torch.float32
    offload.have("one")
    assert network.weight.dtype == torch.float32


def test_one_that_left_may_not_be_asked_for(network: nn.Linear) -> None:
    mover = Recording()
    offload = Offload(mover)
    offload.lodge("one", network)
    offload.have("one")
    offload.leave("one")
    assert offload.there is None
    assert network.weight.data_ptr() not in mover.there_now
    with pytest.raises(KeyError):
        offload.have("one")


@pytest.mark.parametrize("pieces", [False, True])
def test_where_memory_does_not_suffice_all_stay_at_home(network: nn.Linear, pieces: bool) -> None:
    class Full(Recording):
        def there(self, tensor: Tensor) -> Tensor:
            if self.copies:
                raise torch.OutOfMemoryError
            return super().there(tensor)

    mover, whole = Full(), nn.Sequential(network)
    offload = Offload(mover)
    offload.lodge("one", whole, [network] if pieces else ())
    places = [one.data_ptr() for one in network.parameters()]

    def called() -> None:
        offload.have("one")
        whole(torch.zeros(1, 3))

    for _ in range(2):
        mover.copies = 0
        with pytest.raises(torch.OutOfMemoryError):
            called()
        assert [one.data_ptr() for one in network.parameters()] == places


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize("offloading", ["models", "layers"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_on_an_accelerator_little_memory_is_taken(
    checkpoint: Write, family: Family, offloading: Offloading
) -> None:
    path, _ = checkpoint(family)
    staying, turning = Bundle("cuda", "fp16"), Bundle("cuda", "fp16")
    turning.take_turns(offloading)
    with torch.inference_mode():
        use(staying, path)
        if offloading == "layers":
            (loaded,) = staying._checkpoints
            loaded.network.call_modules()
        wanted, most = answers(staying, path), torch.cuda.memory_allocated()
        staying.unload()
        left = torch.cuda.memory_allocated()
        found = answers(turning, path)
        assert torch.cuda.memory_allocated() - left < (most - left) / 2
    for one, other in zip(wanted, found, strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other
