"""An engine process with a toy for a device, which misbehaves once when a prompt says so."""

import ctypes
import logging
import os
import queue
import signal
import threading
import time
from collections import deque
from pathlib import Path

import torch
from toy import ToyDevice

from sdserver.calls import EncodeText
from sdserver.engine import announced, entry, process, stacks
from sdserver.engine.announced import Announced
from sdserver.engine.batcher import Batcher
from sdserver.engine.costs import Costs
from sdserver.engine.engine import Engine
from sdserver.engine.logs import send_logs
from sdserver.engine.messages import MemoryFacts
from sdserver.engine.outbox import Outbox
from sdserver.engine.pipe import Wire
from sdserver.programs.table import program_for

log = logging.getLogger(__name__)


class Rogue(ToyDevice):
    """A prompt `do KIND` has it done before the text is encoded, unless it was done before.

    Args:
        done: folder of what was done.
    """

    def __init__(self, done):
        super().__init__()
        # Nobody looks at these, and a process may live for long.
        self.batches = deque(maxlen=1)
        self.loads = deque(maxlen=1)
        self._done = done

    def answer(self, call):
        if isinstance(call, EncodeText) and call.text.startswith("do "):
            self._misbehave(call.text.removeprefix("do "))
        return super().answer(call)

    def _misbehave(self, kind):
        file = self._done / kind
        if file.exists() and not kind.startswith("always"):
            return
        file.touch()
        log.warning("about to %s", kind)
        time.sleep(0.2)
        match kind.removeprefix("always "):
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "sleep":
                time.sleep(10_000)
            case "crash":
                ctypes.string_at(0)
            case "end its thread":
                raise SystemExit(5)
            case "lose the device":
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def run(pipe, config, told):
    """As `engine.entry.run`; `config.approx_dir` is where it is noted what was done."""
    entry.work_or_leave(lambda: _run(pipe, config, told))


def _run(pipe, config, told):
    announced.FIRST_SECONDS = announced.LOAD_SECONDS = 1.0  # the limit itself is on trial
    stacks.write_when_asked(told)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inbox = queue.SimpleQueue()
    wire = Wire(pipe)
    threading.Thread(target=process._receive, args=(wire, inbox), daemon=True).start()
    outbox = Outbox(wire.send)
    send_logs(outbox.emit)
    device = Announced(Rogue(Path(config.approx_dir)), outbox.emit)
    engine = Engine(
        device, program_for, Batcher(lambda _: 64, costs=Costs()), outbox.emit, config.max_running
    )
    try:
        process.serve(engine, inbox, outbox.emit, lambda: MemoryFacts(None, None, None, None))
    finally:
        outbox.close()
