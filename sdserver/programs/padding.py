"""Contexts of different length: how the shorter one is filled up."""

from dataclasses import replace

import torch

from sdserver.calls import Conditioning


def lengthened(conditioning: Conditioning, tokens: int) -> Conditioning:
    """The context filled up with its last vector to `tokens`, as A1111 does to stack the parts of AND."""
    missing = tokens - len(conditioning.context)
    if missing <= 0:
        return conditioning
    filling = conditioning.context[-1:].expand(missing, -1)
    return replace(conditioning, context=torch.cat([conditioning.context, filling]))


def levelled(
    positives: list[Conditioning], uncond: Conditioning, empty: Conditioning | None
) -> tuple[list[Conditioning], Conditioning]:
    """Positive and negative contexts of different length brought to one.

    Args:
        positives: of one length.
        uncond: the negative one.
        empty: an encoded empty chunk with which the shorter ones are filled up; where None, the negative
            context alone is changed: lengthened by its last vector, or cut (A1111's first version).
    """
    tokens, found = len(positives[0].context), len(uncond.context)
    if empty is None:
        uncond = lengthened(uncond, tokens)
        return positives, replace(uncond, context=uncond.context[:tokens])
    if found < tokens:
        return positives, _with_chunks(uncond, tokens, empty)
    return [_with_chunks(one, found, empty) for one in positives], uncond


def _with_chunks(conditioning: Conditioning, tokens: int, empty: Conditioning) -> Conditioning:
    """The context with as many empty chunks behind it as `tokens` takes."""
    count = (tokens - len(conditioning.context)) // len(empty.context)
    return replace(conditioning, context=torch.cat([conditioning.context, *[empty.context] * count]))
