"""Decoded pictures from the device: their bytes, in one go."""

import torch
from torch import Tensor

from sdserver.errors import NansException
from sdserver.jobs.events import Picture

NOT_OF_THE_UNET = "The UNet's result is not a number: start the server with precision fp32 or bf16."
NO_NUMBER = "The networks' result is not a number: start the server with precision fp32 or bf16."


def numbers_of(values: Tensor) -> Tensor:
    """The values, black in the place of what is not a number."""
    return values.nan_to_num(nan=-1.0, posinf=1.0, neginf=-1.0)


def pictures_of(images: Tensor) -> list[Picture | Exception]:
    """The bytes of values (n, 3, height, width) in -1..1; a NansException where one is not a number.

    Values are clamped to 0..1, scaled by 255 and truncated, not rounded: A1111's way. A CUDA device makes the
    bytes, sends them to memory that it writes to directly, and is waited for once.
    """
    sound = images.isfinite().flatten(1).all(dim=1)
    levels = ((images + 1) / 2).clamp(0, 1) * 255
    pixels = levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    if pixels.device.type == "cuda":
        host = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
        pixels = host.copy_(pixels, non_blocking=True)
    # The flags are behind the pixels on the device's stream: once they are here, so are the pixels.
    are_sound = sound.tolist()
    _, height, width, _ = pixels.shape
    return [
        Picture(width, height, picture.tobytes()) if is_sound else NansException(NO_NUMBER)
        for picture, is_sound in zip(pixels.cpu().numpy(), are_sound, strict=True)
    ]
