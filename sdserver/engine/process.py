"""The engine process: owns the device, speaks messages over a pipe, ends when its front does."""

import gc
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.memory import hold_freed
from sdserver.bundle.tuner import Tuning
from sdserver.calls import DeviceCall, Key
from sdserver.engine.announced import Announced
from sdserver.engine.batcher import Batcher
from sdserver.engine.budget import FIXED_ROWS, LearntBudget, bounded, row_budget
from sdserver.engine.config import EngineConfig
from sdserver.engine.costs import Costs
from sdserver.engine.engine import Device, Engine
from sdserver.engine.fixed import FixedBatches, exact_key
from sdserver.engine.logs import send_logs
from sdserver.engine.messages import (
    Arrange,
    Beat,
    Collect,
    Collected,
    FromEngine,
    Keep,
    Load,
    LoadFailed,
    MemoryFacts,
    Mended,
    Recall,
    Shutdown,
    Stop,
    Submit,
    ToEngine,
    Unload,
    Unloaded,
    Watch,
)
from sdserver.engine.outbox import Outbox
from sdserver.engine.pipe import Wire
from sdserver.errors import CheckpointError, SettingsError
from sdserver.programs.table import program_for

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
IDLE_BEAT_SECONDS = 10.0
TIMED_EVERY = 8


def run(pipe: Connection, config: EngineConfig) -> None:
    """Build the engine, then serve the pipe until Shutdown."""
    inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
    wire = Wire(pipe)
    threading.Thread(target=_receive, args=(wire, inbox), daemon=True).start()
    outbox = Outbox(wire.send)
    send_logs(outbox.emit)
    try:
        _run(config, inbox, outbox.emit)
    finally:
        outbox.close()


def _run(
    config: EngineConfig, inbox: queue.SimpleQueue[ToEngine], emit: Callable[[FromEngine], None]
) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        bundle = Bundle(
            config.device,
            config.precision,
            config.attention,
            config.cached_checkpoints,
            config.allow_pickle,
            approx_dir=config.approx_dir,
            is_steady=config.deterministic,
        )
        bundle.take_turns(config.offload)
        bundle.tune(tuning(config))
        bundle.check_numbers(config.checks_numbers)
        bundle.tell_mended(lambda what: emit(Mended(what)))
    except SettingsError as error:
        _refuse(str(error), inbox, emit)
        return
    if bundle.name == "cpu":
        hold_freed()
    device, batcher = batching(Announced(bundle, emit), config, bundle.rows_that_fit)
    # On a processor this thread computes: what else the machine does shall not count.
    timer = time.thread_time if device.name == "cpu" else time.monotonic
    engine = Engine(device, program_for, batcher, emit, config.max_running, timer=timer)

    def memory() -> MemoryFacts:
        return MemoryFacts(**bundle.memory_facts()._asdict())

    # What the libraries made stays: each pass of the collector over it would hold up the device for 0.2 s.
    gc.freeze()
    with torch.inference_mode():
        serve(engine, inbox, emit, memory, bundle.collect)


def tuning(config: EngineConfig) -> Tuning:
    """What the engine does for speed. What is measured, or begins in mid-life, would have a seed's picture
    hang on the moment, so deterministic mode does none of it.
    """
    if config.deterministic:
        if config.compiled_dir or config.cuda_graphs:
            log.warning("--deterministic: the UNet runs without --compile and --cuda-graphs.")
        return Tuning()
    return Tuning(
        threads=config.threads == 0,
        attention=config.attention == "auto",
        graphs=config.cuda_graphs,
        compiled=Path(config.compiled_dir) if config.compiled_dir else None,
    )


def batching(
    device: Device, config: EngineConfig, fitting: Callable[[Key], int | None] = lambda _: None
) -> tuple[Device, Batcher[DeviceCall]]:
    """The device that an engine runs batches on, and what forms them: of learnt or, in deterministic mode,
    of fixed size.

    Args:
        device: the real one.
        config: how the engine was started.
        fitting: rows that the device's memory suffices for, None if nobody knows.
    """
    costs = Costs(every=1 if device.name == "cpu" else TIMED_EVERY)
    if config.deterministic:
        fixed = row_budget(min(config.max_batch_rows, FIXED_ROWS))
        return FixedBatches(device, fixed), Batcher(fixed, exact_key, costs)
    most = bounded(row_budget(config.max_batch_rows), fitting)
    return device, Batcher(LearntBudget(most, costs), costs=costs)


def serve(
    engine: Engine,
    inbox: queue.SimpleQueue[ToEngine],
    emit: Callable[[FromEngine], None],
    memory: Callable[[], MemoryFacts],
    collect: Callable[[], None] = lambda: None,
) -> None:
    """The loop of a process: take messages, step while there is work, beat about once a second.

    One second after the work's end it beats once more, for memory to be told; then seldom.

    Args:
        engine: does the work.
        inbox: what the front says.
        emit: told everything.
        memory: how the device's is used.
        collect: gives back what nothing uses.
    """
    last_beat, rests = 0.0, False
    while True:
        patience = IDLE_BEAT_SECONDS if rests else BEAT_SECONDS
        message = _next_message(inbox, 0.0 if engine.busy else patience)
        while message is not None:
            if isinstance(message, Shutdown):
                return
            if isinstance(message, Collect):
                collect()
                emit(Collected(memory()))
            else:
                _dispatch(engine, message)
            message = _next_message(inbox, 0.0)
        if engine.busy:
            engine.step()
            rests = False
        if time.monotonic() - last_beat >= BEAT_SECONDS:
            last_beat, rests = time.monotonic(), not engine.busy
            emit(Beat(memory(), engine.running, engine.waiting))


def _refuse(reason: str, inbox: queue.SimpleQueue[ToEngine], emit: Callable[[FromEngine], None]) -> None:
    """Answer every load with the reason why there is no device, until Shutdown."""
    while not isinstance(message := inbox.get(), Shutdown):
        if isinstance(message, Load):
            emit(LoadFailed(message.checkpoint, CheckpointError.__name__, reason))
        elif isinstance(message, Unload):
            emit(Unloaded())
        elif isinstance(message, Collect):
            emit(Collected(MemoryFacts(None, None, None, None)))


def _receive(wire: Wire, inbox: queue.SimpleQueue[ToEngine]) -> None:
    """Move messages from the wire to the inbox; without a front there is nothing to live for."""
    try:
        while True:
            for message in wire.receive():
                inbox.put(message)
    except (EOFError, OSError):
        os._exit(0)


def _next_message(inbox: queue.SimpleQueue[ToEngine], patience: float) -> ToEngine | None:
    """The next message; None if none comes within so many seconds."""
    try:
        return inbox.get(timeout=patience) if patience else inbox.get_nowait()
    except queue.Empty:
        return None


def _dispatch(engine: Engine, message: ToEngine) -> None:
    match message:
        case Submit(job):
            engine.submit(job)
        case Stop(job_id, mode):
            engine.stop(job_id, mode)
        case Load(checkpoint):
            engine.load(checkpoint)
        case Unload():
            engine.unload()
        case Keep(keeping):
            engine.keep(keeping)
        case Watch():
            engine.watch(message)
        case Arrange(jobs):
            engine.arrange(jobs)
        case Recall(jobs):
            engine.recall(jobs)
        case Shutdown() | Collect():
            return
