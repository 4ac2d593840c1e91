"""Our OpenAPI document beside AUTOMATIC1111's: nothing that clients read from it is missing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from patience import PATIENCE

from tests.api.conftest import Server

THEIRS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "goldens" / "api" / "a1111_openapi.json").read_text(encoding="utf-8")
)
Schema = dict[str, Any]


def operations() -> Iterator[tuple[str, str]]:
    for path, item in THEIRS["paths"].items():
        for method in item:
            yield path, method


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Schema]:
    server = Server(tmp_path_factory.mktemp("data"), api_server_stop=True)
    document: Schema = requests.get(f"http://127.0.0.1:{server.port}/openapi.json", timeout=PATIENCE).json()
    yield document
    server.close()


def resolved(document: Schema, schema: Schema | None) -> Schema:
    """The schema behind references, and behind the `null` that a field may be."""
    while schema and "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema or {}


def body_of(document: Schema, operation: Schema) -> Schema:
    content = operation.get("requestBody", {}).get("content", {})
    return resolved(document, content.get("application/json", {}).get("schema"))


def answer_of(document: Schema, operation: Schema) -> Schema:
    content = operation["responses"]["200"].get("content", {})
    schema = resolved(document, content.get("application/json", {}).get("schema"))
    return resolved(document, schema["items"]) if schema.get("type") == "array" else schema


@pytest.mark.parametrize(("path", "method"), list(operations()))
def test_no_route_field_or_default_is_missing(ours: Schema, path: str, method: str) -> None:
    theirs = THEIRS["paths"][path][method]
    own = ours["paths"].get(path, {}).get(method)
    assert own is not None, "the route is not documented"
    own_body, their_body = body_of(ours, own), body_of(THEIRS, theirs)
    fields = own_body.get("properties", {})
    for name, field in their_body.get("properties", {}).items():
        assert name in fields, f"the field {name} is missing"
        assert fields[name].get("default") == field.get("default"), f"the default of {name} is another one"
    assert set(own_body.get("required", [])) <= set(their_body.get("required", []))
    told = set(answer_of(ours, own).get("properties", {}))
    assert told >= set(answer_of(THEIRS, theirs).get("properties", {})), "the answer lacks fields"
    parameters = {one["name"] for one in own.get("parameters", [])}
    assert parameters >= {one["name"] for one in theirs.get("parameters", [])}
