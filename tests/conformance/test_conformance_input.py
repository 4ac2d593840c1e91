"""Bodies that clients should not send, and strange ones that they may."""

import json
from typing import Any

import pytest
import requests
from node import Node

SMALL = {"width": 64, "height": 64, "steps": 1}
JSON = {"Content-Type": "application/json"}

BAD: dict[str, tuple[int, str]] = {
    "text for a number": (422, '{"steps": "many"}'),
    "list for text": (422, '{"prompt": ["a cat"]}'),
    "object for a number": (422, '{"width": {}}'),
    "list for a number": (422, '{"cfg_scale": []}'),
    "text for a list": (422, '{"styles": "Cinematic"}'),
    "text for an object": (422, '{"override_settings": "CLIP"}'),
    "text for a switch": (422, '{"enable_hr": "perhaps"}'),
    "a list as body": (422, "[]"),
    "text as body": (422, '"a cat"'),
    "no JSON": (422, '{"prompt": '),
    "no UTF-8": (400, '{"prompt": "\udcff"}'),
    "nothing": (422, ""),
    "NaN": (422, '{"cfg_scale": NaN}'),
    "Infinity": (422, '{"cfg_scale": Infinity}'),
    "minus Infinity": (422, '{"eta": -Infinity}'),
    "an overflowing number": (422, '{"cfg_scale": 1e999}'),
    "a steps of NaN": (422, '{"steps": NaN}'),
    "NaN in an option": (422, '{"override_settings": {"eta_ancestral": NaN}}'),
    "half a character": (422, r'{"prompt": "a \ud83d cat"}'),
    "half a character in the negative prompt": (422, r'{"negative_prompt": "\udc31"}'),
    "half a character in a name": (422, r'{"sampler_name": "\ud800"}'),
    "half a character in an option": (422, r'{"override_settings": {"\ud800": "\ud800"}}'),
    "no steps": (422, '{"steps": 0}'),
    "many steps": (422, '{"steps": 151}'),
    "very many steps": (422, f'{{"steps": 1{"0" * 30}}}'),
    "a digit too many": (400, f'{{"steps": 1{"0" * 5000}}}'),
    "no width": (422, '{"width": 0}'),
    "negative height": (422, '{"height": -64}'),
    "too wide": (422, '{"width": 2049}'),
    "far too high": (422, '{"height": 1000000000}'),
    "no batch": (422, '{"batch_size": 0}'),
    "a large batch": (422, '{"batch_size": 65}'),
    "many pictures": (422, '{"batch_size": 9, "n_iter": 9}'),
    "a long seed": (422, '{"seed": 18446744073709551616}'),
    "a seed below random": (422, '{"seed": -2}'),
    "a long prompt": (422, f'{{"prompt": "{"a " * 30_000}"}}'),
    "too many brackets": (422, f'{{"prompt": "{"(" * 3000}"}}'),
    "deep nesting": (400, f'{{"alwayson_scripts": {"[" * 5000}{"]" * 5000}}}'),
    "deep nesting in an option": (422, f'{{"override_settings": {{"x": {"[" * 40}{"]" * 40}}}}}'),
    "an unknown sampler": (400, '{"sampler_name": "Eulre"}'),
    "an unknown scheduler": (400, '{"scheduler": "Karass"}'),
    "an unknown checkpoint": (404, '{"override_settings": {"sd_model_checkpoint": "nope"}}'),
    "a path as checkpoint": (404, '{"override_settings": {"sd_model_checkpoint": "../../etc/passwd"}}'),
    "an unknown option": (422, '{"override_settings": {"no_such_option": 1}}'),
    "an unknown script": (422, '{"script_name": "nope"}'),
    "an unknown script that is always on": (422, '{"alwayson_scripts": {"nope": {"args": []}}}'),
    "what is not served": (422, '{"enable_hr": true}'),
}

FINE: dict[str, str] = {
    "numbers as text": '{"steps": "1", "width": "64", "height": "64", "cfg_scale": "7.5", "seed": "3"}',
    "a whole number with a fraction": '{"steps": 1.0, "width": 64.0, "height": 64.0}',
    "unknown fields": json.dumps(SMALL | {"foo_bar": 1, "__proto__": {"x": []}}),
    "null for a default": json.dumps(
        SMALL
        | dict.fromkeys(("prompt", "seed", "sampler_name", "scheduler", "cfg_scale", "styles"))
        | dict.fromkeys(("batch_size", "n_iter", "override_settings", "alwayson_scripts", "script_args"))
    ),
    "strange characters": json.dumps(SMALL | {"prompt": "\0 \x1b[31m \u202e \U0001f431 猫 \uffff"}),
    "many brackets": json.dumps(SMALL | {"prompt": "(" * 50 + "[" * 49}),
    "the smallest picture": '{"steps": 1, "width": 8, "height": 8}',
    "a size that is no multiple of eight": '{"steps": 1, "width": 71, "height": 65}',
}


def send(node: Node, body: str, headers: dict[str, str]) -> requests.Response:
    data = body.encode("utf-8", "surrogateescape")
    return node.api("POST", "/sdapi/v1/txt2img", data=data, headers=headers)


@pytest.mark.parametrize("name", BAD)
def test_refused(node: Node, name: str) -> None:
    status, body = BAD[name]
    response = send(node, body, JSON)
    assert response.status_code == status, response.text
    assert response.json()["detail"]
    assert len(response.text) < 2000


@pytest.mark.parametrize("name", FINE)
def test_accepted(node: Node, name: str) -> None:
    response = send(node, FINE[name], JSON)
    assert response.status_code == 200, response.text
    assert len(response.json()["images"]) == 1


def test_no_content_type_is_json(node: Node) -> None:
    assert send(node, json.dumps(SMALL), {}).status_code == 200


def test_errors_name_what_is_wrong(node: Node) -> None:
    def detail(body: str) -> Any:
        return send(node, body, JSON).json()["detail"]

    assert detail('{"sampler_name": "Eulre"}') == "Sampler not found: 'Eulre'; did you mean 'Euler'?"
    assert "'steps' must be from 1 to 150" in detail('{"steps": 151}')
    assert "tiny-sd15" in detail('{"override_settings": {"sd_model_checkpoint": "tiny-sd51"}}')
    assert detail('{"steps": "many"}')[0]["loc"] == ["body", "steps"]


def test_the_node_is_none_the_worse(node: Node) -> None:
    restarts = node.status()["engine"]["restarts"]
    before, logged = node.txt2img().images, node.stderr
    for _, body in BAD.values():
        assert send(node, body, JSON).status_code < 500
    assert node.txt2img().images == before
    assert node.status()["engine"]["restarts"] == restarts
    assert node.status()["state"] == "ready"
    assert node.stderr == logged


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_above_the_limit(node: Node, announced: bool) -> None:
    body = json.dumps(SMALL | {"prompt": "a" * 1_100_000}).encode()
    data = body if announced else iter([body[:600_000], body[600_000:]])
    response = node.api("POST", "/sdapi/v1/txt2img", data=data, headers=JSON)
    assert response.status_code == 413
    assert response.json()["detail"] == "The body is larger than 1,000,000 bytes: send a smaller one."
    assert node.txt2img().images
