"""File name patterns: AUTOMATIC1111's `[seed]-[prompt_spaces]` and the like."""

import hashlib
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MAX_PART = 128
_FORBIDDEN = str.maketrans(dict.fromkeys([*'#<>:"/\\|?*\x7f', *map(chr, range(32))], "_"))
_SPACES = str.maketrans(" ", "_")
_TOKEN = re.compile(r"(.*?)(?:\[([^\[\]]+)\]|$)", re.DOTALL)
_ARGUMENT = re.compile(r"(.*)<([^>]*)>", re.DOTALL)
_NOT_LETTERS = re.compile(rf"[\s{re.escape(string.punctuation)}]+")
_HASH_LENGTH = 8
_WHOLE_HASH = 64
_DATETIME = "%Y%m%d%H%M%S"


@dataclass(frozen=True, slots=True)
class NameFacts:
    """What a picture's file name may tell.

    Attributes:
        prompt, negative_prompt: after styles were applied.
        prompt_no_styles: as the client sent it.
        batch_index: place within its batch, from 0.
        generation_index: place within the request, from 0.
        images: how many the request makes.
        job_timestamp: when the request began, `%Y%m%d%H%M%S`.
        now: local time.
        max_prompt_words: for `[prompt_words]`.
        user: who sent the request, empty if that is not known.
        denoising: the strength; None where it plays no part.
        vae_filename: what is before the first dot of the VAE's file name, "NoneType" for the checkpoint's
            own, as AUTOMATIC1111 has it.
        image_hash: computes the SHA-256 of the picture's pixels.
    """

    seed: int
    first_seed: int
    last_seed: int
    steps: int
    cfg_scale: float
    width: int
    height: int
    sampler: str
    schedule: str
    model_name: str
    model_hash: str
    prompt: str
    prompt_no_styles: str
    negative_prompt: str
    styles: tuple[str, ...]
    clip_skip: int
    batch_size: int
    batch_index: int
    generation_index: int
    images: int
    job_timestamp: str
    now: datetime
    max_prompt_words: int
    user: str = ""
    denoising: float | None = None
    vae_filename: str = "NoneType"
    image_hash: Callable[[], str] = field(default=lambda: "", compare=False, repr=False)


Token = Callable[[NameFacts, list[str]], str | None]


def expand(pattern: str, facts: NameFacts) -> str:
    """Replace the pattern's tokens. Unknown ones stay; literal text, slashes too, is kept as it is.

    A token that does not apply (`batch_number` of a batch of one) vanishes with the text before it.
    """
    result = ""
    for literal, token in _TOKEN.findall(pattern):
        if not token:
            result += literal
            continue
        name = token
        arguments: list[str] = []
        while match := _ARGUMENT.fullmatch(name):
            name = match.group(1)
            arguments.insert(0, match.group(2))
        replace = _TOKENS.get(name.lower())
        if replace is None:
            result += f"{literal}[{token}]"
            continue
        replacement = replace(facts, arguments)
        if replacement is not None:
            result += literal + replacement
    return result


def clean(text: str, *, replace_spaces: bool = True) -> str:
    """Text as part of a file name: at most 128 characters, those that file systems mind replaced."""
    if replace_spaces:
        text = text.translate(_SPACES)
    return text.translate(_FORBIDDEN).lstrip(" ")[:MAX_PART].rstrip(" .")


def _datetime(facts: NameFacts, arguments: list[str]) -> str:
    form = arguments[0] if arguments and arguments[0] else _DATETIME
    when = facts.now
    if len(arguments) > 1:
        try:
            when = when.astimezone(ZoneInfo(arguments[1]))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            when = facts.now
    try:
        return clean(when.strftime(form), replace_spaces=False)
    except ValueError:
        return clean(when.strftime(_DATETIME))


def _length(arguments: list[str], default: int) -> int:
    wanted = arguments[0] if arguments else ""
    return int(wanted) if re.fullmatch(r"[0-9]{1,2}", wanted) and int(wanted) else default


def _hash(text: str, arguments: list[str]) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[: _length(arguments, _HASH_LENGTH)]


def _image_hash(facts: NameFacts, arguments: list[str]) -> str:
    return facts.image_hash()[: _length(arguments, _WHOLE_HASH)]


def _words(facts: NameFacts, _arguments: list[str]) -> str:
    words = [word for word in _NOT_LETTERS.split(facts.prompt) if word] or ["empty"]
    return clean(" ".join(words[: facts.max_prompt_words]), replace_spaces=False)


def _has_prompt(facts: NameFacts, arguments: list[str]) -> str:
    """For each `<word|else>`: the word if the prompt has it, otherwise what follows the bar."""
    prompt = facts.prompt.lower()
    chosen = []
    for argument in arguments:
        word, _, other = argument.partition("|")
        chosen.append(word if word and word.lower() in prompt else other)
    return clean("".join(chosen))


def _sampler_schedule(facts: NameFacts, _arguments: list[str]) -> str:
    name = facts.sampler if facts.schedule == "Automatic" else f"{facts.sampler} {facts.schedule}"
    return clean(name, replace_spaces=False)


_TOKENS: Mapping[str, Token] = {
    "basename": lambda _facts, _: "img",
    "seed": lambda facts, _: str(facts.seed),
    "seed_first": lambda facts, _: str(facts.seed if facts.batch_size == 1 else facts.first_seed),
    "seed_last": lambda facts, _: None if facts.batch_size == 1 else str(facts.last_seed),
    "steps": lambda facts, _: str(facts.steps),
    "cfg": lambda facts, _: str(facts.cfg_scale),
    "width": lambda facts, _: str(facts.width),
    "height": lambda facts, _: str(facts.height),
    "styles": lambda facts, _: clean(", ".join(facts.styles) or "None", replace_spaces=False),
    "sampler": lambda facts, _: clean(facts.sampler, replace_spaces=False),
    "scheduler": lambda facts, _: clean(facts.schedule, replace_spaces=False),
    "sampler_scheduler": _sampler_schedule,
    "model_hash": lambda facts, _: clean(facts.model_hash),
    "model_name": lambda facts, _: clean(facts.model_name, replace_spaces=False),
    "date": lambda facts, _: facts.now.strftime("%Y-%m-%d"),
    "datetime": _datetime,
    "job_timestamp": lambda facts, _: facts.job_timestamp,
    "prompt_hash": lambda facts, arguments: _hash(facts.prompt, arguments),
    "negative_prompt_hash": lambda facts, arguments: _hash(facts.negative_prompt, arguments),
    "full_prompt_hash": lambda facts, arguments: _hash(f"{facts.prompt} {facts.negative_prompt}", arguments),
    "prompt": lambda facts, _: clean(facts.prompt),
    "prompt_no_styles": lambda facts, _: clean(facts.prompt_no_styles, replace_spaces=False),
    "prompt_spaces": lambda facts, _: clean(facts.prompt, replace_spaces=False),
    "prompt_words": _words,
    "batch_number": lambda facts, _: None if facts.batch_size == 1 else str(facts.batch_index + 1),
    "batch_size": lambda facts, _: str(facts.batch_size),
    "generation_number": lambda facts, _: None if facts.images == 1 else str(facts.generation_index + 1),
    "hasprompt": _has_prompt,
    "clip_skip": lambda facts, _: str(facts.clip_skip),
    "denoising": lambda facts, _: str(facts.denoising) if facts.denoising else None,
    "user": lambda facts, _: clean(facts.user),
    "vae_filename": lambda facts, _: clean(facts.vae_filename, replace_spaces=False),
    "image_hash": _image_hash,
    "none": lambda _facts, _: "",
}
