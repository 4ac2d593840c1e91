"""The loaded checkpoints and the only door to them: runs batches of device calls."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from sdserver.bundle.adapters.adapted import OVERLAY_BYTES, Adapted
from sdserver.bundle.captioner import Captioners
from sdserver.bundle.colours import Palettes, cheap
from sdserver.bundle.contexts import joined
from sdserver.bundle.device import Attention, Precision, resolve
from sdserver.bundle.embeddings import EmbeddingFiles
from sdserver.bundle.load import prepare
from sdserver.bundle.memory import DeviceMemory, is_out_of_memory, measure, release
from sdserver.bundle.parts import Parts
from sdserver.bundle.preview import SmallDecoders
from sdserver.bundle.spec import Spec
from sdserver.bundle.text import TextEncoders
from sdserver.bundle.tiling import Tiling
from sdserver.bundle.unet import Network
from sdserver.bundle.upscaler import Upscalers
from sdserver.bundle.vae import as_batch
from sdserver.bundle.vae_file import Autoencoders
from sdserver.calls import (
    Caption,
    Conditioning,
    Decode,
    DeviceCall,
    Encode,
    EncodeText,
    Predict,
    Preview,
    Upscale,
    UseModel,
)
from sdserver.errors import EngineFailure, OutOfMemory
from sdserver.jobs.events import Picture
from sdserver.jobs.model import Model, ModelFacts

Result = ModelFacts | Conditioning | torch.Tensor | Picture | str | Exception
CallT = TypeVar("CallT", bound=DeviceCall)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A checkpoint on the device."""

    spec: Spec
    facts: ModelFacts
    text: TextEncoders
    network: Network
    tiling: Tiling
    vaes: Autoencoders
    adapted: Adapted
    modules: tuple[nn.Module, ...]

    def move(self, device: torch.device) -> None:
        """Have all parameters lie on a device, adapters set aside; it runs only on its own."""
        self.adapted.use(())
        self.adapted.drop_unused()
        for module in self.modules:
            module.to(device)
        self.vaes.move(device)


