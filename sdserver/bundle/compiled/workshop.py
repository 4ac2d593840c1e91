"""Compiled networks, found in the store or made in the background, one at a time."""

import logging
import multiprocessing
import queue
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from sdserver.bundle.compiled import build
from sdserver.bundle.compiled.blueprint import Blueprint
from sdserver.bundle.compiled.package import Open, Package, open_package
from sdserver.bundle.compiled.store import Store, Untrusted
from sdserver.bundle.device import Placement

log = logging.getLogger(__name__)

COMPILERS: Final = ("g++", "clang++", "c++")
DEVICES: Final = ("cpu", "cuda")
PATIENCE: Final = 3600.0
"""Seconds after which a compiler is taken for stuck."""

Make = Callable[[Blueprint, Path], None]


class CannotCompile(Exception):
    """A network was not compiled; the message says why."""


class Workshop:
    """Where networks are compiled.

    Args:
        store: where they are kept.
        make: compiles a network into a folder.
        opened: loads a compiled network.
    """

    def __init__(self, store: Store, make: Make | None = None, opened: Open = open_package) -> None:
        self._store = store
        self._make = make or make_beside
        self._open = opened
        self._wanted: queue.SimpleQueue[tuple[str, Blueprint]] = queue.SimpleQueue()
        self._asked: set[str] = set()
        self._ready: dict[str, Package] = {}
        self._thread: threading.Thread | None = None

    def ask(self, key: str, blueprint: Blueprint) -> Package | None:
        """The compiled network once it is there. The first to ask has it made; nobody waits."""
        package = self._ready.get(key)
        if package is None and key not in self._asked:
            self._asked.add(key)
            self._wanted.put((key, blueprint))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="compiling")
                self._thread.start()
        return package

    def trying(self, key: str) -> None:
        """Its first use begins."""
        self._store.mark(key)

    def tried(self, key: str) -> None:
        """Its first use is over."""
        self._store.unmark(key)

    def _work(self) -> None:
        self._store.tidy()
        while True:
            key, blueprint = self._wanted.get()
            try:
                self._ready[key] = self._provide(key, blueprint)
            except CannotCompile as error:
                log.warning("The UNet is not compiled and runs as before: %s.", error)
            except Exception:
                log.exception("The UNet is not compiled and runs as before")

    def _provide(self, key: str, blueprint: Blueprint) -> Package:
        """Load or make a network."""
        if self._store.is_marked(key):
            raise CannotCompile(f"the compiled network {key} has ended a process; remove it and {key}.trial")
        path, began = self._store.find(key), time.monotonic()
        if path is None:
            log.info("Compiling the UNet (%s, %s) in the background.", blueprint.device, blueprint.dtype)
            with self._store.making() as folder:
                self._make(blueprint, folder)
                path = self._store.keep(key, folder)
        package = self._open(path)
        log.info("The compiled UNet was ready after %.1f s.", time.monotonic() - began)
        return package


def workshop_in(folder: Path, placement: Placement) -> Workshop | None:
    """A workshop with its store in a folder; None, and a line in the log, where nothing can be compiled."""
    if placement.device.type not in DEVICES:
        log.warning("--compile does nothing on %s: the UNet runs as without it.", placement.device)
        return None
    try:
        index = placement.device.index
        opened = partial(open_package, device_index=-1 if index is None else index)
        return Workshop(Store(folder), opened=opened)
    except (Untrusted, OSError) as error:
        log.warning("--compile does nothing, for its folder cannot be used: %s.", error)
    return None


def make_beside(blueprint: Blueprint, folder: Path) -> None:
    """Compile a network in a process of its own.

    Raises:
        CannotCompile: there is no compiler, it failed, or took too long.
    """
    if not any(shutil.which(name) for name in COMPILERS):
        raise CannotCompile("there is no C++ compiler; install g++ or run without --compile")
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=build.run, args=(blueprint, folder), daemon=True, name="compiler")
    process.start()
    process.join(PATIENCE)
    if process.is_alive():
        process.terminate()
        process.join()
        raise CannotCompile(f"the compiler took longer than {PATIENCE:.0f} s")
    if process.exitcode != 0:
        reason = folder / build.REASON
        told = reason.read_text() if reason.exists() else f"it ended with {process.exitcode}"
        raise CannotCompile(f"the compiler failed ({told})")
