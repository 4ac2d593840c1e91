"""What operators are told of refusals, and of the certificate's end."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.ops.test_ops_metrics import Bench

EXPIRY = "sdserver_tls_certificate_expiry_timestamp_seconds"


def test_refusals_are_requests_without_a_duration() -> None:
    bench = Bench()
    for code in (403, 403, 431):
        bench.metrics.refused(code)
    found = bench.samples()
    assert found["sdserver_requests_total code=403 route=refused"] == 2
    assert found["sdserver_requests_total code=431 route=refused"] == 1
    assert not any("duration" in name and "refused" in name for name in found)


def test_the_certificates_end_is_told_where_there_is_one() -> None:
    bench = Bench()
    assert EXPIRY not in bench.samples()
    assert bench.node.facts().certificate_ends is None
    ends = (datetime.now(UTC) + timedelta(days=60)).timestamp()
    bench.node.watch_certificate(lambda: ends)
    assert bench.samples()[EXPIRY] == pytest.approx(ends)
    ends += 1
    assert bench.samples()[EXPIRY] == pytest.approx(ends)
