"""The networks for faces: the layouts of their files, and what they say where that is known beforehand."""

import hashlib
import importlib.util
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from face_files import CODEFORMER, DETECTOR, GFPGAN, PARSER, constant, detector, gfpgan, parser, write_faces
from safetensors.torch import save_file

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.device import resolve
from sdserver.bundle.faces import networks as networks_module
from sdserver.bundle.faces.files import filled
from sdserver.bundle.faces.networks import LONG_SIDE, FaceNetworks, detector_input
from sdserver.bundle.faces.parsenet import ParseNet
from sdserver.bundle.faces.restorers import load_restorer
from sdserver.bundle.faces.retinaface import RetinaFace
from sdserver.calls import FindFaces, RestoreFace
from sdserver.errors import EngineFailure, UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.jobs.events import Picture
from sdserver.jobs.job import FaceRestorer

SIDE = 512
LANDMARKS = ((100.0, 80.0), (160.0, 90.0), (130.0, 120.5), (90.0, 150.0), (170.0, 150.0))


def noise(width: int, height: int) -> Picture:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(width, height, values.tobytes())


def restorer(folder: Path, **fields: object) -> FaceRestorer:
    paths = [str(folder / name) for name in (GFPGAN, DETECTOR, PARSER)]
    return FaceRestorer("GFPGAN", *paths, **fields)  # type: ignore[arg-type]


def networks(*, allow_pickle: bool = True) -> FaceNetworks:
    return FaceNetworks(resolve("cpu", "auto", "auto"), allow_pickle=allow_pickle)


