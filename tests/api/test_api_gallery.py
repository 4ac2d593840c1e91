"""The saved pictures over HTTP."""

import io
import zipfile
from collections.abc import Callable

from PIL import Image

from tests.api.conftest import Server

BODY = {"prompt": "a cat <b>", "steps": 2, "width": 64, "height": 64, "seed": 7, "save_images": True}


def test_a_saved_picture_is_listed_sent_packed_and_deleted(serve: Callable[..., Server]) -> None:
    server = serve()
    assert server.request("GET", "/v1/gallery").json() == {"pictures": [], "after": None}
    assert server.post("txt2img", BODY).status_code == 200
    (picture,) = server.request("GET", "/v1/gallery?search=cat").json()["pictures"]
    assert (picture["width"], picture["height"]) == (64, 64)
    assert picture["infotext"].startswith("a cat <b>\n")
    name = picture["name"]
    file = server.request("GET", f"/v1/gallery/files/{name}")
    assert (file.headers["Content-Type"], len(file.content)) == ("image/png", picture["size"])
    thumbnail = server.request("GET", f"/v1/gallery/thumbnails/{name}")
    assert Image.open(io.BytesIO(thumbnail.content)).size == (64, 64)
    packed = server.request("POST", "/v1/gallery/zip", json={"names": [name]})
    assert packed.headers["Content-Type"] == "application/zip"
    assert zipfile.ZipFile(io.BytesIO(packed.content)).read(name) == file.content
    assert server.request("DELETE", f"/v1/gallery/files/{name}").json() == {"deleted": name}
    assert server.request("GET", f"/v1/gallery/files/{name}").status_code == 404
    assert server.request("GET", "/v1/gallery").json()["pictures"] == []


def test_what_is_not_there_or_makes_no_sense(server: Server) -> None:
    for method, path in (
        ("GET", "/v1/gallery/files/..%2F..%2Fconfig.json"),
        ("GET", "/v1/gallery/files/%2e%2e/config.png"),
        ("GET", "/v1/gallery/thumbnails/nope.png"),
        ("DELETE", "/v1/gallery/files/nope.png"),
        ("GET", "/v1/gallery?after=nope.png"),
    ):
        assert server.request(method, path).status_code == 404, path
    assert server.request("GET", "/v1/gallery?limit=0").status_code == 422
    assert server.request("GET", "/v1/gallery?search=" + "x" * 1001).status_code == 422
    assert server.request("POST", "/v1/gallery/zip", json={"names": []}).status_code == 422
    assert server.request("POST", "/v1/gallery/zip", json={"names": ["../x.png"]}).status_code == 404
