"""Requests for extras as entries of the board."""

from collections.abc import Sequence

from sdserver.api.extras.answer import ExtrasAnswer
from sdserver.api.extras.request import ExtrasRequest
from sdserver.api.extras.run import run_extras
from sdserver.api.work import Work
from sdserver.jobs.events import Cancelled, Finished
from sdserver.jobs.job import Enlarge, Restore


async def extras_work(work: Work, request: ExtrasRequest) -> ExtrasAnswer:
    """Do the work of an entry; see `run_extras`."""
    request = await work.services.addresses.fetch_extras(request)

    async def run(jobs: Sequence[Enlarge | Restore]) -> Sequence[Finished | Cancelled]:
        if not jobs:
            work.entry.begin()
            return ()
        return await work.results(work.entry.submit(work.services.engine, jobs))

    def is_stopped() -> bool:
        return work.entry.stopped == "interrupt"

    return await run_extras(work.services, request, work.entry.request_id, run, is_stopped)
