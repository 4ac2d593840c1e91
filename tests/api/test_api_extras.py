"""Extras: pictures enlarged by filters and by networks."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driving import drive
from hypothesis import given
from hypothesis import strategies as st
from node import CHECKPOINT, running
from patience import PATIENCE
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from sdserver.api.config import Limits
from sdserver.api.extras.answer import ExtrasAnswer
from sdserver.api.extras.plan import Upscaler, Upscalers, info_of, needs_network, target_of
from sdserver.api.extras.request import ExtrasSingleImageRequest
from sdserver.bundle.bundle import Bundle
from sdserver.calls import Report, Upscale
from sdserver.catalog.networks import NetworkFolders
from sdserver.errors import InvalidField
from sdserver.images.pictures import to_image, to_picture
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Job
from sdserver.programs.enlarge import enlarge
from tests.api import conftest
from tests.api.conftest import Server
from tests.bundle.test_bundle_upscaler import network

A1111 = Path(__file__).parents[1] / "goldens/a1111"
RECORDED = sorted(path.stem for path in (A1111 / "extras").glob("*.json"))
LANCZOS, NEAREST = Image.Resampling.LANCZOS, Image.Resampling.NEAREST
FACTOR = 4  # of the fixture's network


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(width).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(values, mode)


def sent(image: Image.Image, picture_format: str = "PNG", **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def opened(text: str) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


def recorded(name: str) -> dict[str, Any]:
    case: dict[str, Any] = json.loads((A1111 / f"extras/{name}.json").read_text())
    return case


def filled(value: Any) -> Any:
    """A recorded request with its files."""
    if isinstance(value, str) and value.startswith("@file:"):
        return base64.b64encode((A1111 / value.removeprefix("@file:")).read_bytes()).decode()
    if isinstance(value, list):
        return [filled(item) for item in value]
    return {key: filled(item) for key, item in value.items()} if isinstance(value, dict) else value


def extra(server: Server, image: Image.Image, **fields: Any) -> Image.Image:
    response = server.post("extra-single-image", {"image": sent(image)} | fields)
    assert response.status_code == 200, response.text
    assert list(response.json()) == ["html_info", "image"]
    return opened(response.json()["image"])


def distance(one: Image.Image, other: Image.Image) -> int:
    """The greatest difference of two values."""
    assert (one.mode, one.size) == (other.mode, other.size)
    return int(np.asarray(ImageChops.difference(one, other)).max())


def fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """By Lanczos, first in width; Pillow's own order depends on its version."""
    return image.resize((width, image.height), LANCZOS).resize((width, height), LANCZOS)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_answers(server: Server, name: str) -> None:
    case = recorded(name)
    response = server.post(case["endpoint"].removeprefix("/sdapi/v1/"), filled(case["request"]))
    assert response.status_code == case["status"]
    body = response.json()
    if case["status"] != 200:
        assert body == case["response"]
        return
    assert body["html_info"] == case["response"]["html_info"]
    ours = [opened(text) for text in body.get("images", [body.get("image")])]
    assert len(ours) == len(case["images"])
    for one, facts in zip(ours, case["images"], strict=True):
        with Image.open(A1111 / "extras" / facts["file"]) as wanted:
            wanted.load()
            assert one.info == wanted.info
            assert distance(one, wanted) == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image": ""}, "Invalid"),
        ({"image": "http://127.0.0.1/x.png"}, "address"),
        ({"upscaler_1": "Foo"}, "no upscaler 'Foo': choose one of None, Lanczos, Nearest."),
        ({"upscaler_1": "Latent"}, "no upscaler"),
        ({"upscaler_1": "Lanczos", "upscaler_2": "../x"}, "no upscaler '../x'"),
        ({"upscaler_1": "Lanczos", "upscaling_resize": 1e30}, "too large"),
        ({"upscaler_1": "Lanczos", "upscaling_resize": 600}, "too large"),
        ({"upscaler_1": "Nearest", "upscaling_resize": 0.1}, "vanish"),
        ({"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 10**30}, "too large"),
        ({"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_h": 9000}, "too large"),
    ],
)
def test_what_cannot_be_done_is_said(server: Server, fields: dict[str, Any], said: str) -> None:
    response = server.post("extra-single-image", {"image": sent(noise(24, 16))} | fields)
    assert response.status_code == 422, response.text
    assert said in response.json()["detail"]
    assert list(response.json()) == ["error", "detail", "body", "errors"]


