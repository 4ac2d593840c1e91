"""What the routes share: one object, made by `server.create_app`."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import TypeVar

from sdserver.api.addresses import Addresses
from sdserver.api.board import Board
from sdserver.api.config import ApiConfig
from sdserver.api.engine import Checkpoints, Engine
from sdserver.api.options import CHECKPOINT, CHECKPOINT_HASH, Options
from sdserver.api.progress import Progress
from sdserver.api.room import Room
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.catalog.networks import Networks
from sdserver.images.files import Saver

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that routes work with.

    Attributes:
        addresses: fetches pictures that clients name by address.
        room: how much may wait.
        board: the requests that were accepted.
        progress: a view over it.
        workers: threads for encoding, saving and hashing; nothing of that runs on the event loop.
        switching: held while the chosen checkpoint changes.
        hashing: hashes that are being computed, by file name.
    """

    config: ApiConfig
    engine: Engine
    catalog: Checkpoints
    networks: Networks
    options: Options
    board: Board
    progress: Progress
    saver: Saver
    workers: ThreadPoolExecutor
    addresses: Addresses
    room: Room
    switching: asyncio.Lock = field(default_factory=asyncio.Lock)
    hashing: dict[str, asyncio.Future[Checkpoint]] = field(default_factory=dict)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run blocking work on a worker thread."""
        # What is logged there belongs to the same request.
        context = copy_context()
        return await asyncio.get_running_loop().run_in_executor(self.workers, context.run, work)

    async def hashed(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with its hash, as AUTOMATIC1111 hashes a file when it is first used.

        If it is the chosen one, the option takes on its new title. A file that cannot be read stays
        without a hash.
        """
        if checkpoint.sha256 is not None or checkpoint.is_folder:
            return checkpoint
        known = self.hashing.get(checkpoint.filename)
        if known is None:
            known = asyncio.ensure_future(self.in_thread(lambda: self.catalog.hashed(checkpoint)))
            self.hashing[checkpoint.filename] = known
            known.add_done_callback(lambda _: self.hashing.pop(checkpoint.filename, None))
        try:
            hashed = await asyncio.shield(known)
        except OSError as error:
            log.warning("the checkpoint %s cannot be hashed: %s", checkpoint.filename, error)
            return checkpoint
        if self.options.snapshot()[CHECKPOINT] in checkpoint.aliases:
            self.tell_chosen(hashed)
        return hashed

    async def choose(self, name: str) -> None:
        """Load a checkpoint and make it the chosen one.

        Raises:
            UnknownCheckpoint: there is none of that name.
            CheckpointError: it cannot be used; the chosen one stays.
        """
        async with self.switching:
            checkpoint = self.catalog.find(name)
            loaded = self.engine.model
            if loaded is None or loaded.checkpoint != checkpoint.filename:
                await self.engine.load(checkpoint.filename)
            self.tell_chosen(await self.hashed(checkpoint))

    def tell_chosen(self, checkpoint: Checkpoint) -> None:
        """Let the options name it as the chosen one."""
        self.options.apply({CHECKPOINT: checkpoint.title, CHECKPOINT_HASH: checkpoint.sha256 or ""})
