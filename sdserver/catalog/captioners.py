"""Where the network lies that describes pictures: BLIP, in a folder as Hugging Face lays it out."""

from pathlib import Path
from typing import Final

from sdserver.catalog.scan import natural_key
from sdserver.errors import MissingModel

CONFIGURATION: Final = "config.json"
WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json")


def find_captioner(place: Path | None) -> Path:
    """The network's folder: the place itself, else the first folder in it, by name.

    Reads directories: call it in a worker thread.

    Args:
        place: A1111's `models/BLIP`; None for none.

    Raises:
        MissingModel: there is none, or only one in another format.
    """
    folders = [folder for folder in _candidates(place) if (folder / CONFIGURATION).is_file()]
    for folder in folders:
        if any((folder / name).is_file() for name in WEIGHTS):
            return folder
    if folders:
        raise MissingModel(
            f"The BLIP network in models/BLIP ({folders[0].name}) has no file {WEIGHTS[0]}; other formats are"
            " not read, for pickles can hold code: put that file beside its config.json."
        )
    raise MissingModel(
        "Describing pictures by 'clip' takes a captioning BLIP network, and none is there: put one's folder"
        " as Hugging Face lays it out (config.json, model.safetensors, tokenizer files), such as"
        " blip-image-captioning-base, into models/BLIP/."
    )


def _candidates(place: Path | None) -> list[Path]:
    if place is None:
        return []
    try:
        inside = [path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return []
    return [place, *sorted(inside, key=lambda path: natural_key(path.name))]