@pytest.mark.parametrize(
    ("field", "value", "message", "kind", "limit"),
    [
        ("gfpgan_visibility", 1.5, "less than or equal to 1", "not_le", 1),
        ("codeformer_visibility", -1, "greater than or equal to 0", "not_ge", 0),
        ("codeformer_weight", 2, "less than or equal to 1", "not_le", 1),
        ("extras_upscaler_2_visibility", -0.1, "greater than or equal to 0", "not_ge", 0),
        ("upscaling_resize", 0, "greater than 0", "not_gt", 0),
        ("upscaling_resize_w", 0, "greater than or equal to 1", "not_ge", 1),
        ("upscaling_resize_h", "-3", "greater than or equal to 1", "not_ge", 1),
    ],
)
def test_ranges_have_a1111s_words(
    server: Server, field: str, value: Any, message: str, kind: str, limit: int
) -> None:
    response = server.post("extra-single-image", {field: value})
    assert response.status_code == 422
    assert response.json() == {
        "detail": [
            {
                "loc": ["body", field],
                "msg": f"ensure this value is {message}",
                "type": f"value_error.number.{kind}",
                "ctx": {"limit_value": limit},
            }
        ]
    }


@pytest.mark.parametrize("value", [10**39, -(10**39), "2"])
def test_a_mode_that_is_none_is_refused_however_large(server: Server, value: Any) -> None:
    response = server.post("extra-single-image", {"resize_mode": value})
    assert response.status_code == 422
    assert response.json()["detail"][0]["ctx"]["permitted"] == [0, 1]


def test_clients_numbers_may_be_text_and_null_is_the_default(server: Server) -> None:
    fields = {"upscaler_1": "Nearest", "upscaling_resize": "3", "resize_mode": None, "upscaler_2": None}
    assert extra(server, noise(16, 8), **fields).size == (48, 24)


@pytest.mark.parametrize(
    ("field", "model"), [("gfpgan_visibility", "GFPGAN"), ("codeformer_visibility", "CodeFormer")]
)
def test_faces_are_not_restored(server: Server, field: str, model: str) -> None:
    response = server.post("extra-single-image", {"image": sent(noise(8, 8)), field: 0.5})
    assert response.status_code == 501
    assert response.json()["error"] == "MissingModel"
    assert model in response.json()["detail"]


def test_limits_of_a_request(serve: Callable[..., Server]) -> None:
    limits = Limits(max_images=3, max_pixels=32 * 32, max_init_pixels=40 * 40)
    server = serve(limits=limits)
    picture = {"data": sent(noise(16, 16)), "name": ""}

    def said(count: int, **fields: Any) -> str:
        body = {"imageList": [picture] * count, "upscaler_1": "Nearest"} | fields
        response = server.post("extra-batch-images", body)
        return "" if response.status_code == 200 else str(response.json()["detail"])

    assert said(3, upscaling_resize=2) == ""
    assert "together" in said(3, upscaling_resize=2.5)
    assert "at most 3" in said(4)
    assert "at most 1,600 pixels" in said(1, upscaling_resize=3)
    large = {"data": sent(noise(32, 32)), "name": ""}
    assert "too large" in said(1, imageList=[large, large])


def test_a_bomb_is_refused_by_its_header(server: Server) -> None:
    bomb = sent(Image.new("1", (12_000, 12_000)))
    assert len(bomb) < 30_000
    response = server.post("extra-single-image", {"image": bomb})
    assert response.status_code == 422
    assert "too large" in response.json()["detail"]


def test_a_bomb_of_text_is_refused(server: Server) -> None:
    texts = PngInfo()
    for number in range(3):
        texts.add_text(f"t{number}", "a" * 500_000, zip=True)
    bomb = sent(noise(8, 8), pnginfo=texts)
    assert len(bomb) < 10_000
    response = server.post("extra-batch-images", {"imageList": [{"data": bomb, "name": ""}]})
    assert response.status_code == 422
    assert "1,048,576 characters" in response.json()["detail"]


def test_nothing_is_done_without_an_upscaler(server: Server) -> None:
    """Not even where the second one is unknown, or the size would be too large."""
    picture = noise(20, 12)
    same = extra(server, picture, upscaler_2="Foo", upscaling_resize=1e9, resize_mode=0)
    assert distance(same, picture) == 0
    assert same.info == {"postprocessing": ""}


