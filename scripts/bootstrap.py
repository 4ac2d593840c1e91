"""Makes the virtual environment beside start.sh, and starts the server in it.

    bootstrap.py serve [FLAG...]      install what is missing, then become `python -m sdserver FLAG...`
    bootstrap.py install [EXTRA...]   install only; EXTRA is a list of pyproject.toml: cuda, codeformer,
                                      upload, dev

Runs on the standard library of Python 3.11 or newer, outside the environment that it makes.

A stamp in `.venv` for each list of packages, written last, holds a hash of what was asked for; while it
matches, nothing is installed. A lock keeps two starts from working on `.venv` at once. The lock's file
says "installing" meanwhile: if a start finds that word, another was killed midway and `.venv` is made anew.
"""

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / ".venv.lock"
CONSTRAINTS = ROOT / "constraints.txt"
CORE = "core"
# Installed without their dependencies: of k-diffusion tests load one file, which needs torch alone, and
# spandrel and its extra are used without torchvision.
ALONE = ("k-diffusion", "spandrel", "spandrel_extra_arches")


class InstallError(Exception):
    """The environment could not be made. The message is one sentence for the operator."""


def main(arguments: list[str]) -> int:
    """Run the command named first; returns the exit status."""
    command, *rest = arguments or [""]
    try:
        if command == "serve":
            install([])
            os.execv(PYTHON, [str(PYTHON), "-P", "-m", "sdserver", *rest])
        if command == "install":
            install(rest)
            return 0
        raise InstallError("Say serve or install.")
    except InstallError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{error.filename or VENV}: {error.strerror}.", file=sys.stderr)
    return 1


def install(extras: list[str]) -> None:
    """Have the core packages and those of `extras` installed.

    With an NVIDIA GPU in sight, a first installation tries the cuda list too; it is not needed to work.
    """
    missing = [name for name in (CORE, *extras) if not is_current(name)]
    if not missing:
        return
    requirements = read_requirements()
    for name in missing:
        if name not in requirements:
            raise InstallError(f"There is no list of packages named {name} in pyproject.toml.")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup's wish passes on to the server
            signal.signal(number, _stop)
    with locked() as lock:
        if not is_usable() or lock.was_interrupted():
            make_venv(lock)
        for name in (name for name in (CORE, *extras) if not is_current(name)):
            install_list(name, requirements[name], lock)
            if name == CORE and "cuda" not in extras and sees_nvidia_gpu():
                try_cuda(requirements["cuda"], lock)


def is_current(name: str) -> bool:
    """Whether this list of packages is installed as now asked for, in an environment that still works."""
    stamp = VENV / f".installed-{name}"
    return os.access(PYTHON, os.X_OK) and stamp.is_file() and stamp.read_text() == stamp_text()


def stamp_text() -> str:
    """What the stamps hold: a hash of the wishes, and the interpreter behind the environment."""
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + b"\0" + CONSTRAINTS.read_bytes())
    return f"{digest.hexdigest()}\n{PYTHON.resolve()}\n"


def read_requirements() -> dict[str, list[str]]:
    """pyproject.toml's lists of packages by name; `core` are the dependencies without extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return {CORE: project["dependencies"], **project.get("optional-dependencies", {})}


class Lock:
    """The right to change the environment; its file records whether a change is under way."""

    WORD = "installing"

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def was_interrupted(self) -> bool:
        """Whether the previous holder was killed in the middle of a change."""
        return os.pread(self.descriptor, 100, 0) == self.WORD.encode()

    def run(self, command: list[str | Path]) -> int:
        """Run a command that changes the environment; returns its exit status.

        The child keeps the lock, so it stays taken if only this process is killed.
        """
        os.pwrite(self.descriptor, self.WORD.encode(), 0)
        status = subprocess.run(
            command, stdin=subprocess.DEVNULL, pass_fds=[self.descriptor], check=False
        ).returncode
        if status >= 0:
            os.ftruncate(self.descriptor, 0)
        return status


@contextmanager
def locked() -> Iterator[Lock]:
    """Hold the lock; waits while another start installs."""
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another start is installing; waiting for it.")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield Lock(descriptor)
    finally:
        os.close(descriptor)


def is_usable() -> bool:
    """Whether there is an environment whose Python and pip run."""
    if not os.access(PYTHON, os.X_OK):
        return False
    return subprocess.run([PYTHON, "-c", "import pip"], check=False, capture_output=True).returncode == 0


def make_venv(lock: Lock) -> None:
    """Make an empty environment, in place of any other."""
    try:
        import ensurepip  # noqa: F401, PLC0415 - some systems package it apart from Python
    except ImportError:
        raise InstallError(
            f"{sys.executable} has no ensurepip, which making .venv needs; install it"
            " (Debian, Ubuntu: apt install python3-venv), or name another Python in PYTHON."
        ) from None
    say(f"Making {VENV} with Python {sys.version.split()[0]}.")
    if lock.run([sys.executable, "-m", "venv", "--clear", VENV]):
        raise InstallError(f"Python could not make {VENV}; see above.")


def install_list(name: str, requirements: list[str], lock: Lock) -> None:
    """Install one list of packages and write its stamp.

    Raises:
        InstallError: pip could not; the message says what to try.
    """
    say(f"Installing the {name} packages into {VENV} (only the first time).")
    index = os.environ.get("SDSERVER_TORCH_INDEX")
    torch = [requirement for requirement in requirements if re.match(r"torch\W", requirement)]
    alone = [requirement for requirement in requirements if requirement.startswith(ALONE)]
    others = [requirement for requirement in requirements if requirement not in alone]
    failed = False
    if torch and index:
        failed = bool(lock.run([*pip(), "--index-url", index, "--no-deps", *torch]))
    if others and not failed:
        failed = bool(lock.run([*pip(), *others]))
    if alone and not failed:
        failed = bool(lock.run([*pip(), "--no-deps", *alone]))
    if failed:
        raise InstallError("The packages could not be installed; see pip's message above, then start again.")
    for packages in VENV.glob("lib/python3.*/site-packages"):
        (packages / "sdserver.pth").write_text(f"{os.path.relpath(ROOT, packages)}\n")
    stamp = VENV / f".installed-{name}"
    new = stamp.with_suffix(".new")
    new.write_text(stamp_text())
    new.replace(stamp)


def pip() -> list[str | Path]:
    """The start of every pip command."""
    options = ["--no-input", "--progress-bar", "off", "--disable-pip-version-check"]
    return [PYTHON, "-m", "pip", "install", "--quiet", *options, "--constraint", CONSTRAINTS]


def sees_nvidia_gpu() -> bool:
    """Whether NVIDIA's tool is there and finds a device."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        found = subprocess.run([tool, "-L"], capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0 and b"GPU" in found.stdout


def try_cuda(requirements: list[str], lock: Lock) -> None:
    """Install what makes some NVIDIA GPUs faster; say so if it is not to be had."""
    try:
        install_list("cuda", requirements, lock)
    except InstallError:
        say("The cuda packages are not to be had here; torch's own attention is used.")


def say(line: str) -> None:
    """Tell the operator, at once even when stdout is a file."""
    print(line, flush=True)


def _stop(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
