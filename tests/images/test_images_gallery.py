"""The saved pictures: what is listed, what is found, what is never touched."""

import io
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdserver.errors import UnknownPicture
from sdserver.images.gallery import Gallery


def save(root: Path, name: str, prompt: str = "", *, age: int = 0, side: int = 600) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = PngInfo()
    texts.add_text("parameters", f"{prompt}\nSteps: 4, Sampler: Euler, Seed: 1")
    Image.new("RGB", (side, side // 2), "red").save(path, pnginfo=texts if prompt else None)
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "outputs"
    save(root, "txt2img-images/2026-11-21/1.png", "a red Circle", age=3)
    save(root, "txt2img-images/2026-11-21/2.png", "a blue circle", age=2)
    save(root, "img2img-images/3.png", "", age=1)
    (root / "txt2img-images/notes.txt").write_text("no picture")
    (root / ".hidden.png").write_bytes(b"no")
    return root


def names(gallery: Gallery, search: str = "", limit: int = 10, after: str | None = None) -> list[str]:
    return [shown.saved.name for shown in gallery.page(search, limit, after).shown]


def test_the_newest_come_first_with_what_they_say(root: Path) -> None:
    page = Gallery(root).page("", 10, None)
    assert [shown.saved.name.split("/")[-1] for shown in page.shown] == ["3.png", "2.png", "1.png"]
    assert page.after is None
    last = page.shown[-1]
    assert (last.width, last.height, last.saved.modified) == (600, 300, 1_000_000 - 3)
    assert last.infotext is not None
    assert last.infotext.startswith("a red Circle\n")
    assert page.shown[0].infotext is None


@pytest.mark.parametrize(
    ("search", "found"),
    [("circle", ["2", "1"]), ("RED circle", ["1"]), ("img2img-", ["3"]), ("circle green", []), (" ", "321")],
)
def test_every_word_must_occur(root: Path, search: str, found: list[str]) -> None:
    assert [Path(name).stem for name in names(Gallery(root), search)] == list(found)


def test_pages_follow_each_other(root: Path) -> None:
    gallery = Gallery(root)
    seen, after = [], None
    while True:
        page = gallery.page("", 1, after)
        seen += [shown.saved.name for shown in page.shown]
        after = page.after
        if after is None:
            break
    assert seen == names(gallery)
    with pytest.raises(UnknownPicture):
        gallery.page("", 1, "gone.png")


def test_a_search_that_takes_long_goes_on_in_the_next_page(root: Path) -> None:
    ticks = iter(range(100))
    gallery = Gallery(root, clock=lambda: float(next(ticks)))
    page = gallery.page("red", 10, None, seconds=0.5)
    assert (page.shown, page.after) == ((), "img2img-images/3.png")


def test_a_changed_file_is_read_again(root: Path) -> None:
    gallery = Gallery(root)
    assert len(names(gallery, "blue")) == 1
    save(root, "txt2img-images/2026-11-21/2.png", "a green square", side=300)
    assert names(gallery, "blue") == []
    assert len(names(gallery, "green")) == 1


def test_damaged_files_are_listed_and_have_no_thumbnail(root: Path) -> None:
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50)
    gallery = Gallery(root)
    broken = next(shown for shown in gallery.page("", 10, None).shown if shown.saved.name == "broken.png")
    assert (broken.infotext, broken.width) == (None, 0)
    with pytest.raises(UnknownPicture):
        gallery.thumbnail("broken.png")


def test_thumbnails_are_small_and_kept_within_the_budget(root: Path) -> None:
    gallery = Gallery(root, thumbnail_bytes=1)
    made = gallery.thumbnail("img2img-images/3.png")
    with Image.open(io.BytesIO(made)) as image:
        assert (image.format, image.size) == ("WEBP", (256, 128))
    assert gallery.thumbnail("img2img-images/3.png") == made


@pytest.mark.parametrize(
    "name",
    [
        *("../secret.png", "/etc/passwd.png", "txt2img-images/../../secret.png", "./img2img-images/3.png"),
        *("img2img-images//3.png", "img2img-images/3.png\0", "img2img-images\\3.png", "..\\secret.png"),
        *(".hidden.png", "", "img2img-images", "txt2img-images/notes.txt", "link.png", "folder/3.png"),
        *("img2img-images/3.png/", "IMG2IMG-IMAGES/3.png", "C:/3.png", "x" * 5000 + ".png"),
    ],
)
def test_nothing_else_is_found(root: Path, name: str) -> None:
    secret = root.parent / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (root / "link.png").symlink_to(secret)
    (root / "folder").symlink_to(root / "img2img-images", target_is_directory=True)
    gallery = Gallery(root)
    for act in (gallery.find, gallery.thumbnail, gallery.remove, lambda name: gallery.packed([name])):
        with pytest.raises(UnknownPicture):
            act(name)
    assert secret.exists()
    assert not {"link.png", "folder/3.png"} & set(names(gallery))


@given(name=st.text(max_size=40))
def test_whatever_is_asked_for_stays_inside(name: str) -> None:
    with pytest.raises(UnknownPicture):
        Gallery(Path("/nowhere")).find(name + ".png")


def test_removing_takes_the_text_along_and_nothing_else(root: Path) -> None:
    beside = root / "img2img-images" / "3.txt"
    beside.write_text("parameters")
    Gallery(root).remove("img2img-images/3.png")
    assert not beside.exists()
    assert len(names(Gallery(root))) == 2


def test_a_zip_holds_the_files_as_they_are(root: Path) -> None:
    wanted = ["img2img-images/3.png", "txt2img-images/2026-11-21/1.png"]
    packed = b"".join(Gallery(root).packed(wanted))
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == wanted
        assert archive.read(wanted[0]) == (root / wanted[0]).read_bytes()
