"""start.sh in a clean folder: a small tree with the real start.sh and scripts, stub packages, no network.

The tests of one tree run in order, as an operator would go on with it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = """[project]
name = "sdserver"
dependencies = ["stub-core>=1"]
[project.optional-dependencies]
cuda = ["stub-cuda"]
dev = ["stub-dev"]
"""
SERVER = """
import importlib.metadata, json, os, sys, time
core = importlib.metadata.version("stub-core")
print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "core": core, "pid": os.getpid()}), flush=True)
if "--wait" in sys.argv:
    time.sleep(60)
"""


def make_wheel(folder: Path, name: str, version: str) -> None:
    """Write a wheel that holds one empty module."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


def heed_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Tree:
    """A tree with start.sh; `wheels` is the only place that pip may look at."""

    root: Path
    wheels: Path

    def env(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("HOME", "TMPDIR", "LANG") if name in os.environ}
        return kept | {
            "PATH": "/usr/bin:/bin",
            "PYTHON": str(Path(sys.base_prefix) / "bin" / "python3"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            **(extra or {}),
        }

    def popen(
        self, *argv: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [self.root / "start.sh", *argv],
            env=self.env(env),
            cwd=cwd or "/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Shells that run this behind `&` ignore SIGINT for all that they start.
            preexec_fn=heed_sigint,  # noqa: PLW1509
        )

    def start(
        self, *argv: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> tuple[int, str]:
        """Run start.sh to its end: exit status, and stdout with stderr."""
        with self.popen(*argv, env=env, cwd=cwd) as process:
            output = process.communicate(timeout=PATIENCE)[0]
        return process.returncode, output

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)


def make_tree(parent: Path, wheels: Sequence[tuple[str, str]]) -> Tree:
    tree = Tree(parent / "an app", parent / "wheels")
    (tree.root / "sdserver").mkdir(parents=True)
    tree.wheels.mkdir()
    for name, version in wheels:
        make_wheel(tree.wheels, name, version)
    shutil.copy(ROOT / "start.sh", tree.root)
    shutil.copytree(ROOT / "scripts", tree.root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / ".ci", tree.root / ".ci")
    tree.write("pyproject.toml", PYPROJECT)
    tree.write("constraints.txt", "stub-core==1.0\nstub-dev==1.0\n")
    tree.write("sdserver/__init__.py", "")
    tree.write("sdserver/__main__.py", SERVER)
    return tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree that no start has touched before the module's first test."""
    wheels = [("stub_core", "1.0"), ("stub_core", "1.1"), ("stub_dev", "1.0")]
    return make_tree(tmp_path_factory.mktemp("packaging"), wheels)


def last(output: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(output.splitlines()[-1])
    return found


def test_missing_package_is_one_clear_line_and_not_the_end(tree: Tree) -> None:
    (tree.wheels / "stub_core-1.0-py3-none-any.whl").rename(tree.wheels / "away")
    status, output = tree.start()
    assert status == 1
    assert output.splitlines()[-1].startswith("The packages could not be installed")
    assert (tree.root / ".venv.lock").read_text() == ""
    (tree.wheels / "away").rename(tree.wheels / "stub_core-1.0-py3-none-any.whl")


def test_first_start_as_golem_workers_does_it(tree: Tree) -> None:
    """In the background, stdin closed, stdout a file; flags arrive unchanged."""
    (tree.root / "output").mkdir()
    model = "https://host/v1-5-pruned-emaonly.safetensors"
    log = tree.root / "output" / "log"
    command = f"cd '{tree.root}' && ./start.sh --model_url {model} 'a b' > '{log}' 2>&1 <&- & wait $!"
    subprocess.run(["/bin/sh", "-c", command], env=tree.env(), cwd="/", check=True, timeout=120)
    output = log.read_text()
    assert "Installing the core packages" in output
    assert last(output) | {"pid": 0} == {
        "argv": ["--model_url", model, "a b"],
        "cwd": str(tree.root),
        "core": "1.0",
        "pid": 0,
    }


def test_second_start_installs_nothing(tree: Tree, tmp_path: Path) -> None:
    """From another folder that holds a trap, without pip or wheels in reach."""
    (tmp_path / "sdserver.py").write_text("raise SystemExit('the wrong sdserver')")
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    stamp = tree.root / ".venv" / ".installed-core"
    before = stamp.stat().st_mtime_ns
    status, output = tree.start("--x", env={"PIP_FIND_LINKS": "/nowhere"}, cwd=tmp_path)
    assert status == 0
    assert len(output.splitlines()) == 1
    assert last(output)["cwd"] == str(tmp_path)
    assert stamp.stat().st_mtime_ns == before


def test_start_through_a_link_and_with_all_descriptors_closed(tree: Tree, tmp_path: Path) -> None:
    link = tmp_path / "sdserver"
    link.symlink_to(tree.root / "start.sh")
    found = subprocess.run(
        [link, "--linked"], env=tree.env(), capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert last(found.stdout)["argv"] == ["--linked"]
    subprocess.run(
        ["/bin/sh", "-c", f"exec '{link}' <&- >&- 2>&-"], env=tree.env(), check=True, timeout=PATIENCE
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_server(tree: Tree, number: signal.Signals) -> None:
    with tree.popen("--wait") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["pid"] == process.pid
        process.send_signal(number)
        assert process.wait(PATIENCE) == -number


def test_new_pins_are_installed_by_one_of_two_starts_at_once(tree: Tree) -> None:
    tree.write("constraints.txt", "stub-core==1.1\nstub-dev==1.0\n")
    both = [tree.popen("--x") for _ in range(2)]
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [last(output)["core"] for output in outputs] == ["1.1", "1.1"]
    assert "".join(outputs).count("Installing the core") == 1


def test_stopped_installation_ends_at_once_and_heals(tree: Tree) -> None:
    """SIGTERM while .venv is being made; the next start makes it anew."""
    packages = next(tree.root.glob(".venv/lib/python3.*/site-packages"))
    (tree.root / ".venv" / "bin" / "python").unlink()
    (packages / "half_written.py").touch()
    with tree.popen() as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Making")
        time.sleep(0.5)
        process.terminate()
        assert process.wait(PATIENCE) == 143
    assert (tree.root / ".venv.lock").read_text() == "installing"
    status, output = tree.start()
    assert status == 0
    assert re.match(r"Making .*\nInstalling", output)
    assert not (packages / "half_written.py").exists()
    assert (tree.root / ".venv.lock").read_text() == ""


def test_ci_runs_every_check_even_if_one_fails(tree: Tree) -> None:
    """`.ci/run` installs the dev packages, then runs the tools; here they are stubs."""
    for name, status in (("ruff", 0), ("mypy", 1), ("lint-imports", 0)):
        tool = tree.root / ".venv" / "bin" / name
        tool.write_text(f"#!/bin/sh\necho ran {name} $1\nexit {status}\n")
        tool.chmod(0o755)
    packages = next(tree.root.glob(".venv/lib/python3.*/site-packages"))
    (packages / "pytest.py").write_text("print('ran pytest')")
    run = ["/bin/bash", ".ci/run"]
    env = tree.env({"CI": "true"})
    found = subprocess.run(
        run, env=env, cwd=tree.root, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert found.returncode == 1, found.stderr
    assert re.findall(r"^ran .*$", found.stdout, re.M) == [
        "ran ruff check", "ran ruff format", "ran mypy", "ran lint-imports", "ran pytest",
    ]  # fmt: skip
    assert re.findall(r"(ok|FAILED)  +(\S+)", found.stdout)[-5:] == [
        ("ok", "ruff"), ("ok", "ruff"), ("FAILED", "mypy"), ("ok", "import-linter"), ("ok", "pytest"),
    ]  # fmt: skip
    (tree.root / ".venv" / "bin" / "mypy").write_text("#!/bin/sh\n")
    assert subprocess.run(run, env=env, cwd=tree.root, capture_output=True, check=False).returncode == 0


def test_gpu_in_sight(tree: Tree, tmp_path: Path) -> None:
    """The cuda packages are tried with the core ones, and are not needed."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: stub'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    (tree.root / ".venv" / ".installed-core").unlink()
    status, output = tree.start(env=env)
    assert status == 0
    assert "not to be had here" in output
    assert "Installing" not in tree.start(env=env)[1]
    make_wheel(tree.wheels, "stub_cuda", "1.0")
    (tree.root / ".venv" / ".installed-core").unlink()
    assert "not to be had" not in tree.start(env=env)[1]
    assert (tree.root / ".venv" / ".installed-cuda").is_file()


def test_moved_tree_still_starts(tree: Tree, tmp_path: Path) -> None:
    moved = Tree(tmp_path / "moved", tree.wheels)
    shutil.copytree(tree.root, moved.root, symlinks=True)
    moved.write("sdserver/__main__.py", "print('moved')")
    assert moved.start() == (0, "moved\n")


def test_torch_from_another_index(tree: Tree, tmp_path: Path) -> None:
    """SDSERVER_TORCH_INDEX serves torch, and only torch; unset, torch comes from where all comes from."""
    other = Tree(tmp_path / "other", tree.wheels)
    shutil.copytree(tree.root, other.root, symlinks=True)
    folder = tmp_path / "index" / "torch"
    folder.mkdir(parents=True)
    make_wheel(folder, "torch", "2.13.0+stub")
    name = "torch-2.13.0+stub-py3-none-any.whl"
    (folder / "index.html").write_text(f'<a href="{name}">{name}</a>')
    other.write("pyproject.toml", PYPROJECT.replace('"stub-core>=1"', '"torch>=2.6", "stub-core>=1"'))
    other.write("constraints.txt", "torch==2.13.0\nstub-core==1.0\n")
    (tmp_path / "empty").mkdir()
    env = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": (tmp_path / "empty").as_uri()}
    assert other.start(env=env)[0] == 1
    status, output = other.start(env=env | {"SDSERVER_TORCH_INDEX": (tmp_path / "index").as_uri()})
    assert (status, last(output)["core"]) == (0, "1.0"), output


def fake_python(folder: Path, script: str) -> dict[str, str]:
    """An environment whose only Python is `script`."""
    folder.mkdir(exist_ok=True)
    for name in ("dirname", "readlink"):
        (folder / name).symlink_to(f"/usr/bin/{name}")
    (folder / "python3").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "python3").chmod(0o755)
    return {"PATH": str(folder), "PYTHON": ""}


def test_python_too_old(tree: Tree, tmp_path: Path) -> None:
    status, output = tree.start(
        env=fake_python(tmp_path / "bin", '[ "$1" = --version ] && echo Python 3.9.2 || exit 1')
    )
    assert status == 1
    assert output == (
        "Python 3.11 or newer is needed (found: Python 3.9.2); install it, or name it in PYTHON.\n"
    )


def test_no_python(tree: Tree, tmp_path: Path) -> None:
    env = fake_python(tmp_path / "bin", "")
    (tmp_path / "bin" / "python3").unlink()
    assert tree.start(env=env) == (
        1, "Python 3.11 or newer is needed (found: none); install it, or name it in PYTHON.\n",
    )  # fmt: skip


def test_python_variable_that_is_wrong(tree: Tree) -> None:
    status, output = tree.start(env={"PYTHON": "/bin/false"})
    assert (status, output) == (1, "PYTHON names /bin/false, which is no Python 3.11 or newer.\n")


def test_python_without_ensurepip(tree: Tree, tmp_path: Path) -> None:
    """As Debian's without python3-venv."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['ensurepip'] = None")
    bare = Tree(tmp_path / "bare", tree.wheels)
    shutil.copytree(tree.root, bare.root, ignore=shutil.ignore_patterns(".venv*"))
    status, output = bare.start(env={"PYTHONPATH": str(tmp_path)})
    assert status == 1
    assert len(output.splitlines()) == 1
    assert "apt install python3-venv" in output


def test_folder_that_may_not_be_written(tree: Tree, tmp_path: Path) -> None:
    bare = Tree(tmp_path / "bare", tree.wheels)
    shutil.copytree(tree.root, bare.root, ignore=shutil.ignore_patterns(".venv*"))
    (bare.root / ".venv.lock").mkdir()
    status, output = bare.start()
    assert status == 1
    assert output == f"{bare.root / '.venv.lock'}: Is a directory.\n"


@pytest.mark.slow
@pytest.mark.skipif(
    "REAL_INSTALL" not in os.environ, reason="set REAL_INSTALL=1: installs torch, takes minutes"
)
@pytest.mark.timeout(3600)
def test_real_installation(tmp_path: Path) -> None:
    """The real thing: a copy of the tree, pip as the machine configures it, and the server's own answer."""
    copy = tmp_path / "copy"
    shutil.copytree(
        ROOT,
        copy,
        ignore=shutil.ignore_patterns(".venv*", ".git", ".*_cache", "__pycache__", "outputs", "tests"),
    )
    for _ in range(2):
        found = subprocess.run(
            [copy / "start.sh", "--version"], cwd="/", capture_output=True, text=True, check=True
        )
        assert found.stdout.splitlines()[-1].startswith("sdserver ")
    assert found.stdout.count("\n") == 1
    program = "import torch, diffusers, transformers, sdserver; print(torch.__version__)"
    found = subprocess.run(
        [copy / ".venv/bin/python", "-c", program], cwd="/", capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith("2.13.0")
