"""Pictures by address and bare pictures, through the routes."""

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from sdserver.api.outbound import Outbound
from tests.api.conftest import Server

ADDRESS = "https://example.com/a.png"
BASE = {"prompt": "cat", "steps": 2, "width": 64, "height": 64, "seed": 5}
BODIES: dict[str, dict[str, Any]] = {
    "img2img": BASE | {"init_images": [ADDRESS], "mask": ADDRESS, "include_init_images": True},
    "png-info": {"image": ADDRESS},
    "interrogate": {"image": ADDRESS},
    "extra-single-image": {"image": ADDRESS, "upscaler_1": "Lanczos"},
    "extra-batch-images": {"imageList": [{"data": ADDRESS, "name": "a"}], "upscaler_1": "Lanczos"},
}


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every address is a picture; what was asked for."""
    asked: list[str] = []
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "#ffffff").save(buffer, "PNG")

    async def get_picture(_self: Outbound, address: str, **_options: Any) -> bytes:
        asked.append(address)
        return buffer.getvalue()

    monkeypatch.setattr(Outbound, "get_picture", get_picture)
    return asked


@pytest.mark.parametrize("path", BODIES)
def test_pictures_by_address(serve: Callable[..., Server], web: list[str], path: str) -> None:
    server = serve(image_urls=True)
    response = server.post(path, BODIES[path])
    assert response.status_code == (501 if path == "interrogate" else 200), response.text
    assert web == [ADDRESS] * (2 if path == "img2img" else 1)
    if path == "img2img":
        told = response.json()["parameters"]
        assert (told["init_images"], told["mask"]) == ([ADDRESS], ADDRESS)


@pytest.mark.parametrize("path", BODIES)
def test_they_are_off_at_first(serve: Callable[..., Server], web: list[str], path: str) -> None:
    response = serve().post(path, BODIES[path])
    assert response.status_code == 422
    assert "--image-urls" in response.json()["detail"]
    assert web == []


@pytest.mark.parametrize(
    ("accept", "media_type", "kind"),
    [
        ("image/png", "image/png", "PNG"),
        ("image/webp, */*;q=0.1", "image/webp", "WEBP"),
        ("image/*", "image/png", "PNG"),
    ],
)
def test_the_bare_picture(server: Server, accept: str, media_type: str, kind: str) -> None:
    body = BASE | {"batch_size": 2, "save_images": True}
    response = server.post("txt2img", body, headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == media_type
    assert response.headers["X-Seed"] == "5"
    assert response.headers["X-Task-Id"]
    image = Image.open(io.BytesIO(response.content))
    assert (image.format, image.size) == (kind, (64, 64))


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, image/png"])
def test_json_otherwise(server: Server, accept: str) -> None:
    response = server.post("txt2img", BASE, headers={"Accept": accept})
    assert len(base64.b64decode(response.json()["images"][0])) > 0
    assert json.loads(response.json()["info"])["seed"] == 5


def test_errors_and_answers_without_pictures_are_json(server: Server) -> None:
    headers = {"Accept": "image/png"}
    assert "detail" in server.post("txt2img", BASE | {"steps": 0}, headers=headers).json()
    assert server.post("txt2img", BASE | {"send_images": False}, headers=headers).json()["images"] == []
