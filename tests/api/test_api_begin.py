"""Where answers are written: small ones on the event loop, large ones beside it."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from sdserver.api.answer.answer import Answer, Encoded
from sdserver.api.begin import SMALL_BYTES, body_of


class Written(Answer):
    """Notes the thread that it is written on."""

    def body(self) -> bytes:
        return threading.current_thread().name.encode()


@pytest.mark.parametrize(("size", "place"), [(SMALL_BYTES - 1, "MainThread"), (SMALL_BYTES, "worker_0")])
def test_large_answers_are_written_beside_the_event_loop(size: int, place: str) -> None:
    async def written() -> bytes:
        with ThreadPoolExecutor(1, thread_name_prefix="worker") as pool:

            async def in_thread(work: Callable[[], Any]) -> Any:
                return await asyncio.get_running_loop().run_in_executor(pool, work)

            services: Any = SimpleNamespace(in_thread=in_thread)
            return await body_of(services, Written((Encoded(bytes(size), "png"),), {}, {}))

    assert asyncio.run(written()).decode() == place
