"""A server of its own process with an engine that makes every picture at once.

`python -m tests.soak.served FOLDER` prints its port, and ends when its standard input does. Then it prints
what it cost, as JSON: CPU seconds in all, those of requests, and the dearest requests.
"""

import asyncio
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

from sdserver.api.closing import Closing
from sdserver.api.config import ApiConfig, Limits
from sdserver.api.options import Options
from sdserver.api.server import create_app
from sdserver.app.limits import ConnectionLimits
from sdserver.app.servers import Guard, Serving, bind
from sdserver.catalog.networks import NetworkFolders, Networks
from sdserver.web.site import documentation_routes, login_routes, page_routes
from tests.api.conftest import FakeCatalog, FakeEngine
from tests.soak.bills import Bills

LIMITS = Limits(max_width=512, max_height=512, max_pixels=512 * 512, max_images=4, max_init_pixels=4_000_000)


DEAREST = 10


class Forgetful(FakeEngine):
    """Keeps nothing of what is over."""

    def submit(self, *arguments: Any, **more: Any) -> Any:
        self._tickets = [ticket for ticket in self._tickets if ticket.state != "done"]
        self.jobs = [job for ticket in self._tickets for job in ticket.jobs]
        return super().submit(*arguments, **more)


async def serve(folder: Path) -> None:
    bills = Bills()
    bills.install(asyncio.get_running_loop())
    closing = Closing()
    closing.begin()  # the stream of all jobs would not end else
    config = ApiConfig(
        data_dir=folder,
        version="v1.10.1",
        limits=LIMITS,
        encoders=1,
        closing=closing,
        max_body_bytes=2_000_000,
        max_unfinished=64,
        job_results_bytes=5_000_000,
    )
    app = create_app(
        config,
        Forgetful(),
        FakeCatalog(),
        Networks(NetworkFolders(), folder / "network-hashes.json"),
        Options(folder / "config.json"),
        lambda _route, _code, _seconds: None,
        [*page_routes(), *documentation_routes(), *login_routes()],
    )
    gc.collect()
    gc.freeze()  # as the front does
    bound = bind("127.0.0.1", 0, "--port")
    serving = Serving(
        bills.around(app),
        bound,
        keep_alive=1,
        guard=Guard(ConnectionLimits(head_seconds=2, window=2, linger=2)),
    )
    await serving.start()
    sys.stdout.write(f"{bound.getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await serving.stop()
    dearest = [(round(bill.seconds, 3), bill.what, repr(bill.body)) for bill in bills.dearest(DEAREST)]
    costs = {"seconds": time.process_time(), "billed": bills.seconds, "dearest": dearest}
    sys.stdout.write(json.dumps(costs))


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
