"""Whether faces are restored, and by what."""

from sdserver.api.options import Snapshot
from sdserver.api.requests import Request
from sdserver.api.translate.plan import FacesPlan, Sources
from sdserver.catalog.face_restorers import KINDS
from sdserver.catalog.networks import Networks
from sdserver.errors import MissingModel
from sdserver.jobs.job import FaceRestorer, FaceRestorerKind, Faces

BY_DEFAULT = "face_restoration"
CHOICE = "face_restoration_model"
KEEPS_PICTURE = "save_images_before_face_restoration"


def wants_faces(request: Request, options: Snapshot) -> bool:
    """Whether faces are to be restored."""
    return options.flag(BY_DEFAULT) if request.restore_faces is None else request.restore_faces


def faces_of(request: Request, options: Snapshot, sources: Sources) -> FacesPlan:
    """What is done about faces in a request's pictures. Reads directories.

    As in AUTOMATIC1111 a restorer whose name is not known does nothing, and is told all the same.

    Raises:
        MissingModel: a file is not there; with AUTOMATIC1111's quirks, faces then stay as they are.
        RequestError: a file is a pickle, and those are not allowed.
    """
    if not wants_faces(request, options):
        return FacesPlan()
    name = options.text(CHOICE)
    kind = next((kind for kind in KINDS if kind == name), None)
    if kind is None:
        return FacesPlan(name)
    try:
        restorer = restorer_of(kind, options, sources.networks, options.number("code_former_weight"))
    except MissingModel:
        if not sources.config.a1111_quirks:
            raise
        return FacesPlan(name)
    keeps = request.save_images and options.flag("samples_save") and options.flag(KEEPS_PICTURE)
    return FacesPlan(name, Faces(restorer, keeps))


def restorer_of(kind: FaceRestorerKind, options: Snapshot, networks: Networks, weight: float) -> FaceRestorer:
    """A restorer with its files. Reads directories.

    Raises:
        MissingModel: a file is not there.
        RequestError: a file is a pickle, and those are not allowed.
    """
    files = networks.face_restorer(kind)
    leaves = options.flag("face_restoration_unload")
    return FaceRestorer(kind, files.network, files.detector, files.parser, weight, leaves)
