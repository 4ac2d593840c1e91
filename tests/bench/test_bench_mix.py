"""The law of the benchmark's requests."""

import itertools
from collections import Counter
from statistics import mean

import pytest

from bench.mix import Asked, Law, identical, mixed, requests
from sdserver.bundle.tokenizer import tokenize
from sdserver.sampling.registry import SAMPLERS

LAWS = {
    "identical": identical(20, 64, 64),
    "mixed": mixed(20, 64, 64),
    "sizes": mixed(20, 64, 64, sizes=True),
}


def some(law: Law, count: int, seed: int = 1) -> list[Asked]:
    return list(itertools.islice(requests(law, seed), count))


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_drawn_from_the_seed(law: Law) -> None:
    assert some(law, 50) == some(law, 50)
    seeds = [asked.seed for stream in (1, 2, 3) for asked in some(law, 50, stream)]
    assert len(set(seeds)) == 150


def test_identical_but_for_the_seed() -> None:
    bodies = [asked.body() for asked in some(LAWS["identical"], 20)]
    for body in bodies:
        del body["seed"]
    assert all(body == bodies[0] for body in bodies)


def test_every_combination_comes_once_in_a_deck() -> None:
    drawn = some(LAWS["mixed"], 36)
    for start in (0, 12, 24):
        deck = drawn[start : start + 12]
        assert set(Counter((asked.steps, asked.sampler_name) for asked in deck).values()) == {1}
        assert mean(asked.steps for asked in deck) == 20


def test_mixed_in_everything() -> None:
    drawn = some(LAWS["sizes"], 200)
    assert {(asked.width, asked.height) for asked in drawn} == {(64, 64), (96, 64), (64, 96)}
    assert {asked.steps for asked in drawn} == {12, 20, 28}
    assert len({asked.cfg_scale for asked in drawn}) == 3
    assert len({asked.negative_prompt for asked in drawn}) == 3
    assert len({asked.prompt for asked in drawn}) > 150
    tokens = [len(ids) for ids in tokenize([asked.prompt for asked in drawn], "clip")]
    assert min(tokens) < 20
    assert sum(count > 75 for count in tokens) > 40


def test_samplers_are_known() -> None:
    assert {asked.sampler_name for asked in some(LAWS["mixed"], 12)} <= {sampler.name for sampler in SAMPLERS}


def test_work_is_counted_in_rows() -> None:
    asked = some(identical(20, 512, 512), 1)[0]
    assert asked.work == 40
    assert some(identical(20, 512, 1024), 1)[0].work == 80
    assert some(identical(1, 512, 512, cfg_scale=1.0), 1)[0].work == 1
