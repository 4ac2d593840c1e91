"""Where the networks lie that describe pictures, and the lists of words that are ranked for them.

What is found is looked for anew each time, so that files may come and go. All functions read directories:
call them in a worker thread.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sdserver.catalog.scan import is_pickle, natural_key, walk_files
from sdserver.errors import MissingModel
from sdserver.jobs.job import WordList

CONFIGURATION: Final = "config.json"
WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json")
VOCABULARY: Final = ("vocab.txt", "tokenizer.json")
BLIP_FILE: Final = "model_base_caption_capfilt_large.pth"
DANBOORU_FILE: Final = "model-resnet_custom_v3.pt"
CLIP_FILE: Final = "ViT-L-14.pt"
"""What A1111 downloads these as."""

MOST_TEXTS: Final = 100_000
LONGEST_LIST: Final = 16 << 20
"""Characters of a list of words."""

_TOP = re.compile(r"\.top(\d{1,6})(?=\.|$)")
_LONGEST_TEXT = 1_000


@dataclass(frozen=True, slots=True)
class Captioner:
    """A network that describes pictures.

    Attributes:
        path: a folder as Hugging Face lays it out, or the file of BLIP's authors.
        vocabulary: folder of the tokenizer's files, where `path` is a file; else None.
    """

    path: Path
    vocabulary: Path | None = None


def find_captioner(place: Path | None, *, allow_pickle: bool = False) -> Captioner:
    """The network that describes pictures: the place itself, else the first folder in it, by name, else the
    first file of BLIP's authors.

    Args:
        place: A1111's `models/BLIP`; None for none.
        allow_pickle: whether .pth files may be read.

    Raises:
        MissingModel: there is none, or only one that cannot be read.
    """
    candidates = _candidates(place)
    folders = [folder for folder in candidates if (folder / CONFIGURATION).is_file()]
    for folder in folders:
        if any((folder / name).is_file() for name in WEIGHTS):
            return Captioner(folder)
    files = _files(place, BLIP_FILE, (".safetensors", ".pth"))
    readable = [file for file in files if allow_pickle or not is_pickle(file)]
    if readable:
        return Captioner(readable[0], _vocabulary(readable[0], candidates))
    if files:
        raise MissingModel(
            f"The BLIP network in models/BLIP ({files[0].name}) is a pickle, which can hold code: start the"
            f" server with --allow-pickle, or put a folder with {CONFIGURATION} and {WEIGHTS[0]} there, for"
            " which no pickles need be allowed."
        )
    if folders:
        raise MissingModel(
            f"The BLIP network in models/BLIP ({folders[0].name}) has no file {WEIGHTS[0]}; other formats are"
            " not read, for pickles can hold code: put that file beside its config.json."
        )
    raise MissingModel(
        "Describing pictures by 'clip' takes a captioning BLIP network, and none is there: put one's folder"
        " as Hugging Face lays it out (config.json, model.safetensors, tokenizer files), such as"
        f" blip-image-captioning-base, or {BLIP_FILE} with {VOCABULARY[0]} of bert-base-uncased, into"
        " models/BLIP/."
    )


def find_labeller(place: Path | None, *, allow_pickle: bool) -> Path:
    """The file of DeepDanbooru, A1111's own name first, .safetensors before pickles.

    Args:
        place: A1111's `models/torch_deepdanbooru`; None for none.
        allow_pickle: whether .pt files may be read.

    Raises:
        MissingModel: there is none, or only a pickle that may not be read.
    """
    files = _files(place, DANBOORU_FILE, (".safetensors", ".pt"))
    readable = [file for file in files if allow_pickle or not is_pickle(file)]
    if readable:
        return readable[0]
    if files:
        raise MissingModel(
            f"The network DeepDanbooru in models/torch_deepdanbooru ({files[0].name}) is a pickle, which can"
            " hold code: start the server with --allow-pickle, or put it there as .safetensors, with tags.txt"
            " beside it."
        )
    raise MissingModel(
        "Describing pictures by 'deepdanbooru' takes the network DeepDanbooru, and it is not there: put"
        f" {DANBOORU_FILE} into models/torch_deepdanbooru/."
    )


def find_clip(places: Sequence[Path], *, allow_pickle: bool) -> Path:
    """The network that ranks words: the first of the places that has one, a folder before a file.

    Args:
        places: `--clip-models-path`, `models/CLIP` and the like.
        allow_pickle: whether OpenAI's .pt file may be read.

    Raises:
        MissingModel: there is none, or only a pickle that may not be read.
    """
    refused: Path | None = None
    for place in places:
        for folder in _candidates(place):
            if all((folder / name).is_file() for name in (CONFIGURATION, WEIGHTS[0])):
                return folder
        for file in (place / CLIP_FILE).with_suffix(".safetensors"), place / CLIP_FILE:
            if file.is_file() and (allow_pickle or not is_pickle(file)):
                return file
            refused = refused or (file if file.is_file() else None)
    without = "or move the lists of words away, to have captions without ranking."
    if refused is not None:
        raise MissingModel(
            f"The CLIP network that ranks words ({refused.name}) is a pickle, which can hold code: start the"
            " server with --allow-pickle, put openai/clip-vit-large-patch14's folder into models/CLIP/,"
            f" {without}"
        )
    raise MissingModel(
        f"Lists of words are there to be ranked, but the CLIP network that does it is not: put {CLIP_FILE},"
        f" or openai/clip-vit-large-patch14's folder ({CONFIGURATION}, {WEIGHTS[0]}), into models/CLIP/,"
        f" {without}"
    )


def read_word_lists(places: Sequence[Path], skipped: Collection[str], limit: int) -> tuple[WordList, ...]:
    """The lists of words (`artists.txt`, `flavors.top3.txt`) in the first place that has any, by name.

    Args:
        places: A1111's folder `interrogate` and the like.
        skipped: names without ".txt" of lists that are left out.
        limit: how many lines of each list count; 0 for all, at most 100,000.

    Raises:
        MissingModel: a list cannot be read.
    """
    for place in places:
        try:
            found = [path for path in place.iterdir() if path.suffix == ".txt" and path.is_file()]
        except OSError:
            continue
        files = [path for path in found if not path.name.startswith(".")]
        if files:
            wanted = [path for path in files if path.stem not in skipped]
            lists = [_list(path, limit) for path in sorted(wanted, key=lambda path: natural_key(path.name))]
            return tuple(one for one in lists if one.texts)
    return ()


def _list(path: Path, limit: int) -> WordList:
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(LONGEST_LIST + 1)
    except (OSError, ValueError) as error:
        message = f"The list of words {path.name} cannot be read as UTF-8: write it anew."
        raise MissingModel(message) from error
    if len(text) > LONGEST_LIST:
        message = f"The list of words {path.name} is too long: shorten it to {LONGEST_LIST:,} characters."
        raise MissingModel(message)
    lines = [line.strip() for line in text.split("\n")]
    texts = tuple(line[:_LONGEST_TEXT] for line in lines if line)[: limit or MOST_TEXTS]
    top = _TOP.search(path.stem)
    return WordList(texts, max(1, int(top[1])) if top else 1)


def _files(place: Path | None, usual: str, endings: tuple[str, ...]) -> list[Path]:
    """Files of networks in a place, that of A1111's name first, then .safetensors, then by path.

    Files of folders as Hugging Face lays them out are none.
    """
    if place is None:
        return []
    found = [file for file in walk_files(place, endings) if not (file.parent / CONFIGURATION).is_file()]
    return sorted(found, key=lambda file: (file.stem != Path(usual).stem, is_pickle(file)))


def _vocabulary(file: Path, candidates: Sequence[Path]) -> Path:
    """The folder of the words that go with a file: its own, else the first that has any.

    Raises:
        MissingModel: there is none.
    """
    for folder in (file.parent, *candidates):
        if any((folder / name).is_file() for name in VOCABULARY):
            return folder
    raise MissingModel(
        f"The BLIP network {file.name} is there, but the words it speaks in are not: put {VOCABULARY[0]} of"
        " bert-base-uncased beside it, in models/BLIP/."
    )


def _candidates(place: Path | None) -> list[Path]:
    """The place and the folders in it, by name."""
    return [] if place is None else list(_with_folders(place))


def _with_folders(place: Path) -> Iterator[Path]:
    try:
        inside = [path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return
    yield place
    yield from sorted(inside, key=lambda path: natural_key(path.name))
