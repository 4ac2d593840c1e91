import hashlib
import json
import os
from pathlib import Path

import pytest

from sdserver.catalog.catalog import Catalog
from sdserver.errors import UnknownCheckpoint


def put(path: Path, content: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models" / "Stable-diffusion"
    root.mkdir(parents=True)
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "hashes.json"


def names(catalog: Catalog) -> list[str]:
    return [checkpoint.name for checkpoint in catalog.all()]


def test_lists_files_at_any_depth_and_diffusers_folders(models: Path, cache: Path) -> None:
    put(models / "b.safetensors")
    put(models / "sub" / "deep" / "A.SafeTensors")
    put(models / "folder" / "model_index.json")
    put(models / "folder" / "unet" / "diffusion_pytorch_model.safetensors")
    for ignored in (
        "c.ckpt",
        "d.pt",
        "e.vae.safetensors",
        ".hidden.safetensors",
        "notes.txt",
        "e.safetensors.part",
    ):
        put(models / ignored)
    put(models / ".cache" / "f.safetensors")
    assert names(Catalog(models, cache)) == ["b.safetensors", "folder", "sub/deep/A.SafeTensors"]


def test_ckpt_files_are_listed_only_when_allowed(models: Path, cache: Path) -> None:
    put(models / "a.ckpt")
    assert names(Catalog(models, cache)) == []
    assert names(Catalog(models, cache, allow_pickle=True)) == ["a.ckpt"]


def test_entry_is_what_a1111_lists(models: Path, cache: Path) -> None:
    content = os.urandom(0x120000)
    file = put(models / "sub" / "tiny v1.5.safetensors", content)
    config = put(models / "sub" / "tiny v1.5.yaml")
    sha = hashlib.sha256(content).hexdigest()
    catalog = Catalog(models, cache)
    (before,) = catalog.all()
    assert (before.title, before.short_hash, before.sha256) == ("sub/tiny v1.5.safetensors", None, None)
    after = catalog.hashed(before)
    assert after == catalog.all()[0]
    assert after.title == f"sub/tiny v1.5.safetensors [{sha[:10]}]"
    assert after.model_name == "sub_tiny v1.5"
    assert (after.short_hash, after.sha256) == (sha[:10], sha)
    assert (after.filename, after.config) == (str(file), str(config))
    assert after.old_hash == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]


def test_every_alias_finds_its_checkpoint_and_nothing_else_does(models: Path, cache: Path) -> None:
    put(models / "sub" / "tiny.safetensors", b"1")
    put(models / "other.safetensors", b"2")
    catalog = Catalog(models, cache)
    tiny = catalog.hashed(catalog.find("tiny"))
    sha, old = str(tiny.sha256), str(tiny.old_hash)
    aliases = [
        "sub_tiny", tiny.title, "sub/tiny.safetensors", "tiny", f"sub/tiny.safetensors [{old}]",
        sha, sha[:10], f"tiny [{sha[:10]}]",
    ]  # fmt: skip
    assert [catalog.find(alias) for alias in aliases] == [tiny] * len(aliases)
    wrong = [
        "",
        "Tiny",
        "tin",
        "tiny.safetensors",
        "../sub/tiny.safetensors",
        tiny.filename,
        f"{tiny.name} [0123456789]",
    ]
    for name in wrong:
        with pytest.raises(UnknownCheckpoint):
            catalog.find(name)


def test_title_with_a_hash_finds_a_file_that_is_not_hashed_yet(models: Path, cache: Path) -> None:
    put(models / "tiny.safetensors")
    catalog = Catalog(models, cache)
    assert catalog.find("tiny.safetensors [0123456789]").name == "tiny.safetensors"
    assert catalog.find("tiny [0123456789]").name == "tiny.safetensors"
    catalog.hashed(catalog.find("tiny"))
    with pytest.raises(UnknownCheckpoint):
        catalog.find("tiny.safetensors [0123456789]")


def test_a_name_beats_another_checkpoints_stem(models: Path, cache: Path) -> None:
    put(models / "a" / "x.safetensors", b"1")
    put(models / "x.safetensors", b"2")
    catalog = Catalog(models, cache)
    assert catalog.find("x").name == "x.safetensors"
    assert catalog.find("a_x").name == "a/x.safetensors"


