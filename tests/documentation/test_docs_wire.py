"""docs/api.md tells of each parameter, field, event, header and limit of the routes, and of no others."""

import ast
import json
import re
from typing import Any, get_args

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from sdserver.api import addresses, board, outbound
from sdserver.api.auth import attempts
from sdserver.api.entry import EntryState
from sdserver.api.extras import request as extras
from sdserver.api.jobs import asked, events, view, webhook
from sdserver.api.openai import fields, form, requests
from sdserver.api.routes import jobs
from sdserver.api.scripts import drive, loopback, prompt_matrix, prompts_from_file, xyz_axes
from sdserver.engine.messages import StopMode
from sdserver.engine.previews import SHARE
from sdserver.images import naming
from sdserver.images.codec import FORMATS
from tests.documentation.conftest import ROOT, codes, read, rows, section
from tests.documentation.test_docs_routes import ROUTE

API = ROOT / "sdserver" / "api"
PORT = "## Port 8000"
OPENAI = "## OpenAI's routes"
MANY = 12
"""Fields of an answer from which they are told in a table of their own."""

SINGLE_WORDS = {"Accept", "Authorization", "Connection", "Location"}
"""Headers whose names the search below cannot tell from other words."""

SET_BY_STARLETTE = {"Set-Cookie"}
OF_REQUESTS = {
    *("Accept", "Accept-Encoding", "Authorization", "Idempotency-Key"),
    *("X-Admin-Key", "X-Request-Id", "X-Request-Timeout"),
}


def text_of(heading: str) -> str:
    """What stands below a heading, on one line."""
    return " ".join(section(read("api.md"), heading).split())


def directly_below(heading: str) -> str:
    """What stands below a heading and above the next one of any level."""
    return section(read("api.md"), heading).partition("\n### ")[0]


def first_codes(heading: str) -> dict[str, list[str]]:
    """The rows of the tables right below a heading by what stands in their first cell."""
    return {codes(row[0])[0]: row for row in rows(directly_below(heading)) if codes(row[0])}


def route_rows() -> dict[str, list[str]]:
    """Each route's row."""
    return {
        f"{method} {path}": row
        for row in rows(section(read("api.md"), PORT))
        for method, path in ROUTE.findall(row[0])
    }


def operations(api: FastAPI) -> dict[str, dict[str, Any]]:
    """Each documented route's OpenAPI, by the name that docs/api.md has for it."""
    names = {route.replace(":path}", "}"): route for route in route_rows()}
    paths = api.openapi()["paths"].items()
    return {names[f"{method.upper()} {path}"]: one for path, item in paths for method, one in item.items()}


def test_each_route_has_its_own_row() -> None:
    listed = [
        f"{method} {path}"
        for row in rows(section(read("api.md"), PORT))
        for method, path in ROUTE.findall(row[0])
    ]
    assert len(listed) == len(set(listed))
    assert all(len(row) == 3 and row[1] and row[2] for row in rows(section(read("api.md"), PORT)))


def test_each_query_parameter_is_told(api: FastAPI) -> None:
    told = route_rows()
    for route, operation in operations(api).items():
        names = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
        cell = told[route][1]
        if route.startswith(("GET", "DELETE")) and "POST" not in told[route][0]:
            assert names <= set(codes(cell)), route
            shared = " (the first)" in cell  # two routes in a row, of which one has it
            assert shared or cell == "nothing" or names, route


def properties(api: FastAPI, operation: dict[str, Any]) -> set[str]:
    """The fields of an answer, or of the items of the list that it is."""
    responses = operation["responses"]
    answer = responses.get("200") or responses["202"]
    schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
    reference = schema.get("$ref") or schema.get("items", {}).get("$ref")
    if reference is None:
        return set()
    found = api.openapi()["components"]["schemas"][reference.rpartition("/")[2]]
    return set(found.get("properties", ()))


def test_each_field_of_an_answer_is_told(api: FastAPI) -> None:
    told = route_rows()
    checked = 0
    for route, operation in operations(api).items():
        names, cell = properties(api, operation), told[route][2]
        if (
            0 < len(names) <= MANY
            and "501" not in cell
            and cell != "`[]`"
            and not cell.startswith("the same")
        ):
            words = set(re.findall(r"\w+", cell + " ".join(row[2] for row in _like(told, cell))))
            assert names <= words, route
            checked += 1
    assert checked > 20


def _like(told: dict[str, list[str]], cell: str) -> list[list[str]]:
    """The row that this one refers to."""
    if cell.startswith("one of them"):
        return [told["GET /v1/models"]]
    return [told["POST /v1/models/downloads"]] if cell.startswith("the download as") else []


@pytest.mark.parametrize(
    ("heading", "models"),
    [
        ("## Jobs", (asked.JobRequest, view.JobWithResult)),
        (OPENAI, (fields.ImageGeneration, fields.ImageEdit, fields.ImageVariation)),
        ("## Extras", (extras.ExtrasSingleImageRequest, extras.ExtrasBatchImagesRequest)),
    ],
)
def test_each_field_and_its_default(heading: str, models: tuple[type[BaseModel], ...]) -> None:
    table = [row for row in rows(directly_below(heading)) if codes(row[0])]
    known = {name: model for model in reversed(models) for name in model.model_fields}
    assert {codes(row[0])[0] for row in table} == set(known)
    for row in table:
        field = known[codes(row[0])[0]].model_fields[codes(row[0])[0]]
        if len(row) == 3:
            is_told_none = row[1] in ("required", "none")
            assert is_told_none == field.is_required(), row[0]
            assert is_told_none or json.loads(codes(row[1])[0]) == field.default, row[0]


