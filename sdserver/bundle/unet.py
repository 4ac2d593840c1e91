"""The denoising network: batches of rows in, what it predicts (epsilon or v) out."""

from typing import Any

import torch
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from sdserver.bundle.device import Placement
from sdserver.bundle.self_attention import SelfAttention
from sdserver.bundle.spec import Spec
from sdserver.jobs.model import Attention

PLAIN = Attention()
_V_PROBE_LIMIT = -1.0


class Network:
    """A UNet on its device.

    Args:
        unet: diffusers' UNet2DConditionModel; its up-sampling is replaced, see `UpsampleThenFit`.
    """

    def __init__(self, unet: nn.Module, spec: Spec, placement: Placement) -> None:
        replace_upsampling(unet)
        self._unet: Any = unet
        self._attention = SelfAttention(unet, spec.family)
        self._spec = spec
        self._placement = placement
        if placement.use_xformers:
            _use_xformers(unet)

    def predict(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        vector: Tensor | None,
        attention: Attention = PLAIN,
        evaluation: int = 0,
    ) -> Tensor:
        """Evaluate the network once.

        Args:
            x: (n, in_channels, h, w), scaled to the network's input.
            timesteps: (n,), 0 to 999; fractions are kept.
            context: (n, tokens, context_dim).
            vector: (n, vector_dim) for SDXL, else None.
            attention: how it is made cheaper.
            evaluation: see `calls.Predict`.

        Returns:
            (n, channels, h, w), float32, on the network's device.
        """
        device, dtype = self._placement.device, self._placement.dtype
        sample = x.to(device, dtype).contiguous(memory_format=torch.channels_last)
        size = (x.shape[2], x.shape[3])
        with self._attention.cheapened(attention, evaluation, size):
            (predicted,) = self._unet(
                sample,
                timesteps.to(device, torch.float32),
                encoder_hidden_states=context.to(device, dtype),
                class_labels=None if vector is None else vector.to(device, dtype),
                return_dict=False,
            )
        result: Tensor = predicted.float().contiguous()
        return result

    def predicts_v(self) -> bool:
        """Whether the network predicts v: A1111's question to SD 2 checkpoints that do not tell.

        At the noisiest timestep a network that predicts epsilon nearly returns its input; one that
        predicts v returns about the negative picture.
        """
        x = torch.full((1, self._spec.in_channels, 8, 8), 0.5)
        context = torch.full((1, 2, self._spec.context_dim), 0.5)
        predicted = self.predict(x, torch.tensor([999.0]), context, None)
        return (predicted.cpu() - x).mean().item() < _V_PROBE_LIMIT


class UpsampleThenFit(nn.Module):
    """Doubling and convolution, and only then, where a latent side is no multiple of 8, the nearest
    resize to the skip connection's size: the order of the original UNet as A1111 runs it. diffusers
    resizes before the convolution, which gives another picture.
    """

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, hidden_states: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        doubled = functional.interpolate(hidden_states, scale_factor=2.0, mode="nearest")
        result: Tensor = self.conv(doubled)
        if output_size is not None and tuple(result.shape[-2:]) != tuple(output_size):
            result = functional.interpolate(result, size=output_size, mode="nearest")
        return result


def _use_xformers(unet: Any) -> None:
    unet.enable_xformers_memory_efficient_attention()


def replace_upsampling(unet: nn.Module) -> None:
    """Put `UpsampleThenFit` in the place of every `Upsample2D`, with the same convolution."""
    for place, module in list(unet.named_modules()):
        if isinstance(module, Upsample2D):
            unet.set_submodule(place, UpsampleThenFit(module.conv))
