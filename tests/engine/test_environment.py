"""What an engine process keeps of the front's environment."""

import json
import os
import subprocess
import sys

import pytest

from sdserver.engine.environment import is_secret, keep_to_itself

SECRETS = {
    "AWS_ACCESS_KEY_ID": "a1",
    "AWS_PROFILE": "a2",
    "AZURE_STORAGE_ACCOUNT": "a3",
    "GOOGLE_APPLICATION_CREDENTIALS": "a4",
    "HF_TOKEN": "a5",
    "CIVITAI_TOKEN": "a6",
    "SDSERVER_ADMIN_KEY": "a7",
    "SDSERVER_MODEL_URL": "a8",
    "db_password": "a9",
    "HTTPS_PROXY": "http://me:b1@proxy:1",
}
NEEDED = {
    "PATH": os.environ["PATH"],
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "0",
    "PYTORCH_ALLOC_CONF": "x",
    "LD_LIBRARY_PATH": "",
    "TOKENIZERS_PARALLELISM": "false",
    "HTTP_PROXY": "http://proxy:1",
    "TMPDIR": "/x",
    "HF_HOME": "/x",
}


@pytest.mark.parametrize("name", [*SECRETS, *NEEDED])
def test_what_is_a_secret(name: str) -> None:
    assert is_secret(name, (SECRETS | NEEDED)[name]) is (name in SECRETS)


def test_a_mapping_of_ones_own() -> None:
    environ = SECRETS | NEEDED
    keep_to_itself(environ)
    assert environ.keys() & SECRETS.keys() == set()
    assert environ.items() >= NEEDED.items()


def test_a_process_holds_nothing_of_them_anywhere() -> None:
    code = (
        "import json, os\n"
        "from pathlib import Path\n"
        "from sdserver.engine.environment import keep_to_itself\n"
        "before = Path('/proc/self/environ').read_text()\n"
        "keep_to_itself()\n"
        "print(json.dumps([before, Path('/proc/self/environ').read_text(), dict(os.environ)]))\n"
    )
    values = {name: f"canary-{value}" for name, value in SECRETS.items()}
    values["HTTPS_PROXY"] = "http://me:canary@proxy"
    done = subprocess.run([sys.executable, "-c", code], env=NEEDED | values, capture_output=True, check=True)
    before, after, environ = json.loads(done.stdout)
    assert before.count("canary") == len(values)
    assert "canary" not in after
    assert not environ.keys() & values.keys()
    assert "OMP_NUM_THREADS=1" in after


def test_engines_are_calm() -> None:
    code = (
        "from sdserver.engine.environment import keep_to_itself\n"
        "keep_to_itself()\n"
        "from diffusers.utils import constants\n"
        "import huggingface_hub.constants as hub\n"
        "assert constants.DIFFUSERS_DISABLE_REMOTE_CODE and hub.HF_HUB_OFFLINE\n"
        "assert hub.HF_HUB_DISABLE_TELEMETRY and hub.HF_HUB_DISABLE_IMPLICIT_TOKEN\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
