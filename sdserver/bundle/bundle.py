"""The loaded checkpoints and the only door to them: runs batches of device calls."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from sdserver.bundle.adapters.adapted import OVERLAY_BYTES, Adapted
from sdserver.bundle.alike import alike
from sdserver.bundle.colours import Palettes, cheap
from sdserver.bundle.describers import DescribeCall, Describers
from sdserver.bundle.device import Attention, Precision, resolve
from sdserver.bundle.embeddings import EmbeddingFiles
from sdserver.bundle.faces.networks import FaceCall, FaceNetworks
from sdserver.bundle.fp8 import is_narrow, narrow
from sdserver.bundle.kept import Checkpoints
from sdserver.bundle.load import prepare
from sdserver.bundle.memory import DeviceMemory, is_out_of_memory, measure, release
from sdserver.bundle.offload import Mover, Offload, Offloading, lodged, offloads
from sdserver.bundle.parts import Parts
from sdserver.bundle.preview import SmallLooks
from sdserver.bundle.readback import numbers_of
from sdserver.bundle.row_memory import CudaGauge, RowMemory
from sdserver.bundle.small_vae import SmallVaes
from sdserver.bundle.spec import Spec
from sdserver.bundle.text import TextEncoders
from sdserver.bundle.tiling import Tiling
from sdserver.bundle.tuner import Tuner, Tuning
from sdserver.bundle.unet import Network
from sdserver.bundle.upscaler import Upscalers
from sdserver.bundle.vae import PIECES, Autoencoder, as_batch, picture_of
from sdserver.bundle.vae_file import Autoencoders
from sdserver.calls import (
    Conditioning,
    Decode,
    DeviceCall,
    Encode,
    EncodeText,
    Key,
    Landmarks,
    Predict,
    Preview,
    Scores,
    Upscale,
    UseModel,
)
from sdserver.errors import EngineFailure, OutOfMemory
from sdserver.jobs.events import Picture
from sdserver.jobs.keeping import Keeping
from sdserver.jobs.model import Adapter, Family, Model, ModelFacts

log = logging.getLogger(__name__)

Result = ModelFacts | Conditioning | torch.Tensor | Picture | str | Scores | Landmarks | bytes | Exception
Mend = Literal["oom", "nan"]
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
    keeps_fp16: bool = False
    offload: Offload | None = None

    def suits(self, model: Model) -> bool:
        """Whether its weights lie in memory as the model asks."""
        if is_narrow(model.storage, self.spec.family, torch.device(self.facts.device)) != self.facts.is_fp8:
            return False
        return not self.facts.is_fp8 or self.keeps_fp16 == model.keeps_fp16

    @property
    def bytes(self) -> int:
        """Memory that its own parameters take."""
        return sum(one.nbytes for module in self.modules for one in module.parameters()) + self.vaes.bytes

    def adapt(self, adapters: tuple[Adapter, ...], *, look_again: bool = False) -> None:
        """As `Adapted.use`; what is put in the place of parameters goes to the device with the others."""
        if self.offload is not None and (look_again or not self.adapted.is_using(adapters)):
            self.offload.come_home()
        self.adapted.use(adapters, look_again=look_again)

    def bring(self, network: str) -> None:
        """Have a network on the device, if they take turns there."""
        if self.offload is not None:
            self.offload.have(network)

    def rest(self) -> None:
        """Leave the device to another checkpoint, if networks take turns there."""
        if self.offload is not None:
            self.offload.come_home()

    def move(self, device: torch.device) -> None:
        """Have all parameters lie on a device, adapters set aside; it runs only on its own."""
        if self.offload is not None:
            self.offload.come_home()
        self.adapted.use(())
        self.adapted.drop_unused()
        self.network.forget()
        if self.offload is not None:
            return
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
        max_cached: how many checkpoints stay loaded, at least 1; see `keep`.
        allow_pickle: whether .ckpt files may be loaded (weights only).
        max_overlay_bytes: memory, per checkpoint, for parameters that adapters changed and that are kept
            for later calls.
        approx_dir: A1111's `models/VAE-approx`, with the small autoencoders for previews; empty for none.
        is_steady: whether results must not hang on what memory was spare while loading, not even by rounding.

    Raises:
        SettingsError: the device or the attention kernel cannot be used.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own, most have their default
        self,
        device: str = "auto",
        precision: Precision = "auto",
        attention: Attention = "auto",
        max_cached: int = 1,
        allow_pickle: bool = False,
        *,
        max_overlay_bytes: int = OVERLAY_BYTES,
        approx_dir: str = "",
        is_steady: bool = False,
    ) -> None:
        self._placement = resolve(device, precision, attention, is_steady=is_steady)
        self._gauge = CudaGauge(self._placement.device) if self._placement.device.type == "cuda" else None
        self._rows = RowMemory(self._gauge, self._placement.dtype.itemsize)
        self._offloading: Offloading = "none"
        self._checks_numbers = True
        self._mover = Mover(self._placement.device)
        self._allow_pickle = allow_pickle
        self._max_overlay_bytes = max_overlay_bytes
        limits = Keeping(on_device=max(1, max_cached))
        self._checkpoints: Checkpoints[_Loaded] = Checkpoints(self._placement.device, limits)
        self._embeddings = EmbeddingFiles(allow_pickle=allow_pickle)
        self._upscalers = Upscalers(self._placement, allow_pickle=allow_pickle)
        self._describers = Describers(self._placement, allow_pickle=allow_pickle)
        self._faces = FaceNetworks(self._placement, allow_pickle=allow_pickle)
        folder = Path(approx_dir) if approx_dir else None
        self._palettes = Palettes()
        self._small = SmallVaes(folder, self._placement, allow_pickle=allow_pickle)
        self._looks_small = SmallLooks(self._small)
        self._tuner = Tuner(self._placement, Tuning())
        self._mended: Callable[[Mend], None] = lambda _what: None

    @property
    def name(self) -> str:
        """The device as torch names it."""
        return str(self._placement.device)

    @property
    def precision(self) -> str:
        """The networks' number format as torch names it."""
        return str(self._placement.dtype).removeprefix("torch.")

    def tune(self, tuning: Tuning) -> None:
        """Have the checkpoints that are loaded from now on run faster in these ways. Without it nothing is
        measured, recorded or compiled.
        """
        self._tuner = Tuner(self._placement, tuning)

    def tell_mended(self, mended: Callable[[Mend], None]) -> None:
        """Tell of what went wrong and was made good: oom where a batch is run in parts, for memory did not
        suffice, and nan where a VAE goes on in fp32.
        """
        self._mended = mended

    def device_name(self) -> str:
        """The device as its maker names it."""
        if self._placement.device.type != "cuda":
            return self.name
        return torch.cuda.get_device_name(self._placement.device)

    def memory_facts(self) -> DeviceMemory:
        """How the device's memory is used now."""
        return measure(self._placement.device, self._gauge.peaks if self._gauge else None)

    def rows_that_fit(self, key: Key) -> int | None:
        """Rows of a batch key that the device's free memory suffices for; None if nobody knows."""
        return self._rows.fitting(key)

    def check_numbers(self, checks: bool) -> None:
        """Whether a picture that is not made of numbers is a failure, or black."""
        self._checks_numbers = checks

    def collect(self) -> None:
        """Give back memory that nothing uses."""
        release(self._placement.device)

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
        self._checkpoints.leave_device()

    def take_turns(self, offloading: Offloading, mover: Mover | None = None) -> None:
        """Have networks of checkpoints that are loaded from now on take turns on the device; on a CPU, whose
        memory they lie in anyway, this has no effect.

        Args:
            offloading: which.
            mover: what copies them; for tests.
        """
        self._mover = mover or self._mover
        if offloading != "none" and not self._mover.is_of_use:
            log.warning("--offload %s has no effect on a CPU: networks lie in its memory anyway.", offloading)
            return
        self._offloading = offloading

    def keep(self, limits: Keeping) -> None:
        """Change how much stays in memory; what is too much goes at once."""
        self._checkpoints.limits = limits

    def _drop_what_stands_beside(self) -> None:
        """Drop the networks that are no part of a checkpoint."""
        self._upscalers.clear()
        self._describers.clear()
        self._faces.clear()
        self._small.clear()

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
                self._use_small(model, loaded.spec.family)
                loaded.adapt(model.adapters, look_again=True)
                return [replace(loaded.facts, model=model)] * len(calls)
            case EncodeText(model):
                loaded = self._use(model)
                loaded.adapt(model.adapters)
                return self._split([c for c in calls if isinstance(c, EncodeText)], loaded.text.encode)
            case Predict(model):
                loaded = self._use(model)
                loaded.tiling.switch(model.tiling)
                loaded.adapt(model.adapters)
                return self._split(
                    [c for c in calls if isinstance(c, Predict)], lambda c: _predict(loaded, c)
                )
            case Decode(model):
                loaded = self._use(model)
                return self._split(
                    [c for c in calls if isinstance(c, Decode)],
                    lambda c: self._decode(loaded, c),
                    [partial(self._decode, loaded, piece=piece) for piece in pieces_of(model, model.decoder)],
                )
            case Encode(model):
                loaded = self._use(model)
                return self._split(
                    [c for c in calls if isinstance(c, Encode)],
                    lambda c: self._encode(loaded, c),
                    [partial(self._encode, loaded, piece=piece) for piece in pieces_of(model, model.encoder)],
                )
            case _:
                return self._run_beside(calls)

    def _use_small(self, model: Model, family: Family) -> None:
        """Have what the model needs of TAESD loaded, or say at once what is missing."""
        if model.encoder == "taesd":
            self._small.get(family, "encoder")
        if model.decoder == "taesd":
            self._small.get(family, "decoder")

    def _decode(self, loaded: _Loaded, calls: Sequence[Decode], *, piece: int = 0) -> list[Result]:
        model = calls[0].model
        latents = as_batch([call.latent for call in calls])
        vae = loaded.vaes.get(model.vae)
        with self._noting(vae):
            if model.decoder == "taesd":
                values = self._small.decoded(latents, loaded.spec.family)
            elif calls[0].as_values:
                values = vae.values(latents, tiling=model.tiling, attention=model.attention, piece=piece)
            else:
                return list(vae.decode(latents, tiling=model.tiling, attention=model.attention, piece=piece))
        if calls[0].as_values:
            return list(values.to(calls[0].latent.device))
        return [picture_of(image if self._checks_numbers else numbers_of(image)) for image in values]

    def _encode(self, loaded: _Loaded, calls: Sequence[Encode], *, piece: int = 0) -> list[Result]:
        model = calls[0].model
        pixels = as_batch([call.pixels for call in calls])
        if model.encoder == "taesd":
            latents: Sequence[Result] = list(self._small.encoded(pixels, loaded.spec.family))
        else:
            vae = loaded.vaes.get(model.vae)
            with self._noting(vae):
                latents = vae.encode(pixels, tiling=model.tiling, piece=piece)
        return [
            latent.to(call.pixels.device) if isinstance(latent, torch.Tensor) else latent
            for latent, call in zip(latents, calls, strict=True)
        ]

    @contextmanager
    def _noting(self, vae: Autoencoder) -> Iterator[None]:
        """Have the VAE check its results as asked for, and tell if it goes over to fp32 meanwhile."""
        vae.checks_numbers, before = self._checks_numbers, vae.upcasts
        yield
        if vae.upcasts > before:
            self._mended("nan")

    def _run_beside(self, calls: Sequence[DeviceCall]) -> list[Result]:
        """Calls that no checkpoint is loaded for."""
        if isinstance(calls[0], Upscale):
            return self._split([c for c in calls if isinstance(c, Upscale)], self._upscale)
        if isinstance(calls[0], DescribeCall):
            return self._split([c for c in calls if isinstance(c, DescribeCall)], self._describers.run)
        if isinstance(calls[0], FaceCall):
            return self._split([c for c in calls if isinstance(c, FaceCall)], self._faces.run)
        return self._preview([c for c in calls if isinstance(c, Preview)])

    def _upscale(self, calls: Sequence[Upscale]) -> list[Result]:
        return [self._upscalers.enlarge(call.upscaler, call.picture, call.tiles) for call in calls]

    def _preview(self, calls: Sequence[Preview]) -> list[Result]:
        """Looks at latents; nothing is loaded for them but the small autoencoder."""
        loaded = self._checkpoints.peek(calls[0].model.checkpoint)
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
            return list(self._looks_small.decode(latents, family, colours))
        return list(cheap(latents, colours))

    def _split(
        self,
        calls: Sequence[CallT],
        operate: Callable[[Sequence[CallT]], Sequence[Result]],
        thrifty: Sequence[Callable[[Sequence[CallT]], Sequence[Result]]] = (),
        *,
        is_measured: bool = True,
    ) -> list[Result]:
        """Run the batch; where memory does not suffice, its halves, which come to the same; then each call
        in the thrifty ways, which do not quite.
        """
        try:
            with self._rows.measured(calls[0].batch_key(), len(calls)) if is_measured else nullcontext():
                return list(operate(calls))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Only now, with the error gone, are the tensors that it held free.
        for loaded in self._checkpoints:
            loaded.adapted.drop_unused()
            loaded.network.forget()
            loaded.vaes.forget()
        release(self._placement.device)
        if len(calls) == 1 and not thrifty:
            return [OutOfMemory("The device's memory does not suffice: ask for a smaller picture.")]
        results = self._in_parts(calls, operate, thrifty)
        if not any(isinstance(result, OutOfMemory) for result in results):
            self._mended("oom")
        return results

    def _in_parts(
        self,
        calls: Sequence[CallT],
        operate: Callable[[Sequence[CallT]], Sequence[Result]],
        thrifty: Sequence[Callable[[Sequence[CallT]], Sequence[Result]]],
    ) -> list[Result]:
        """The rest of `_split`: halves, or one call in a thrifty way."""
        if len(calls) == 1:
            log.warning("The device's memory does not suffice for a picture at once; it is made in pieces.")
            return self._split(calls, thrifty[0], thrifty[1:], is_measured=False)
        half = len(calls) // 2
        return self._split(calls[:half], operate, thrifty) + self._split(calls[half:], operate, thrifty)

    def _use(self, model: Model) -> _Loaded:
        """The checkpoint, loaded now if it is not; others make room only for one that looks sound."""
        self._checkpoints.drop_unless(model.checkpoint, lambda loaded: loaded.suits(model))
        loaded = self._checkpoints.get(model.checkpoint) or self._read(model)
        for other in self._checkpoints:
            if other is not loaded:
                other.rest()
        return loaded

    def _read(self, model: Model) -> _Loaded:
        """Load a checkpoint from its file; where memory does not suffice, all others make room."""
        loaded = self._try_to_read(model)
        if loaded is None:
            were_any = self._checkpoints.leave_device()
            self._drop_what_stands_beside()
            release(self._placement.device)
            loaded = self._try_to_read(model) if were_any else None
        if loaded is None:
            self._checkpoints.clear()
            release(self._placement.device)
            raise OutOfMemory(
                "The device's memory does not suffice to load the checkpoint: choose a smaller one."
            )
        self._checkpoints.put(model.checkpoint, loaded)
        return loaded

    def _try_to_read(self, model: Model) -> _Loaded | None:
        """None where memory does not suffice."""
        try:
            with prepare(Path(model.checkpoint), allow_pickle=self._allow_pickle) as read:
                is_away = offloads(self._offloading, read.family)
                place = torch.device("cpu") if is_away else self._placement.device
                self._checkpoints.make_room(read.numbers * self._placement.dtype.itemsize)
                return self._ready(model, read(replace(self._placement, device=place)), is_away=is_away)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _ready(self, model: Model, parts: Parts, *, is_away: bool) -> _Loaded:
        """Make the networks runnable and, if the file did not tell, ask the UNet what it predicts."""
        placement = self._placement
        network = Network(parts.unet, parts.spec, placement)
        spec = parts.spec
        offload = lodged(parts, self._mover, self._offloading) if is_away else None
        if self._offloading == "layers":
            network.call_modules()
        if spec.prediction is None:
            if offload is not None:
                offload.have("unet")
            spec = replace(spec, prediction="v" if network.predicts_v() else "epsilon")
        is_fp8 = is_narrow(model.storage, spec.family, placement.device)
        if is_fp8:
            narrow(parts, keeps_fp16=model.keeps_fp16)
        self._tuner.tune(network, parts.unet, spec, is_settled=offload is None and not is_fp8)
        facts = ModelFacts(
            model=Model(model.checkpoint),
            family=spec.family,
            prediction=spec.prediction or "epsilon",
            latent_channels=spec.latent_channels,
            alphas=spec.alphas,
            inpainting=spec.is_inpainting,
            device=str(placement.device),
            is_refiner=spec.is_refiner,
            is_fp8=is_fp8,
            threads=torch.get_num_threads() if placement.device.type == "cpu" else None,
        )
        return _Loaded(
            spec,
            facts,
            TextEncoders(parts, placement, self._embeddings),
            network,
            Tiling(parts.unet),
            Autoencoders(
                parts.vae,
                spec,
                placement,
                allow_pickle=self._allow_pickle,
                most=lambda: self._checkpoints.limits.vaes,
                offload=offload,
            ),
            Adapted(parts, placement, allow_pickle=self._allow_pickle, max_bytes=self._max_overlay_bytes),
            (parts.unet, *parts.text),
            is_fp8 and model.keeps_fp16,
            offload,
        )


