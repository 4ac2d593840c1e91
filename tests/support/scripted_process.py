"""An engine process that only a test moves."""

from collections.abc import Callable

from sdserver.engine.config import EngineConfig
from sdserver.engine.messages import FromEngine, ToEngine


class ScriptedProcess:
    """Records what it is sent; the test says what it answers and when it dies."""

    pid = 1

    def __init__(
        self,
        _: EngineConfig,
        on_message: Callable[[FromEngine], None],
        on_exit: Callable[[int | None], None],
    ) -> None:
        self.tell, self.die = on_message, on_exit
        self.starts = 0
        self.sent: list[ToEngine] = []

    def start(self) -> None:
        self.starts += 1
        self.sent = []

    def send(self, message: ToEngine) -> None:
        self.sent.append(message)

    async def stacks(self) -> str:
        return "here"

    async def stop(self) -> None:
        """Nothing is there."""
