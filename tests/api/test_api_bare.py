"""A picture itself as the answer: what `Accept` says, and what is sent then."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdserver.api.answer.answer import Answer, Encoded
from sdserver.api.answer.bare import Wanted, bare_picture, wanted_picture
from sdserver.api.option_rules import defaults
from sdserver.api.options import Snapshot
from sdserver.images.codec import PictureFormat, encode
from sdserver.images.metadata import read_metadata

OPTIONS = Snapshot(defaults())


@pytest.mark.parametrize(
    "accept",
    [
        None, "", "*/*", "application/json", "application/json, text/plain, */*", "text/html",
        "text/event-stream",
        "application/json, image/png", "image/png, application/json", "image/png;q=0", "image/png;q=0.5, */*",
        "image/*;q=0.2, application/*", "image/gif", "image/svg+xml", "video/*", "nonsense,,;;q=", "image",
    ],
)  # fmt: skip
def test_json_is_the_answer(accept: str | None) -> None:
    assert wanted_picture(accept) is None


@pytest.mark.parametrize(
    ("accept", "picture_format"),
    [
        ("image/png", "png"),
        ("IMAGE/PNG", "png"),
        ("image/jpeg", "jpg"),
        ("image/webp;q=0.5", "webp"),
        ("image/png, */*", "png"),
        ("image/avif,image/webp,image/apng,*/*;q=0.8", "avif"),
        ("image/jpeg;q=0.8, image/webp;q=0.9, application/json;q=0.7", "webp"),
        ("image/*", None),
        ("image/*, image/webp", "webp"),
        ("image/gif, image/*;q=0.5", None),
        ("text/html, image/png;q=0.1", "png"),
        ("image/png; level=1; q=0.4, application/json;q=0.3", "png"),
    ],
)
def test_a_picture_is_the_answer(accept: str, picture_format: PictureFormat | None) -> None:
    assert wanted_picture(accept) == Wanted(picture_format)


@given(st.text(alphabet="image/png*,;=q01.9json apl", max_size=80) | st.text(max_size=80))
def test_no_header_is_an_error(accept: str) -> None:
    assert wanted_picture(accept) is None or "image/" in accept.lower()


def answer(
    picture_format: PictureFormat = "png", colours: tuple[str, ...] = ("#102030",), grid: int = 0
) -> Answer:
    pictures = tuple(
        Encoded(encode(Image.new("RGB", (8, 8), colour), picture_format, "cat\nSteps: 1"), picture_format)
        for colour in colours
    )
    return Answer(pictures, {}, {"index_of_first_image": grid, "seed": 7}, missing=("a",))


def colour_of(data: bytes) -> object:
    return Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0))


def test_the_first_image_is_sent_as_it_is() -> None:
    made = answer(colours=("#ffffff", "#102030"), grid=1)
    for wanted in (Wanted(None), Wanted("png")):
        bare = bare_picture(made, wanted, OPTIONS)
        assert bare is not None
        assert bare.picture is made.pictures[1]
        assert dict(bare.headers) == {"X-Missing-Networks": "a", "X-Seed": "7", "Vary": "Accept"}


@pytest.mark.parametrize("picture_format", ["jpg", "webp", "avif"])
def test_another_format_is_made_with_its_infotext(picture_format: PictureFormat) -> None:
    bare = bare_picture(answer(), Wanted(picture_format), OPTIONS)
    assert bare is not None
    assert bare.picture.media_type == {"jpg": "image/jpeg"}.get(picture_format, f"image/{picture_format}")
    colour = colour_of(bare.picture.data)
    assert isinstance(colour, tuple)
    assert all(abs(found - wanted) < 6 for found, wanted in zip(colour, (16, 32, 48), strict=True))
    assert read_metadata(bare.picture.data).infotext == "cat\nSteps: 1"


def test_jpg_and_jpeg_are_the_same() -> None:
    made = answer("jpeg")
    bare = bare_picture(made, Wanted("jpg"), OPTIONS)
    assert bare is not None
    assert bare.picture is made.pictures[0]


def test_without_a_picture_there_is_none() -> None:
    assert bare_picture(answer(colours=()), Wanted("png"), OPTIONS) is None
