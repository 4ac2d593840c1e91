"""What operators do to requests over the maintenance port."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
from patience import PATIENCE

from sdserver.api.door import Door
from sdserver.app.administration import Administrator
from sdserver.app.draining import Draining
from sdserver.engine.client import EngineClient
from sdserver.engine.messages import StopMode
from sdserver.jobs.events import Cancelled
from sdserver.settings.model import Settings
from tests.api.by_hand import HandEngine
from tests.api.conftest import Server

BODY = {"steps": 4, "width": 64, "height": 64}


class Unstepped(HandEngine):
    """Has done no step when it is told to stop."""

    def _stop(self, job_ids: Sequence[str], mode: StopMode) -> None:
        self.stops.append((tuple(job_ids), mode))
        (ticket,) = self.active()
        for job_id in job_ids:
            ticket.observe(Cancelled(job_id))


class Site:
    """A server, and an operator who interrupts."""

    def __init__(self, folder: Path) -> None:
        self.engine, door = Unstepped(), Door()
        self.server = Server(folder, engine=self.engine, door=door)
        client = cast(EngineClient, self.engine)
        self._administrator = Administrator(Settings(), client, lambda: None, lambda: False)
        self._administrator.serves(cast(Draining, None), door)

    def interrupt(self) -> bool:
        found: list[bool] = []
        self.engine.on_loop(lambda: found.append(self._administrator.interrupt()))
        return found[0]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.server.close()


def test_a_request_that_is_interrupted_before_its_first_step_is_answered(site: Site) -> None:
    """As where its client interrupts it; that it was dropped, for the server ends, would be wrong."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(site.server.post, "txt2img", BODY)
        site.engine.wait_for(1)
        assert not site.interrupt(), "it waits"
        site.engine.begin(0)
        assert site.interrupt()
        answer = asked.result(PATIENCE)
    assert (answer.status_code, answer.json().get("images")) == (200, []), answer.text
    assert site.server.get("progress").json()["state"]["interrupted"] is True
    assert [mode for _, mode in site.engine.stops] == ["interrupt"]
    assert not site.interrupt(), "nothing runs"
