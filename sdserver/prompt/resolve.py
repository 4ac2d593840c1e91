"""One prompt of a job, resolved: what a program needs to know of it."""

from dataclasses import dataclass

from sdserver.prompt.attention import parse_attention
from sdserver.prompt.composition import WeightedText, split_composition
from sdserver.prompt.timeline import Timeline, timeline


@dataclass(frozen=True, slots=True)
class Part:
    """One of the texts a prompt is composed of: its weight, and what it says at which step."""

    weight: float
    timeline: Timeline


def resolve_positive(
    prompt: str, steps: int, hires_steps: int | None = None, *, old: bool = False
) -> tuple[Part, ...]:
    """The parts of a positive prompt, at least one. Arguments as for `timeline.timeline`.

    Styles, comments and network tags must be dealt with before.

    Raises:
        InvalidField: see `split_composition`.
    """
    return tuple(_part(part, steps, hires_steps, old) for part in split_composition(prompt))


def resolve_negative(
    prompt: str, steps: int, hires_steps: int | None = None, *, old: bool = False
) -> tuple[Part, ...]:
    """The one part of a negative prompt, which AND does not split."""
    return (_part(WeightedText(prompt, 1.0), steps, hires_steps, old),)


def check_parts(parts: tuple[Part, ...], name: str) -> None:
    """Check that the emphasis in every text can be parsed, so that a job cannot fail over it later.

    Args:
        parts: of a resolved prompt.
        name: the field to name in an error.

    Raises:
        InvalidField: see `parse_attention`.
    """
    for text in {span.text for part in parts for span in part.timeline}:
        parse_attention(text, name)


def _part(part: WeightedText, steps: int, hires_steps: int | None, old: bool) -> Part:
    return Part(part.weight, timeline(part.text, steps, hires_steps, old=old))
