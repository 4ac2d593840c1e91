"""OpenAI's own client against the API: it draws, edits, lists models and understands errors."""

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import requests
from patience import PATIENCE
from PIL import Image

from sdserver.jobs.job import Img2Img, Txt2Img
from tests.api.conftest import OTHER_SHA, Server

FAST: dict[str, Any] = {"steps": 2}
Clients = Callable[..., tuple[openai.OpenAI, Server]]


@pytest.fixture
def connect(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Iterator[Clients]:
    """A server of the test's own, and a client that is connected to it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    clients: list[openai.OpenAI] = []

    def start(**config: Any) -> tuple[openai.OpenAI, Server]:
        server = serve(**config)
        base = f"{server.url}{config.get('subpath', '')}/v1"
        clients.append(openai.OpenAI(api_key="none", base_url=base, max_retries=0))
        return clients[-1], server

    yield start
    for client in clients:
        client.close()


def picture(
    mode: str = "RGB", size: tuple[int, int] = (64, 64), hole: tuple[int, ...] | None = None
) -> bytes:
    """A PNG; `hole` is a transparent box in it."""
    image = Image.new(mode, size, (10, 200, 30, 255)[: len(mode)])
    if hole is not None:
        image.paste((0, 0, 0, 0), hole)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def refusal(call: Callable[..., Any], **fields: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        call(**fields)
    return caught.value


def test_draws(connect: Clients) -> None:
    client, server = connect()
    more = {"seed": 5, "negative_prompt": "dog", "sampler_name": "Heun", "cfg_scale": 3, **FAST}
    made = client.images.generate(prompt="cat", n=2, size="64x128", extra_body=more)
    images = [opened(base64.b64decode(item.b64_json)) for item in made.data]
    assert [image.size for image in images] == [(64, 128)] * 2
    assert [item.seed for item in made.data] == [5, 6]
    assert (made.output_format, made.size) == ("png", "64x128")
    jobs = server.engine.jobs
    assert [job.noise.seed for job in jobs] == [5, 6]
    first = jobs[0]
    assert isinstance(first, Txt2Img)
    assert (first.sampling.sampler, first.sampling.steps) == ("Heun", 2)
    assert (first.prompt.positive, first.prompt.negative) == ("cat", "dog")


@pytest.mark.parametrize(
    ("quality", "steps"), [(None, 20), ("low", 10), ("medium", 20), ("high", 40), ("hd", 40), ("auto", 20)]
)
def test_quality_is_a_number_of_steps(connect: Clients, quality: Any, steps: int) -> None:
    client, server = connect()
    fields = {} if quality is None else {"quality": quality}
    client.images.generate(prompt="cat", size="auto", **fields)
    assert server.engine.jobs[0].sampling.steps == steps
    assert (server.engine.jobs[0].size.width, server.engine.jobs[0].size.height) == (512, 512)


def test_sdxl_is_drawn_at_its_own_size_unless_another_checkpoint_is_asked_for(connect: Clients) -> None:
    client, server = connect()
    loaded = server.engine.model
    assert loaded is not None
    server.engine.model = type(loaded)(loaded.checkpoint, "sdxl", "cpu", "float32", 0.1)
    client.images.generate(prompt="cat", extra_body=FAST)
    client.images.generate(prompt="cat", model="tiny-sd15-b", extra_body=FAST)
    assert [job.size.width for job in server.engine.jobs] == [1024, 512]


@pytest.mark.parametrize(("wanted", "found"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_formats(connect: Clients, wanted: Any, found: str) -> None:
    client, _ = connect()
    made = client.images.generate(
        prompt="cat", size="512x512", output_format=wanted, output_compression=0, extra_body=FAST
    )
    assert made.data
    assert opened(base64.b64decode(made.data[0].b64_json or "")).format == found
    assert made.output_format == wanted


def test_models_are_the_checkpoints(connect: Clients) -> None:
    client, server = connect()
    names = [model.id for model in client.models.list()]
    assert names == ["tiny-sd15", "tiny-sd15-b", "broken", "tiny-sd15-inpainting"]
    assert client.models.retrieve("tiny-sd15.safetensors [f901d886de]").id == "tiny-sd15"
    client.images.generate(prompt="cat", model="tiny-sd15-b", extra_body=FAST)
    assert server.engine.jobs[0].model.checkpoint == "/models/tiny-sd15-b.safetensors"
    assert server.catalog.checkpoints["tiny-sd15-b"].sha256 == OTHER_SHA
    client.images.generate(prompt="cat", model="gpt-image-1", extra_body=FAST)
    assert server.engine.jobs[1].model.checkpoint == "/models/tiny-sd15.safetensors"
    for call in (client.models.retrieve, lambda model: client.images.generate(prompt="cat", model=model)):
        error = refusal(lambda call=call: call("nope"))
        assert (error.status_code, error.param, error.code) == (404, "model", "model_not_found")


@pytest.mark.parametrize(
    ("config", "prefix"), [({}, ""), ({"subpath": "/sd", "job_results_bytes": 10**6}, "/sd")]
)
def test_addresses_lead_to_the_picture(connect: Clients, config: dict[str, Any], prefix: str) -> None:
    client, server = connect(**config)
    made = client.images.generate(prompt="cat", n=2, response_format="url", extra_body=FAST)
    assert made.data
    urls = [item.url or "" for item in made.data]
    assert len(set(urls)) == 2
    assert all(url.startswith(f"{server.url}{prefix}/v1/images/files/") for url in urls)
    answer = requests.get(urls[1], timeout=PATIENCE)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert opened(answer.content).getpixel((0, 0)) == (server.engine.jobs[1].noise.seed % 251,) * 3
    missing = requests.get(urls[1][:-5] + ".png", timeout=PATIENCE)
    assert missing.status_code == 404
    assert set(missing.json()) == {"error"}


def test_dall_e_clients_get_addresses_unless_they_say_otherwise(connect: Clients) -> None:
    client, _ = connect()
    linked = client.images.generate(prompt="cat", model="dall-e-3", extra_body=FAST)
    plain = client.images.generate(
        prompt="cat", model="dall-e-3", response_format="b64_json", extra_body=FAST
    )
    assert linked.data
    assert plain.data
    assert linked.data[0].url
    assert linked.data[0].b64_json is None
    assert plain.data[0].b64_json


def test_pictures_behind_addresses_keep_within_the_budget(connect: Clients) -> None:
    client, _ = connect(job_results_bytes=1)
    made = client.images.generate(prompt="cat", n=3, response_format="url", extra_body=FAST)
    assert made.data
    assert [requests.get(item.url or "", timeout=PATIENCE).status_code for item in made.data] == [
        404,
        404,
        200,
    ]


def test_edits_with_a_mask(connect: Clients) -> None:
    client, server = connect()
    mask = picture("RGBA", hole=(16, 16, 48, 48))
    more = {"strength": 0.5, "seed": 7, "mask_blur": 0, **FAST}
    made = client.images.edit(
        image=("cat.png", picture(), "image/png"),
        mask=("mask.png", mask, "image/png"),
        prompt="a hat",
        n=2,
        extra_body=more,
    )
    assert made.data
    assert [opened(base64.b64decode(item.b64_json or "")).size for item in made.data] == [(64, 64)] * 2
    first, second = server.engine.jobs
    assert isinstance(first, Img2Img)
    assert (first.start.strength, first.prompt.positive) == (0.5, "a hat")
    assert (first.noise.seed, second.noise.seed) == (7, 8)
    assert first.mask is not None
    painted = Image.frombytes("L", (64, 64), first.mask.pixels)
    assert painted.getpixel((32, 32)) == 255
    assert painted.getpixel((4, 4)) == 0


def test_a_picture_that_is_transparent_is_its_own_mask(connect: Clients) -> None:
    client, server = connect()
    client.images.edit(
        image=("cat.png", picture("RGBA", hole=(0, 0, 32, 64)), "image/png"), prompt="x", extra_body=FAST
    )
    client.images.edit(image=("cat.png", picture("RGBA"), "image/png"), prompt="x", extra_body=FAST)
    first, second = server.engine.jobs
    assert isinstance(first, Img2Img)
    assert isinstance(second, Img2Img)
    assert first.mask is not None
    assert Image.frombytes("L", (64, 64), first.mask.pixels).getpixel((2, 32)) == 255
    assert second.mask is None


def test_edits_of_several_pictures_make_one_of_each(connect: Clients) -> None:
    client, server = connect()
    images = [("a.png", picture(size=(64, 64)), "image/png"), ("b.png", picture(size=(128, 64)), "image/png")]
    made = client.images.edit(image=images, prompt="x", n=2, size="auto", extra_body=FAST)
    assert made.data
    assert len(made.data) == 4
    assert [(job.size.width, job.size.height) for job in server.engine.jobs] == [(64, 64)] * 4


def test_variations(connect: Clients) -> None:
    client, server = connect()
    with pytest.warns(DeprecationWarning, match="deprecated"):
        made = client.images.create_variation(image=("a.png", picture(size=(72, 64)), "image/png"), n=1)
    assert made.data
    (job,) = server.engine.jobs
    assert isinstance(job, Img2Img)
    assert (job.start.strength, job.prompt.positive, job.size.width) == (0.5, "", 72)


@pytest.mark.parametrize(
    ("fields", "status", "parameter"),
    [
        ({"n": 0}, 400, "n"),
        ({"n": 65}, 400, "n"),
        ({"n": "many"}, 400, "n"),
        ({"size": "big"}, 400, "size"),
        ({"size": "4096x4096"}, 400, "size"),
        ({"size": "4x4"}, 400, "size"),
        ({"quality": "best"}, 400, "quality"),
        ({"response_format": "gif"}, 400, "response_format"),
        ({"output_format": "gif"}, 400, "output_format"),
        ({"output_compression": 101}, 400, "output_compression"),
        ({"background": "transparent"}, 400, "background"),
        ({"stream": True}, 400, "stream"),
        ({"partial_images": 2}, 400, "partial_images"),
        ({"steps": 0}, 400, "steps"),
        ({"sampler_name": "nope"}, 400, None),
        ({"override_settings": 5}, 400, "override_settings"),
        ({"prompt": None}, 400, "prompt"),
    ],
)
def test_errors_of_generations(
    server: Server, fields: dict[str, Any], status: int, parameter: str | None
) -> None:
    body = {"prompt": "cat", "size": "64x64", "steps": 1} | fields
    answer = server.request("POST", "/v1/images/generations", json=body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == parameter
    assert error["message"]


@pytest.mark.parametrize(
    ("files", "fields", "parameter"),
    [
        ({"image": b"no picture"}, {}, "image"),
        ({}, {"image": "text"}, "image"),
        ({"other": b"x"}, {}, "other"),
        ({"image": picture(), "mask": picture()}, {}, "mask"),
        ({"image": picture(), "mask": picture("RGBA", (32, 32))}, {}, "mask"),
        ({"image": picture()}, {"override_settings": "{"}, "override_settings"),
        ({"image": picture()}, {"strength": "-1"}, "denoising_strength"),
    ],
)
def test_errors_of_edits(
    server: Server, files: dict[str, bytes], fields: dict[str, str], parameter: str
) -> None:
    sent = {name: ("x.png", data, "image/png") for name, data in files.items()} or {"x": (None, "y")}
    answer = server.request("POST", "/v1/images/edits", files=sent, data={"prompt": "x", **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == parameter


@pytest.mark.parametrize("body", [b"{", b"[1]", b"[" * 100_000, b"null", b""])
def test_bodies_that_are_no_json(server: Server, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = server.request("POST", "/v1/images/generations", data=body, headers=headers)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert answer.json()["error"]["param"] is None


def test_forms_that_are_none(server: Server) -> None:
    assert server.request("POST", "/v1/images/edits", json={"prompt": "x"}).status_code == 400
    for kind in ("multipart/form-data", "multipart/form-data; boundary=b"):
        answer = server.request("POST", "/v1/images/edits", data=b"x", headers={"Content-Type": kind})
        assert (answer.status_code, list(answer.json())) == (400, ["error"])
    many = {f"f{k}": (None, "x") for k in range(200)}
    assert server.request("POST", "/v1/images/edits", files=many).status_code == 400


def test_errors_of_the_engine(connect: Clients) -> None:
    client, server = connect()
    server.engine.full = True
    error = refusal(client.images.generate, prompt="cat", extra_body=FAST)
    assert (error.status_code, error.response.headers["retry-after"]) == (503, "7")
    server.engine.full, server.engine.failure = False, "OutOfMemory"
    error = refusal(client.images.generate, prompt="cat", extra_body=FAST)
    assert error.status_code == 500
    assert "memory" in str(error)


def test_a_repeated_form_joins_its_first(connect: Clients) -> None:
    client, server = connect()
    for _ in range(2):
        client.images.edit(
            image=("cat.png", picture(), "image/png"),
            prompt="x",
            extra_body=FAST,
            extra_headers={"Idempotency-Key": "one"},
        )
    assert len(server.engine.jobs) == 1


def test_keys_guard_it(connect: Clients) -> None:
    client, _ = connect(users=(("user", "password"),))
    assert refusal(client.models.list).status_code == 401
