"""What an engine process is told by its environment: no secrets, and to fetch and run nothing of others."""

import contextlib
import ctypes
import os
import re
from collections.abc import MutableMapping
from typing import Final

_SECRET_NAME: Final = re.compile(
    "^(SDSERVER|AWS|AZURE|GOOGLE|GCP|GCS)_|TOKEN(?!IZERS)|SECRET|PASS|CREDENTIAL|KEY|AUTH|COOKIE|(^|_)SAS(_|$)",
    re.IGNORECASE,
)
_LOGIN_IN_ADDRESS: Final = re.compile("://[^/]*@")
_CALM: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
}
"""Read by libraries when they are imported. What an engine needs is on the disk."""


def keep_to_itself(environ: MutableMapping[str, str] = os.environ) -> None:
    """Take all secrets out of the process's environment, and have its libraries ask nobody for anything.

    All that a node is told by variables, and keys of stores, are the front's alone. To be called before there
    are threads, and before the libraries are imported.

    Args:
        environ: the process's own.
    """
    for name in [name for name, value in environ.items() if is_secret(name, value)]:
        if environ is os.environ:
            _wipe(name)
        del environ[name]
    environ.update(_CALM)


def is_secret(name: str, value: str) -> bool:
    """Whether a variable may hold what an engine has no need to know."""
    return bool(_SECRET_NAME.search(name) or _LOGIN_IN_ADDRESS.search(value))


def _wipe(name: str) -> None:
    """Write zeros over a value: where the system keeps it, it outlives its name's removal."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        getenv = ctypes.CDLL(None).getenv
        getenv.restype = ctypes.c_void_p
        place = getenv(os.fsencode(name))
        if place:
            ctypes.memset(place, 0, len(os.fsencode(os.environ[name])))
