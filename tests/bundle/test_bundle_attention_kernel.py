"""The choice of an attention kernel, by times that are given."""

import logging

import pytest
import torch
from tiny_checkpoints import full_size
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from sdserver.bundle.attention_kernel import Attend, Sizes, fastest, head_sizes, preferred, ways


def _named(name: str) -> Attend:
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        raise AssertionError("only timed")

    attend.__name__ = name
    return attend


NAMES = ("flash", "cudnn", "efficient", "xformers")
KERNELS = {name: _named(name) for name in NAMES}
SIZES = [(8, 4096, 40), (8, 1024, 80)]


def chosen(times: dict[str, tuple[float, float] | Exception]) -> str | None:
    def timed(attend: Attend, size: Sizes) -> float:
        found = times[attend.__name__]  # type: ignore[attr-defined]
        if isinstance(found, Exception):
            raise found
        return found[SIZES.index(size)]

    return fastest({name: KERNELS[name] for name in times}, SIZES, timed)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"flash": (3.0, 1.0), "cudnn": (2.0, 1.5), "efficient": (3.0, 3.0)}, "cudnn"),
        ({"flash": (3.0, 1.0), "xformers": (2.9, 1.0)}, "flash"),
        ({"flash": (3.0, 1.0), "xformers": (2.0, 1.0)}, "xformers"),
        ({"flash": RuntimeError("No available kernel"), "efficient": (9.0, 9.0)}, "efficient"),
        ({"flash": RuntimeError("No available kernel")}, None),
        ({}, None),
    ],
    ids=["the sum counts", "xformers hardly faster", "xformers faster", "one cannot run", "none can", "none"],
)
def test_the_choice(times: dict[str, tuple[float, float] | Exception], expected: str | None) -> None:
    assert chosen(times) == expected


def test_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    chosen({"flash": (0.003, 0.001), "efficient": RuntimeError("No available kernel\nand more")})
    assert "Attention by efficient is not to be had: No available kernel" in caplog.text
    assert "Attention by flash: {'flash': 4.0} ms." in caplog.text


def test_sizes_are_those_of_the_published_networks() -> None:
    assert head_sizes(full_size("sd1").unet) == [(8, 256, 160), (8, 1024, 80), (8, 4096, 40)]
    assert head_sizes(full_size("sdxl").unet) == [(10, 1024, 64), (20, 256, 64)]


def test_other_devices_have_none_to_choose_from() -> None:
    assert ways(torch.device("cpu")) == {}
    assert set(ways(torch.device("cuda"))) >= {"flash", "cudnn", "efficient"}


@pytest.mark.parametrize("kernel", [*NAMES, None])
def test_what_is_preferred_computes_the_same(kernel: str | None) -> None:
    x = torch.linspace(-1, 1, 64).reshape(1, 2, 8, 4)
    with sdpa_kernel(SDPBackend.MATH):
        expected = scaled_dot_product_attention(x, x, x)
    with preferred(kernel):
        found = scaled_dot_product_attention(x, x, x)
    torch.testing.assert_close(found, expected)


def test_the_preference_ends_with_the_context() -> None:
    before = torch._C._get_sdp_priority_order()
    with preferred("cudnn"):
        assert torch._C._get_sdp_priority_order() != before
        assert torch._C._get_sdp_priority_order()[0] == SDPBackend.CUDNN_ATTENTION.value
    assert torch._C._get_sdp_priority_order() == before
