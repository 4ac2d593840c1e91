"""What the balancers are compared with: the requests, and what is counted of them."""

import asyncio
import statistics
import time

import httpx2
import pytest

from bench.balancing import LONG, MEAN, NODES, SHORT, p95, requests_of, stand_ins, waits


def test_requests_are_the_same_each_time_and_make_the_load_that_is_named() -> None:
    asked = requests_of(2, 5000, 0.7, 0.1)
    assert asked == requests_of(2, 5000, 0.7, 0.1)
    assert asked[0] != asked[1]
    for one in asked:
        moments, seconds = zip(*one, strict=True)
        assert list(moments) == sorted(moments)
        assert set(seconds) == {0.1 * SHORT, 0.1 * LONG}
        assert statistics.fmean(seconds) == pytest.approx(0.1 * MEAN, rel=0.05)
        assert sum(seconds) / moments[-1] / NODES == pytest.approx(0.7, rel=0.05)


def test_one_of_twenty_exceeds_p95() -> None:
    assert p95(range(1, 100)) == 95


def test_a_stand_in_works_on_one_request_at_a_time() -> None:
    async def scenario() -> list[float]:
        async with stand_ins() as nodes:
            began = time.monotonic()
            found = await waits(nodes[0].port, [(0.0, 0.2), (0.0, 0.2)])
            assert time.monotonic() - began >= 0.4
            async with httpx2.AsyncClient(trust_env=False) as http:
                ready = await http.get(f"http://127.0.0.1:{nodes[1].maintenance_port}/ready")
            assert ready.status_code == 200
        return found

    first, second = sorted(asyncio.run(scenario()))
    assert second - first > 0.15
