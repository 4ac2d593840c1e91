"""The autoencoder: latents to pictures and back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from sdserver.bundle.device import Placement
from sdserver.bundle.lean_decoder import LeanDecoder, is_plain
from sdserver.bundle.memory import host_memory, spare_of
from sdserver.bundle.readback import NO_NUMBER, NOT_OF_THE_UNET, numbers_of, pictures_of
from sdserver.bundle.self_attention import tiled_decoder
from sdserver.bundle.spec import Spec
from sdserver.bundle.tiling import Tiling
from sdserver.errors import NansException
from sdserver.jobs.events import Picture
from sdserver.jobs.model import Attention

PLAIN = Attention()

ORIGINAL_WIDTHS: Final = (128, 256, 512, 512)
_ENCODER = ("encoder.", "quant_conv.")


class Autoencoder:
    """A VAE on its device.

    SDXL's VAE overflows in fp16. As A1111 does, the VAE goes on in fp32 from the first picture on that
    is not a number.

    Args:
        vae: diffusers' AutoencoderKL, in `channels_last` order.

    Attributes:
        checks_numbers: whether a result that is not a number is a failure; if not, it is black.
        upcasts: how often it went over to fp32.
    """

    def __init__(self, vae: nn.Module, spec: Spec, placement: Placement) -> None:
        self._vae: Any = vae
        self._scale = spec.latent_scale
        self._device = placement.device
        self._dtype = placement.dtype
        self._tiling = Tiling(vae)
        self.checks_numbers = True
        self.upcasts = 0
        self._encoder_order = torch.channels_last
        if placement.device.type == "cpu":
            # A flat picture's latent hangs on the order of the sums, and A1111 sums in this one.
            self._encoder_order = torch.contiguous_format
            _order_encoder(vae, self._encoder_order)
        most = 0 if placement.is_steady else (spare_of(host_memory()) or 0) // 4
        self._lean = LeanDecoder(vae, most) if is_plain(vae) else None

    def decode(
        self, latents: Tensor, *, tiling: bool = False, attention: Attention = PLAIN, piece: int = 0
    ) -> list[Picture | Exception]:
        """Decode latents (n, channels, h, w) to n pictures, or a NansException where there is none.

        Values are clamped to 0..1, scaled by 255 and truncated, not rounded: A1111's way. With `piece` this
        is done in overlapping pieces of so many cells a side, which takes less memory and is not quite exact.
        """
        values = self.values(latents, tiling=tiling, attention=attention, piece=piece)
        pictures = pictures_of(values if self.checks_numbers else numbers_of(values))
        return [_blamed(picture, latent) for picture, latent in zip(pictures, latents, strict=True)]

    def values(
        self, latents: Tensor, *, tiling: bool = False, attention: Attention = PLAIN, piece: int = 0
    ) -> Tensor:
        """Decode latents (n, channels, h, w) to (n, 3, height, width), float32, around -1..1: neither
        clamped nor rounded. `piece` as for `decode`.
        """
        with in_pieces(self._vae, piece):
            return self._values(latents, attention, tiling=tiling)

    def _values(self, latents: Tensor, attention: Attention, *, tiling: bool) -> Tensor:
        self._tiling.switch(tiling)
        images = self._decode(latents, attention)
        if self._overflows(latents, images):
            self._to_fp32()
            images = self._decode(latents, attention)
        return images

    def look(self, latents: Tensor, *, tiling: bool = False) -> list[Picture | Exception]:
        """Decode latents as `decode` does, but stay in the present number format afterwards: what somebody
        looks at must not change what is made.
        """
        before = self._dtype
        try:
            return self.decode(latents, tiling=tiling)
        finally:
            if self._dtype != before:
                self._dtype = before
                self._vae.to(before)

    @property
    def is_original(self) -> bool:
        """Whether it has the size of Stable Diffusion's own; others have latents of their own."""
        return tuple(self._vae.config.block_out_channels) == ORIGINAL_WIDTHS

    @property
    def bytes(self) -> int:
        """Memory that its parameters take."""
        return sum(parameter.nbytes for parameter in self._vae.parameters())

    def move(self, device: torch.device) -> None:
        """Have the parameters lie on a device; it runs only on its own."""
        self.forget()
        self._vae.to(device)

    def forget(self) -> None:
        """Free the memory of what is kept for later calls."""
        if self._lean is not None:
            self._lean.clear()

    def encode(self, pixels: Tensor, *, tiling: bool = False, piece: int = 0) -> list[Tensor | Exception]:
        """Encode pixels (n, 3, height, width) in -1..1 to n latents (channels, h, w), float32, or a
        NansException where there is none. `piece` as for `decode`.
        """
        self._tiling.switch(tiling)
        with in_pieces(self._vae, piece):
            latents = self._encode(pixels)
            if self._overflows(pixels, latents):
                self._to_fp32()
                latents = self._encode(pixels)
        if not self.checks_numbers:
            return list(latents)
        return [latent if _all_numbers(latent) else NansException(NO_NUMBER) for latent in latents]

    def _overflows(self, given: Tensor, result: Tensor) -> bool:
        return self._dtype != torch.float32 and not _all_numbers(result) and _all_numbers(given)

    def _to_fp32(self) -> None:
        self.upcasts += 1
        self._dtype = torch.float32
        self._vae.float()

    def _encode(self, pixels: Tensor) -> Tensor:
        sample = pixels.to(self._device, self._dtype).contiguous(memory_format=self._encoder_order)
        (posterior,) = self._vae.encode(sample, return_dict=False)
        latents: Tensor = posterior.mode().float() * self._scale
        return latents

    def _decode(self, latents: Tensor, attention: Attention = PLAIN) -> Tensor:
        scaled = latents.to(self._device, torch.float32) / self._scale
        sample = scaled.to(self._dtype).contiguous(memory_format=torch.channels_last)
        with tiled_decoder(self._vae, attention):
            if self._lean is not None and not self._lean.is_watched and not self._vae.use_tiling:
                return self._lean(sample).float()
            (images,) = self._vae.decode(sample, return_dict=False)
        result: Tensor = images.float()
        return result


