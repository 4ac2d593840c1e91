"""Every route, with whatever its OpenAPI document allows and what it does not: no fault, no hang."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from patience import PATIENCE
from schemathesis import GenerationMode

from tests.api.conftest import Server
from tests.api.test_api_clients import picture

NOT_A_FAULT = {501, 503}
"""What is not served, or not now, is said on purpose."""

EXAMPLES = int(os.environ.get("SDSERVER_FUZZ_EXAMPLES", "15"))
"""Of each route; docs/api.md says how more are tried."""

NASTY: list[Any] = [
    *(None, True, "", "0", "nan", "x" * 300, "\0", "\ud83d\ude00", "../../etc/passwd", "http://127.0.0.1/x"),
    *(0, -1, 1, 7.5, 2**31, -(2**63), 2**64, 1e308, -0.0),
    *([], [[]], [None], [0] * 300, {}, {"a": {}}, {"args": [1]}),
]
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("txt2img", {"prompt": "a cat", "steps": 2, "width": 64, "height": 64}),
    ("txt2img", {"steps": 2, "enable_hr": True, "denoising_strength": 0.5, "width": 64, "height": 64}),
    ("txt2img", {"script_name": "x/y/z plot", "script_args": [1, "5,6"], "width": 64, "height": 64}),
    ("img2img", {"init_images": [picture()], "mask": picture(), "steps": 2, "width": 64, "height": 64}),
    ("extra-single-image", {"image": picture(), "upscaler_1": "Lanczos"}),
    ("extra-batch-images", {"imageList": [{"data": picture(), "name": "a"}], "upscaler_1": "Nearest"}),
    ("png-info", {"image": picture()}),
    ("interrogate", {"image": picture(), "model": "clip"}),
    ("options", {"samples_format": "png"}),
]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("data"))
    server.closing()  # the stream of all jobs would not end else
    yield server
    server.close()


@pytest.mark.parametrize(("mode", "least"), [(GenerationMode.POSITIVE, 60), (GenerationMode.NEGATIVE, 15)])
def test_no_request_is_a_fault(
    fuzzed: Server, mode: GenerationMode, least: int, subtests: pytest.Subtests
) -> None:
    schema = schemathesis.openapi.from_url(f"{fuzzed.url}/openapi.json")
    sent = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        with subtests.test(operation.label):
            try:
                _fuzz(operation, mode)
            except Unsatisfiable:  # nothing wrong can be made of what takes nothing
                assert mode is GenerationMode.NEGATIVE
            else:
                sent += 1
    assert sent >= least


@pytest.mark.parametrize(("route", "body"), BODIES, ids=lambda value: value if isinstance(value, str) else "")
def test_no_nearly_good_body_is_a_fault(fuzzed: Server, route: str, body: dict[str, Any]) -> None:
    document = fuzzed.request("GET", "/openapi.json").json()
    reference = document["paths"][f"/sdapi/v1/{route}"]["post"]["requestBody"]["content"]
    schema = reference["application/json"]["schema"]
    properties = document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
    fields = sorted({*properties.get("properties", {}), *body, "unknown"})
    changes = st.dictionaries(st.sampled_from(fields), st.sampled_from(NASTY), min_size=1, max_size=3)

    @settings(max_examples=4 * EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(changes=changes)
    def check(changes: dict[str, Any]) -> None:
        response = fuzzed.post(route, body | changes)
        assert response.status_code < 500 or response.status_code in NOT_A_FAULT, (changes, response.text)

    check()


def _fuzz(operation: Any, mode: GenerationMode) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        response = case.call(timeout=PATIENCE)
        assert response.status_code < 500 or response.status_code in NOT_A_FAULT, response.text

    check()
