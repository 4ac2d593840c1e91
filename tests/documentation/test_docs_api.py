"""The fields, samplers, schedules, options and errors that docs/api.md tells of are those there are."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdserver import errors
from sdserver.api.errors import status_of
from sdserver.api.option_effects import ABOUT
from sdserver.api.option_rules import RESTRICTED, defaults
from sdserver.api.requests import Img2ImgRequest, Txt2ImgRequest
from sdserver.api.unsupported import check_request
from sdserver.errors import InvalidField, MissingModel, SdServerError
from sdserver.sampling.registry import SAMPLERS, SCHEDULES
from tests.documentation.conftest import ROOT, codes, read, rows, section

SOURCES = ROOT / "sdserver" / "api"
Kind = type[Txt2ImgRequest] | type[Img2ImgRequest]
ASKED: dict[str, dict[str, object]] = {
    "firstpass_image": {"firstpass_image": "x", "enable_hr": True},
    "latent_mask": {"latent_mask": "x", "mask": "x"},
}
"""What asks for a refused field, where true does not."""

INFOTEXT_OPTIONS = {
    "auto_backcompat",
    "disable_weights_auto_swap",
    "infotext_skip_pasting",
    "infotext_styles",
}
"""Options that say how the field `infotext` is read; it names others without asking for them."""

NAMES_OF_OTHER_THINGS: set[str] = set()
"""Options whose names the code also uses for something else."""

KEPT_IN_STEP = {"sd_checkpoint_hash"}

DESCRIBE_OPTIONS = {
    "infotext_field.py", "option_effects.py", "option_facts.py", "option_rules.py", "option_sections.py",
}  # fmt: skip
"""Modules that name options without asking for them."""


def rows_below(heading: str) -> Iterator[list[str]]:
    """The cells of the tables below a heading."""
    return rows(section(read("api.md"), heading))


def fields(heading: str) -> dict[str, tuple[str, str]]:
    """Default and effect of the fields below a heading."""
    return {codes(name)[0]: (codes(default)[0], effect) for name, default, effect, _ in rows_below(heading)}


TXT2IMG, IMG2IMG = fields("## txt2img"), fields("## img2img")
FIELDS = [(Txt2ImgRequest, name, *row) for name, row in TXT2IMG.items()]
FIELDS += [(Img2ImgRequest, name, *row) for name, row in IMG2IMG.items()]


def test_fields_are_those_of_the_request_in_order() -> None:
    assert list(TXT2IMG) == list(Txt2ImgRequest.model_fields)
    both = [name for name in Img2ImgRequest.model_fields if name in TXT2IMG and name not in IMG2IMG]
    hires = list(TXT2IMG)[list(TXT2IMG).index("enable_hr") : list(TXT2IMG).index("hr_negative_prompt") + 1]
    assert both == [name for name in TXT2IMG if name not in {*hires, *IMG2IMG}]
    assert list(IMG2IMG) == [name for name in Img2ImgRequest.model_fields if name not in both]


@pytest.mark.parametrize(("kind", "name", "default", "effect"), FIELDS)
def test_defaults_are_the_requests(kind: Kind, name: str, default: str, effect: str) -> None:
    assert json.loads(default) == kind.model_fields[name].default
    assert effect in {"acts", "refused", "nothing"}


@pytest.mark.parametrize(("kind", "name", "default", "effect"), FIELDS)
def test_refused_fields_are_those_that_are(kind: Kind, name: str, default: str, effect: str) -> None:
    is_switch = "bool" in str(kind.model_fields[name].annotation)
    request = kind.model_validate(ASKED.get(name, {name: True if is_switch else json.loads(default)}))
    if effect == "refused":
        with pytest.raises((InvalidField, MissingModel)) as caught:
            check_request(request)
        assert getattr(caught.value, "field", name) == name
        assert name in str(caught.value)
    else:
        check_request(request)


@pytest.mark.parametrize(("kind", "name", "default", "effect"), FIELDS)
def test_fields_said_to_act_are_read_and_no_others(kind: Kind, name: str, default: str, effect: str) -> None:
    """`info` repeats some that do nothing else."""
    del kind, default
    read_by = {
        file.parent.name
        for file in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr == name
        and isinstance(node.value, ast.Name | ast.Attribute)
        and getattr(node.value, "id", getattr(node.value, "attr", "")) in {"request", "body"}
    }
    if effect == "nothing":
        assert read_by <= {"answer"}
    else:
        assert read_by


def test_samplers() -> None:
    tables = list(rows_below("## Samplers and schedules"))
    told = {codes(row[0])[0]: codes(row[1]) for row in tables[: len(SAMPLERS)]}
    assert told == {sampler.name: list(sampler.aliases) for sampler in SAMPLERS}
    labels = {schedule.name: schedule.label for schedule in SCHEDULES}
    for sampler, row in zip(SAMPLERS, tables, strict=False):
        own = "schedules have no effect" if sampler.kind == "timestep" else "the model's own"
        assert row[2] == labels.get(sampler.default_schedule or "", own)


def test_schedules() -> None:
    tables = list(rows_below("## Samplers and schedules"))
    told = {codes(row[0])[0]: codes(row[1]) for row in tables[len(SAMPLERS) :]}
    assert told == {schedule.label: [schedule.name, *schedule.aliases] for schedule in SCHEDULES}


def acting_options() -> set[str]:
    """Options that the API's code asks for; nothing else knows of options."""
    known = defaults().keys() - NAMES_OF_OTHER_THINGS - KEPT_IN_STEP - RESTRICTED
    folders = {f"outdir_{tab}_{kind}" for tab in ("txt2img", "img2img") for kind in ("samples", "grids")}
    reader = (SOURCES / "infotext_field.py").read_text(encoding="utf-8")
    assert all(f'"{option}"' in reader for option in INFOTEXT_OPTIONS)
    files = [file for file in SOURCES.rglob("*.py") if file.name not in DESCRIBE_OPTIONS]
    texts = {
        node.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return folders | INFOTEXT_OPTIONS | (texts & known)


def test_options_that_act_are_those_documented() -> None:
    acting, _, rest = section(read("api.md"), "## Options").partition("Read-only over the API")
    assert set(codes(acting)) & defaults().keys() == acting_options()
    assert set(codes(rest)) & defaults().keys() == RESTRICTED | KEPT_IN_STEP


def test_the_table_of_options_that_act_is_what_the_code_asks_for() -> None:
    assert set(ABOUT) == acting_options()
    assert list(ABOUT) == [option for option in defaults() if option in ABOUT]
    assert all(about[0].isupper() and about.endswith(".") for about in ABOUT.values())


def error_classes() -> dict[str, type[SdServerError]]:
    return {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, SdServerError)
    }


def test_errors_and_their_statuses() -> None:
    told = {
        codes(row[0])[0]: int(row[1]) for row in rows_below("## Errors") if len(row) == 3 and row[1].isdigit()
    }
    over_http = {
        name: status_of(kind("x", "x") if kind is InvalidField else kind("x"))
        for name, kind in error_classes().items()
    }
    for name in ("SettingsError", "DownloadError", "UploadError"):
        del over_http[name]
        assert f"`{name}`" in section(read("api.md"), "## Errors")
    assert told == over_http


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=lambda path: path.name)
def test_request_is_what_the_code_calls_a_request(path: Path) -> None:
    """The tests above look for `request.field`; nobody may read fields by another name."""
    text = path.read_text(encoding="utf-8")
    if "Request" in text:
        names = set(re.findall(r"(\w+): (?:Txt2Img|Img2Img)?Request\b", text)) - {"_request"}
        assert names <= {"request", "body"}
