"""Prompts: styles, comments, and what can be told of them before they are encoded."""

from collections.abc import Sequence
from typing import cast

from sdserver.api.options import Snapshot
from sdserver.api.translate.plan import Texts, Wording
from sdserver.errors import InvalidField
from sdserver.jobs.job import Emphasis, Prompt
from sdserver.prompt.comments import strip_comments
from sdserver.prompt.networks import extract_networks
from sdserver.prompt.resolve import Part, check_parts, resolve_negative, resolve_positive
from sdserver.prompt.styles import Style, apply_styles


def texts_of(
    positive: str, negative: str, names: Sequence[str], styles: Sequence[Style], options: Snapshot
) -> Texts:
    """Styles, then comments; tags of extra networks stay in, the program takes them out."""
    positive, negative = apply_styles(positive, negative, names, styles)
    if options.flag("enable_prompt_comments"):
        positive, negative = strip_comments(positive), strip_comments(negative)
    return Texts(positive, negative)


def prompt_of(texts: Texts, options: Snapshot) -> Prompt:
    """What a job is told of its prompts."""
    return Prompt(
        positive=texts.positive,
        negative=texts.negative,
        clip_skip=options.whole("CLIP_stop_at_last_layers"),
        emphasis=cast(Emphasis, options.text("emphasis")),
        comma_padding_backtrack=options.whole("comma_padding_backtrack"),
        old_scheduling=options.flag("use_old_scheduling"),
        sdxl_clip_l_skip=options.flag("sdxl_clip_l_skip"),
        crop_top=options.whole("sdxl_crop_top"),
        crop_left=options.whole("sdxl_crop_left"),
        high_aesthetic=options.number("sdxl_refiner_high_aesthetic_score"),
        low_aesthetic=options.number("sdxl_refiner_low_aesthetic_score"),
        old_emphasis=options.flag("use_old_emphasis_implementation"),
    )


def read_prompt(
    prompt: Prompt, fields: tuple[str, str], calls: int, hires_calls: int | None = None
) -> Wording:
    """See that the engine will be able to read the prompts of a pass, and tell what they hold.

    Args:
        prompt: the pass's.
        fields: names of the two prompts' fields, for errors.
        calls: evaluations of the first pass, about; prompt editing counts in these.
        hires_calls: of the second pass if this is that one's prompt.

    Raises:
        InvalidField: a prompt is too deep, or has a weight that is too large or too many parts.
    """
    found = _parts(prompt, calls, hires_calls, old=prompt.old_scheduling)
    for parts, field in zip(found, fields, strict=True):
        check_parts(parts, field)
        if len(parts) > MAX_PARTS:
            raise InvalidField(
                field, f"The {field} has more than {MAX_PARTS} parts joined by AND: join fewer."
            )
    other = _parts(prompt, calls, hires_calls, old=False) if prompt.old_scheduling else found
    positive, negative = (_uses_emphasis(parts) for parts in found)
    return Wording((positive, negative), depends_on_scheduling=other != found)


MAX_PARTS = 100

Found = tuple[tuple[Part, ...], tuple[Part, ...]]


def _parts(prompt: Prompt, calls: int, hires_calls: int | None, *, old: bool) -> Found:
    positive, _ = extract_networks(prompt.positive)
    return (
        resolve_positive(positive, calls, hires_calls, old=old),
        resolve_negative(prompt.negative, calls, hires_calls, old=old),
    )


def _uses_emphasis(parts: tuple[Part, ...]) -> bool:
    return any("(" in span.text or "[" in span.text for part in parts for span in part.timeline)
