"""Every method of the client webuiapi that AUTOMATIC1111 itself serves, plain and asynchronous."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import webuiapi
from PIL import Image

from sdserver.errors import MissingModel
from tests.api.conftest import Server

Client = Any  # webuiapi has no types
RED = Image.new("RGB", (64, 64), "red")

NOT_OF_A1111: Final = {
    "controlnet_detect",
    "controlnet_model_list",
    "controlnet_module_list",
    "controlnet_version",
    "get_artist_categories",
    "get_artists",
    "list_prompt_gen_models",
    "prompt_gen",
}
"""Of extensions, or of versions long gone."""

INNER: Final = {"async_post", "check_extensions", "post_and_get_api_result"}
"""What the other methods call."""

LISTS: Final = {
    "get_face_restorers",
    "get_hypernetworks",
    "get_latent_upscale_modes",
    "get_loras",
    "get_prompt_styles",
    "get_realesrgan_models",
    "get_samplers",
    "get_schedulers",
    "get_sd_models",
    "get_sd_vae",
    "get_upscalers",
    "util_get_model_names",
    "util_get_sampler_names",
    "util_get_scheduler_names",
}
OBJECTS: Final = {
    "get_cmd_flags",
    "get_embeddings",
    "get_memory",
    "get_options",
    "get_progress",
    "get_scripts",
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    server = Server(tmp_path_factory.mktemp("data"))
    make: Any = webuiapi.WebUIApi
    api = make(port=server.port)
    yield api
    api.session.close()
    server.close()


def txt2img(api: Client, **more: Any) -> Any:
    return api.txt2img(prompt="a cat", steps=2, width=64, height=64, seed=5, alwayson_scripts={}, **more)


def img2img(api: Client, **more: Any) -> Any:
    return api.img2img(
        images=[RED], prompt="a cat", steps=2, width=64, height=64, alwayson_scripts={}, **more
    )


def extra_single_image(api: Client, **more: Any) -> Any:
    return api.extra_single_image(RED, upscaler_1="Lanczos", upscaling_resize=2, **more)


def extra_batch_images(api: Client, **more: Any) -> Any:
    return api.extra_batch_images([RED, RED], upscaler_1="Nearest", upscaling_resize=2, **more)


GENERATING: Final[dict[str, tuple[Callable[..., Any], list[tuple[int, int]]]]] = {
    "txt2img": (txt2img, [(64, 64)]),
    "img2img": (img2img, [(64, 64)]),
    "extra_single_image": (extra_single_image, [(128, 128)]),
    "extra_batch_images": (extra_batch_images, [(128, 128)] * 2),
}


def check_set_options(api: Client) -> None:
    assert api.set_options({"send_seed": False}) is None
    assert api.get_options()["send_seed"] is False


def check_custom_post(api: Client) -> None:
    body = {"prompt": "a cat", "steps": 2, "width": 64, "height": 64, "seed": 9}
    result = api.custom_post("txt2img", payload=body, baseurl=True)
    assert result.info["all_seeds"] == [9]


def check_png_info(api: Client) -> None:
    image = txt2img(api).image
    assert "Seed: 5" in api.png_info(image).info


def check_interrogate(api: Client) -> None:
    with pytest.raises(RuntimeError, match="501") as caught:
        api.interrogate(RED)
    assert MissingModel.__name__ in str(caught.value)


def check_util_set_model(api: Client) -> None:
    api.util_set_model("tiny-sd15-b")
    assert api.util_get_current_model().startswith("tiny-sd15-b.safetensors")
    api.util_set_model("tiny-sd15.safetensors", find_closest=False)


def check_set_auth(api: Client) -> None:
    api.set_auth("ann", "secret")
    assert api.session.auth
    assert api.get_progress()["progress"] == 0
    api.session.auth = None


def equals(method: str, expected: object, *arguments: object) -> Callable[[Client], None]:
    def check(api: Client) -> None:
        assert getattr(api, method)(*arguments) == expected

    return check


CHECKS: Final[dict[str, Callable[[Client], None]]] = {
    "custom_get": equals("custom_get", {}, "internal/ping"),
    "custom_post": check_custom_post,
    "get_endpoint": lambda api: _is_text(api.get_endpoint("samplers", baseurl=True)),
    "interrogate": check_interrogate,
    "interrupt": equals("interrupt", {}),
    "png_info": check_png_info,
    "refresh_checkpoints": equals("refresh_checkpoints", None),
    "set_auth": check_set_auth,
    "set_options": check_set_options,
    "skip": equals("skip", None),
    "util_get_current_model": lambda api: _is_text(api.util_get_current_model()),
    "util_set_model": check_util_set_model,
    "util_wait_for_ready": lambda api: api.util_wait_for_ready(check_interval=0.01),
}


def _is_text(text: object) -> None:
    assert isinstance(text, str)
    assert text


def test_every_method_is_here() -> None:
    methods = {
        name for name, _ in inspect.getmembers(webuiapi.WebUIApi, inspect.isfunction) if name[0] != "_"
    }
    walked = LISTS | OBJECTS | GENERATING.keys() | CHECKS.keys()
    assert methods == walked | NOT_OF_A1111 | INNER


@pytest.mark.parametrize("name", sorted(LISTS))
def test_lists(client: Client, name: str) -> None:
    assert isinstance(getattr(client, name)(), list)


@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_objects(client: Client, name: str) -> None:
    assert isinstance(getattr(client, name)(), dict)


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_others(client: Client, name: str) -> None:
    CHECKS[name](client)


@pytest.mark.parametrize("name", sorted(GENERATING))
def test_pictures(client: Client, name: str) -> None:
    make, sizes = GENERATING[name]
    assert [image.size for image in make(client).images] == sizes


@pytest.mark.parametrize("name", sorted(GENERATING))
def test_pictures_asynchronously(client: Client, name: str) -> None:
    make, sizes = GENERATING[name]

    async def run() -> Any:
        return await make(client, use_async=True)

    assert [image.size for image in asyncio.run(run()).images] == sizes
