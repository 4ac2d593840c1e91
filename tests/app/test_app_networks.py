"""Where the server looks for files beside the checkpoints."""

from pathlib import Path

import pytest

from sdserver.app.assembly import networks_of
from sdserver.catalog.captioners import Captioner
from sdserver.catalog.networks import Networks
from sdserver.errors import CheckpointError, MissingModel
from sdserver.jobs.job import Ranking, WordList
from sdserver.settings.load import load


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    return path


def networks(folder: Path, *flags: str) -> Networks:
    return networks_of(load(["--data-dir", str(folder), *flags], {}, cwd=folder, root=folder))


def names(found: Networks) -> dict[str, list[str]]:
    lists = {
        "loras": found.loras(),
        "embeddings": found.embeddings(),
        "hypernetworks": found.hypernetworks(),
        "vaes": found.vaes(),
        "upscalers": found.upscalers(),
    }
    return {kind: [file.name for file in files] for kind, files in lists.items()}


def test_folders_are_a1111s(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in (
        *("Lora/a.safetensors", "LyCORIS/b.safetensors", "embeddings/c.safetensors", "hypernetworks/d.pt"),
        *(
            "VAE/e.safetensors",
            "Stable-diffusion/f.vae.pt",
            "ESRGAN/g.pth",
            "RealESRGAN/RealESRGAN_x4plus.pth",
        ),
    ):
        put(models / name)
    put(tmp_path / "embeddings" / "h.safetensors")
    found = names(networks(tmp_path, "--allow-pickle"))
    assert found == {
        "loras": ["a", "b"],
        "embeddings": ["c", "h"],
        "hypernetworks": ["d"],
        "vaes": ["e.safetensors", "f.vae.pt"],
        "upscalers": ["g", "R-ESRGAN 4x+"],
    }
    safe = names(networks(tmp_path))
    assert (safe["hypernetworks"], safe["vaes"], safe["upscalers"]) == ([], ["e.safetensors"], [])


def test_a1111s_flags_name_other_folders(tmp_path: Path) -> None:
    flags: list[str] = ["--allow-pickle"]
    for flag, name in (
        ("lora-dir", "a.safetensors"),
        ("lyco-dir-backcompat", "b.safetensors"),
        ("embeddings-dir", "c.safetensors"),
        ("hypernetwork-dir", "d.pt"),
        ("vae-dir", "e.safetensors"),
        ("esrgan-models-path", "f.pth"),
        ("realesrgan-models-path", "RealESRGAN_x2plus.pth"),
    ):
        put(tmp_path / flag / name)
        flags += [f"--{flag}", str(tmp_path / flag)]
    put(tmp_path / "models" / "Lora" / "left out.safetensors")
    put(tmp_path / "embeddings" / "left out.safetensors")
    put(tmp_path / "models" / "VAE" / "too.safetensors")
    assert names(networks(tmp_path, *flags)) == {
        "loras": ["a", "b"],
        "embeddings": ["c"],
        "hypernetworks": ["d"],
        "vaes": ["e.safetensors", "too.safetensors"],
        "upscalers": ["f", "R-ESRGAN 2x+"],
    }


def test_what_describes_pictures_lies_where_a1111_has_it(tmp_path: Path) -> None:
    blip = put(tmp_path / "models" / "BLIP" / "model_base_caption_capfilt_large.pth")
    put(blip.with_name("vocab.txt"))
    labels = put(tmp_path / "models" / "torch_deepdanbooru" / "model-resnet_custom_v3.pt")
    put(tmp_path / "models" / "interrogate" / "artists.txt")
    clip = put(tmp_path / "models" / "CLIP" / "ViT-L-14.pt")
    found = networks(tmp_path, "--allow-pickle")
    assert (found.captioner(), found.labeller()) == (Captioner(blip, blip.parent), labels)
    expected = Ranking(str(clip), (WordList(("weights",)),))
    assert found.ranking((), 0, shows_scores=False) == expected
    (put(tmp_path / "interrogate" / "mine.top2.txt")).write_text("a\nb\n")
    given = put(tmp_path / "elsewhere" / "ViT-L-14.pt")
    found = networks(tmp_path, "--allow-pickle", "--clip-models-path", str(given.parent))
    expected = Ranking(str(given), (WordList(("a", "b"), 2),), shows_scores=True)
    assert found.ranking((), 0, shows_scores=True) == expected
    safe = networks(tmp_path)
    for search in (safe.captioner, safe.labeller):
        with pytest.raises(MissingModel, match="--allow-pickle"):
            search()


def test_clip_may_lie_where_its_own_package_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    clip = put(tmp_path / "home" / ".cache" / "clip" / "ViT-L-14.pt")
    put(tmp_path / "interrogate" / "artists.txt")
    found = networks(tmp_path, "--allow-pickle").ranking((), 0, shows_scores=False)
    assert found is not None
    assert found.network == str(clip)


def test_the_vae_of_the_command_line_must_be_there(tmp_path: Path) -> None:
    vae = put(tmp_path / "mine.safetensors")
    found = networks(tmp_path, "--vae-path", str(vae)).vae_for("/any", "None", overrides_per_model=True)
    assert found is not None
    assert found.path == str(vae)
    vae.unlink()
    with pytest.raises(CheckpointError, match="--vae-path"):
        networks(tmp_path, "--vae-path", str(vae))
