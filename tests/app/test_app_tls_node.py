"""A real node with TLS, as an operator runs it."""

import shutil
import signal
import time
from pathlib import Path

import pytest
import requests
from certificates import ENDS, Client, Maker
from node import CHECKPOINT, Node, request, running
from patience import PATIENCE, wait_until

LOGIN = {"username": "ann", "password": "secret-enough"}


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    made = Maker(tmp_path)
    made.write()
    return made


def flags(maker: Maker) -> tuple[str, ...]:
    return "--tls-certfile", str(maker.certificate), "--tls-keyfile", str(maker.key)


def test_a_key_of_another_certificate_ends_the_start_before_anything_is_loaded(maker: Maker) -> None:
    certificate = maker.certificate.read_bytes()
    maker.write()
    maker.certificate.write_bytes(certificate)
    node = Node(maker.key.parent, flags(maker))
    assert node.process.wait(PATIENCE) == 2
    assert node.stdout == ""
    (line,) = node.stderr.splitlines()
    assert line.startswith(f"sdserver: The TLS key {maker.key} does not belong to the first certificate in ")


@pytest.mark.slow
def test_a_certificate_is_renewed_in_a_running_node(maker: Maker, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "Stable-diffusion"
    folder.mkdir(parents=True)
    shutil.copy(CHECKPOINT, folder)
    maker.key.chmod(0o644)
    with running(tmp_path, *flags(maker), "--gradio-auth", "ann:secret-enough") as node:
        node.wait_ready()
        assert f"Everybody on this machine may read the TLS key {maker.key};" in node.stdout
        assert f"Ready: https://localhost:{node.port}\n" in node.stdout
        old, engine = Client(maker, node.port), node.engine
        assert old.ask("/internal/ping") == "{}"
        logs_in(node, maker)
        tells_the_end(node, 2049)

        maker.certificate.write_text("cut off")
        node.signal(signal.SIGHUP)
        wait_until(lambda: "The TLS certificate stays as it was: " in node.stderr)
        tells_the_end(node, 2049)

        maker.write(ENDS.replace(year=2048))
        node.signal(signal.SIGHUP)
        wait_until(lambda: "it ends on 2048-12-31 23:59 UTC." in node.stdout)
        tells_the_end(node, 2048)
        new = Client(maker, node.port)
        assert new.serial == maker.serial != old.serial
        for each in (old, new):
            assert each.ask("/internal/ping") == "{}"
            each.close()
        assert node.engine == engine


def logs_in(node: Node, maker: Maker) -> None:
    authority = maker.key.parent / "authority.pem"
    maker.ca.cert_pem.write_to_path(str(authority))
    url = f"https://localhost:{node.port}/login"
    answer = request("POST", url, data=LOGIN, verify=str(authority))
    assert answer.status_code == 200, answer.text
    assert len(answer.cookies) == 2
    assert all(cookie.secure for cookie in answer.cookies)
    with pytest.raises(requests.ConnectionError):
        node.api("GET", "/internal/ping")  # without TLS


def tells_the_end(node: Node, year: int) -> None:
    ends = ENDS.replace(year=year).timestamp()
    assert node.metric("sdserver_tls_certificate_expiry_timestamp_seconds") == ends
    told = node.status()["tls"]
    assert told["certificate_ends"] == f"{year}-12-31T23:59:59Z"
    assert told["certificate_left_s"] == pytest.approx(ends - time.time(), abs=PATIENCE)
