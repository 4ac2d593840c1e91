"""From a job's prompt to what conditions each step: encode every text once, look it up by step."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from sdserver.calls import Conditioning, DeviceCall, EncodeText
from sdserver.jobs.job import Prompt, Size
from sdserver.prompt.networks import extract_networks
from sdserver.prompt.resolve import Part, resolve_negative, resolve_positive
from sdserver.prompt.timeline import at


@dataclass(frozen=True, slots=True)
class Conditionings:
    """Everything that conditions one pass.

    Attributes:
        positive: the parts that AND composes, at least one.
        negative: the one negative part.
        encoded: (text, is it negative) to its conditioning.
    """

    positive: tuple[Part, ...]
    negative: Part
    encoded: Mapping[tuple[str, bool], Conditioning]

    def positives(self, step: int) -> list[tuple[float, Conditioning]]:
        """Weights and conditionings at a step, counted from 0."""
        return [(part.weight, self.encoded[at(part.timeline, step), False]) for part in self.positive]

    def uncond(self, step: int) -> Conditioning:
        """The negative conditioning at a step, counted from 0."""
        return self.encoded[at(self.negative.timeline, step), True]


def condition(
    model: str, prompt: Prompt, steps: int, size: Size
) -> Generator[list[DeviceCall], Any, Conditionings]:
    """Encode all texts of a prompt in one go.

    Args:
        model: the loaded checkpoint's key.
        prompt: the job's.
        steps: of the pass, doubled for second-order samplers: prompt editing counts in these.
        size: of the pass, which SDXL conditions on.
    """
    text, _ = extract_networks(prompt.positive)
    positive = resolve_positive(text, steps)
    (negative,) = resolve_negative(prompt.negative, steps)
    wanted = {(span.text, False): None for part in positive for span in part.timeline}
    wanted |= {(span.text, True): None for span in negative.timeline}
    calls: list[DeviceCall] = [
        EncodeText(
            model, text, prompt.clip_skip, prompt.emphasis, prompt.comma_padding_backtrack, size, is_negative
        )
        for text, is_negative in wanted
    ]
    answers: list[Conditioning] = yield calls
    return Conditionings(positive, negative, dict(zip(wanted, answers, strict=True)))
