"""The networks that faces are restored by: they find them, tell their parts, and make them clear."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from sdserver.bundle.device import Placement
from sdserver.bundle.faces.anchors import boxes_of
from sdserver.bundle.faces.files import filled
from sdserver.bundle.faces.parsenet import ParseNet
from sdserver.bundle.faces.restorers import load_restorer, restored
from sdserver.bundle.faces.retinaface import RetinaFace
from sdserver.calls import FindFaces, Landmarks, ParseFace, RestoreFace
from sdserver.errors import EngineFailure, UnreadableCheckpoint
from sdserver.jobs.events import Picture
from sdserver.jobs.job import FaceRestorer

FaceCall = FindFaces | RestoreFace | ParseFace

SHORT_SIDE = 640
"""Pixels that a picture's shorter side has for the detector, as in AUTOMATIC1111."""

LONG_SIDE = 5120
"""And its longer side at most: a stripe would come to more than any memory holds."""

LEAST_EYE_DISTANCE = 5
"""In pixels of the picture; profiles and faces that are smaller are left alone."""

_MEAN = (104.0, 117.0, 123.0)
"""Blue, green, red."""

Key = tuple[str, int, int]


class FaceNetworks:
    """The three networks used last, in fp32 as AUTOMATIC1111 runs them.

    Args:
        allow_pickle: whether .pth files and the like may be read (weights only).
    """

    def __init__(self, placement: Placement, *, allow_pickle: bool) -> None:
        self._device = placement.device
        self._allow_pickle = allow_pickle
        self._loaded: dict[str, tuple[Key, Any]] = {}

    def run(self, calls: Sequence[FaceCall]) -> list[Landmarks | Picture | bytes | EngineFailure]:
        """The calls' results, one after the other: so none depends on what it shares a batch with.

        Raises:
            UnreadableCheckpoint, UnsupportedCheckpoint, RuntimeError: as `find`.
        """
        results: list[Landmarks | Picture | bytes | EngineFailure] = []
        for call in calls:
            try:
                results.append(self._answer(call))
            except EngineFailure as failure:
                results.append(failure)
        return results

    def _answer(self, call: FaceCall) -> Landmarks | Picture | bytes:
        match call:
            case FindFaces(restorer, picture):
                return self.find(restorer, picture)
            case RestoreFace(restorer, face):
                return self.restore(restorer, face)
            case ParseFace(restorer, face):
                return self.parse(restorer, face)

    def find(self, restorer: FaceRestorer, picture: Picture) -> Landmarks:
        """The landmarks of every face in a picture, those of the surest face first.

        Raises:
            UnreadableCheckpoint: the detector's file is missing, damaged, or another network's.
            UnsupportedCheckpoint: it is a pickle and those are not allowed.
            RuntimeError: the device's memory does not suffice.
        """
        network = self._get("detector", restorer.detector, self._reader(RetinaFace))
        values, scale = detector_input(picture)
        scores, moves, points = (each[0].float().cpu().numpy() for each in network(values.to(self._device)))
        self._set_aside(restorer, network)
        height, width = values.shape[2:]
        boxes = boxes_of(scores, moves, points, width, height)
        faces = (boxes.points * scale).astype(np.float32)
        distances = np.linalg.norm(faces[:, 0] - faces[:, 1], axis=1)
        return tuple(
            tuple((float(x), float(y)) for x, y in face) for face in faces[distances >= LEAST_EYE_DISTANCE]
        )

    def restore(self, restorer: FaceRestorer, face: Picture) -> Picture:
        """A face of 512 x 512 pixels restored; levels are cut off, not rounded.

        Raises:
            UnreadableCheckpoint, UnsupportedCheckpoint, RuntimeError: as `find`.
            EngineFailure: the network made no picture.
        """
        kind = restorer.kind
        network = self._get(
            kind,
            restorer.network,
            lambda path: load_restorer(path, kind, allow_pickle=self._allow_pickle),
        )
        made = restored(network, restorer, _centred(face).to(self._device))[0].float().cpu()
        self._set_aside(restorer, network)
        if not bool(made.isfinite().all()):
            raise EngineFailure(f"{kind} made no picture of a face: see that its file is sound.")
        levels = ((made.clamp(-1, 1) + 1) / 2 * 255).to(torch.uint8).permute(1, 2, 0).contiguous()
        return Picture(face.width, face.height, levels.numpy().tobytes())

    def parse(self, restorer: FaceRestorer, face: Picture) -> bytes:
        """Which pixels of a face of 512 x 512 are its own: a byte each, 255 or 0.

        Raises:
            UnreadableCheckpoint, UnsupportedCheckpoint, RuntimeError: as `find`.
        """
        network = self._get("parser", restorer.parser, self._reader(ParseNet))
        own: Tensor = network.own(_centred(face).to(self._device))[0].cpu()
        self._set_aside(restorer, network)
        result: bytes = own.to(torch.uint8).mul(255).numpy().tobytes()
        return result

    def clear(self) -> None:
        """Drop the networks, to make room on the device."""
        self._loaded.clear()

    def _reader(self, network: type[nn.Module]) -> Callable[[Path], nn.Module]:
        return lambda path: filled(network, path, allow_pickle=self._allow_pickle)

    def _get(self, role: str, path: str, load: Callable[[Path], nn.Module]) -> Any:
        """The network of a file on the device."""
        try:
            status = Path(path).stat()
        except OSError as error:
            raise UnreadableCheckpoint(f"The network {Path(path).name} cannot be read: {error}") from error
        key = (path, status.st_mtime_ns, status.st_size)
        if role not in self._loaded or self._loaded[role][0] != key:
            self._loaded.pop(role, None)
            self._loaded[role] = key, load(Path(path))
        return self._loaded[role][1].to(self._device)

    def _set_aside(self, restorer: FaceRestorer, network: nn.Module) -> None:
        if restorer.leaves_device:
            network.to("cpu")


def detector_input(picture: Picture) -> tuple[Tensor, float]:
    """A picture as the detector takes it, (1, 3, h, w), and by how much it was made smaller."""
    short, long = sorted((picture.width, picture.height))
    scale = max(short / SHORT_SIDE, long / LONG_SIDE)
    size = (max(1, int(picture.width / scale)), max(1, int(picture.height / scale)))
    pixels = np.frombuffer(picture.pixels, np.uint8).reshape(picture.height, picture.width, 3)
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_LANCZOS4)
    values = torch.from_numpy(resized[..., ::-1].astype(np.float32)) - torch.tensor(_MEAN)
    return values.permute(2, 0, 1).unsqueeze(0).contiguous(), scale


def _centred(face: Picture) -> Tensor:
    """A face as the networks take it: (1, 3, h, w), red, green, blue, -1 to 1."""
    pixels = np.frombuffer(face.pixels, np.uint8).reshape(face.height, face.width, 3)
    values = torch.from_numpy(pixels.astype(np.float32) / 255)
    return ((values - 0.5) / 0.5).permute(2, 0, 1).unsqueeze(0).contiguous()
