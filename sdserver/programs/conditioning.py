"""From a job's prompt to what conditions each step: encode every text once, look it up by step."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sdserver.calls import Conditioning, DeviceCall, EncodeText
from sdserver.jobs.job import Padding, Prompt, Size
from sdserver.jobs.model import Attention, Model, ModelFacts
from sdserver.programs.padding import lengthened, levelled
from sdserver.prompt.networks import extract_networks
from sdserver.prompt.resolve import Part, resolve_negative, resolve_positive
from sdserver.prompt.timeline import at


@dataclass(frozen=True, slots=True)
class Wording:
    """What one pass is told, and how it counts.

    Attributes:
        steps: of the first pass, doubled for second-order samplers: prompt editing counts in these.
        hires_steps: of the second pass likewise, if this is the second pass; None for the first.
        size: that SDXL conditions on.
        padding: what is done where negative and positive contexts differ in length.
    """

    prompt: Prompt
    steps: int
    hires_steps: int | None
    size: Size
    padding: Padding


@dataclass(frozen=True, slots=True)
class EncodedPart:
    """One text of a prompt's composition with the conditionings of all it says over the steps."""

    part: Part
    encoded: Mapping[str, Conditioning]

    def at(self, step: int) -> Conditioning:
        """The conditioning at a step, counted from 0."""
        return self.encoded[at(self.part.timeline, step)]

    def embeddings(self) -> tuple[str, ...]:
        """Names of the textual inversions in all it says, each once."""
        return tuple(dict.fromkeys(name for one in self.encoded.values() for name in one.embeddings))


class Moment(NamedTuple):
    """What conditions one step.

    Attributes:
        positives: weights and conditionings of the parts.
        uncond: the negative one.
        is_padded: whether the contexts' lengths differed and were levelled.
    """

    positives: list[tuple[float, Conditioning]]
    uncond: Conditioning
    is_padded: bool


@dataclass(frozen=True, slots=True)
class Conditionings:
    """Everything that conditions one pass.

    Attributes:
        positive: the parts that AND composes, at least one.
        negative: the one negative part.
        padding: of the shorter context.
        empty: an encoded empty chunk, where `padding` is "chunks".
        always: what conditions every step, where that is the same; else None.
    """

    positive: tuple[EncodedPart, ...]
    negative: EncodedPart
    padding: Padding = "none"
    empty: Conditioning | None = None
    always: Moment | None = None

    def at(self, step: int) -> Moment:
        """What conditions a step, counted from 0; all positive contexts are as long as the longest."""
        if self.always is not None:
            return self.always
        found = [one.at(step) for one in self.positive]
        tokens = max(len(conditioning.context) for conditioning in found)
        positives = [lengthened(conditioning, tokens) for conditioning in found]
        uncond = self.negative.at(step)
        is_padded = self.padding != "none" and tokens != len(uncond.context)
        if is_padded:
            positives, uncond = levelled(positives, uncond, self.empty)
        weights = [one.part.weight for one in self.positive]
        return Moment(list(zip(weights, positives, strict=True)), uncond, is_padded)

    def embeddings(self) -> tuple[str, ...]:
        """Names of the textual inversions as A1111 lists them: per text, the last encoded text first.

        It encodes the negative text first, and each distinct text once; a name may stand there twice.
        """
        distinct = {one.part.timeline: one for one in self.positive}
        names = [one.embeddings() for one in (self.negative, *distinct.values())]
        return tuple(name for found in reversed(names) for name in found)


class Texts:
    """The texts of one job: what was encoded once is not encoded again."""

    def __init__(self) -> None:
        self._known: dict[EncodeText, Conditioning] = {}

    def encode(
        self, calls: list[EncodeText], family: str
    ) -> Generator[list[DeviceCall], Any, list[Conditioning]]:
        """The answers to the calls, in order; at most one list of calls is yielded."""
        keys = [_key(call, family) for call in calls]
        missing = {key: call for key, call in zip(keys, calls, strict=True) if key not in self._known}
        if missing:
            answers: list[Conditioning] = yield list(missing.values())
            self._known.update(zip(missing, answers, strict=True))
        return [self._known[key] for key in keys]


def condition(
    model: ModelFacts, wording: Wording, texts: Texts
) -> Generator[list[DeviceCall], Any, Conditionings]:
    """Encode all texts of a prompt in one go.

    Args:
        model: what the pass runs on.
        wording: the pass's.
        texts: the job's.
    """
    parts = _parts(wording)
    wanted = [(index, text) for index, part in enumerate(parts) for text in _texts(part)]
    calls = [
        _call(model.model, wording, text, parts[index], index == len(parts) - 1) for index, text in wanted
    ]
    if wording.padding == "chunks":
        # A1111 encodes its empty chunk once for all, without the prompt's networks.
        bare = replace(model.model, adapters=())
        calls.append(EncodeText(bare, "", wording.prompt, wording.size, is_negative=False))
    answers = yield from texts.encode(calls, model.family)
    encoded: list[dict[str, Conditioning]] = [{} for _ in parts]
    for (index, text), answer in zip(wanted, answers, strict=False):
        encoded[index][text] = answer
    *positive, negative = [EncodedPart(part, found) for part, found in zip(parts, encoded, strict=True)]
    empty = answers[-1] if wording.padding == "chunks" else None
    found = Conditionings(tuple(positive), negative, wording.padding, empty)
    if all(len(part.timeline) == 1 for part in parts):
        return replace(found, always=found.at(0))
    return found


def _parts(wording: Wording) -> list[Part]:
    """The positive parts and, last, the negative one."""
    prompt, old = wording.prompt, wording.prompt.old_scheduling
    text, _ = extract_networks(prompt.positive)
    return [
        *resolve_positive(text, wording.steps, wording.hires_steps, old=old),
        *resolve_negative(prompt.negative, wording.steps, wording.hires_steps, old=old),
    ]


def _call(model: Model, wording: Wording, text: str, part: Part, is_negative: bool) -> EncodeText:
    variants = tuple(span.text for span in part.timeline)
    return EncodeText(model, text, wording.prompt, wording.size, is_negative, variants)


def _key(call: EncodeText, family: str) -> EncodeText:
    """The call without what has no effect on its answer."""
    how = replace(call.prompt, positive="", negative="")
    model = replace(call.model, attention=Attention())
    if family == "sdxl":
        return replace(call, prompt=how, model=model)
    return replace(call, prompt=how, model=model, size=Size(0, 0), is_negative=False)


def _texts(part: Part) -> list[str]:
    """Each distinct text of a timeline once, in order."""
    return list(dict.fromkeys(span.text for span in part.timeline))
