"""Seeds, batches and load: what a picture depends on, and what not."""

import time
from functools import partial
from typing import Any

import pytest
from node import Node, together

from tests.conformance.conftest import Tell, difference

FEW = 0.001  # the share of values that may differ by more than two grey levels

MIXED: list[dict[str, Any]] = [
    {"sampler_name": name, "steps": steps, "prompt": prompt, "seed": 100 + index, "cfg_scale": scale}
    for index, (name, steps, prompt, scale) in enumerate(
        (
            ("Euler", 10, "a cat", 7),
            ("Euler a", 8, "a dog on a hill", 5),
            ("DPM++ 2M", 9, "(a red circle:1.3)", 7),
            ("DPM++ 2M SDE", 9, "a [cat:dog:0.5]", 6),
            ("DPM++ SDE", 4, "a house AND a tree", 7),
            ("Heun", 5, "night", 7.5),
            ("DDIM", 9, "", 7),
            ("LCM", 7, "a boat", 1.5),
            ("Euler", 7, "a blue square", 12),
            ("Euler a", 9, "a bird BREAK a bee", 7),
            ("DPM++ 2M", 10, "mist", 3),
            ("DPM++ 2M SDE", 8, "a lamp", 7),
            ("DPM++ SDE", 3, "a fish", 4),
            ("Heun", 4, "[a|b] letter", 7),
            ("DDIM", 8, "a road", 9),
            ("LCM", 6, "a key", 1),
        )
    )
]


def assert_equal_pictures(one: str, other: str) -> None:
    greatest, share = difference(one, other)
    assert share <= FEW, f"{share:.2%} of the values differ by more than 2, at most by {greatest}"


def test_random_seeds_differ(node: Node) -> None:
    answers = [node.txt2img(seed=-1, steps=2) for _ in range(10)]
    assert len({answer.images[0] for answer in answers}) == 10
    assert len({answer.info["seed"] for answer in answers}) == 10
    nearest = min(
        difference(one.images[0], other.images[0])[1]
        for index, one in enumerate(answers)
        for other in answers[:index]
    )
    assert nearest > 0.1


def test_a_seed_gives_the_same_picture_again(node: Node) -> None:
    one, other = node.txt2img(seed=77), node.txt2img(seed=77)
    assert one.images == other.images
    assert one.info["infotexts"] == other.info["infotexts"]


def test_a_random_seed_is_told_and_gives_the_picture_again(node: Node) -> None:
    one = node.txt2img(seed=-1)
    assert node.txt2img(seed=one.info["seed"]).images == one.images


def test_a_batch_equals_its_pictures_alone(node: Node, tell: Tell) -> None:
    batch = node.txt2img(seed=4_000, batch_size=3)
    assert batch.info["all_seeds"] == [4_000, 4_001, 4_002]
    for seed, image in zip(batch.info["all_seeds"], batch.images, strict=True):
        alone = node.txt2img(seed=seed).images[0]
        tell(f"batch of 3, seed {seed}: greatest difference {difference(image, alone)[0]}")
        assert_equal_pictures(image, alone)


@pytest.fixture(scope="module")
def alone(node: Node) -> list[str]:
    """Each of the mixed requests' pictures, made while nothing else ran."""
    return [node.txt2img(**fields).images[0] for fields in MIXED]


def rows(node: Node, suffix: str, **labels: str) -> float:
    return node.metric(f"sdserver_batch_rows_{suffix}", kind="predict", **labels)


def test_concurrent_requests_share_batches_and_keep_their_pictures(
    node: Node, alone: list[str], tell: Tell
) -> None:
    count, total, small = rows(node, "count"), rows(node, "sum"), rows(node, "bucket", le="2.0")
    began = time.monotonic()
    answers = together([partial(node.txt2img, **fields) for fields in MIXED])
    seconds = time.monotonic() - began
    batches = rows(node, "count") - count
    mean = (rows(node, "sum") - total) / batches
    larger = batches - (rows(node, "bucket", le="2.0") - small)
    apart = [difference(answer.images[0], image)[0] for answer, image in zip(answers, alone, strict=True)]
    tell(f"16 at once: {seconds:.1f} s, {batches:.0f} batches, mean {mean:.1f} rows, {larger:.0f} above 2")
    tell(f"greatest difference to the picture made alone: {apart}")
    assert larger > batches / 3
    assert mean > 4
    for answer, image in zip(answers, alone, strict=True):
        assert_equal_pictures(answer.images[0], image)
