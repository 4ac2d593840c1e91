"""What an engine process sends reaches the front's loop, whatever becomes of single messages."""

import asyncio
from typing import Any

from sdserver.engine.config import EngineConfig
from sdserver.engine.messages import FromEngine
from sdserver.engine.supervisor import Supervisor
from sdserver.jobs.events import Cancelled

CONFIG = EngineConfig("cpu", "fp32", "sdpa", 1, 4, 4, False, False, 1, "warning")


def test_a_message_that_is_not_taken_in_leaves_those_behind_it_alone() -> None:
    taken: list[FromEngine] = []
    told: list[dict[str, Any]] = []

    def take(message: FromEngine) -> None:
        if message == Cancelled("bad"):
            raise ValueError("no")
        taken.append(message)

    async def tell() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))
        supervisor = Supervisor(CONFIG, take, lambda _: None)
        supervisor._tell(loop, [Cancelled("a"), Cancelled("bad"), Cancelled("b")])

    asyncio.run(tell())
    assert taken == [Cancelled("a"), Cancelled("b")]
    assert [str(context["exception"]) for context in told] == ["no"]
