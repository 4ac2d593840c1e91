"""Where CLIP sees pictures and texts: what tells which words fit a picture."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel

from sdserver.bundle import clip_names
from sdserver.bundle.caption_input import Preparation, usual_preparation
from sdserver.bundle.configuration import read_json
from sdserver.bundle.content import SAFE, check_pickle, read_content
from sdserver.bundle.device import Placement
from sdserver.bundle.last_used import LastUsed, stamp_of
from sdserver.bundle.memory import is_out_of_memory
from sdserver.bundle.script_archive import is_script_archive, read_script_archive
from sdserver.bundle.tokenizer import END_ID, START_ID, tokenize
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.images.pictures import to_image, to_picture
from sdserver.jobs.events import Picture

KEPT_BYTES: Final = 64 << 20
"""Of texts' features that stay in the CPU's memory."""

NARROWEST: Final = 16
"""Of narrower pictures the ends are cut off first, which the network would not see anyway."""


@dataclass(frozen=True, slots=True)
class _Clip:
    """A network on the device.

    Attributes:
        positions: tokens of a text.
        kept: features of the texts asked for last; their order is that of use.
    """

    network: Any
    preparation: Preparation
    positions: int
    kept: OrderedDict[tuple[str, ...], Tensor]


class Clips:
    """The network that was used last, loaded when it is first needed, with what it said of texts.

    Args:
        allow_pickle: whether OpenAI's .pt file may be read (without running what is in it).
    """

    def __init__(self, placement: Placement, *, allow_pickle: bool) -> None:
        self._placement = placement
        self._allow_pickle = allow_pickle
        self._used: LastUsed[_Clip] = LastUsed()

    def pictures(self, path: str, pictures: Sequence[Picture]) -> list[Tensor]:
        """The feature of each picture: (width,), float32, of length 1, on the CPU.

        Args:
            path: Hugging Face's folder (config.json, model.safetensors), or OpenAI's file.
            pictures: of any size; the middle of each is seen.

        Raises:
            UnreadableCheckpoint: the folder or file is missing or damaged.
            UnsupportedCheckpoint: it is another kind of network, or a pickle that may not be read.
            RuntimeError: the device's memory does not suffice.
        """
        clip = self._get(path)
        squares = [clip.preparation.pixels(_square(picture, clip)) for picture in pictures]
        pixels = torch.stack(squares).to(self._placement.device, self._placement.dtype)
        seen = clip.network.vision_model(pixel_values=pixels)
        return list(_features(clip.network.visual_projection(seen.pooler_output)))

    def texts(self, path: str, texts: tuple[str, ...]) -> Tensor:
        """The texts' features: (texts, width), as `pictures`. What is too long is cut off."""
        clip = self._get(path)
        if texts not in clip.kept:
            clip.kept[texts] = self._read(clip, texts)
        clip.kept.move_to_end(texts)
        while sum(one.nbytes for one in clip.kept.values()) > KEPT_BYTES and len(clip.kept) > 1:
            clip.kept.popitem(last=False)
        return clip.kept[texts]

    def clear(self) -> None:
        """Drop the network, to make room on the device."""
        self._used.clear()

    def _read(self, clip: _Clip, texts: tuple[str, ...]) -> Tensor:
        most = clip.positions - 2
        marked = [[START_ID, *ids[:most], END_ID] for ids in tokenize(texts, "open_clip")]
        # What stands behind the end mark is not looked at, so rows need not be of the full length.
        tokens = torch.zeros(len(texts), max(map(len, marked)), dtype=torch.long)
        for row, ids in zip(tokens, marked, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        said = clip.network.text_model(input_ids=tokens.to(self._placement.device))
        return _features(clip.network.text_projection(said.pooler_output))

    def _get(self, path: str) -> _Clip:
        file = Path(path)
        stamp = stamp_of(f"The CLIP network {file.name}", [file])
        load = partial(_load, file, self._placement, allow_pickle=self._allow_pickle)
        return self._used.get(stamp, load)


def _features(values: Tensor) -> Tensor:
    wide: Tensor = values.float().cpu()
    return functional.normalize(wide, dim=-1)


def _square(picture: Picture, clip: _Clip) -> Picture:
    """The middle of the picture, its shorter side brought to the network's, as OpenAI does."""
    image, side = _cut(to_image(picture), NARROWEST), clip.preparation.width
    short = min(image.size)
    size = (int(side * image.width / short), int(side * image.height / short))
    scaled = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return to_picture(scaled.crop((left, top, left + side, top + side)))


def _cut(image: Image.Image, narrowest: int) -> Image.Image:
    """The picture's middle where one side is more than so many times the other."""
    most = min(image.size) * narrowest
    width, height = min(image.width, most), min(image.height, most)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _load(path: Path, placement: Placement, *, allow_pickle: bool) -> _Clip:
    if path.is_dir():
        _check_folder(path)
        read = partial(CLIPModel.from_pretrained, str(path), use_safetensors=True, local_files_only=True)
    else:
        state = clip_names.renamed(_tensors(path, allow_pickle=allow_pickle))
        read = partial(_of_file, state)
    try:
        network, told = read(dtype=placement.dtype, output_loading_info=True)
    except Exception as error:
        # Transformers meets damaged files with errors of many kinds.
        if is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UnreadableCheckpoint(
            f"The CLIP network {path.name} is damaged, or of another kind: {reason}."
        ) from error
    text, vision = network.config.text_config, network.config.vision_config
    if told["missing_keys"]:
        raise UnreadableCheckpoint(
            f"The CLIP network {path.name} is damaged: it lacks {min(told['missing_keys'])}."
        )
    if text.vocab_size != clip_names.WORDS or not isinstance(vision.image_size, int):
        raise UnsupportedCheckpoint(f"The CLIP network {path.name} has other words than OpenAI's.")
    network.to(placement.device).eval().requires_grad_(False)
    return _Clip(network, usual_preparation(vision.image_size), text.max_position_embeddings, OrderedDict())


def _of_file(state: dict[str, Tensor], **given: Any) -> Any:
    return CLIPModel.from_pretrained(None, config=clip_names.configuration(state), state_dict=state, **given)


def _tensors(path: Path, *, allow_pickle: bool) -> dict[str, Tensor]:
    check_pickle(path, allow_pickle=allow_pickle)
    if path.suffix.lower() != SAFE and is_script_archive(path):
        return read_script_archive(path)
    return dict(read_content(path, allow_pickle=allow_pickle, inside="state_dict").tensors)


def _check_folder(folder: Path) -> None:
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "clip" or not any(folder.glob(f"*{SAFE}")):
        raise UnsupportedCheckpoint(
            f"The folder {folder.name} holds no CLIP network in safetensors: put config.json and"
            " model.safetensors of openai/clip-vit-large-patch14 there."
        )
