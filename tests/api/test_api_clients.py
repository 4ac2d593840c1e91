"""Clients of AUTOMATIC1111's API as they are: what each sends, and what it reads from the answers.

The bodies are put together from the reference's descriptions of the clients' sources.
"""

import base64
import io
import json
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from PIL import Image

from tests.api.conftest import SHA, Server

TITLE = f"tiny-sd15.safetensors [{SHA[:10]}]"


def picture(side: int = 64) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "tomato").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def opened(image: str) -> Image.Image:
    """A picture of an answer: raw base64 of a PNG."""
    assert not image.startswith("data:")
    return Image.open(io.BytesIO(base64.b64decode(image, validate=True)))


class TestOpenWebUi:
    """Always sends an authorization header, empty where none is configured; posts all options back."""

    HEADERS: ClassVar = {"authorization": ""}

    def test_choosing_a_model(self, serve: Callable[..., Server]) -> None:
        server = serve()
        options = server.get("options", headers=self.HEADERS).json()
        assert options["sd_model_checkpoint"] == TITLE
        options["sd_model_checkpoint"] = "tiny-sd15-b.safetensors"
        answer = server.post("options", options, headers=self.HEADERS)
        assert (answer.status_code, answer.text) == (200, "null")
        assert server.engine.loads == ["/models/tiny-sd15-b.safetensors"]
        models = server.get("sd-models", headers=self.HEADERS).json()
        assert {"tiny-sd15", "tiny-sd15-b"} <= {model["model_name"] for model in models}

    def test_posting_all_options_back_changes_nothing(self, serve: Callable[..., Server]) -> None:
        server = serve()
        options = server.get("options").json()
        assert server.post("options", options, headers=self.HEADERS).status_code == 200
        assert server.get("options").json() == options
        assert server.engine.loads == []

    def test_a_picture(self, server: Server) -> None:
        body = {
            "prompt": "a cat",
            "batch_size": 2,
            "width": 64,
            "height": 64,
            "steps": 5,
            "negative_prompt": "dog",
            "cfg_scale": 7.5,
            "sampler_name": "DPM++ 2M",
            "scheduler": "Karras",
        }
        answer = server.post("txt2img", body, headers=self.HEADERS).json()
        assert [opened(image).size for image in answer["images"]] == [(64, 64)] * 2
        assert json.loads(answer["info"])["all_seeds"]


class TestSillyTavern:
    """Sends `Basic ` with nothing behind it, and fields of its own."""

    HEADERS: ClassVar = {"Authorization": "Basic "}

    def test_menus(self, server: Server) -> None:
        def get(path: str) -> Any:
            answer = server.get(path, headers=self.HEADERS)
            assert answer.status_code == 200
            return answer.json()

        assert get("options")["sd_model_checkpoint"]
        names = [one["name"] for one in get("upscalers")] + [
            one["name"] for one in get("latent-upscale-modes")
        ]
        assert {"Lanczos", "Latent"} <= set(names)
        assert isinstance(get("sd-vae"), list)
        assert {"Euler a"} <= {one["name"] for one in get("samplers")}
        assert {"karras"} <= {one["name"] for one in get("schedulers")}
        assert TITLE in [one["title"] for one in get("sd-models")]

    def test_choosing_a_model_and_waiting_for_it(self, serve: Callable[..., Server]) -> None:
        server = serve()
        server.post("options", {"sd_model_checkpoint": "tiny-sd15-b"}, headers=self.HEADERS)
        progress = server.get("progress", headers=self.HEADERS).json()
        assert (progress["progress"], progress["state"]["job_count"]) == (0.0, 0)

    def test_a_picture(self, serve: Callable[..., Server]) -> None:
        server = serve()
        body = {
            "url": "http://localhost:7860",
            "auth": "",
            "prompt": "a cat",
            "negative_prompt": "dog",
            "sampler_name": "Euler a",
            "scheduler": "Automatic",
            "steps": 4,
            "cfg_scale": 7,
            "width": 64,
            "height": 64,
            "restore_faces": False,
            "enable_hr": True,
            "hr_upscaler": "Latent",
            "hr_scale": 2,
            "denoising_strength": 0.7,
            "hr_second_pass_steps": 0,
            "override_settings": {"CLIP_stop_at_last_layers": 2},
            "override_settings_restore_afterwards": True,
            "clip_skip": 2,
            "save_images": True,
            "send_images": True,
            "do_not_save_grid": False,
            "do_not_save_samples": False,
        }
        answer = server.post("txt2img", body, headers=self.HEADERS).json()
        assert opened(answer["images"][0]).size == (128, 128)
        assert server.engine.jobs[0].prompt.clip_skip == 2  # type: ignore[union-attr]
        assert server.get("options").json()["CLIP_stop_at_last_layers"] == 1

    def test_interrupting_when_its_own_client_has_left(self, server: Server) -> None:
        assert server.post("interrupt", None, headers=self.HEADERS).json() == {}


