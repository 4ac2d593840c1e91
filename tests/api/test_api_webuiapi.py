"""The client that most scripts use, against a real server."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import webuiapi

from tests.api.conftest import Server

Client = Any  # webuiapi has no types


@pytest.fixture
def client(serve: Callable[..., Server]) -> Iterator[tuple[Client, Server]]:
    server = serve(users=(("ann", "secret"),))
    make: Any = webuiapi.WebUIApi
    api = make(port=server.port, username="ann", password="secret")
    yield api, server
    api.session.close()


def test_constructor_sees_no_extensions(client: tuple[Client, Server]) -> None:
    api, server = client
    assert (api.has_controlnet, api.has_adetailer, api.has_animatediff) == (False, False, False)
    assert server.reported(1) == [("/sdapi/v1/scripts", 200)]


def test_txt2img(client: tuple[Client, Server]) -> None:
    api, server = client
    result = api.txt2img(
        prompt="a cat", seed=7, width=64, height=128, batch_size=2, steps=3, alwayson_scripts={}
    )
    assert [image.size for image in result.images] == [(64, 128)] * 2
    assert result.info["all_seeds"] == [7, 8]
    assert result.info["sampler_name"] == "Euler a"
    assert result.parameters["scheduler"] == "automatic"
    assert "Steps: 3, Sampler: Euler a, Schedule type: Automatic" in result.image.info["parameters"]
    assert [job.sampling.eta for job in server.engine.jobs] == [1.0, 1.0]


def test_lists(client: tuple[Client, Server]) -> None:
    api, _ = client
    assert "Euler a" in api.util_get_sampler_names()
    assert "Karras" in [schedule["label"] for schedule in api.get_schedulers()]
    assert api.get_sd_models()[0]["model_name"] == "tiny-sd15"
    assert api.get_prompt_styles()[0]["name"] == "Tiny Style"
    assert "x/y/z plot" in api.get_scripts()["txt2img"]
    assert api.get_memory()["cuda"] == {"error": "unavailable"}
    assert api.get_cmd_flags() == {}
    assert api.refresh_checkpoints() is None


def test_state(client: tuple[Client, Server]) -> None:
    api, _ = client
    assert api.interrupt() == {}
    assert api.skip() is None
    assert api.get_progress()["progress"] == 0.0
    api.util_wait_for_ready(check_interval=0.01)


def test_options_and_models(client: tuple[Client, Server]) -> None:
    api, server = client
    assert api.set_options({"CLIP_stop_at_last_layers": 2}) is None
    assert api.get_options()["CLIP_stop_at_last_layers"] == 2.0
    api.util_set_model("tiny-sd15-b")
    assert server.engine.loads == ["/models/tiny-sd15-b.safetensors"]
    assert api.util_get_current_model() == "tiny-sd15-b.safetensors [fb2af093b0]"


def test_an_error_is_raised_with_its_sentence(client: tuple[Client, Server]) -> None:
    api, _ = client
    with pytest.raises(RuntimeError, match=r"denoising_strength.* must be set"):
        api.txt2img(prompt="x", enable_hr=True, denoising_strength=None)
