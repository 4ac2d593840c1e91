"""What a picture says of how it was made, as `png-info` answers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from sdserver.api.infotext_field import reading_of
from sdserver.api.options import Snapshot
from sdserver.catalog.networks import Networks
from sdserver.errors import InvalidField, RequestError
from sdserver.images.decode import INVALID, file_bytes
from sdserver.images.infotext_reader import StyleTemplate, read
from sdserver.images.metadata import Metadata, read_metadata
from sdserver.sampling import registry

_LORA_TAG: Final = re.compile(r"<lora:([^:<>]+):")
_OTHER_PROGRAMS_SAMPLER: Final = "Euler a"


def picture_info(
    image: str, options: Snapshot, styles: Sequence[StyleTemplate], networks: Networks
) -> dict[str, Any]:
    """The answer's body. Decodes the picture: call it in a worker thread.

    Raises:
        InvalidField: there is no picture in the text.
    """
    try:
        metadata = read_metadata(file_bytes(image, "image"))
    except ValueError:
        raise InvalidField("image", INVALID) from None
    infotext = _novelai(metadata) or metadata.infotext or ""
    parameters = read(infotext, reading_of(options, styles))
    hashes = parameters.get("Lora hashes")
    if isinstance(hashes, str) and isinstance(parameters.get("Prompt"), str):
        prefers_alias = options.text("lora_preferred_name") != "Filename"
        prompt = str(parameters["Prompt"])
        parameters["Prompt"] = _with_local_names(prompt, hashes, networks, prefers_alias=prefers_alias)
    return {"info": infotext, "items": dict(metadata.items), "parameters": parameters}


def _novelai(metadata: Metadata) -> str | None:
    """The infotext of a picture that NovelAI made; None for others and for what cannot be understood."""
    items = metadata.items
    if items.get("Software") != "NovelAI":
        return None
    try:
        comment = orjson.loads(str(items["Comment"]))
        values = {key: comment[key] for key in ("uc", "steps", "scale", "seed")}
        sampler, description = str(comment["sampler"]), items["Description"]
    except (ValueError, KeyError, TypeError):
        return None
    return (
        f"{description}\nNegative prompt: {values['uc']}\n"
        f"Steps: {values['steps']}, Sampler: {_sampler(sampler)}, CFG scale: {values['scale']}, "
        f"Seed: {values['seed']}, Size: {metadata.width}x{metadata.height}, Clip skip: 2, ENSD: 31337"
    )


def _sampler(name: str) -> str:
    try:
        return registry.resolve(name, None).sampler.name
    except RequestError:
        return _OTHER_PROGRAMS_SAMPLER


def _with_local_names(prompt: str, hashes: str, networks: Networks, *, prefers_alias: bool) -> str:
    """The prompt with the names that its LoRAs have here, where a file has the hash that the text names."""
    named = _hashes(hashes)

    def local(match: re.Match[str]) -> str:
        short_hash = named.get(match[1])
        file = networks.lora_of_hash(short_hash) if short_hash else None
        return f"<lora:{networks.tag_name(file, prefers_alias=prefers_alias)}:" if file else match[0]

    return _LORA_TAG.sub(local, prompt)


def _hashes(text: str) -> Mapping[str, str]:
    pairs = (pair.strip().partition(":") for pair in text.split(","))
    return {name.strip(): short_hash.strip() for name, _, short_hash in pairs if short_hash}
