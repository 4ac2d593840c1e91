"""Extra networks: which files the tags of a prompt mean, and how strongly."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sdserver.api.options import Snapshot
from sdserver.api.translate.plan import NamedLora
from sdserver.catalog.network_file import NetworkFile
from sdserver.catalog.networks import Networks
from sdserver.errors import InvalidField
from sdserver.jobs.model import Adapter, Embedding
from sdserver.prompt.networks import NetworkTag, extract_networks

LORA_KINDS = ("lora", "lyco")
HYPERNETWORK_KINDS = ("hypernet",)
MAX_NETWORKS = 100
MAX_WEIGHT = 1000.0
MAX_RANK = 100_000
_NONE = "None"
_SHOWN = 100
_WORD = re.compile(r"[^\W\d_]+|\S")


@dataclass(frozen=True, slots=True)
class Found:
    """What the tags of one prompt mean.

    Attributes:
        adapters: LoRAs, then hypernetworks, each in the prompt's order.
        loras: every LoRA that is there, by the names it was given.
        missing: what there is no file for.
        added: tags that the options add to each prompt.
    """

    adapters: tuple[Adapter, ...] = ()
    loras: tuple[NamedLora, ...] = ()
    missing: tuple[str, ...] = ()
    added: str = ""


def find_networks(prompt: str, field: str, networks: Networks, options: Snapshot) -> Found:
    """Read a prompt's tags, with the options `sd_lora` and `sd_hypernetwork` added.

    A network that is not there changes nothing, as in AUTOMATIC1111; other kinds of tags do nothing.

    Raises:
        InvalidField: a weight is no number or out of range, or there are too many tags.
        RequestError: a file may not be used.
    """
    _, tags = extract_networks(prompt)
    if len(tags) > MAX_NETWORKS:
        raise InvalidField(field, f"The {field} names too many networks: at most {MAX_NETWORKS}.")
    lora_tags, lora_text = _with_option(
        _of_kinds(tags, LORA_KINDS), "lora", "sd_lora", networks.find_lora, options
    )
    hyper_tags, hyper_text = _with_option(
        _of_kinds(tags, HYPERNETWORK_KINDS),
        "hypernet",
        "sd_hypernetwork",
        networks.find_hypernetwork,
        options,
    )
    loras = [(tag.positional[0] if tag.positional else "", tag) for tag in lora_tags]
    hypers = [(tag.items[0], tag) for tag in hyper_tags]
    # Of two tags of one name AUTOMATIC1111 applies the last one's weights twice.
    weights = {name: _lora_weights(tag, field) for name, tag in loras}
    named = [NamedLora(name, file) for name, _ in loras if (file := networks.find_lora(name)) is not None]
    adapters = [Adapter("lora", lora.file.path, *weights[lora.mentioned]) for lora in named]
    missing = [f"lora:{name}" for name, _ in loras if networks.find_lora(name) is None]
    for name, tag in hypers:
        hyper = networks.find_hypernetwork(name)
        if hyper is None:
            missing.append(f"hypernet:{name}")
            continue
        weight = _number(tag.items[1], field) if len(tag.items) > 1 else 1.0
        adapters.append(Adapter("hypernetwork", hyper.path, weight, weight))
    return Found(tuple(adapters), tuple(named), tuple(dict.fromkeys(missing)), lora_text + hyper_text)


def possible_embeddings(texts: Iterable[str], networks: Networks) -> tuple[NetworkFile, ...]:
    """The textual inversions whose names may stand in the texts.

    Names are found by their tokens, and tokens know no case and little white space; so letters and
    digits alone are compared here, and the engine decides.
    """
    words = [bare_name(text) for text in texts]
    return tuple(
        file for file in networks.embeddings() if any(bare_name(file.name) in word for word in words)
    )


def refused_embeddings(texts: Iterable[str], networks: Networks) -> tuple[str, ...]:
    """What the texts name, as `missing` does, of the embeddings left out for being pickles; tells the log.

    They are plain text to the engine. A name counts where CLIP's words of it stand in a row: runs of
    letters, and single other characters, without regard to case and white space.
    """
    refused = networks.refused_embeddings()
    if not refused:
        return ()
    texts_words = [_words(text) for text in texts]
    named = [
        name
        for name in refused
        if len(words := _words(name)) > 1 and any(words in text_words for text_words in texts_words)
    ]
    networks.tell_refused(named)
    return tuple(f"embedding:{name}" for name in named)


def embeddings_of(files: Sequence[NetworkFile]) -> tuple[Embedding, ...]:
    """As jobs name them."""
    return tuple(Embedding(file.name, file.path) for file in files)


def _words(text: str) -> str:
    """CLIP's words, each between spaces."""
    # A backslash takes a bracket's meaning away and is no part of the text.
    return " ".join(("", *_WORD.findall(text.replace("\\", "").lower()), ""))


def bare_name(text: str) -> str:
    """Letters and digits alone, without regard to case."""
    return "".join(filter(str.isalnum, text)).casefold()


def _of_kinds(tags: Sequence[NetworkTag], kinds: tuple[str, ...]) -> list[NetworkTag]:
    """Tags of some kinds; those of the kind that the prompt names first come first."""
    order = list(dict.fromkeys(tag.kind for tag in tags if tag.kind in kinds))
    return [tag for kind in order for tag in tags if tag.kind == kind]


def _with_option(
    tags: list[NetworkTag],
    kind: str,
    option: str,
    find: Callable[[str], NetworkFile | None],
    options: Snapshot,
) -> tuple[list[NetworkTag], str]:
    """The tags, and the one that an option adds unless the prompt names that network itself."""
    name = options.text(option)
    if name in ("", _NONE) or find(name) is None or any(tag.items[0] == name for tag in tags):
        return tags, ""
    weight = str(options.number("extra_networks_default_multiplier"))
    return [*tags, NetworkTag(kind, (name, weight))], f"<{kind}:{name}:{weight}>"


def _lora_weights(tag: NetworkTag, field: str) -> tuple[float, float, int | None]:
    """Strength for text encoders and UNet, and the rank to cut to: by place, or by name."""
    _, *places = tag.positional or ("",)
    named = tag.named
    text = _number(named.get("te", places[0] if places else "1"), field)
    if "unet" in named or len(places) > 1:
        unet = _number(named.get("unet", places[1] if len(places) > 1 else ""), field)
    else:
        unet = text
    rank = named.get("dyn", places[2] if len(places) > 2 else None)
    return text, unet, None if rank is None else _rank(rank, field)


def _number(text: str, field: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= MAX_WEIGHT:
        message = f"The weight {text[:_SHOWN]!r} of a network in the {field} must be a number up to 1,000."
        raise InvalidField(field, message)
    return number


def _rank(text: str, field: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 7 and 0 < int(digits) <= MAX_RANK):
        message = f"The rank {text[:_SHOWN]!r} of a network in the {field} must be a whole number above 0."
        raise InvalidField(field, message)
    return int(digits)
