"""The networks that tell what pictures show: BLIP, DeepDanbooru, CLIP. The door to them."""

from collections.abc import Sequence

from torch import Tensor

from sdserver.bundle.captioner import Captioners
from sdserver.bundle.danbooru import Labellers
from sdserver.bundle.device import Placement
from sdserver.bundle.ranking import Clips
from sdserver.calls import Caption, PictureFeature, Score, Scores, TextFeatures

DescribeCall = Caption | Score | PictureFeature | TextFeatures


class Describers:
    """One network of each kind, loaded when it is first needed.

    Args:
        allow_pickle: whether files that are pickles may be read; no code in them is run.
    """

    def __init__(self, placement: Placement, *, allow_pickle: bool) -> None:
        self._captioners = Captioners(placement, allow_pickle=allow_pickle)
        self._labellers = Labellers(placement, allow_pickle=allow_pickle)
        self._clips = Clips(placement, allow_pickle=allow_pickle)

    def run(self, calls: Sequence[DescribeCall]) -> list[str] | list[Scores] | list[Tensor]:
        """One result per call, in order; the calls have one `batch_key`.

        Raises:
            CheckpointError: the network cannot be loaded.
            RuntimeError: the device's memory does not suffice.
        """
        match calls[0]:
            case Caption(network, _, beams, least, most, vocabulary):
                pictures = [call.picture for call in calls if isinstance(call, Caption)]
                return self._captioners.describe(network, pictures, beams, least, most, vocabulary)
            case Score(network):
                return self._labellers.score(network, [c.picture for c in calls if isinstance(c, Score)])
            case PictureFeature(network):
                pictures = [call.picture for call in calls if isinstance(call, PictureFeature)]
                return self._clips.pictures(network, pictures)
            case TextFeatures(network, texts):
                return [self._clips.texts(network, texts)] * len(calls)

    def clear(self) -> None:
        """Drop the networks, to make room on the device."""
        self._captioners.clear()
        self._labellers.clear()
        self._clips.clear()
