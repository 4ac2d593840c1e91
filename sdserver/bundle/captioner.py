"""A network that describes pictures: BLIP, from Hugging Face's folder or its authors' file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import BertTokenizer, BlipForConditionalGeneration

from sdserver.bundle import blip_names
from sdserver.bundle.caption_input import Preparation, preparation_of, usual_preparation
from sdserver.bundle.configuration import read_json
from sdserver.bundle.content import damaged, read_content
from sdserver.bundle.device import Placement
from sdserver.bundle.last_used import Stamp, stamp_of
from sdserver.bundle.memory import is_out_of_memory
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.jobs.events import Picture

PROMPT: Final = "a picture of "
"""What BLIP is given to go on from; A1111 leaves it out of the caption, too."""

_WORDS = ("vocab.txt", "tokenizer.json")


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
    """The captioner that was used last, loaded when it is first needed.

    Args:
        allow_pickle: whether the authors' .pth file may be read (weights only).
    """

    def __init__(self, placement: Placement, *, allow_pickle: bool = False) -> None:
        self._placement = placement
        self._allow_pickle = allow_pickle
        self._loaded: tuple[str, Stamp, _Captioner] | None = None

    def describe(
        self,
        path: str,
        pictures: Sequence[Picture],
        beams: int,
        min_length: int,
        max_length: int,
        vocabulary: str = "",
    ) -> list[str]:
        """A caption for each picture, the likeliest that the search finds.

        Args:
            path: a folder with config.json, model.safetensors, a tokenizer and perhaps
                preprocessor_config.json; or the authors' file.
            pictures: of any size.
            beams: of the search, 1 for the greedy one.
            min_length: of the text in tokens, start mark and prompt included.
            max_length: likewise; the network's own limit holds, too.
            vocabulary: folder of the tokenizer that goes with a file.

        Raises:
            UnreadableCheckpoint: the folder or file is missing or damaged.
            UnsupportedCheckpoint: it holds no captioning BLIP, or a pickle that may not be read.
            RuntimeError: the device's memory does not suffice.
        """
        captioner = self._get(path, vocabulary)
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

    def _get(self, path: str, vocabulary: str) -> _Captioner:
        places = [Path(each) for each in (path, vocabulary) if each]
        stamp = stamp_of(f"The captioner {Path(path).name}", places)
        if self._loaded is None or self._loaded[:2] != (path, stamp):
            self._loaded = None
            if vocabulary:
                captioner = _load_file(
                    Path(path), Path(vocabulary), self._placement, allow_pickle=self._allow_pickle
                )
            else:
                captioner = _load(Path(path), self._placement)
            self._loaded = path, stamp, captioner
        return self._loaded[2]


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
        raise UnreadableCheckpoint(f"The captioner {folder.name} cannot be read: {_reason(error)}") from error
    if told["missing_keys"]:
        lacking = min(told["missing_keys"])
        raise UnreadableCheckpoint(
            f"The captioner {folder.name} is damaged, or is none that describes pictures: it lacks {lacking}."
        )
    preparation = preparation_of(folder, network.config.vision_config.image_size)
    return _ready(network, tokenizer, folder, preparation, placement)


def _load_file(path: Path, vocabulary: Path, placement: Placement, *, allow_pickle: bool) -> _Captioner:
    """The authors' file; pictures are prepared at the size that its network was trained for."""
    state = blip_names.renamed(
        read_content(path, allow_pickle=allow_pickle, inside=blip_names.INSIDE).tensors
    )
    try:
        tokenizer = BertTokenizer.from_pretrained(str(vocabulary), local_files_only=True)
    except Exception as error:
        # As with a folder: errors of many kinds.
        raise damaged(vocabulary / _WORDS[0], error) from error
    try:
        configuration = blip_names.configuration(state, tokenizer.sep_token_id, tokenizer.pad_token_id)
        network = BlipForConditionalGeneration.from_pretrained(
            None, config=configuration, state_dict=state, dtype=placement.dtype
        )
        lacking = min(network.state_dict().keys() - state.keys(), default="")
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UnreadableCheckpoint(
            f"The captioner {path.name} is damaged, or is none that describes pictures: {_reason(error)}."
        ) from error
    if lacking:
        raise UnreadableCheckpoint(
            f"The captioner {path.name} is damaged, or is none that describes pictures: it lacks {lacking}."
        )
    preparation = usual_preparation(configuration.vision_config.image_size)
    return _ready(network, tokenizer, vocabulary, preparation, placement)


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _ready(
    network: Any, tokenizer: Any, words: Path, preparation: Preparation, placement: Placement
) -> _Captioner:
    """The parts put together on the device; `words` is the tokenizer's folder."""
    text = network.config.text_config
    prompt = _prompt(words, tokenizer, text)
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
    try:
        ids = tuple(tokenizer(PROMPT)["input_ids"])
    except Exception as error:
        # A tokenizer without the marks that every one has; its errors have no class of their own.
        raise UnreadableCheckpoint(f"The tokenizer in {folder.name} is damaged: {_reason(error)}.") from error
    marks = (text.bos_token_id, text.sep_token_id, text.pad_token_id)
    fits = all(isinstance(token, int) and 0 <= token < text.vocab_size for token in (*ids, *marks))
    if not fits or tokenizer.unk_token_id in ids or len(ids) >= text.max_position_embeddings:
        raise UnreadableCheckpoint(f"The tokenizer in {folder.name} does not belong to the network there.")
    return ids