def pieces_of(model: Model, autoencoder: str) -> tuple[int, ...]:
    """Sides of the pieces in which an autoencoder may work. The small one is never short of memory, and
    pictures whose edges meet would have seams within.
    """
    return () if autoencoder == "taesd" or model.tiling else PIECES


def _predict(loaded: _Loaded, calls: Sequence[Predict]) -> list[Result]:
    """One UNet batch of the rows that fit the network."""
    results: list[Result | None] = [_misfit(loaded.spec, call) for call in calls]
    fit = [index for index, misfit in enumerate(results) if misfit is None]
    # Texts of equal length attend together where they stand together.
    fit.sort(key=lambda index: len(calls[index].conditioning.context))
    rows = [calls[index] for index in fit]
    if rows:
        vectors = [call.conditioning.vector for call in rows if call.conditioning.vector is not None]
        loaded.bring("unet")
        predicted = loaded.network.predict(
            as_batch([call.x for call in rows]),
            torch.tensor([call.timestep for call in rows], dtype=torch.float32),
            [call.conditioning.context for call in rows],
            as_batch(vectors) if vectors else None,
            rows[0].model.attention,
            rows[0].evaluation,
            alike([(id(call.x), call.timestep) for call in rows]),
        )
        places = {call.x.device for call in rows}
        by_place = {place: predicted.to(place).unbind() for place in places}
        for row, (index, call) in enumerate(zip(fit, rows, strict=True)):
            results[index] = by_place[call.x.device][row]
    return [result for result in results if result is not None]


def _misfit(spec: Spec, call: Predict) -> EngineFailure | None:
    """What would fail the whole batch, told of its own row."""
    vector = call.conditioning.vector
    found = (call.x.shape[0], call.conditioning.context.shape[1], None if vector is None else vector.shape[0])
    wanted = (spec.in_channels, spec.context_dim, spec.vector_dim)
    if found == wanted:
        return None
    return EngineFailure(f"The network takes channels, context and vector of {wanted} but was given {found}.")