class TestDify:
    """Sends no Content-Type, chooses the model before each picture, has script_args without a script."""

    def test_a_picture(self, serve: Callable[..., Server]) -> None:
        server = serve()

        def post(path: str, body: object) -> Any:
            data = json.dumps(body).encode()
            answer = server.request("POST", path, data=data)
            assert answer.request.headers.get("Content-Type") is None
            assert answer.status_code == 200
            return answer.json()

        assert post("/sdapi/v1/options", {"sd_model_checkpoint": "tiny-sd15-b"}) is None
        body = {
            "prompt": "a cat",
            "negative_prompt": "",
            "seed": -1,
            "styles": [],
            "subseed": -1,
            "subseed_strength": 0,
            "sampler_name": "Euler a",
            "batch_size": 1,
            "n_iter": 1,
            "steps": 5,
            "cfg_scale": 7,
            "width": 64,
            "height": 64,
            "restore_faces": False,
            "tiling": False,
            "eta": 0,
            "denoising_strength": 0,
            "s_churn": 0,
            "s_tmax": 0,
            "s_tmin": 0,
            "s_noise": 0,
            "override_settings": {},
            "override_settings_restore_afterwards": True,
            "script_args": [],
            "sampler_index": "Euler",
            "script_name": "",
            "send_images": True,
            "save_images": False,
            "alwayson_scripts": {},
        }
        assert opened(post("/sdapi/v1/txt2img", body)["images"][0]).size == (64, 64)
        assert server.engine.jobs[0].model.checkpoint == "/models/tiny-sd15-b.safetensors"  # type: ignore[union-attr]


class TestLibreChat:
    """Reads seed, size and the first infotext from `info`."""

    def test_a_picture(self, server: Server) -> None:
        body = {
            "prompt": "a cat",
            "negative_prompt": "dog",
            "sampler_index": "DPM++ 2M Karras",
            "cfg_scale": 4.5,
            "steps": 22,
            "width": 64,
            "height": 64,
        }
        answer = server.post("txt2img", body).json()
        info = json.loads(answer["info"])
        assert isinstance(answer["info"], str)
        assert info["infotexts"][0].startswith("a cat\nNegative prompt: dog\nSteps: 22, Sampler: DPM++ 2M")
        assert (info["seed"] >= 0, info["width"], info["height"]) == (True, 64, 64)


class TestTextGenerationWebUi:
    """Numbers as text, an empty JSON text as a body where none is wanted."""

    @pytest.mark.parametrize("route", ["unload-checkpoint", "reload-checkpoint"])
    def test_memory(self, server: Server, route: str) -> None:
        answer = server.request("POST", f"/sdapi/v1/{route}", json="")
        assert (answer.status_code, answer.json()) == (200, {})

    def test_a_picture(self, server: Server) -> None:
        body = {
            "prompt": "a cat",
            "seed": "-1",
            "sampler_name": "DPM++ 2M Karras",
            "enable_hr": True,
            "hr_scale": "2",
            "hr_upscaler": "Latent",
            "denoising_strength": "0.5",
            "steps": "4",
            "cfg_scale": "7",
            "width": "64",
            "height": "64",
            "restore_faces": False,
            "override_settings_restore_afterwards": True,
            "negative_prompt": "",
        }
        answer = server.post("txt2img", body).json()
        assert opened(answer["images"][0]).size == (128, 128)


