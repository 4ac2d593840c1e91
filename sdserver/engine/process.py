"""The engine process: owns the device, speaks messages over a pipe, ends when its front does."""

import os
import queue
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch

from sdserver.bundle.bundle import Bundle
from sdserver.engine.batcher import Batcher, Key, shared_key
from sdserver.engine.config import EngineConfig
from sdserver.engine.engine import Engine
from sdserver.engine.fixed import FixedBatches, exact_key
from sdserver.engine.messages import (
    Beat,
    FromEngine,
    Load,
    LoadFailed,
    MemoryFacts,
    Shutdown,
    Stop,
    Submit,
    ToEngine,
    Unload,
    Unloaded,
    Watch,
)
from sdserver.errors import CheckpointError, SettingsError
from sdserver.programs.table import program_for

BEAT_SECONDS = 1.0
FULL_LATENT_AREA = 64 * 64
TEXT_ROWS = 64
DECODE_ROWS = 2


def row_budget(max_batch_rows: int) -> Callable[[Key], int]:
    """Rows a batch of a key may have: fewer for latents larger than those of 512x512 pixels.

    Pictures are decoded, and described, few at a time, so that they never stall the others' steps for long.
    """

    def budget(key: Key) -> int:
        match key:
            case ("predict", (_, int(height), int(width)), *_):
                return max(2, min(max_batch_rows, max_batch_rows * FULL_LATENT_AREA // (height * width)))
            case ("decode" | "encode" | "caption", *_):
                return DECODE_ROWS
            case _:
                return TEXT_ROWS

    return budget


def run(pipe: Connection, config: EngineConfig) -> None:
    """Build the engine, then serve the pipe until Shutdown."""
    inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, inbox), daemon=True).start()
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
        )
    except SettingsError as error:
        _refuse(str(error), inbox, pipe.send)
        return
    budget = row_budget(config.max_batch_rows)
    device = FixedBatches(bundle, budget) if config.deterministic else bundle
    batcher = Batcher(budget, exact_key if config.deterministic else shared_key)
    engine = Engine(device, program_for, batcher, pipe.send, config.max_running)

    def memory() -> MemoryFacts:
        return MemoryFacts(**bundle.memory_facts()._asdict())

    with torch.inference_mode():
        serve(engine, inbox, pipe.send, memory)


def serve(
    engine: Engine,
    inbox: queue.SimpleQueue[ToEngine],
    emit: Callable[[FromEngine], None],
    memory: Callable[[], MemoryFacts],
) -> None:
    """The loop of a process: take messages, step while there is work, beat about once a second."""
    last_beat = 0.0
    while True:
        message = _next_message(inbox, wait=not engine.busy)
        while message is not None:
            if isinstance(message, Shutdown):
                return
            _dispatch(engine, message)
            message = _next_message(inbox, wait=False)
        if engine.busy:
            engine.step()
        if time.monotonic() - last_beat >= BEAT_SECONDS:
            last_beat = time.monotonic()
            emit(Beat(memory(), engine.running, engine.waiting))


def _refuse(reason: str, inbox: queue.SimpleQueue[ToEngine], emit: Callable[[FromEngine], None]) -> None:
    """Answer every load with the reason why there is no device, until Shutdown."""
    while not isinstance(message := inbox.get(), Shutdown):
        if isinstance(message, Load):
            emit(LoadFailed(message.checkpoint, CheckpointError.__name__, reason))
        elif isinstance(message, Unload):
            emit(Unloaded())


def _receive(pipe: Connection, inbox: queue.SimpleQueue[ToEngine]) -> None:
    """Move messages from the pipe to the inbox; without a front there is nothing to live for."""
    try:
        while True:
            inbox.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)


def _next_message(inbox: queue.SimpleQueue[ToEngine], *, wait: bool) -> ToEngine | None:
    """The next message; None if none is there, or none came within a beat."""
    try:
        return inbox.get(timeout=BEAT_SECONDS) if wait else inbox.get_nowait()
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
        case Watch():
            engine.watch(message)
        case Shutdown():
            return
