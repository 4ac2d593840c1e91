"""Prompt editing and alternation: which text rules which step.

`[from:to:when]`, `[to:when]`, `[from::when]` and `[a|b]` as in AUTOMATIC1111. A step here is one call of
the denoiser by the sampler, so samplers that call it twice have twice the steps.
"""

from dataclasses import dataclass

from sdserver.prompt.grammar import EditedText, Node, Switch, parse_editing


@dataclass(frozen=True, slots=True)
class Span:
    """`text` rules up to and including step `end_step`, from where the span before it ends."""

    end_step: int
    text: str


Timeline = tuple[Span, ...]


def timeline(text: str, steps: int, hires_steps: int | None = None, *, old: bool = False) -> Timeline:
    """The spans of a text over a pass, by rising end step; the last ends with the pass.

    Takes time linear in the text's length times the number of spans.

    Args:
        text: any text; where it does not follow the grammar, it is used as it is.
        steps: of the first pass, at least 1.
        hires_steps: of the second pass, to get that one's timeline, or None for the first pass's. In the
            second pass numbers count on from the first: 1.5 is its middle, `steps + 3` its third step.
        old: AUTOMATIC1111's `use_old_scheduling`: numbers below 1 are shares of the steps, others steps,
            and both passes have the first pass's timeline.
    """
    edited = parse_editing(text)
    clock = _Clock(steps, old) if hires_steps is None or old else _Clock(hires_steps, old, steps, 1.0)
    moments = {switch: clock.moment(switch.when) for switch in edited.switches}
    ends = {clock.steps} | {moment for moment in moments.values() if moment >= 1}
    if edited.alternates:
        ends |= set(range(1, clock.steps + 1))
    known: dict[str, str] = {}
    spans = []
    for end in sorted(ends):
        at_end = _render(edited, end, moments)
        spans.append(Span(end, known.setdefault(at_end, at_end)))
    return tuple(spans)


def at(spans: Timeline, step: int) -> str:
    """The text at a step, counted from 0: that of the first span with `step <= end_step`.

    So the first span rules one step more than its number says, and an alternation shows its first option
    twice; past the last end the first span rules again. All this is AUTOMATIC1111's behaviour, and
    decides pixels.
    """
    return next((span.text for span in spans if step <= span.end_step), spans[0].text)


@dataclass(frozen=True, slots=True)
class _Clock:
    """How a pass of `steps` reads the numbers in a text; the offsets are what lies before the pass."""

    steps: int
    old: bool
    step_offset: int = 0
    share_offset: float = 0.0

    def moment(self, number: str) -> int:
        """The step after which a switch shows its second text: at most `steps`, never negative."""
        value = float(number)
        if self.old:
            value = value * self.steps if value < 1 else value
        elif "." in number:
            value = (value - self.share_offset) * self.steps
        else:
            value -= self.step_offset
        return int(min(max(value, 0.0), self.steps))


def _render(edited: EditedText, step: int, moments: dict[Switch, int]) -> str:
    """The text shown at a step, counted from 1."""
    pieces: list[str] = []
    pending: list[Node] = [edited.root]
    while pending:
        node = pending.pop()
        if isinstance(node, str):
            pieces.append(node)
        elif isinstance(node, list):
            pending.extend(reversed(node))
        elif isinstance(node, Switch):
            pending.append(node.before if step <= moments[node] else node.after)
        else:
            pending.append(node.options[(step - 1) % len(node.options)])
    return "".join(pieces)
