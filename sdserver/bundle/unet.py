"""The denoising network: batches of rows in, what it predicts (epsilon or v) out."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from sdserver.bundle.alike import Alike
from sdserver.bundle.attention_kernel import preferred
from sdserver.bundle.contexts import outgrow
from sdserver.bundle.device import Placement
from sdserver.bundle.faster import Faster
from sdserver.bundle.kept_text import KeptTexts, Text
from sdserver.bundle.lean import Lean, is_plain
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
        self._lean: Lean | None = None
        self._texts = KeptTexts(())
        self._faster: Faster | None = None
        self._kernel: str | None = None
        if placement.use_xformers:
            _use_xformers(unet)
        elif is_plain(unet):
            # What is kept of a timestep is rounded by how many were new with it.
            spared = {"max_bytes": 0, "max_times": 0} if placement.is_steady else {}
            self._lean = Lean(unet, **spared)
            self._texts = KeptTexts(self._lean.blocks)

    def call_modules(self) -> None:
        """From now on, call diffusers' modules, which others may watch, instead of using their parameters."""
        self._lean = None
        self._texts = KeptTexts(())

    def predict(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | Sequence[Tensor],
        vector: Tensor | None,
        attention: Attention = PLAIN,
        evaluation: int = 0,
        alike: Alike | None = None,
    ) -> Tensor:
        """Evaluate the network once.

        Args:
            x: (n, in_channels, h, w), scaled to the network's input.
            timesteps: (n,), 0 to 999; fractions are kept.
            context: (n, tokens, context_dim), or n times (tokens, context_dim): what is made of these is
                kept as long as the tensors come again, so they must not be written to.
            vector: (n, vector_dim) for SDXL, else None.
            attention: how it is made cheaper.
            evaluation: see `calls.Predict`.
            alike: rows with equal `x` and timestep. No use is made of them where results must be steady: how
                many rows are computed together changes their last bits.

        Returns:
            (n, channels, h, w), float32, on the network's device.
        """
        device, dtype = self._placement.device, self._placement.dtype
        sample = x.to(device, dtype).contiguous(memory_format=torch.channels_last)
        size = (x.shape[2], x.shape[3])
        wide = None if vector is None else vector.to(device, dtype)
        moments = timesteps.to(device, torch.float32)
        with self._attention.cheapened(attention, evaluation, size), preferred(self._kernel):
            if self._faster is None or (self._lean is not None and outgrow(context)):
                same = None if alike is None or self._placement.is_steady else alike.on(device)
                predicted = self._evaluate(sample, moments, self._text(context), wide, same)
            else:
                predicted = self._faster.predict(
                    lambda: self._evaluate(sample, moments, self._text(context), wide),
                    sample,
                    moments,
                    lambda: self._text(context).context(),
                    wide,
                )
        result: Tensor = predicted.float().contiguous()
        return result

    def _evaluate(
        self,
        sample: Tensor,
        timesteps: Tensor,
        text: Text,
        vector: Tensor | None,
        alike: Alike | None = None,
    ) -> Tensor:
        """The network's output for what `predict` has brought to its device."""
        if self._lean is not None:
            return self._lean(sample, timesteps, text, vector, alike)
        (predicted,) = self._unet(
            sample, timesteps, encoder_hidden_states=text.context(), class_labels=vector, return_dict=False
        )
        result: Tensor = predicted
        return result

    def evaluate(self, sample: Tensor, timesteps: Tensor, context: Tensor, vector: Tensor | None) -> Tensor:
        """The network as a function of tensors on its device: nothing is kept from one call to the next."""
        return self._evaluate(sample, timesteps, Text(list(context)), vector)

    def attend_by(self, kernel: str | None) -> None:
        """From now on, attend by this kernel (`attention_kernel.Kernel`); None leaves it to PyTorch."""
        self._kernel = kernel
        if kernel == "xformers":
            self.call_modules()
            _use_xformers(self._unet)

    def hasten(self, faster: Faster) -> None:
        """From now on, have calls go this way."""
        self._faster = faster

    def forget(self) -> None:
        """Free the memory of what is kept for later calls."""
        self._texts.clear()
        if self._lean is not None:
            self._lean.clear()
        if self._faster is not None:
            self._faster.release()

    def _text(self, context: Tensor | Sequence[Tensor]) -> Text:
        device, dtype = self._placement.device, self._placement.dtype
        if isinstance(context, Tensor):
            return Text(list(context.to(device, dtype)))
        if self._lean is None:
            return Text([one.to(device, dtype) for one in context])
        return self._texts.text(context, device, dtype)

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