class TestAutoPhotoshop:
    """The seed as text, unknown fields, data URIs for png-info, `interrupt` read as JSON."""

    def test_menus(self, server: Server) -> None:
        assert isinstance(server.request("GET", "/config").json(), dict)
        assert isinstance(server.get("loras").json(), list)
        assert server.get("progress", params={"skip_current_image": "false"}).json()["current_image"] is None
        assert server.post("interrupt", {}).json() == {}

    def test_a_picture_from_a_picture(self, server: Server) -> None:
        body = {
            "prompt": "a cat",
            "seed": "42",
            "sampler_index": "Euler a",
            "steps": 5,
            "cfg_scale": 7,
            "width": 64,
            "height": 64,
            "batch_size": 1,
            "denoising_strength": 0.6,
            "init_images": ["data:image/png;base64," + picture()],
            "mask": None,
            "inpaint_full_res": False,
            "inpainting_fill": 1,
            "mask_blur": 0,
            "resize_mode": 0,
            "hResFixScale": 2,
            "use_prompt_shortcut": False,
            "uniqueDocumentId": "x",
            "script_name": None,
            "script_args": [],
            "alwayson_scripts": {},
        }
        answer = server.post("img2img", body).json()
        assert json.loads(answer["info"])["all_seeds"] == [42]
        sent = "data:image/png;base64," + answer["images"][0]
        told = server.post("png-info", {"image": sent}).json()
        assert "Seed: 42" in told["info"].splitlines()[-1]


class TestSwarmUi:
    """Names checkpoints by their titles without hashes."""

    def test_a_picture(self, serve: Callable[..., Server]) -> None:
        server = serve()
        titles = [model["title"] for model in server.get("sd-models").json()]
        named = titles[1].partition(" [")[0]
        body = {
            "prompt": "a cat",
            "negative_prompt": "",
            "seed": 1,
            "steps": 4,
            "width": 64,
            "height": 64,
            "batch_size": 1,
            "cfg_scale": 7,
            "subseed": -1,
            "subseed_strength": 0,
            "sampler_name": "Euler",
            "override_settings": {"sd_model_checkpoint": named},
        }
        assert server.post("txt2img", body).status_code == 200
        assert server.engine.jobs[0].model.checkpoint == "/models/tiny-sd15-b.safetensors"  # type: ignore[union-attr]
        assert server.get("options").json()["sd_model_checkpoint"] == TITLE


class TestAiyabot:
    """Asks for the page's configuration, sends nulls and floats for whole numbers, and the style None."""

    def test_menus(self, server: Server) -> None:
        assert isinstance(server.request("GET", "/config").json(), dict)
        for name in (
            "sd-models",
            "samplers",
            "upscalers",
            "prompt-styles",
            "face-restorers",
            "hypernetworks",
        ):
            assert isinstance(server.get(name).json(), list), name
        assert set(server.get("embeddings").json()) == {"loaded", "skipped"}
        assert isinstance(server.get("cmd-flags").json(), dict)

    def test_a_login(self, serve: Callable[..., Server]) -> None:
        server = serve(users=(("ann", "a:b"),))
        assert server.request("GET", "/config").status_code == 401
        login = server.request("POST", "/login", data={"username": "ann", "password": "a:b"})
        assert login.json() == {"success": True}
        assert server.request("GET", "/config", cookies=login.cookies).status_code == 200

    def test_a_picture(self, server: Server) -> None:
        body = {
            "prompt": "a cat",
            "negative_prompt": "",
            "steps": 5,
            "width": 64,
            "height": 64,
            "cfg_scale": 7.0,
            "sampler_name": "Euler a",
            "seed": 7,
            "styles": ["None"],
            "enable_hr": False,
            "hr_second_pass_steps": 2.0,
            "denoising_strength": None,
            "batch_size": 1,
            "n_iter": 1,
            "override_settings": {"CLIP_stop_at_last_layers": 1.0},
        }
        answer = server.post("txt2img", body).json()
        assert "Seed: 7" in opened(answer["images"][0]).info["parameters"]


class TestKrita:
    """cyanic-sd-krita takes the server as up only if the queue's status is JSON."""

    def test_probe(self, server: Server) -> None:
        assert server.request("GET", "/queue/status").json()["queue_size"] == 0


class TestAiRender:
    """Blender: img2img and extras, the sampler's older name; reads 404 bodies."""

    def test_a_picture(self, server: Server) -> None:
        body = {
            "prompt": "a cat",
            "init_images": [picture()],
            "sampler_index": "DPM++ 2M Karras",
            "steps": 5,
            "width": 64,
            "height": 64,
        }
        made = server.post("img2img", body).json()["images"][0]
        larger = {"resize_mode": 0, "upscaling_resize": 2, "upscaler_1": "Lanczos", "image": made}
        answer = server.post("extra-single-image", larger).json()
        assert opened(answer["image"]).size == (128, 128)

    def test_errors(self, server: Server) -> None:
        assert server.post("nothing-here", {}).json() == {"detail": "Not Found"}
        assert "Sampler not found" in server.post("txt2img", {"sampler_index": "Foo"}).json()["detail"]