@pytest.mark.parametrize(
    ("mode", "result"), [("L", "RGB"), ("P", "RGB"), ("1", "RGB"), ("LA", "RGB"), ("RGBA", "RGBA")]
)
def test_colour_modes(server: Server, mode: str, result: str) -> None:
    picture = noise(16, 16, "RGBA" if mode.endswith("A") else "RGB").convert(mode)
    assert extra(server, picture).mode == result
    assert extra(server, picture, upscaler_1="Lanczos", upscaling_resize=2).mode == result


def test_texts_are_carried_over_and_nothing_else(server: Server) -> None:
    texts = PngInfo()
    texts.add_text("parameters", "a cat\nSteps: 4")
    texts.add_itxt("Author", "Änne ✓")
    texts.add_text("dpi", "no text of a picture")
    picture = sent(noise(8, 8), pnginfo=texts, icc_profile=b"profile", dpi=(72, 72))
    answer = server.post("extra-single-image", {"image": picture, "upscaler_1": "Nearest"}).json()
    assert opened(answer["image"]).info == {
        "parameters": "a cat\nSteps: 4",
        "Author": "Änne ✓",
        "postprocessing": "Postprocess upscale by: 2, Postprocess upscaler: Nearest",
    }


def test_options_say_how_it_is_encoded(serve: Callable[..., Server]) -> None:
    server = serve()
    texts = PngInfo()
    texts.add_text("parameters", "a cat")
    picture = {"image": sent(noise(8, 8), pnginfo=texts)}
    server.options.apply({"samples_format": "jpg"})
    image = opened(server.post("extra-single-image", picture).json()["image"])
    assert image.format == "JPEG"
    assert image.getexif().get_ifd(0x8769)[0x9286] == b"UNICODE\0" + "a cat".encode("utf-16-be")
    server.options.apply({"samples_format": "png", "enable_pnginfo": False})
    assert opened(server.post("extra-single-image", picture).json()["image"]).info == {}


@given(
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.integers(0, 1),
    st.floats(1e-3, 1e3),
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
)
def test_sizes(size: tuple[int, int], mode: int, factor: float, wanted: tuple[int, int]) -> None:
    """Results are whole cells, cover what is asked for less a cell, and are within the limit."""
    request = ExtrasSingleImageRequest.model_validate(
        {
            "resize_mode": mode,
            "upscaling_resize": factor,
            "upscaling_resize_w": wanted[0],
            "upscaling_resize_h": wanted[1],
        }
    )
    upscalers = Upscalers(Upscaler("Lanczos", ""), None, 0.0)
    try:
        target = target_of(request, size, upscalers, Limits())
    except InvalidField:
        target = None
    exact = [side * factor for side in size]
    if mode == 1:
        exact = [side * max(wanted[0] / size[0], wanted[1] / size[1]) for side in size]
    if target is None:
        assert min(exact) < 8 or exact[0] * exact[1] > 60_000_000
        return
    assert all(side % 8 == 0 and 0 <= most - side < 8 for side, most in zip(target.size, exact, strict=True))
    assert target.crop == (wanted if mode == 1 else None)
    assert target.pixels <= Limits().max_init_pixels


def test_names_that_would_break_the_text_are_quoted() -> None:
    text = info_of(ExtrasSingleImageRequest(), Upscalers(Upscaler("a, b: <c>", "/x"), None, 0.0))
    assert text == 'Postprocess upscale by: 2, Postprocess upscaler: "a, b: <c>"'


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network."""
    folder = tmp_path_factory.mktemp("esrgan")
    save_file(network(FACTOR).state_dict(), folder / "tiny & x4.safetensors")
    return folder


NAME = "tiny & x4"


class Device:
    """Runs the jobs of networks as the engine does, without its process."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / f"{NAME}.safetensors")
        self.bundle = Bundle("cpu")
        self.calls = 0

    def run(self, job: Job) -> Picture:
        outcome, calls = drive(enlarge(job), self._answer)
        self.calls += sum(isinstance(call, Upscale) for call in calls)
        picture: Picture = outcome.picture
        return picture

    def enlarged(self, image: Image.Image) -> Image.Image:
        """What the network makes of a picture."""
        (result,) = self.bundle.run([Upscale(self.path, to_picture(image))])
        assert isinstance(result, Picture)
        return to_image(result)

    def _answer(self, call: Upscale | Report) -> Any:
        return None if isinstance(call, Report) else self.bundle.run([call])[0]


@pytest.fixture(scope="module")
def device(files: Path) -> Device:
    return Device(files)


