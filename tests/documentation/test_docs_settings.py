"""docs/settings.md is what the tables of settings say, and no document names a setting that is none."""

import re
from pathlib import Path

import pytest
from document_settings import OTHER_VARIABLES, TARGET, document, unread

from sdserver.settings.a1111_flags import FLAGS
from sdserver.settings.environment import STARTER_VARIABLES
from sdserver.settings.model import options
from tests.documentation.conftest import DOCUMENTS

OPTIONS = {option.name for option in options()}
FLAG = re.compile(r"(?<![\w-])--([a-zA-Z][\w-]*)")
VARIABLE = re.compile(r"SDSERVER_[A-Z0-9_]*")
OF_SURVEY = {"goldens", "group", "case", "quiet", "mix", "save", "jobs"}  # tests.conformance.survey
OF_BENCH = {"method", "cpu-time", "size", "rounds", "side", "quick", "scenario"}
OF_BENCH |= {"requests", "slow", "saturate", "seconds"}  # bench.crowd
OF_SCRIPTS = {"steps", "sd_model"}  # settings in a line of "Prompts from file or textbox"
OF_OTHER_PROGRAMS = {"help", "version", "build-arg"} | OF_BENCH | OF_SURVEY | OF_SCRIPTS
OF_TESTS = {
    "SDSERVER_",
    "SDSERVER_NAME",
    "SDSERVER_GOLDENS",
    "SDSERVER_LOAD_EVERY",
    "SDSERVER_FUZZ_EXAMPLES",
    "SDSERVER_SOAK_INPUTS",
    "SDSERVER_WATCH_NAMES",
}


def test_the_document_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == document(), (
        "run: PYTHONPATH=. .venv/bin/python tools/document_settings.py"
    )


def test_every_setting_has_a_row() -> None:
    text = TARGET.read_text(encoding="utf-8")
    for name in OPTIONS:
        assert re.search(rf"^\| `--{name.replace('_', '-')}[ `].*\| `SDSERVER_{name.upper()}` \|", text, re.M)


def test_every_flag_of_automatic1111_is_there() -> None:
    text = TARGET.read_text(encoding="utf-8")
    for flag in FLAGS.values():
        assert re.search(rf"`--?{flag.name}[ `]", text), flag.name


def test_settings_that_nothing_reads_are_found() -> None:
    assert unread() <= OPTIONS
    assert not {"port", "max_queue", "api_auth_file", "listen", "config", "deterministic"} & unread()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_flags_and_variables_named_are_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    flags = {name.replace("-", "_") for name in FLAG.findall(text)}
    assert flags <= OPTIONS | FLAGS.keys() | {name.replace("-", "_") for name in OF_OTHER_PROGRAMS}
    variables = {f"SDSERVER_{name.upper()}" for name in OPTIONS} | STARTER_VARIABLES | OTHER_VARIABLES.keys()
    # Variables that Kubernetes sets, and the pattern `SDSERVER_*`.
    named = {name for name in VARIABLE.findall(text) if not name.startswith("SDSERVER_SERVICE_")}
    assert named <= variables | OF_TESTS
