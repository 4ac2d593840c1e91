"""A network that describes pictures: BLIP, from a folder as Hugging Face lays it out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import BertTokenizer, BlipForConditionalGeneration

from sdserver.bundle.caption_input import Preparation, preparation_of
from sdserver.bundle.configuration import read_json
from sdserver.bundle.device import Placement
from sdserver.bundle.memory import is_out_of_memory
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.jobs.events import Picture

PROMPT: Final = "a picture of "
"""What BLIP is given to go on from; A1111 leaves it out of the caption, too."""

_WORDS = ("vocab.txt", "tokenizer.json")

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Captioner:
    """A network on the device with what is needed to speak to it.

    Attributes:
        prompt: token ids, the start mark first.
        positions: tokens that a text can have at most.
    """

    network: Any
    tokenizer: Any
    preparation: Preparation
    prompt: tuple[int, ...]
    positions: int


class Captioners:
    """The captioner that was used last, loaded when it is first needed."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._loaded: tuple[str, Stamp, _Captioner] | None = None

    def describe(
        self, folder: str, pictures: Sequence[Picture], beams: int, min_length: int, max_length: int
    ) -> list[str]:
        """A caption for each picture, the likeliest that the search finds.

        Args:
            folder: with config.json, model.safetensors, a tokenizer and perhaps preprocessor_config.json.
            pictures: of any size.
            beams: of the search, 1 for the greedy one.
            min_length: of the text in tokens, start mark and prompt included.
            max_length: likewise; the network's own limit holds, too.

        Raises:
            UnreadableCheckpoint: the folder is missing or damaged.
            UnsupportedCheckpoint: it holds no captioning BLIP, or only a pickle.
            RuntimeError: the device's memory does not suffice.
        """
        captioner = self._get(folder)
        device = self._placement.device
        pixels = torch.stack([captioner.preparation.pixels(picture) for picture in pictures])
        longest = min(max_length, captioner.positions)
        tokens = captioner.network.generate(
            pixels.to(device),
            input_ids=torch.tensor([captioner.prompt] * len(pictures), device=device),
            do_sample=False,
            num_beams=beams,
            min_length=min(min_length, longest),
            max_length=longest,
        )
        texts = captioner.tokenizer.batch_decode(tokens[:, 1:], skip_special_tokens=True)
        return [f"{text} ".removeprefix(PROMPT).strip() for text in texts]

    def clear(self) -> None:
        """Drop the network, to make room on the device."""
        self._loaded = None

    def _get(self, folder: str) -> _Captioner:
        stamp = _stamp(Path(folder))
        if self._loaded is None or self._loaded[:2] != (folder, stamp):
            self._loaded = None
            self._loaded = folder, stamp, _load(Path(folder), self._placement)
        return self._loaded[2]


def _stamp(folder: Path) -> Stamp:
    """Changes when a file of the folder does."""
    try:
        found = [(path.name, path.stat()) for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise UnreadableCheckpoint(f"The captioner {folder.name} cannot be read: {error}") from error
    return tuple(sorted((name, status.st_mtime_ns, status.st_size) for name, status in found))


def _load(folder: Path, placement: Placement) -> _Captioner:
    _check_files(folder)
    try:
        network, told = BlipForConditionalGeneration.from_pretrained(
            str(folder),
            dtype=placement.dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        tokenizer = BertTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        # Transformers meets damaged files with errors of many kinds.
        if is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UnreadableCheckpoint(f"The captioner {folder.name} cannot be read: {reason}") from error
    if told["missing_keys"]:
        lacking = min(told["missing_keys"])
        raise UnreadableCheckpoint(
            f"The captioner {folder.name} is damaged, or is none that describes pictures: it lacks {lacking}."
        )
    text, vision = network.config.text_config, network.config.vision_config
    preparation = preparation_of(folder, vision.image_size)
    prompt = _prompt(folder, tokenizer, text)
    network.to(placement.device)
    network.eval().requires_grad_(False)
    return _Captioner(network, tokenizer, preparation, prompt, text.max_position_embeddings)


def _check_files(folder: Path) -> None:
    """See what transformers would take silently, or say in other words."""
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "blip":
        raise UnsupportedCheckpoint(
            f"The captioner {folder.name} is of the kind {str(kind)[:50]!r}: only 'blip' is served."
        )
    if not any(folder.glob("*.safetensors")):
        raise UnsupportedCheckpoint(
            f"The captioner {folder.name} has no .safetensors file; a pickle may hold code: put its"
            " model.safetensors there."
        )
    if not any((folder / name).is_file() for name in _WORDS):
        raise UnreadableCheckpoint(f"The captioner {folder.name} has no {' and no '.join(_WORDS)}.")


def _prompt(folder: Path, tokenizer: Any, text: Any) -> tuple[int, ...]:
    """The prompt's tokens, with an end mark as `generate` expects it.

    It checks that the words are the network's: an index beyond a table would end the whole engine on an
    accelerator.
    """
    ids = tuple(tokenizer(PROMPT)["input_ids"])
    marks = (text.bos_token_id, text.sep_token_id, text.pad_token_id)
    fits = all(isinstance(token, int) and 0 <= token < text.vocab_size for token in (*ids, *marks))
    if not fits or tokenizer.unk_token_id in ids or len(ids) >= text.max_position_embeddings:
        raise UnreadableCheckpoint(f"The tokenizer in {folder.name} does not belong to the network there.")
    return ids
