"""The faces in a picture restored: found, cut out, made clear one by one, laid back."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final

from sdserver.calls import DeviceCall, FindFaces, Interrupted, ParseFace, RestoreFace
from sdserver.images.faces import Restored, cut, frame_of, paste
from sdserver.jobs.events import Picture
from sdserver.jobs.job import FaceRestorer, Faces

GROUP: Final = 8
"""Faces that are in memory at once."""

Step = Generator[DeviceCall | list[DeviceCall], Any, Picture]


@dataclass(frozen=True, slots=True)
class Finished:
    """What a job's picture came to.

    Attributes:
        before: as it was, where that is wanted and it is another.
        interrupted: restoring ended early, so faces are as they were.
    """

    picture: Picture
    before: Picture | None
    interrupted: bool


def finished(
    picture: Picture, faces: Faces | None
) -> Generator[DeviceCall | list[DeviceCall], Any, Finished]:
    """A job's picture with its faces restored, if they are to be. On interruption it stays as it is."""
    if faces is None:
        return Finished(picture, None, interrupted=False)
    try:
        result = yield from restored(picture, faces.restorer)
    except Interrupted:
        return Finished(picture, None, interrupted=True)
    keeps = faces.keeps_picture and result is not picture
    return Finished(result, picture if keeps else None, interrupted=False)


def restored(picture: Picture, restorer: FaceRestorer) -> Step:
    """The picture with its faces restored; the very same one where none is found."""
    found = yield FindFaces(restorer, picture)
    frames = [frame_of(landmarks, picture.width, picture.height) for landmarks in found]
    there = [frame for frame in frames if frame is not None]
    result = picture
    for first in range(0, len(there), GROUP):
        group = there[first : first + GROUP]
        faces = yield [RestoreFace(restorer, cut(picture, frame)) for frame in group]
        masks = yield [ParseFace(restorer, face) for face in faces]
        result = paste(result, [Restored(*one) for one in zip(group, faces, masks, strict=True)])
    return result
