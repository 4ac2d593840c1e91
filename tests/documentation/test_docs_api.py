"""The fields, samplers, schedules, options and errors that docs/api.md tells of are those there are."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdserver import errors
from sdserver.api.errors import status_of
from sdserver.api.option_rules import ONLY_SERVED, RESTRICTED, defaults
from sdserver.api.schemas import Txt2ImgRequest
from sdserver.api.unsupported import check_request
from sdserver.errors import InvalidField, SdServerError
from sdserver.sampling.registry import SAMPLERS, SCHEDULES
from tests.documentation.conftest import ROOT, read, section

SOURCES = ROOT / "sdserver" / "api"
ASKED = {
    "refiner_checkpoint": "x", "s_min_uncond": 1, "script_name": "x/y/z plot", "infotext": "Steps: 1",
    "alwayson_scripts": {"controlnet": {"args": [1]}},
}  # fmt: skip
"""What asks for a refused field, where true does not."""

NAMES_OF_OTHER_THINGS = {"face_restoration_model"}
"""Options whose names the code also uses for something else."""

KEPT_IN_STEP = {"sd_checkpoint_hash"}


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of the tables below a heading, without heads and rules."""
    for line in section(read("api.md"), heading).splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`]*)`", text)


FIELDS = {codes(name)[0]: (codes(default)[0], effect) for name, default, effect, _ in rows("## txt2img")}


def test_fields_are_those_of_the_request_in_order() -> None:
    assert list(FIELDS) == list(Txt2ImgRequest.model_fields)


def test_defaults_are_the_requests() -> None:
    told = {name: json.loads(default) for name, (default, _) in FIELDS.items()}
    assert told == Txt2ImgRequest().model_dump()


@pytest.mark.parametrize("name", FIELDS)
def test_refused_fields_are_those_that_are(name: str) -> None:
    effect = FIELDS[name][1]
    assert effect in {"acts", "refused", "nothing"}
    field = Txt2ImgRequest.model_fields[name]
    value = ASKED.get(name, True if "bool" in str(field.annotation) else field.default)
    request = Txt2ImgRequest.model_validate({name: value})
    if effect == "refused":
        with pytest.raises(InvalidField) as caught:
            check_request(request)
        assert caught.value.field == name
    else:
        check_request(request)


@pytest.mark.parametrize("name", FIELDS)
def test_fields_said_to_act_are_read_and_no_others(name: str) -> None:
    """`info` repeats some that do nothing else."""
    read_by = {
        file.name
        for file in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr == name
        and isinstance(node.value, ast.Name | ast.Attribute)
        and getattr(node.value, "id", getattr(node.value, "attr", "")) in {"request", "body"}
    }
    if FIELDS[name][1] == "nothing":
        assert read_by <= {"answer.py"}
    else:
        assert read_by


def test_samplers() -> None:
    tables = list(rows("## Samplers and schedules"))
    told = {codes(row[0])[0]: codes(row[1]) for row in tables[: len(SAMPLERS)]}
    assert told == {sampler.name: list(sampler.aliases) for sampler in SAMPLERS}
    labels = {schedule.name: schedule.label for schedule in SCHEDULES}
    for sampler, row in zip(SAMPLERS, tables, strict=False):
        own = "schedules have no effect" if sampler.kind == "timestep" else "the model's own"
        assert row[2] == labels.get(sampler.default_schedule or "", own)


def test_schedules() -> None:
    tables = list(rows("## Samplers and schedules"))
    told = {codes(row[0])[0]: codes(row[1]) for row in tables[len(SAMPLERS) :]}
    assert told == {schedule.label: [schedule.name, *schedule.aliases] for schedule in SCHEDULES}


def acting_options() -> set[str]:
    """Options that the code which makes jobs, answers and files asks for."""
    known = defaults().keys() - ONLY_SERVED.keys() - NAMES_OF_OTHER_THINGS - KEPT_IN_STEP
    files = (SOURCES / name for name in ("translate.py", "answer.py", "saving.py", "options.py"))
    return {
        node.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in known
    }


def test_options_that_act_are_those_documented() -> None:
    acting, _, rest = section(read("api.md"), "## Options").partition("These would change pictures")
    assert set(codes(acting)) & defaults().keys() == acting_options()
    told = {name for row in rows("## Options") for name in codes(row[0])}
    assert told == set(ONLY_SERVED)
    assert set(codes(rest)) & defaults().keys() == set(ONLY_SERVED) | RESTRICTED | KEPT_IN_STEP


def error_classes() -> dict[str, type[SdServerError]]:
    return {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, SdServerError)
    }


def test_errors_and_their_statuses() -> None:
    told = {codes(row[0])[0]: int(row[1]) for row in rows("## Errors") if len(row) == 3 and row[1].isdigit()}
    over_http = {
        name: status_of(kind("x", "x") if kind is InvalidField else kind("x"))
        for name, kind in error_classes().items()
    }
    for name in ("SettingsError", "DownloadError"):
        del over_http[name]
        assert f"`{name}`" in section(read("api.md"), "## Errors")
    assert told == over_http


@pytest.mark.parametrize("path", sorted(SOURCES.glob("*.py")), ids=lambda path: path.name)
def test_request_is_what_the_code_calls_a_request(path: Path) -> None:
    """The tests above look for `request.field`; nobody may read fields by another name."""
    text = path.read_text(encoding="utf-8")
    if "Txt2ImgRequest" in text:
        names = set(re.findall(r"(\w+): Txt2ImgRequest", text))
        assert names <= {"request", "body"}