class Bundle:
    """Loaded checkpoints, the least recently used of which makes room for a new one.

    Not for use from several threads.

    Args:
        device: auto, cpu, cuda, cuda:N, mps or xpu.
        precision: of the networks; auto is fp16 on an accelerator and fp32 on a CPU.
        attention: auto and sdpa are PyTorch's; xformers needs a CUDA device.
        max_cached: how many checkpoints stay loaded, at least 1.
        allow_pickle: whether .ckpt files may be loaded (weights only).
        max_overlay_bytes: memory, per checkpoint, for parameters that adapters changed and that are kept
            for later calls.
        approx_dir: A1111's `models/VAE-approx`, with the small autoencoders for previews; empty for none.

    Raises:
        SettingsError: the device or the attention kernel cannot be used.
    """

    def __init__(
        self,
        device: str = "auto",
        precision: Precision = "auto",
        attention: Attention = "auto",
        max_cached: int = 1,
        allow_pickle: bool = False,
        max_overlay_bytes: int = OVERLAY_BYTES,
        approx_dir: str = "",
    ) -> None:
        self._placement = resolve(device, precision, attention)
        # A CPU's networks lie where they would be set aside.
        self._sets_aside = self._placement.device.type != "cpu"
        self._max_cached = max(1, max_cached)
        self._allow_pickle = allow_pickle
        self._max_overlay_bytes = max_overlay_bytes
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._aside: OrderedDict[str, _Loaded] = OrderedDict()
        self._embeddings = EmbeddingFiles(allow_pickle=allow_pickle)
        self._upscalers = Upscalers(self._placement, allow_pickle=allow_pickle)
        self._captioners = Captioners(self._placement)
        folder = Path(approx_dir) if approx_dir else None
        self._palettes = Palettes()
        self._small = SmallDecoders(folder, self._placement, allow_pickle=allow_pickle)

    @property
    def name(self) -> str:
        """The device as torch names it."""
        return str(self._placement.device)

    @property
    def precision(self) -> str:
        """The networks' number format as torch names it."""
        return str(self._placement.dtype).removeprefix("torch.")

    def device_name(self) -> str:
        """The device as its maker names it."""
        if self._placement.device.type != "cuda":
            return self.name
        return torch.cuda.get_device_name(self._placement.device)

    def memory_facts(self) -> DeviceMemory:
        """How the device's memory is used now."""
        return measure(self._placement.device)

    def settle(self) -> None:
        """Wait until the device has done all that was asked of it."""
        if self._placement.device.type != "cpu":
            torch.accelerator.synchronize(self._placement.device)

    def unload(self) -> None:
        """Free the device's memory of all networks.

        An accelerator's checkpoints move to the CPU's memory, from where they come back quickly; on a CPU
        that would free nothing, so they are dropped there and are read from their files again.
        """
        self._drop_what_stands_beside()
        while self._loaded:
            checkpoint, loaded = self._loaded.popitem(last=False)
            if self._sets_aside and self._moved(loaded, torch.device("cpu")):
                self._aside[checkpoint] = loaded
        release(self._placement.device)

    def _drop_what_stands_beside(self) -> None:
        """Drop the networks that are no part of a checkpoint."""
        self._upscalers.clear()
        self._captioners.clear()
        self._small.clear()

    def _brought_back(self, checkpoint: str) -> bool:
        """Put a checkpoint on the device that was set aside; False if it was not, or does not fit."""
        loaded = self._aside.pop(checkpoint, None)
        if loaded is None or not self._moved(loaded, self._placement.device):
            return False
        self._loaded[checkpoint] = loaded
        return True

    def _moved(self, loaded: _Loaded, device: torch.device) -> bool:
        """Whether the memory there sufficed; a checkpoint that was moved in part is of no use."""
        try:
            loaded.move(device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    @torch.no_grad()
    def run(self, calls: Sequence[DeviceCall]) -> list[Result]:
        """Run a batch of calls with one `batch_key`.

        Returns:
            One result per call, in order; an exception of `sdserver.errors` where a call failed alone.
            Predictions lie on the device of the call's `x`.

        Raises:
            CheckpointError: the checkpoint, its VAE or an adapter cannot be loaded.
            OutOfMemory: the device's memory does not suffice to load it.
            RuntimeError: the device failed; on CUDA only a new process helps.
        """
        match calls[0]:
            case UseModel(model):
                loaded = self._use(model)
                loaded.vaes.get(model.vae)
                loaded.adapted.use(model.adapters, look_again=True)
                return [replace(loaded.facts, model=model)] * len(calls)
            case EncodeText(model):
                loaded = self._use(model)
                loaded.adapted.use(model.adapters)
                return self._split([c for c in calls if isinstance(c, EncodeText)], loaded.text.encode)
            case Predict(model):
                loaded = self._use(model)
                loaded.tiling.switch(model.tiling)
                loaded.adapted.use(model.adapters)
                return self._split(
                    [c for c in calls if isinstance(c, Predict)], lambda c: _predict(loaded, c)
                )
            case Decode(model):
                loaded = self._use(model)
                return self._split([c for c in calls if isinstance(c, Decode)], lambda c: _decode(loaded, c))
            case Upscale() | Caption() | Preview():
                return self._run_beside(calls)
            case Encode(model):
                loaded = self._use(model)
                return self._split([c for c in calls if isinstance(c, Encode)], lambda c: _encode(loaded, c))

    def _run_beside(self, calls: Sequence[DeviceCall]) -> list[Result]:
        """Calls that no checkpoint is loaded for."""
        if isinstance(calls[0], Upscale):
            return self._split([c for c in calls if isinstance(c, Upscale)], self._upscale)
        if isinstance(calls[0], Caption):
            return self._split([c for c in calls if isinstance(c, Caption)], self._caption)
        return self._preview([c for c in calls if isinstance(c, Preview)])

    def _upscale(self, calls: Sequence[Upscale]) -> list[Result]:
        return [self._upscalers.enlarge(call.upscaler, call.picture) for call in calls]

    def _caption(self, calls: Sequence[Caption]) -> list[Result]:
        first, pictures = calls[0], [call.picture for call in calls]
        lengths = (first.min_length, first.max_length)
        return list(self._captioners.describe(first.network, pictures, first.beams, *lengths))

    def _preview(self, calls: Sequence[Preview]) -> list[Result]:
        """Looks at latents; nothing is loaded for them but the small autoencoder."""
        loaded = self._loaded.get(calls[0].model.checkpoint)
        if loaded is None:
            return [EngineFailure("The latent's checkpoint is not on the device any more.")] * len(calls)
        try:
            return self._looks(loaded, calls)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        release(self._placement.device)
        return [OutOfMemory("The device's memory does not suffice for a preview.")] * len(calls)

    def _looks(self, loaded: _Loaded, calls: Sequence[Preview]) -> list[Result]:
        model, latents = calls[0].model, as_batch([call.latent for call in calls])
        vae, family = loaded.vaes.get(model.vae), loaded.spec.family
        if calls[0].method == "full":
            return list(vae.look(latents, tiling=model.tiling))
        colours = self._palettes.of(vae, family)
        if calls[0].method == "taesd" and vae.is_original:
            return list(self._small.decode(latents, family, colours))
        return list(cheap(latents, colours))

    def _split(
        self, calls: Sequence[CallT], operate: Callable[[Sequence[CallT]], Sequence[Result]]
    ) -> list[Result]:
        """Run the batch; where memory does not suffice, its halves."""
        try:
            return list(operate(calls))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Only now, with the error gone, are the tensors that it held free.
        for loaded in self._loaded.values():
            loaded.adapted.drop_unused()
        release(self._placement.device)
        if len(calls) == 1:
            return [OutOfMemory("The device's memory does not suffice: ask for a smaller picture.")]
        half = len(calls) // 2
        return self._split(calls[:half], operate) + self._split(calls[half:], operate)

    def _use(self, model: Model) -> _Loaded:
        """The checkpoint, loaded now if it is not; others make room only for one that looks sound."""
        checkpoint = model.checkpoint
        if checkpoint in self._loaded:
            self._loaded.move_to_end(checkpoint)
            return self._loaded[checkpoint]
        if self._brought_back(checkpoint):
            return self._loaded[checkpoint]
        try:
            with prepare(Path(checkpoint), allow_pickle=self._allow_pickle) as read:
                self._make_room()
                loaded = self._ready(checkpoint, read(self._placement))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            self._loaded[checkpoint] = loaded
            return loaded
        self._loaded.clear()
        self._aside.clear()
        self._drop_what_stands_beside()
        release(self._placement.device)
        raise OutOfMemory(
            "The device's memory does not suffice to load the checkpoint: choose a smaller one."
        )

    def _ready(self, checkpoint: str, parts: Parts) -> _Loaded:
        """Make the networks runnable and, if the file did not tell, ask the UNet what it predicts."""
        placement = self._placement
        network = Network(parts.unet, parts.spec, placement)
        spec = parts.spec
        if spec.prediction is None:
            spec = replace(spec, prediction="v" if network.predicts_v() else "epsilon")
        facts = ModelFacts(
            model=Model(checkpoint),
            family=spec.family,
            prediction=spec.prediction or "epsilon",
            latent_channels=spec.latent_channels,
            alphas=spec.alphas,
            inpainting=spec.is_inpainting,
            device=str(placement.device),
            is_refiner=spec.is_refiner,
        )
        return _Loaded(
            spec,
            facts,
            TextEncoders(parts, placement, self._embeddings),
            network,
            Tiling(parts.unet),
            Autoencoders(parts.vae, spec, placement, allow_pickle=self._allow_pickle),
            Adapted(parts, placement, allow_pickle=self._allow_pickle, max_bytes=self._max_overlay_bytes),
            (parts.unet, *parts.text),
        )

    def _make_room(self) -> None:
        """Drop the checkpoints that were not used for longest, so that one more fits the limit."""
        if len(self._loaded) + len(self._aside) < self._max_cached:
            return
        while len(self._loaded) + len(self._aside) >= self._max_cached:
            (self._aside or self._loaded).popitem(last=False)
        release(self._placement.device)


def _predict(loaded: _Loaded, calls: Sequence[Predict]) -> list[Result]:
    """One UNet batch of the rows that fit the network."""
    results: list[Result | None] = [_misfit(loaded.spec, call) for call in calls]
    rows = [call for call, misfit in zip(calls, results, strict=True) if misfit is None]
    if rows:
        vectors = [call.conditioning.vector for call in rows if call.conditioning.vector is not None]
        predicted = loaded.network.predict(
            as_batch([call.x for call in rows]),
            torch.tensor([call.timestep for call in rows], dtype=torch.float32),
            joined([call.conditioning.context for call in rows]),
            as_batch(vectors) if vectors else None,
            rows[0].model.attention,
            rows[0].evaluation,
        )
        places = {call.x.device for call in rows}
        by_place = {place: predicted.to(place) for place in places}
        answers = iter([by_place[call.x.device][index] for index, call in enumerate(rows)])
        return [next(answers) if result is None else result for result in results]
    return [result for result in results if result is not None]


def _misfit(spec: Spec, call: Predict) -> EngineFailure | None:
    """What would fail the whole batch, told of its own row."""
    vector = call.conditioning.vector
    found = (call.x.shape[0], call.conditioning.context.shape[1], None if vector is None else vector.shape[0])
    wanted = (spec.in_channels, spec.context_dim, spec.vector_dim)
    if found == wanted:
        return None
    return EngineFailure(f"The network takes channels, context and vector of {wanted} but was given {found}.")


def _decode(loaded: _Loaded, calls: Sequence[Decode]) -> list[Result]:
    model = calls[0].model
    latents = as_batch([call.latent for call in calls])
    vae = loaded.vaes.get(model.vae)
    if calls[0].as_values:
        values = vae.values(latents, tiling=model.tiling, attention=model.attention)
        return list(values.to(calls[0].latent.device))
    return list(vae.decode(latents, tiling=model.tiling, attention=model.attention))


def _encode(loaded: _Loaded, calls: Sequence[Encode]) -> list[Result]:
    model = calls[0].model
    pixels = as_batch([call.pixels for call in calls])
    latents = loaded.vaes.get(model.vae).encode(pixels, tiling=model.tiling)
    return [
        latent.to(call.pixels.device) if isinstance(latent, torch.Tensor) else latent
        for latent, call in zip(latents, calls, strict=True)
    ]
