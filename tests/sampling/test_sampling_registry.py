import json
import subprocess
import sys

import pytest

from sdserver.errors import UnknownSampler
from sdserver.sampling.registry import SAMPLERS, SCHEDULES, resolve, schedule_named

# Rows of names.json where AUTOMATIC1111 guesses and we do not: (sampler, scheduler) to what we say.
DIFFERENT = {
    ("Euler a", "KARRAS"): ["Euler a", "Karras", "Karras"],
    ("euler a", None): ["Euler a", "Automatic", "Automatic"],
    ("k_euler_a", None): ["Euler a", "Automatic", "Automatic"],
    ("nope", None): None,
    ("Euler SGM Uniform", None): ["Euler", "SGM Uniform", "SGM Uniform"],
    ("Euler Simple Karras", None): None,
    ("Euler Karras Simple", None): None,
    ("DPM++ 2M", "nope"): None,
}


def _resolved(sampler, scheduler):
    try:
        found = resolve(sampler, scheduler)
    except UnknownSampler:
        return None
    return [found.sampler.name, found.schedule, found.effective]


def test_names_mean_what_they_mean_to_automatic1111(goldens):
    rows = json.loads((goldens / "names.json").read_text())
    differences = {}
    for sampler, scheduler, *meaning in rows:
        ours = _resolved(sampler, scheduler)
        if ours != meaning:
            differences[sampler, scheduler] = ours
    assert differences == DIFFERENT
    assert len(rows) == 31


def test_samplers_are_listed_as_automatic1111_lists_them(goldens):
    listed = json.loads((goldens / "tables.json").read_text())["samplers"]
    ours = [{"name": s.name, "aliases": list(s.aliases), "options": s.options} for s in SAMPLERS]
    assert ours == listed
    expected_keys = {row["name"]: list(row["options"]) for row in listed}
    assert all(list(s.options) == expected_keys[s.name] for s in SAMPLERS)


def test_schedules_are_listed_as_automatic1111_lists_them(goldens):
    listed = json.loads((goldens / "tables.json").read_text())["schedulers"]
    ours = [
        {
            "name": schedule.name,
            "label": schedule.label,
            "aliases": list(schedule.aliases) or None,
            "default_rho": schedule.default_rho,
            "need_inner_model": schedule.need_inner_model,
        }
        for schedule in SCHEDULES
    ]
    assert ours == listed


@pytest.mark.parametrize(
    ("sampler", "scheduler", "meaning"),
    [
        ("k_dpmpp_2m_karras", None, ["DPM++ 2M", "Automatic", "Karras"]),
        ("dpm++ 2m sde karras", None, ["DPM++ 2M SDE", "Karras", "Karras"]),
        ("Euler sgm_uniform", None, ["Euler", "SGM Uniform", "SGM Uniform"]),
        ("euler a", "align_your_steps", ["Euler a", "Align Your Steps", "Align Your Steps"]),
        ("Euler", "", ["Euler", "Automatic", "Automatic"]),
    ],
)
def test_lenient_names(sampler, scheduler, meaning):
    assert _resolved(sampler, scheduler) == meaning


def test_unknown_names_are_refused_with_the_nearest_known_one():
    with pytest.raises(UnknownSampler, match=r"^Sampler not found: 'Eulr a'; did you mean 'Euler a'\?$"):
        resolve("Eulr a", None)
    with pytest.raises(UnknownSampler, match=r"^Scheduler not found: 'karas'; did you mean 'Karras'\?$"):
        resolve("Euler", "karas")


def test_a_hostile_name_is_cut_and_quoted():
    with pytest.raises(UnknownSampler) as caught:
        resolve("\n<script>" * 10_000, None)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_every_name_resolves_to_itself():
    for sampler in SAMPLERS:
        for name in (sampler.name, *sampler.aliases, sampler.name.upper()):
            assert resolve(name, None).sampler is sampler
    for schedule in SCHEDULES:
        for name in (schedule.name, schedule.label, *schedule.aliases):
            assert schedule_named(name) is schedule


def test_no_name_is_ambiguous():
    names = [name.casefold() for s in SAMPLERS for name in {s.name.casefold(), *s.aliases}]
    assert len(names) == len(set(names))


def test_the_front_process_can_import_the_registry_without_torch():
    code = (
        "import sys, sdserver.sampling.registry; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
