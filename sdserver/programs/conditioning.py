"""From a job's prompt to what conditions each step: encode every text once, look it up by step."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from sdserver.calls import Conditioning, DeviceCall, EncodeText
from sdserver.jobs.job import Prompt, Size
from sdserver.jobs.model import Model
from sdserver.prompt.networks import extract_networks
from sdserver.prompt.resolve import Part, resolve_negative, resolve_positive
from sdserver.prompt.timeline import at


@dataclass(frozen=True, slots=True)
class EncodedPart:
    """One text of a prompt's composition with the conditionings of all it says over the steps."""

    part: Part
    encoded: Mapping[str, Conditioning]

    def at(self, step: int) -> Conditioning:
        """The conditioning at a step, counted from 0."""
        return self.encoded[at(self.part.timeline, step)]


@dataclass(frozen=True, slots=True)
class Conditionings:
    """Everything that conditions one pass.

    Attributes:
        positive: the parts that AND composes, at least one.
        negative: the one negative part.
    """

    positive: tuple[EncodedPart, ...]
    negative: EncodedPart

    def positives(self, step: int) -> list[tuple[float, Conditioning]]:
        """Weights and conditionings at a step, counted from 0; all contexts as long as the longest."""
        found = [one.at(step) for one in self.positive]
        tokens = max(len(conditioning.context) for conditioning in found)
        return [
            (one.part.weight, _lengthened(conditioning, tokens))
            for one, conditioning in zip(self.positive, found, strict=True)
        ]

    def uncond(self, step: int) -> Conditioning:
        """The negative conditioning at a step, counted from 0."""
        return self.negative.at(step)


def _lengthened(conditioning: Conditioning, tokens: int) -> Conditioning:
    """The context filled up with its last vector, as AUTOMATIC1111 does to stack the parts of AND."""
    missing = tokens - len(conditioning.context)
    if not missing:
        return conditioning
    filling = conditioning.context[-1:].expand(missing, -1)
    return replace(conditioning, context=torch.cat([conditioning.context, filling]))


def condition(
    model: Model, prompt: Prompt, steps: int, size: Size
) -> Generator[list[DeviceCall], Any, Conditionings]:
    """Encode all texts of a prompt in one go.

    Args:
        model: what the pass runs on.
        prompt: the job's.
        steps: of the pass, doubled for second-order samplers: prompt editing counts in these.
        size: of the pass, which SDXL conditions on.
    """
    text, _ = extract_networks(prompt.positive)
    parts = [*resolve_positive(text, steps), *resolve_negative(prompt.negative, steps)]
    wanted = [(index, text) for index, part in enumerate(parts) for text in _texts(part)]
    calls: list[DeviceCall] = [
        EncodeText(
            model,
            text,
            prompt,
            size,
            is_negative=index == len(parts) - 1,
            variants=tuple(span.text for span in parts[index].timeline),
        )
        for index, text in wanted
    ]
    answers: list[Conditioning] = yield calls
    encoded: list[dict[str, Conditioning]] = [{} for _ in parts]
    for (index, text), answer in zip(wanted, answers, strict=True):
        encoded[index][text] = answer
    *positive, negative = [EncodedPart(part, texts) for part, texts in zip(parts, encoded, strict=True)]
    return Conditionings(tuple(positive), negative)


def _texts(part: Part) -> list[str]:
    """Each distinct text of a timeline once, in order."""
    return list(dict.fromkeys(span.text for span in part.timeline))
