"""Every field of every route is sent names that lead elsewhere, while all that is opened is noted.

`python -m tests.security.watched FOLDER SHARE` prints as JSON what was touched outside of where it may be;
SHARE: of the names, how many each field is sent.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from patience import PATIENCE

from sdserver.api.config import Limits
from sdserver.catalog.networks import NetworkFolders
from tests.api.conftest import Server
from tests.api.test_api_clients import picture

ROOT = Path(__file__).resolve().parents[2]
TOUCHES = {
    *("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link"),
    *("os.symlink", "os.truncate", "os.chmod", "os.utime", "os.walk", "glob.glob", "shutil.rmtree"),
}
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn", "exec.code"}
CALLS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"}
SMALL = {"steps": 1, "width": 64, "height": 64, "batch_size": 1, "n_iter": 1, "save_images": True}
LIMITS = Limits(max_width=256, max_height=256, max_pixels=256 * 256, max_images=4, max_init_pixels=4_000_000)
NOT_ASKED = {"/v1/events", "/internal/progress", "/v1/jobs/{job_id}/events"}
"""They answer for as long as a client listens."""


class Watch:
    """What the process touched since the watch began. It cannot be ended, for Python has no way to.

    Args:
        allowed: files below these may be touched.
        port: of this process's own server, to which its client goes.
    """

    def __init__(self, allowed: list[Path], port: int) -> None:
        self._allowed = [f"{path}/" for path in allowed]
        self._port = port
        self.outside: set[str] = set()
        self.inside = 0
        sys.addaudithook(self._saw)

    def _saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in TOUCHES:
            for name in arguments[:2]:
                if isinstance(name, str | bytes | os.PathLike):
                    self._touched(event, os.path.abspath(os.fsdecode(name)))  # noqa: PTH100
                if event not in ("os.rename", "os.link", "os.symlink"):
                    break
        elif event in STARTS:
            self.outside.add(f"{event} {arguments[0]!r}"[:200])
        elif event in CALLS and not (event == "socket.connect" and arguments[1][1] == self._port):
            self.outside.add(f"{event} {arguments[1:]!r}"[:200])

    def _touched(self, event: str, path: str) -> None:
        if any(f"{path}/".startswith(folder) for folder in self._allowed):
            self.inside += 1
        else:
            self.outside.add(f"{event} {path}"[:200])


def corpus(outside: Path, models: Path) -> list[str]:
    """Names that lead to a file outside, in the ways that were used against servers of this kind."""
    up = "../" * 12
    away = str(outside).lstrip("/")
    return [
        str(outside),
        f"{up}{away}",
        f"{up}{away}".replace("/", "\\"),
        quote(f"{up}{away}", safe=""),
        f"....//....//....//{away}",
        f"file://{outside}",
        f"{models}/../{outside.name}",
        f"<lora:{up}{away}:1><hypernet:{outside}:1>",
        f"x\0{outside}",
        "~/.ssh/id_rsa",
        "/etc/passwd",
        "http://169.254.169.254/latest/",
    ]


def bodies(document: dict[str, Any], schema: dict[str, Any], text: str) -> Iterator[dict[str, Any]]:
    """Small good bodies with the text in one field after the other, also within lists and objects."""
    schema = _resolved(document, schema)
    fields = schema.get("properties", {})
    needed = {name: picture() for name in schema.get("required", ())}
    good = needed | {name: value for name, value in SMALL.items() if name in fields}
    for name in [*fields, "outpath", "config_save_name", "save_dir", "styles_file"]:
        kinds = json.dumps(fields.get(name, {}))
        yield good | {name: text}
        if '"array"' in kinds:
            yield good | {name: [text]}
        if '"object"' in kinds or "$ref" in kinds:
            yield good | {name: {text: {"args": [text]}}}


def option_bodies(options: dict[str, Any], text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each option that is a text, for a request alone and for good."""
    for name in [name for name, value in options.items() if value is None or isinstance(value, str | list)]:
        yield "/sdapi/v1/txt2img", SMALL | {"override_settings": {name: text}}
        yield "/sdapi/v1/options", {name: text}


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = document["components"]["schemas"].get(reference, schema)
    return found


def asks(
    document: dict[str, Any], options: dict[str, Any], text: str
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and arguments of all requests of one text."""
    for path, body in option_bodies(options, text):
        yield "post", path, {"json": body}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if path in NOT_ASKED:
                continue
            place = path
            query = {}
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    place = place.replace("{" + parameter["name"] + "}", quote(text, safe="/%"))
                elif parameter["in"] == "query":
                    query[parameter["name"]] = text
            yield method, place, {"params": query}
            content = operation.get("requestBody", {}).get("content", {})
            for kind, described in content.items():
                for body in bodies(document, described["schema"], text):
                    key = "json" if "json" in kind else "data"
                    yield method, place, {key: body}


def main(folder: Path, share: int) -> None:
    data, outside = folder / "data", folder / "outside"
    models = data / "models" / "Lora"
    models.mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"canary of the disk")
    server = Server(data, NetworkFolders(lora=(models,), embeddings=(models,), vae=(models,)), limits=LIMITS)
    server.closing()  # the stream of all jobs would not end else
    sys.stdout.flush()
    statuses: Counter[int] = Counter()
    told = 0
    with requests.Session() as session:
        session.trust_env = False
        document = session.get(f"{server.url}/openapi.json").json()
        options = session.get(f"{server.url}/sdapi/v1/options").json()
        session.get(f"{server.url}/internal/sysinfo")  # asks the system's `uname` once
        own = [Path(sys.prefix), Path(sys.base_prefix) / "lib", ROOT / "sdserver"]
        allowed = [data, *(path.resolve() for path in own), Path("/proc/self/statm")]
        watch = Watch(allowed, server.port)
        texts = corpus(outside / "secret.png", models)
        for turn, text in enumerate(texts):
            for place, (method, path, arguments) in enumerate(asks(document, options, text)):
                if (place + turn) % len(texts) >= share:
                    continue
                answer = session.request(method, server.url + path, timeout=PATIENCE, **arguments)
                statuses[answer.status_code] += 1
                told += b"canary of the disk" in answer.content
    found = sorted(watch.outside)
    Path(outside / "secret.png").read_bytes()
    measures = sorted(watch.outside - set(found))
    server.close()
    json.dump(
        {"statuses": statuses, "outside": found, "inside": watch.inside, "told": told, "measures": measures},
        sys.stdout,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