def digest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Of all names and shapes; those expected were taken from facexlib 0.3.0's networks."""
    lines = [f"{name} {shape}" for name, shape in sorted(shapes.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("models"), LANDMARKS)


def test_the_detectors_layout_is_that_of_the_known_file() -> None:
    """detection_Resnet50_Final.pth: 456 tensors, each with the prefix "module."."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in RetinaFace().state_dict().items()}
    assert len(shapes) == 456
    assert digest(shapes) == "eb54b880ab291bf8e2244dd94de9d2b9d631c8bd6e64aaec32b5952aa4ccb6a5"
    known = {
        "body.conv1.weight": (64, 3, 7, 7),
        "body.layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "body.layer3.5.bn3.running_var": (1024,),
        "body.layer4.2.conv3.weight": (2048, 512, 1, 1),
        "fpn.output3.0.weight": (256, 2048, 1, 1),
        "fpn.merge1.1.bias": (256,),
        "ssh1.conv3X3.0.weight": (128, 256, 3, 3),
        "ssh2.conv5X5_1.0.weight": (64, 256, 3, 3),
        "ssh3.conv7X7_2.1.num_batches_tracked": (),
        "ssh3.conv7x7_3.0.weight": (64, 64, 3, 3),
        "ClassHead.0.conv1x1.weight": (4, 256, 1, 1),
        "BboxHead.1.conv1x1.bias": (8,),
        "LandmarkHead.2.conv1x1.weight": (20, 256, 1, 1),
    }
    assert {name: shapes.get(name) for name in known} == known
    parts = {name.split(".")[0] for name in shapes}
    assert parts == {"body", "fpn", "ssh1", "ssh2", "ssh3", "ClassHead", "BboxHead", "LandmarkHead"}


def test_the_parsers_layout_is_that_of_the_known_file() -> None:
    """parsing_parsenet.pth: 238 tensors."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in ParseNet().state_dict().items()}
    assert len(shapes) == 238
    assert digest(shapes) == "6fbadcd48ddfdf6e71d91cbe10729c6335268a189309b46c083bb59f06a1f447"
    known = {
        "encoder.0.conv2d.weight": (64, 3, 3, 3),
        "encoder.1.shortcut_func.conv2d.bias": (128,),
        "encoder.4.conv2.norm.norm.running_mean": (256,),
        "body.9.conv1.conv2d.weight": (256, 256, 3, 3),
        "decoder.2.conv1.norm.norm.weight": (128,),
        "decoder.3.shortcut_func.conv2d.weight": (64, 128, 3, 3),
        "out_img_conv.conv2d.weight": (3, 64, 3, 3),
        "out_mask_conv.conv2d.bias": (19,),
    }
    assert {name: shapes.get(name) for name in known} == known
    assert not any("shortcut" in name for name in shapes if name.startswith("body."))


def test_a_file_may_be_safetensors_and_have_the_prefix_or_not(tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in parser().items()}
    save_file(tensors, tmp_path / "plain.safetensors")
    torch.save({f"module.{name}": tensor for name, tensor in parser().items()}, tmp_path / "prefixed.pth")
    plain = filled(ParseNet, tmp_path / "plain.safetensors", allow_pickle=False)
    prefixed = filled(ParseNet, tmp_path / "prefixed.pth", allow_pickle=True)
    assert torch.equal(plain.out_mask_conv.conv2d.bias, prefixed.out_mask_conv.conv2d.bias)
    assert plain.out_mask_conv.conv2d.bias[1] == 1
    assert not plain.training


def test_other_files_are_refused(tmp_path: Path) -> None:
    incomplete = detector()
    del incomplete["module.ssh2.conv3X3.0.weight"]
    torch.save(incomplete, tmp_path / "incomplete.pth")
    torch.save({**parser(), "more": torch.zeros(1)}, tmp_path / "more.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "damaged.pth").write_bytes(b"damaged")
    (tmp_path / "text.txt").write_text("none")
    for name in ("incomplete.pth", "more.pth", "list.pth", "damaged.pth", "gone.pth"):
        with pytest.raises(UnreadableCheckpoint, match=name):
            filled(ParseNet if name == "more.pth" else RetinaFace, tmp_path / name, allow_pickle=True)
    with pytest.raises(UnsupportedCheckpoint, match=r"text\.txt"):
        filled(ParseNet, tmp_path / "text.txt", allow_pickle=True)
    with pytest.raises(UnsupportedCheckpoint, match=r"more\.pth is a pickle"):
        filled(ParseNet, tmp_path / "more.pth", allow_pickle=False)


def test_the_detector_sees_a_shorter_side_of_640_pixels_without_the_mean() -> None:
    grey = Picture(96, 32, bytes([200, 100, 50]) * (96 * 32))
    values, scale = detector_input(grey)
    assert (values.shape, scale) == ((1, 3, 640, 1920), 0.05)
    assert values[0, :, 300, 700].tolist() == [50 - 104, 100 - 117, 200 - 123]
    large, scale = detector_input(Picture(1280, 1920, bytes(1280 * 1920 * 3)))
    assert (large.shape, scale) == ((1, 3, 960, 640), 2)


def test_a_stripe_does_not_fill_the_memory() -> None:
    values, scale = detector_input(Picture(30_000, 2, bytes(60_000 * 3)))
    assert values.shape == (1, 3, 1, LONG_SIDE)
    assert scale == 30_000 / LONG_SIDE


def test_faces_are_found_where_the_network_says(folder: Path) -> None:
    """The whole way; the network sees the picture twice as large."""
    (found,) = networks().find(restorer(folder), noise(320, 320))
    assert np.abs(np.array(found) - np.array(LANDMARKS) / 2).max() < 0.01


def test_faces_whose_eyes_are_too_close_are_left_alone(tmp_path: Path) -> None:
    near = [(10.0, 10.0), (14.0, 12.9), *LANDMARKS[2:]]  # 4.94 pixels
    folder = write_faces(tmp_path, near)
    assert networks().find(restorer(folder), noise(640, 640)) == ()


def test_a_face_is_parsed_into_its_own_pixels(folder: Path) -> None:
    assert networks().parse(restorer(folder), noise(SIDE, SIDE)) == b"\xff" * SIDE**2


def test_background_hair_neck_necklace_and_clothes_are_no_face(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = torch.eye(19)[None, :, None]  # a row of 19 pixels, each of another part
    monkeypatch.setattr(ParseNet, "forward", lambda _self, _x: parts)
    with torch.device("meta"):
        network = ParseNet()
    own = network.own(torch.zeros(1))[0, 0]
    assert [part for part in range(19) if not own[part]] == [0, 14, 16, 17, 18]


def test_gfpgans_noise_is_that_of_its_file(folder: Path) -> None:
    """This file's is the same everywhere, and so are its shades; random noise would show."""
    face = networks().restore(restorer(folder), noise(SIDE, SIDE))
    levels = np.frombuffer(face.pixels, np.uint8)
    assert levels.min() == levels.max() == 229


def test_another_networks_file_is_told(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=rf"{DETECTOR} is no GFPGAN"):
        load_restorer(folder / DETECTOR, "GFPGAN", allow_pickle=True)
    with pytest.raises(UnsupportedCheckpoint, match="is a pickle"):
        load_restorer(folder / GFPGAN, "GFPGAN", allow_pickle=False)
    cut = gfpgan()["params_ema"]
    assert isinstance(cut, dict)
    del cut["final_linear.weight"]
    torch.save(cut, tmp_path / GFPGAN)
    with pytest.raises(UnreadableCheckpoint, match=GFPGAN):
        load_restorer(tmp_path / GFPGAN, "GFPGAN", allow_pickle=True)


def test_codeformer_needs_its_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel_extra_arches", None)
    with pytest.raises(UnsupportedCheckpoint, match="spandrel_extra_arches"):
        load_restorer(folder / GFPGAN, "CodeFormer", allow_pickle=True)


def test_codeformer_is_given_its_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 0 nothing of the face itself is mixed in, and more the higher it is."""
    if importlib.util.find_spec("spandrel_extra_arches") is None:
        pytest.skip("the package is not installed")
    network = load_codeformer(tmp_path)
    given: list[float] = []
    monkeypatch.setattr(type(network), "forward", lambda _self, x, weight: (given.append(weight) or x, None))
    made = networks()
    face = noise(SIDE, SIDE)
    for weight in (0.0, 0.25, 1.0):
        one = FaceRestorer("CodeFormer", str(tmp_path / CODEFORMER), "", "", weight)
        result = np.frombuffer(made.restore(one, face).pixels, np.uint8).astype(int)
        assert np.abs(result - np.frombuffer(face.pixels, np.uint8)).max() <= 1
    assert given == [0.0, 0.25, 1.0]


def load_codeformer(folder: Path) -> torch.nn.Module:
    """Write CodeFormer's file: 515 tensors; the network that is in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = importlib.import_module("spandrel_extra_arches.architectures.CodeFormer")
    tensors = constant(package.CodeFormer, 0.3)
    assert len(tensors) == 515
    torch.save({"params_ema": tensors}, folder / CODEFORMER)
    return load_restorer(folder / CODEFORMER, "CodeFormer", allow_pickle=True)


def test_networks_leave_the_device_where_that_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = networks()
    network = made._get("parser", str(folder / PARSER), made._reader(ParseNet))
    moves: list[torch.device] = []
    monkeypatch.setattr(network, "to", lambda device: moves.append(torch.device(device)) or network)
    monkeypatch.setattr(network, "own", lambda x: torch.zeros(1, *x.shape[2:], dtype=torch.bool))
    made.parse(restorer(folder), noise(SIDE, SIDE))
    assert len(moves) == 1
    made.parse(restorer(folder, leaves_device=True), noise(SIDE, SIDE))
    assert moves[2:] == [torch.device("cpu")]


def test_a_face_that_cannot_be_made_fails_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [torch.full((1, 3, SIDE, SIDE), value) for value in (torch.nan, 1.0)]
    monkeypatch.setattr(networks_module, "restored", lambda *_: made.pop(0))
    calls = [RestoreFace(restorer(folder), noise(SIDE, SIDE))] * 2
    failed, white = networks().run(calls)
    assert isinstance(failed, EngineFailure)
    assert white == Picture(SIDE, SIDE, b"\xff" * (3 * SIDE**2))


def test_the_bundle_runs_such_calls(tmp_path: Path) -> None:
    folder = write_faces(tmp_path)
    calls = [FindFaces(restorer(folder), noise(64, 64)), FindFaces(restorer(folder), noise(64, 48))]
    assert Bundle("cpu", allow_pickle=True).run(calls) == [(), ()]
    with pytest.raises(UnsupportedCheckpoint):
        Bundle("cpu").run(calls)
