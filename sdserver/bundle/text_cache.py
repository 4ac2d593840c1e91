"""Conditionings of the texts that were encoded last: most requests say something again."""

from collections import OrderedDict
from dataclasses import replace
from typing import Final

from sdserver.calls import Conditioning, EncodeText
from sdserver.jobs.model import Model

BYTES: Final = 64 * 2**20


class TextCache:
    """Keeps conditionings within a budget; those not asked for longest go first.

    Texts that files beside the checkpoint have a say in (adapters, textual inversions) are not kept: the
    files may change.

    Args:
        max_bytes: of all tensors together.
    """

    def __init__(self, max_bytes: int = BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[EncodeText, Conditioning] = OrderedDict()
        self._bytes = 0

    def get(self, call: EncodeText) -> Conditioning | None:
        """What the call was answered with before, None if that is not kept."""
        key = _key(call)
        found = None if _has_files(call) else self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, call: EncodeText, conditioning: Conditioning) -> None:
        """Keep an answer, if it may be kept."""
        key, size = _key(call), _size(conditioning)
        if _has_files(call) or key in self._kept or size > self._max_bytes:
            return
        self._kept[key] = conditioning
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= _size(oldest)


def _has_files(call: EncodeText) -> bool:
    return bool(call.model.adapters or call.model.embeddings)


def _key(call: EncodeText) -> EncodeText:
    """The call without what its answer does not depend on."""
    prompt = replace(call.prompt, positive="", negative="")
    return replace(call, model=Model(call.model.checkpoint), prompt=prompt)


def _size(conditioning: Conditioning) -> int:
    tensors = (conditioning.context, conditioning.vector)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
