"""Networks that restore faces: which are there, and the files that each needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, get_args

from sdserver.catalog.scan import is_pickle, walk_files
from sdserver.errors import MissingModel, RequestError
from sdserver.jobs.job import FaceRestorerKind

KINDS: Final[tuple[FaceRestorerKind, ...]] = get_args(FaceRestorerKind)
"""In A1111's order."""

EXTRA: Final = "spandrel_extra_arches"
"""The package that runs CodeFormer, which need not be installed."""

DETECTOR: Final = "detection_Resnet50_Final"
PARSER: Final = "parsing_parsenet"
"""What both restorers need beside them: files of these stems, beside GFPGAN's."""

_ENDINGS = (".safetensors", ".pth")
_EXAMPLES: Final = {"CodeFormer": "codeformer-v0.1.0.pth", "GFPGAN": "GFPGANv1.4.pth"}
_FOLDERS: Final = {"CodeFormer": "models/Codeformer", "GFPGAN": "models/GFPGAN"}


@dataclass(frozen=True, slots=True)
class FaceFolders:
    """Where A1111 keeps the files; of several folders the first that has one counts.

    Attributes:
        gfpgan: GFPGAN's, and those that both restorers need.
        codeformer: CodeFormer's.
    """

    gfpgan: Sequence[Path] = ()
    codeformer: Sequence[Path] = ()


NO_FACES: Final = FaceFolders()


@dataclass(frozen=True, slots=True)
class FaceFiles:
    """The files of a restorer: absolute paths."""

    kind: FaceRestorerKind
    network: str
    detector: str
    parser: str


def listed_restorers(folders: FaceFolders, *, allow_pickle: bool) -> list[FaceRestorerKind]:
    """The restorers that can be used. Reads directories: call it in a worker thread."""
    found = []
    for kind in KINDS:
        try:
            find_restorer(kind, folders, allow_pickle=allow_pickle)
        except (MissingModel, RequestError):
            continue
        found.append(kind)
    return found


def find_restorer(kind: FaceRestorerKind, folders: FaceFolders, *, allow_pickle: bool) -> FaceFiles:
    """A restorer's files. Reads directories: call it in a worker thread.

    As in A1111, GFPGAN's is the first whose name has "GFPGAN" in it, CodeFormer's the first in its folder.

    Raises:
        MissingModel: one of them is not there, or what runs CodeFormer is not installed.
        RequestError: one of them is a pickle, and those are not allowed.
    """
    if kind == "CodeFormer":
        files = _files(folders.codeformer)
    else:
        files = [path for path in _files(folders.gfpgan) if "GFPGAN" in path.name]
    network = _chosen(files, kind, _FOLDERS[kind], _EXAMPLES[kind], allow_pickle=allow_pickle)
    beside = _files(folders.gfpgan)
    detector, parser = (
        _chosen(
            [path for path in beside if path.stem == stem],
            kind,
            _FOLDERS["GFPGAN"],
            f"{stem}.pth",
            allow_pickle=allow_pickle,
        )
        for stem in (DETECTOR, PARSER)
    )
    if kind == "CodeFormer" and find_spec(EXTRA) is None:
        raise MissingModel(
            f"CodeFormer takes the package {EXTRA}, which is not part of this server, for its licence forbids"
            f" commercial use: install it (pip install --no-deps {EXTRA}), or choose GFPGAN by the option"
            " 'face_restoration_model'."
        )
    return FaceFiles(kind, str(network), str(detector), str(parser))


def _files(places: Sequence[Path]) -> list[Path]:
    return [path for place in places for path in walk_files(place.absolute(), _ENDINGS)]


def _chosen(
    files: Sequence[Path], kind: FaceRestorerKind, folder: str, example: str, *, allow_pickle: bool
) -> Path:
    """The first that may be read.

    Raises:
        MissingModel, RequestError: as `find_restorer`.
    """
    found = next((path for path in files if allow_pickle or not is_pickle(path)), None)
    if found is not None:
        return found
    if not files:
        raise MissingModel(
            f"Restoring faces by {kind} takes the file {example}, which is not there: put it into {folder}/."
        )
    raise RequestError(
        f"The network {files[0].name!r}, which restoring faces by {kind} takes, is a pickle: start the"
        " server with --allow-pickle, or convert the file to safetensors."
    )