def test_words_that_fields_may_be() -> None:
    job, openai = first_codes("## Jobs"), first_codes(OPENAI)
    assert set(codes(job["state"][1])) == set(get_args(EntryState))
    assert set(codes(job["stopped"][1])) == set(get_args(StopMode))
    wanted = next(row for row in rows(directly_below("## Jobs")) if row[0] == "`kind`")
    assert tuple(codes(wanted[2])) == asked.KINDS
    assert set(codes(job["error"][1])) >= {"status"}
    assert set(codes(openai["output_format"][2])) == {*fields.FORMATS, "samples_format"}
    told = openai["quality"][2]
    for name, steps in fields.STEPS.items():
        assert f"`{name}`" in told
        assert re.search(rf"`{name}`[^0-9]* {steps}\b", told), name
    assert {name.removesuffix("...") for name in codes(openai["model"][2])} == set(fields.OWN_NAMES)
    assert set(codes(text_of(OPENAI))) >= requests.KEPT


def test_each_event_and_its_data() -> None:
    tree = ast.parse((API / "jobs" / "events.py").read_text(encoding="utf-8"))
    sent = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "_event"
        and isinstance(node.args[0], ast.Constant)
    }
    told = first_codes("### Events")
    assert set(told) == sent
    assert set(codes(told["progress"][2])) == {"id", "eta_seconds", *events.SHOWN}


def names_of_headers() -> set[str]:
    """What looks like a header's name in the code that answers; what is sent elsewhere is not meant."""
    files = [*API.rglob("*.py"), ROOT / "sdserver" / "web" / "site.py"]
    return {
        node.value
        for file in files
        if file.name != "outbound.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"[A-Z][A-Za-z]*(-[A-Z][A-Za-z]*)+", node.value)
    }


def headers_in(table: str) -> list[str]:
    return [name for row in rows(table) for name in codes(row[0])]


def header_tables() -> tuple[list[str], list[str]]:
    """Headers of requests, and those of answers, in their order."""
    requests_, bar, answers = section(read("api.md"), "## Headers").partition("| header of answers |")
    return headers_in(requests_), headers_in(bar + answers)


def test_each_header_is_told() -> None:
    of_requests, of_answers = header_tables()
    assert set(of_requests) == OF_REQUESTS
    told = {*of_requests, *of_answers}
    assert told == names_of_headers() | SINGLE_WORDS | SET_BY_STARLETTE


def test_headers_that_pages_may_read() -> None:
    server = ast.parse((API / "server.py").read_text(encoding="utf-8"))
    (exposed,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(server)
        if isinstance(node, ast.keyword) and node.arg == "expose_headers"
    )
    said = re.search(r"may read the first (\w+), `Location` and `Retry-After`", text_of("## Headers"))
    assert said is not None
    count = ("six", "seven", "eight", "nine").index(said[1]) + 6
    assert set(exposed) == {*header_tables()[1][:count], "Location", "Retry-After"}


def test_tokens_of_file_names() -> None:
    text = text_of("## Outputs")
    assert set(re.findall(r"`\[(\w+)\]`", text)) == set(vars(naming)["_TOKENS"])
    formats = re.search(r"`samples_format` \(([^)]*)\)", text)
    assert formats is not None
    assert tuple(codes(formats[1])) == FORMATS


FIGURES = [
    (PORT, f"429 after {attempts.ALLOWED} wrong ones in a minute"),
    (PORT, "`limit` (100)"),
    ("## Extras", f"at most {extras.MAX_FILES:,}"),
    ("## Scripts", f"at most {drive.MAX_IMAGES:,} of them"),
    ("### X/Y/Z plot", f"up to {xyz_axes.MAX_WORDS} words"),
    ("### Prompt matrix", f"at most {prompt_matrix.MAX_PARTS + 1}"),
    ("### Prompts from file or textbox", f"up to {prompts_from_file.MAX_LINES:,} lines"),
    ("### Loopback", f"1 to {loopback.MOST_LOOPS:,}"),
    ("## Jobs", f"remembered for {board.MAX_REMEMBERED:,} jobs"),
    ("## Jobs", f"up to {board.MAX_ID} printable ASCII"),
    ("## Jobs", f"(up to {board.MAX_KEY} characters, "),
    ("## Jobs", f"where that shows within {jobs.ACCEPT_SECONDS:g} seconds"),
    ("### Events", f"After {events.Pace().heartbeat:g} quiet seconds"),
    ("### Webhooks", "after {:g}, {:g} and {:g} seconds".format(*webhook.WAITS)),
    (OPENAI, f"up to {form.MAX_IMAGES} times"),
    (OPENAI, f"SDXL {requests.LARGE_SIDE}, others {requests.SIDE}"),
    (OPENAI, f"{requests.VARIATION_STRENGTH} for variations"),
    ("## Previews", f"at most {SHARE * 100:g} %"),
    ("## Pictures by address", f"at most {addresses.MAX_ADDRESSES} in a request"),
    ("## Pictures by address", f"{outbound.TIMEOUT:g} seconds each"),
    ("## Pictures by address", f"{outbound.MAX_REDIRECTS} redirects"),
]


@pytest.mark.parametrize(("heading", "sentence"), FIGURES)
def test_figures_are_the_codes(heading: str, sentence: str) -> None:
    assert sentence in text_of(heading)
