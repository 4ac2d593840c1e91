"""Faces cut out of pictures, upright and of one size, and laid back: as facexlib does for AUTOMATIC1111."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from sdserver.jobs.events import Picture

SIDE: Final = 512
"""Of a face that was cut out."""

Landmarks = Sequence[tuple[float, float]]
"""Five points (x, y) of a face: its eyes, the tip of its nose, the corners of its mouth."""

_TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
"""Where these points lie in a face that was cut out."""

_AROUND = (132, 133, 135)
"""What a face is filled up with where the picture ends."""

_MARGIN = 2
_LONGEST = 32_766
"""What OpenCV can warp."""

_BLUR, _BLUR_SIGMA, _BORDER = (101, 101), 11, 10


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Where a face lies.

    Attributes:
        matrix: (2, 3): from the picture's coordinates to those of the face that is cut out.
        left, top, right, bottom: the part of the picture that this covers.
    """

    matrix: NDArray[np.float64]
    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True, eq=False)
class Restored:
    """A face that is to be laid back.

    Attributes:
        face: SIDE x SIDE pixels.
        mask: SIDE * SIDE bytes, 255 where the face itself is.
    """

    frame: Frame
    face: Picture
    mask: bytes


def frame_of(landmarks: Landmarks, width: int, height: int) -> Frame | None:
    """Where a face lies in a picture of that size: turned, scaled and moved so that its points fall on the
    template's. None where that makes no sense, or nothing of it is in the picture.
    """
    points = np.array(landmarks, np.float32)
    if points.shape != _TEMPLATE.shape or not np.isfinite(points).all():
        return None
    found: Any = cv2.estimateAffinePartial2D(points, _TEMPLATE, method=cv2.LMEDS)[0]
    if found is None or not np.isfinite(found).all() or np.linalg.det(found[:, :2]) <= 0:
        return None
    matrix = np.asarray(found, np.float64)
    corners = np.array([[0, 0, 1], [SIDE, 0, 1], [0, SIDE, 1], [SIDE, SIDE, 1]]) @ _inverse(matrix).T
    if not np.isfinite(corners).all():
        return None
    (left, top), (right, bottom) = corners.min(axis=0) - _MARGIN, corners.max(axis=0) + _MARGIN
    frame = Frame(
        matrix,
        int(np.clip(np.floor(left), 0, width)),
        int(np.clip(np.floor(top), 0, height)),
        int(np.clip(np.ceil(right) + 1, 0, width)),
        int(np.clip(np.ceil(bottom) + 1, 0, height)),
    )
    sides = (frame.right - frame.left, frame.bottom - frame.top)
    return frame if min(sides) > 0 and max(sides) <= _LONGEST else None


def cut(picture: Picture, frame: Frame) -> Picture:
    """The face in the frame, SIDE x SIDE pixels."""
    part = _array(picture)[frame.top : frame.bottom, frame.left : frame.right]
    matrix = frame.matrix.copy()
    matrix[:, 2] += matrix[:, :2] @ (frame.left, frame.top)
    face = cv2.warpAffine(
        np.ascontiguousarray(part),
        matrix,
        (SIDE, SIDE),
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_AROUND,
    )
    return Picture(SIDE, SIDE, face.tobytes())


def paste(picture: Picture, faces: Sequence[Restored]) -> Picture:
    """The picture with the faces laid back, one upon the other; their masks' edges are soft."""
    result = _array(picture).copy()
    for one in faces:
        frame = one.frame
        size = (frame.right - frame.left, frame.bottom - frame.top)
        inverse = _inverse(frame.matrix)
        inverse[:, 2] -= (frame.left, frame.top)
        face = cv2.warpAffine(_array(one.face), inverse, size)
        mask = cv2.warpAffine(_softened(one.mask), inverse, size)[..., None]
        part = result[frame.top : frame.bottom, frame.left : frame.right]
        # Fractions are cut off, as in AUTOMATIC1111.
        part[:] = (mask * face + (1 - mask) * part).astype(np.uint8)
    return Picture(picture.width, picture.height, result.tobytes())


def _softened(mask: bytes) -> NDArray[np.float64]:
    """How far a face covers the picture, 0 to 1: never to its very edge."""
    values: Any = np.frombuffer(mask, np.uint8).reshape(SIDE, SIDE).astype(np.float64)
    for _ in range(2):
        values = cv2.GaussianBlur(values, _BLUR, _BLUR_SIGMA)
    result: NDArray[np.float64] = np.zeros((SIDE, SIDE))
    inner = slice(_BORDER, -_BORDER)
    result[inner, inner] = values[inner, inner] / 255
    return result


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(cv2.invertAffineTransform(matrix), np.float64)


def _array(picture: Picture) -> NDArray[np.uint8]:
    return np.frombuffer(picture.pixels, np.uint8).reshape(picture.height, picture.width, 3)
