import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.upscaler import torchvision_stood_in
from sdserver.calls import Upscale
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.jobs.events import Picture
from sdserver.jobs.job import UpscalerTiles

with torchvision_stood_in():
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet


def network(scale: int = 4) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RRDBNet(num_filters=8, num_blocks=1, scale=scale).eval()


def noise(width: int, height: int) -> Picture:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(width, height, values.tobytes())


def array(picture: Picture) -> np.ndarray:
    return np.frombuffer(picture.pixels, np.uint8).reshape(picture.height, picture.width, 3)


def upscaled(bundle: Bundle, path: Path, picture: Picture) -> Picture:
    (result,) = bundle.run([Upscale(str(path), picture)])
    assert isinstance(result, Picture)
    return result


@pytest.mark.parametrize(
    ("asked", "width"),
    [(UpscalerTiles(0, 8), 400), (UpscalerTiles(100, 0), 100), (UpscalerTiles(64, 32), 64)],
)
def test_tiles_are_as_large_as_asked(
    file: Path, monkeypatch: pytest.MonkeyPatch, asked: UpscalerTiles, width: int
) -> None:
    seen: list[int] = []
    monkeypatch.setattr("sdserver.bundle.upscaler._run", watched(seen))
    call = Upscale(str(file), noise(400, 100), asked)
    (result,) = Bundle("cpu").run([call])
    assert isinstance(result, Picture)
    assert (result.width, result.height) == (1600, 400)
    assert set(seen) == {width}
    step = asked.side - asked.overlap
    columns = -(-(400 - asked.overlap) // step) if asked.side else 1
    assert len(seen) == columns * (-(-(100 - asked.overlap) // step) if asked.side else 1)
    assert call.batch_key() != Upscale(str(file), noise(400, 100)).batch_key()


def watched(seen: list[int]) -> Callable[[Any, Image.Image, torch.device], Image.Image]:
    """Notes how wide pictures are; enlarges them as they are."""

    def run(_network: Any, image: Image.Image, _device: torch.device) -> Image.Image:
        seen.append(image.width)
        return image.resize((image.width * 4, image.height * 4), Image.Resampling.NEAREST)

    return run


def through(net: Any, pixels: np.ndarray) -> np.ndarray:
    """The network on a whole picture, colours turned round on the way in and out, rounded."""
    given = torch.tensor(pixels[:, :, ::-1].copy()).permute(2, 0, 1).unsqueeze(0) / 255
    with torch.no_grad():
        levels = net(given)[0].clamp(0, 1) * 255
    return levels.round().permute(1, 2, 0).numpy()[:, :, ::-1]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("upscalers") / "x4.safetensors"
    save_file(network().state_dict(), path)
    return path


def test_a_picture_that_is_one_tile(file: Path) -> None:
    picture = noise(192, 192)
    result = upscaled(Bundle("cpu"), file, picture)
    assert (result.width, result.height) == (768, 768)
    assert np.abs(array(result) - through(network(), array(picture))).max() <= 1
    assert (array(result) != through(network(), array(picture))).mean() < 1e-3


def test_a_small_picture_stands_in_the_corner_of_a_black_tile(file: Path) -> None:
    picture = noise(20, 12)
    result = upscaled(Bundle("cpu"), file, picture)
    assert (result.width, result.height) == (80, 48)
    tile = np.zeros((192, 192, 3), np.uint8)
    tile[-12:, -20:] = array(picture)
    expected = through(network(), tile)[-48:, -80:]
    assert np.abs(array(result) - expected).max() <= 1


def test_tiles_meet(file: Path) -> None:
    """Far from seams and borders the tiles give what the whole picture does."""
    picture = noise(240, 192)
    result = upscaled(Bundle("cpu"), file, picture)
    expected = through(network(), array(picture))
    assert np.abs(array(result)[:, :100] - expected[:, :100]).max() <= 1
    assert np.abs(array(result)[:, -100:] - expected[:, -100:]).max() <= 1


def test_other_factors(tmp_path: Path) -> None:
    save_file(network(2).state_dict(), tmp_path / "x2.safetensors")
    result = upscaled(Bundle("cpu"), tmp_path / "x2.safetensors", noise(10, 12))
    assert (result.width, result.height) == (20, 24)


def test_pickles_are_read_if_that_is_allowed(tmp_path: Path, file: Path) -> None:
    torch.save({"params_ema": network().state_dict()}, tmp_path / "x4.pth")
    picture = noise(16, 16)
    result = upscaled(Bundle("cpu", allow_pickle=True), tmp_path / "x4.pth", picture)
    assert result == upscaled(Bundle("cpu"), file, picture)
    with pytest.raises(UnsupportedCheckpoint, match=r"x4\.pth"):
        upscaled(Bundle("cpu"), tmp_path / "x4.pth", picture)


def test_other_files_are_refused(tmp_path: Path) -> None:
    bundle = Bundle("cpu", allow_pickle=True)
    (tmp_path / "damaged.pth").write_bytes(b"damaged")
    (tmp_path / "text.txt").write_text("no network")
    save_file({"a": torch.zeros(1)}, tmp_path / "stranger.safetensors")
    cases = [
        ("damaged.pth", UnreadableCheckpoint),
        ("gone.safetensors", UnreadableCheckpoint),
        ("text.txt", UnsupportedCheckpoint),
        ("stranger.safetensors", UnsupportedCheckpoint),
    ]
    for name, error in cases:
        with pytest.raises(error, match=name):
            bundle.run([Upscale(str(tmp_path / name), noise(8, 8))])


def test_torchvision_is_neither_needed_nor_left_behind() -> None:
    code = (
        "import sys; from sdserver.bundle.upscaler import torchvision_stood_in\n"
        "with torchvision_stood_in(): import spandrel\n"
        "print([name for name in sys.modules if name.startswith('torchvision')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
