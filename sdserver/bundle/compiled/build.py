"""The process that compiles a network, beside the engine and at the lowest priority."""

import os
import signal
import sys
import threading
import warnings
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Final

import torch
from diffusers.utils import logging

from sdserver.bundle.compiled.blank import blank, examples, ranges
from sdserver.bundle.compiled.blueprint import Blueprint

LEAST_URGENT: Final = 19
REASON: Final = "reason.txt"
PACKAGE: Final = "network.pt2"
_REASON_LENGTH: Final = 500


def build(blueprint: Blueprint, folder: Path) -> None:
    """Compile a network to `PACKAGE` in a folder."""
    import torch._inductor as inductor  # noqa: PLC0415 - only this process needs it

    dtype, device = getattr(torch, blueprint.dtype), torch.device(blueprint.device)
    with torch.no_grad():
        network = blank(blueprint.config, dtype, device)
        inputs = examples(network, dtype, device)
        program = torch.export.export(network, inputs, dynamic_shapes=dict(ranges(inputs)), strict=False)
        inductor.aoti_compile_and_package(
            program,
            package_path=str(folder / PACKAGE),
            inductor_configs={"aot_inductor.package_constants_in_so": False, "compile_threads": 1},
        )


def run(blueprint: Blueprint, folder: Path) -> None:
    """The process' life: `PACKAGE` in the folder at its end, or `REASON` why not."""
    os.setpgrp()  # its compilers, too, end with it
    os.nice(LEAST_URGENT)
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "scratch")
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    if blueprint.threads:
        torch.set_num_threads(blueprint.threads)
    try:
        build(blueprint, folder)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in a compiler is told in a line
        lines = str(error).strip().splitlines() or [""]
        (folder / REASON).write_text(f"{type(error).__name__}: {lines[0]}"[:_REASON_LENGTH])
        sys.exit(1)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)