PIECES: Final = (64, 32)
"""Sides in cells of the pieces that are tried one after the other where memory does not suffice."""
_PIECEWISE: Final = ("use_tiling", "tile_latent_min_size", "tile_sample_min_size")


@contextmanager
def in_pieces(vae: Any, piece: int) -> Iterator[None]:
    """Have an AutoencoderKL work in overlapping pieces of so many cells a side, inside the context.

    Args:
        vae: diffusers'.
        piece: 0 for the whole at once.
    """
    if not piece:
        yield
        return
    before = {name: getattr(vae, name) for name in _PIECEWISE}
    cell = 2 ** (len(vae.config.block_out_channels) - 1)
    try:
        vae.use_tiling, vae.tile_latent_min_size, vae.tile_sample_min_size = True, piece, piece * cell
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)


def _order_encoder(vae: nn.Module, order: torch.memory_format) -> None:
    for name, parameter in vae.named_parameters():
        if name.startswith(_ENCODER):
            # A copy: strides of 1x1 kernels pass for either order, but kernels are chosen by them.
            parameter.data = parameter.data.clone(memory_format=order)


def _blamed(picture: Picture | Exception, latent: Tensor) -> Picture | Exception:
    """A failure says whose it is: the latent's, where that is no number either."""
    if isinstance(picture, NansException) and not _all_numbers(latent):
        return NansException(NOT_OF_THE_UNET)
    return picture


def _all_numbers(values: Tensor) -> bool:
    return bool(values.isfinite().all().item())


def picture_of(image: Tensor) -> Picture | Exception:
    """As `readback.pictures_of`, of a single one (3, height, width)."""
    (picture,) = pictures_of(image[None])
    return picture


def as_batch(latents: Sequence[Tensor]) -> Tensor:
    """Stack rows that may lie on different devices."""
    device = latents[0].device
    return torch.stack([latent.to(device) for latent in latents])
