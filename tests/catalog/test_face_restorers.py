"""Which face restorers are there, by their files."""

from pathlib import Path

import pytest

from sdserver.catalog import face_restorers
from sdserver.catalog.face_restorers import FaceFiles, FaceFolders, find_restorer, listed_restorers
from sdserver.catalog.networks import NetworkFolders, Networks
from sdserver.errors import MissingModel, RequestError

BESIDE = ("detection_Resnet50_Final.pth", "parsing_parsenet.pth")


def put(folder: Path, *names: str) -> FaceFolders:
    """Files in models/GFPGAN, and in models/Codeformer where their name says so."""
    places = FaceFolders((folder / "GFPGAN",), (folder / "Codeformer",))
    for name in names:
        path = folder / ("Codeformer" if "codeformer" in name else "GFPGAN") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return places


@pytest.fixture(autouse=True)
def extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs CodeFormer is installed, or seems so."""
    monkeypatch.setattr(face_restorers, "find_spec", lambda _name: object())


def test_a1111s_files(tmp_path: Path) -> None:
    places = put(tmp_path, "GFPGANv1.4.pth", "codeformer-v0.1.0.pth", *BESIDE)
    beside = [str(tmp_path / "GFPGAN" / name) for name in BESIDE]
    assert find_restorer("GFPGAN", places, allow_pickle=True) == FaceFiles(
        "GFPGAN", str(tmp_path / "GFPGAN" / "GFPGANv1.4.pth"), *beside
    )
    assert find_restorer("CodeFormer", places, allow_pickle=True) == FaceFiles(
        "CodeFormer", str(tmp_path / "Codeformer" / "codeformer-v0.1.0.pth"), *beside
    )
    assert listed_restorers(places, allow_pickle=True) == ["CodeFormer", "GFPGAN"]


def test_gfpgans_name_must_say_so_codeformers_need_not(tmp_path: Path) -> None:
    places = put(
        tmp_path, "RestoreFormer.pth", "GFPGANv1.3.pth", "GFPGANv1.4.pth", "my codeformer.pth", *BESIDE
    )
    assert Path(find_restorer("GFPGAN", places, allow_pickle=True).network).name == "GFPGANv1.3.pth"
    (tmp_path / "Codeformer" / "a.pth").touch()
    assert Path(find_restorer("CodeFormer", places, allow_pickle=True).network).name == "a.pth"


@pytest.mark.parametrize("missing", ["GFPGANv1.4.pth", *BESIDE])
def test_what_is_missing_is_named_with_its_folder(tmp_path: Path, missing: str) -> None:
    places = put(tmp_path, *(name for name in ("GFPGANv1.4.pth", *BESIDE) if name != missing))
    with pytest.raises(MissingModel, match=rf"GFPGAN takes the file {missing}, .* models/GFPGAN/"):
        find_restorer("GFPGAN", places, allow_pickle=True)
    assert listed_restorers(places, allow_pickle=True) == []


def test_codeformer_is_told_by_its_own_folder(tmp_path: Path) -> None:
    places = put(tmp_path, "GFPGANv1.4.pth", *BESIDE)
    with pytest.raises(MissingModel, match=r"codeformer-v0\.1\.0\.pth, .* models/Codeformer/"):
        find_restorer("CodeFormer", places, allow_pickle=True)
    assert listed_restorers(places, allow_pickle=True) == ["GFPGAN"]


def test_codeformers_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = put(tmp_path, "codeformer-v0.1.0.pth", *BESIDE)
    monkeypatch.setattr(face_restorers, "find_spec", lambda _name: None)
    with pytest.raises(MissingModel, match="pip install --no-deps spandrel_extra_arches"):
        find_restorer("CodeFormer", places, allow_pickle=True)
    assert listed_restorers(places, allow_pickle=True) == []


def test_pickles_are_used_only_if_that_is_allowed(tmp_path: Path) -> None:
    places = put(tmp_path, "GFPGANv1.4.pth", "detection_Resnet50_Final.safetensors", *BESIDE)
    with pytest.raises(RequestError, match=r"'GFPGANv1\.4\.pth'.* is a pickle"):
        find_restorer("GFPGAN", places, allow_pickle=False)
    assert listed_restorers(places, allow_pickle=False) == []
    put(tmp_path, "GFPGANv1.4.safetensors", "parsing_parsenet.safetensors")
    files = find_restorer("GFPGAN", places, allow_pickle=False)
    assert {Path(path).suffix for path in (files.network, files.detector, files.parser)} == {".safetensors"}


def test_earlier_folders_come_first(tmp_path: Path) -> None:
    own = put(tmp_path / "own", "GFPGANv1.3.pth")
    models = put(tmp_path / "models", "GFPGANv1.4.pth", *BESIDE)
    places = FaceFolders((*own.gfpgan, *models.gfpgan), ())
    files = find_restorer("GFPGAN", places, allow_pickle=True)
    assert Path(files.network).name == "GFPGANv1.3.pth"
    assert Path(files.detector).parent == models.gfpgan[0]


def test_files_that_come_later_are_found_without_a_refresh(tmp_path: Path) -> None:
    places = put(tmp_path)
    networks = Networks(NetworkFolders(faces=places), tmp_path / "hashes.json", allow_pickle=True)
    assert networks.face_restorers() == []
    put(tmp_path, "GFPGANv1.4.pth", *BESIDE)
    assert networks.face_restorers() == ["GFPGAN"]
    assert networks.face_restorer("GFPGAN").kind == "GFPGAN"