@pytest.fixture
def netted(tmp_path: Path, files: Path, device: Device, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose engine runs networks."""
    monkeypatch.setattr(conftest, "picture_of", device.run)
    device.calls = 0
    server = Server(tmp_path, NetworkFolders(esrgan=(files,)))
    yield server
    server.close()


def test_a_network(netted: Server, device: Device) -> None:
    picture = noise(24, 16)
    ours = extra(netted, picture, upscaler_1=NAME, upscaling_resize=4)
    assert distance(ours, device.enlarged(picture)) == 0
    assert ours.info["postprocessing"] == f"Postprocess upscale by: 4.0, Postprocess upscaler: {NAME}"
    answer = netted.post("extra-single-image", {"image": sent(picture), "upscaler_1": NAME}).json()
    assert "tiny &amp; x4" in answer["html_info"]


def test_a_networks_result_is_fitted_in_one_go(netted: Server, device: Device) -> None:
    """157 * (464 / 157) is below 464: from the size alone the factor cannot be found again."""
    picture = noise(157, 21)
    ours = extra(netted, picture, upscaler_1=NAME, upscaling_resize=3)
    assert distance(ours, fitted(device.enlarged(picture), 464, 56)) == 0


def test_a_network_is_applied_until_it_suffices(netted: Server, device: Device) -> None:
    picture = noise(16, 8)
    ours = extra(netted, picture, upscaler_1=NAME, upscaling_resize=6)
    assert device.calls == 2
    twice = device.enlarged(device.enlarged(picture))
    assert distance(ours, fitted(twice, 96, 48)) == 0


@pytest.mark.parametrize(("factor", "calls"), [(1, 1), (1.01, 0), (0.5, 0)])
def test_a_network_is_applied_where_cells_are_missing_and_at_factor_1(
    netted: Server, device: Device, factor: float, calls: int
) -> None:
    picture = noise(32, 16)
    ours = extra(netted, picture, upscaler_1=NAME, upscaling_resize=factor)
    assert device.calls == calls
    before = device.enlarged(picture) if calls else picture
    assert distance(ours, fitted(before, *((16, 8) if factor < 1 else (32, 16)))) == 0


def test_two_upscalers_and_a_size(netted: Server, device: Device) -> None:
    picture = noise(16, 16)
    fields = {
        "resize_mode": 1,
        "upscaling_resize_w": 52,
        "upscaling_resize_h": 24,
        "upscaler_1": "Nearest",
        "upscaler_2": NAME,
        "extras_upscaler_2_visibility": 0.25,
    }
    ours = extra(netted, picture, **fields)
    near = fitted(picture.resize((52, 52), NEAREST), 48, 48)
    both = Image.blend(near, fitted(device.enlarged(picture), 48, 48), 0.25)
    wanted = Image.new("RGB", (52, 24))
    wanted.paste(both, (2, -12))
    assert distance(ours, wanted) <= 1
    assert ours.info["postprocessing"] == (
        "Postprocess upscale to: 52x24, Postprocess crop to: 52x24, Postprocess upscaler: Nearest, "
        f"Postprocess upscaler 2: {NAME}"
    )


def test_a_network_drops_transparency_and_a_filter_under_it_does_not(netted: Server) -> None:
    picture = noise(16, 16, "RGBA")
    assert extra(netted, picture, upscaler_1=NAME).mode == "RGB"
    fields = {"upscaler_1": "Lanczos", "upscaler_2": NAME, "extras_upscaler_2_visibility": 0.5}
    assert extra(netted, picture, **fields).mode == "RGBA"
    assert extra(netted, picture, upscaler_1=NAME, upscaling_resize=0.5).mode == "RGBA"


def test_pictures_of_a_batch_are_one_request_in_order(netted: Server, device: Device) -> None:
    pictures = [noise(8, 16), noise(24, 8), noise(16, 16)]
    body = {
        "imageList": [{"data": sent(picture), "name": "x"} for picture in pictures],
        "upscaler_1": NAME,
        "upscaler_2": NAME,
        "upscaling_resize": 4,
        "extras_upscaler_2_visibility": 1,
    }
    answer = netted.post("extra-batch-images", body).json()
    for text, picture in zip(answer["images"], pictures, strict=True):
        assert distance(opened(text), device.enlarged(picture)) == 0
    ids = [job.id for job in netted.engine.jobs]
    assert len({each.partition("/")[0] for each in ids}) == 1
    assert [each.partition("/")[2] for each in ids] == [str(number) for number in range(6)]


@pytest.mark.parametrize(
    ("size", "factor", "is_refused"),
    [
        ((32, 32), 4, False),
        ((33, 32), 4, True),
        ((32, 32), 1, False),
        ((33, 32), 1, True),
        ((33, 32), 0.5, False),
        ((17, 17), 5, True),
        ((8, 8), 5, False),
    ],
)
def test_a_network_is_not_given_too_much(
    tmp_path: Path, files: Path, size: tuple[int, int], factor: float, *, is_refused: bool
) -> None:
    request = ExtrasSingleImageRequest(upscaling_resize=factor)
    upscalers = Upscalers(Upscaler(NAME, str(files)), None, 0.0)
    limits = Limits(max_pixels=32 * 32)
    if is_refused:
        with pytest.raises(InvalidField, match="1,024 pixels"):
            target_of(request, size, upscalers, limits)
    else:
        target = target_of(request, size, upscalers, limits)
        assert needs_network(upscalers.first, size, target) == (factor >= 1)


def test_who_leaves_cancels(tmp_path: Path, files: Path) -> None:
    server = Server(tmp_path, NetworkFolders(esrgan=(files,)))
    try:
        server.engine.held = True
        body = json.dumps({"image": sent(noise(16, 16)), "upscaler_1": NAME}).encode()
        head = f"POST /sdapi/v1/extra-single-image HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection = server.raw(head.encode() + body)
        assert server.engine.submitted.wait(PATIENCE)
        state = server.get("progress").json()["state"]
        assert (state["job"], state["job_count"]) == ("extras", 1)
        connection.close()
        assert server.engine.stopped.wait(PATIENCE)
        assert [mode for _, mode in server.engine.stops] == ["drop"]
    finally:
        server.close()


def test_interrupted_pictures_are_left_out(tmp_path: Path, files: Path) -> None:
    server = Server(tmp_path, NetworkFolders(esrgan=(files,)))
    try:
        server.engine.held = True
        pictures = [{"data": sent(noise(16, 16)), "name": ""}] * 3
        with ThreadPoolExecutor(1) as pool:
            body = {"imageList": pictures, "upscaler_1": NAME}
            answer = pool.submit(server.post, "extra-batch-images", body)
            assert server.engine.submitted.wait(PATIENCE)
            server.post("interrupt", {})
            assert len(answer.result().json()["images"]) == 1
    finally:
        server.close()


def test_a_single_picture_that_was_interrupted_is_null() -> None:
    assert json.loads(ExtrasAnswer((), (), is_single=True).body()) == {"html_info": "<p></p>", "image": None}


@pytest.mark.parametrize(
    ("pictures", "kind"),
    [
        ({}, "type_error.list"),
        ([0], "type_error.dict"),
        ([0] * 100_000, "value_error.list.max_items"),
        (None, "value_error.missing"),
    ],
)
def test_lists_that_are_none(server: Server, pictures: Any, kind: str) -> None:
    response = server.post("extra-batch-images", {"imageList": pictures})
    assert response.status_code == 422
    assert [item["type"] for item in response.json()["detail"]] == [kind]


def test_what_fails_in_the_engine_is_said(tmp_path: Path, files: Path) -> None:
    server = Server(tmp_path, NetworkFolders(esrgan=(files,)))
    try:
        server.engine.failure = "OutOfMemory"
        response = server.post("extra-single-image", {"image": sent(noise(16, 16)), "upscaler_1": NAME})
        assert response.status_code == 500
        assert response.json()["error"] == "OutOfMemory"
        server.engine.full = True
        response = server.post("extra-single-image", {"image": sent(noise(16, 16)), "upscaler_1": NAME})
        assert response.status_code == 503
    finally:
        server.close()


def test_a_real_node(tmp_path: Path, files: Path, device: Device) -> None:
    folder = tmp_path / "models/ESRGAN"
    folder.mkdir(parents=True)
    (folder / f"{NAME}.safetensors").symlink_to(device.path)
    picture, other = noise(24, 16), noise(16, 32)
    with running(tmp_path, "--ckpt", str(CHECKPOINT), "--nowebui") as node:
        node.wait_ready()
        body = {
            "imageList": [{"data": sent(each), "name": ""} for each in (picture, other)],
            "upscaler_1": NAME,
            "upscaling_resize": 4,
        }
        answer = node.api("POST", "/sdapi/v1/extra-batch-images", json=body)
        assert answer.status_code == 200, answer.text
    for text, given_one in zip(answer.json()["images"], (picture, other), strict=True):
        assert distance(opened(text), device.enlarged(given_one)) <= 1