def test_close_match_takes_the_shortest_title_that_holds_the_text(models: Path, cache: Path) -> None:
    for name in ("xl-refiner-long", "xl-refiner", "xl"):
        put(models / f"{name}.safetensors", name.encode())
    catalog = Catalog(models, cache)
    assert catalog.find_close("refiner").name == "xl-refiner.safetensors"
    assert catalog.find_close("refiner [abc]").name == "xl-refiner.safetensors"
    assert catalog.find_close("xl").name == "xl.safetensors"
    for name in ("", "Refiner", "[abc]"):
        with pytest.raises(UnknownCheckpoint):
            catalog.find_close(name)


def test_unknown_name_is_answered_with_the_nearest(models: Path, cache: Path) -> None:
    with pytest.raises(UnknownCheckpoint, match="none is installed"):
        Catalog(models, cache).find("x")
    put(models / "dreamshaper_8.safetensors")
    put(models / "zzz.safetensors")
    catalog = Catalog(models, cache)
    with pytest.raises(UnknownCheckpoint, match=r"nearest are: dreamshaper_8\.safetensors\.$"):
        catalog.find("DreamShaper 8 [deadbeef00]")
    with pytest.raises(UnknownCheckpoint, match="sd-models lists") as error:
        catalog.find("?" * 100_000)
    assert len(str(error.value)) < 300


def test_refresh_sees_new_changed_and_vanished_files(models: Path, cache: Path) -> None:
    late = models.parent / "elsewhere" / "late.safetensors"
    first = put(models / "a.safetensors")
    catalog = Catalog(models, cache, files=[late])
    catalog.hashed(catalog.find("a"))
    put(late)
    put(models / "b.safetensors")
    put(first, b"longer than before")
    catalog.refresh()
    assert names(catalog) == ["a.safetensors", "b.safetensors", "late.safetensors"]
    assert catalog.find("a").sha256 is None
    first.unlink()
    catalog.refresh()
    with pytest.raises(UnknownCheckpoint):
        catalog.find("a")


def test_extra_directory_and_symbolic_links(models: Path, cache: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    put(outside / "one.safetensors")
    (models / "linked").symlink_to(outside)
    (models / "two.safetensors").symlink_to(outside / "one.safetensors")
    (outside / "loop").symlink_to(models)
    (models / "dangling.safetensors").symlink_to(tmp_path / "nowhere")
    extra = tmp_path / "extra"
    put(extra / "sub" / "three.safetensors")
    found = Catalog(models, cache, extra_dir=extra)
    assert names(found) == ["linked/one.safetensors", "sub/three.safetensors", "two.safetensors"]


def test_an_explicit_file_inside_the_models_directory_is_listed_once(models: Path, cache: Path) -> None:
    file = put(models / "sub" / "a.safetensors")
    assert names(Catalog(models, cache, files=[file])) == ["sub/a.safetensors"]


def test_hashes_outlive_the_process_and_follow_the_file(models: Path, cache: Path) -> None:
    file = put(models / "a.safetensors", b"one")
    first = Catalog(models, cache)
    sha = first.hashed(first.find("a")).sha256
    assert Catalog(models, cache).find("a").sha256 == sha
    assert list(cache.parent.iterdir()) == [cache]
    put(file, b"two two")
    again = Catalog(models, cache)
    assert again.find("a").sha256 is None
    assert again.hashed(again.find("a")).sha256 == hashlib.sha256(b"two two").hexdigest()


@pytest.mark.parametrize(
    "damage", ["{", "[]", '"x"', '{"FILE": {"mtime_ns": 1, "size": 3, "sha256": "../x"}}']
)
def test_a_damaged_cache_counts_as_empty(models: Path, cache: Path, damage: str) -> None:
    file = put(models / "a.safetensors", b"one")
    put(cache, damage.replace("FILE", str(file)).encode())
    catalog = Catalog(models, cache)
    assert catalog.find("a").sha256 is None
    catalog.hashed(catalog.find("a"))
    assert json.loads(cache.read_text())[str(file)]["sha256"] == hashlib.sha256(b"one").hexdigest()


def test_a_diffusers_folder_has_no_hash(models: Path, cache: Path) -> None:
    put(models / "org" / "model-v1.5" / "model_index.json")
    catalog = Catalog(models, cache)
    folder = catalog.find("model-v1.5")
    assert catalog.hashed(folder) == folder
    assert (folder.title, folder.model_name, folder.sha256) == ("org/model-v1.5", "org_model-v1.5", None)


def test_an_unreadable_file_is_left_out(models: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(models / "a.safetensors")
    put(models / "b.safetensors")

    def refuse(file: Path) -> str:
        if file.name == "a.safetensors":
            raise PermissionError(file)
        return "00000000"

    monkeypatch.setattr("sdserver.catalog.catalog.old_hash", refuse)
    assert names(Catalog(models, cache)) == ["b.safetensors"]
