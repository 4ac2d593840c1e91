"""Bad inputs without end, the same for the same seed: as requests in bytes, each to be sent by itself."""

import json
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from tests.api.test_api_fuzz import BODIES, NASTY

DEEP = "[" * 50_000
ODD_JSON = [
    '{"prompt":"\\ud800"}', '{"cfg_scale":NaN}', '{"cfg_scale":1e999}',
    '{"seed":' + "9" * 5000 + "}", "\ufeff{}", '{"prompt":' + json.dumps("(" * 20_000) + "}",
    '{"steps":1,"steps":2}', DEEP, '{"a":' * 2000, "", "null", "[]", "0", '"x"', "{", '{"prompt":"\\u0000"}',
    '{"width":64.5}',
    '{"init_images":["data:image/png;base64,AAAA"]}', '{"init_images":["http://169.254.169.254/"]}',
    '{"alwayson_scripts":{"x":{"args":[{}]}}}', '{"override_settings":{"outdir_samples":"/etc"}}',
]  # fmt: skip
TYPES = [
    "application/json",
    "text/plain",
    "multipart/form-data; boundary=" + "x" * 300,
    "",
    "application/xml",
]
SEGMENTS = [
    "..",
    "%2e%2e%2fetc%2fpasswd",
    "%00",
    "a" * 3000,
    "%ff%fe",
    "*",
    "{x}",
    "%f0%9f%98%80",
    " ",
    "'\"<b>",
]
HEADERS = {
    "Accept": ["*/*", "image/png", "image/avif;q=x", "," * 500],
    "Authorization": ["Basic " + "A" * 4000, "basic", "Bearer \x80", ""],
    "Cookie": ["access-token=" + "x" * 3000, ";;;=", "a=b; " * 300],
    "Idempotency-Key": ["k", "x" * 300, "\x7f", " "],
    "Origin": ["null", "http://evil.example", "http://["],
    "Range": ["bytes=0-0", "bytes=-", "bytes=" + "0-1," * 1000],
    "X-Request-Id": ["a", "x" * 300, "<b>"],
    "X-Request-Timeout": ["0", "x", "0.001", "1e9"],
    "X-Forwarded-For": ["127.0.0.1", "x" * 200, "::1, " * 100],
    "traceparent": ["00-x", "0" * 200],
    "If-None-Match": ["*", '"' * 500],
    "Expect": ["100-continue", "nonsense"],
    "Transfer-Encoding": ["chunked", "gzip"],
    "Connection": ["close", "upgrade", "keep-alive, close"],
    "Upgrade": ["websocket", "h2c"],
    "Sec-Fetch-Site": ["cross-site", "same-origin"],
}
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "G\x00T", "get"]
Route = tuple[str, str]


def routes_of(document: dict[str, Any]) -> list[Route]:
    """Every method and path of an OpenAPI document."""
    return [(method.upper(), path) for path, item in document["paths"].items() for method in item]


def bad_inputs(seed: int, routes: list[Route]) -> Iterator[bytes]:
    """Requests, most of which are wrong in one way or several."""
    draw = random.Random(seed)
    bodies = {f"/sdapi/v1/{name}": [body for route, body in BODIES if route == name] for name, _ in BODIES}
    while True:
        method, path = draw.choice(routes)
        if draw.random() < 0.1:
            method = draw.choice(METHODS)
        content = _body(draw, bodies.get(path, []))
        data = _request(draw, method, _path(draw, path), content)
        yield _broken(draw, data) if draw.random() < 0.15 else data


def _body(draw: random.Random, good: list[dict[str, Any]]) -> bytes:
    kind = draw.random()
    if good and kind < 0.6:
        body: dict[str, Any] = dict(draw.choice(good))
        for _ in range(draw.randint(1, 3)):
            body[draw.choice([*body, "seed", "sampler_name", "script_args", "unknown"])] = draw.choice(NASTY)
        return json.dumps(body).encode()
    if kind < 0.85:
        return draw.choice(ODD_JSON).encode("utf-8", "surrogatepass")
    return draw.randbytes(draw.randint(0, 2000))


def _path(draw: random.Random, path: str) -> str:
    parts = [draw.choice(SEGMENTS) if part.startswith("{") else part for part in path.split("/")]
    if draw.random() < 0.05:
        parts.insert(draw.randint(1, len(parts)), draw.choice(SEGMENTS))
    found = quote("/".join(parts), safe="/%*{}'\"<>")
    if draw.random() < 0.8:
        return found
    return f"{found}?{quote(draw.choice(SEGMENTS))}={quote(str(draw.choice(NASTY)), errors='replace')}"


def _request(draw: random.Random, method: str, path: str, content: bytes) -> bytes:
    headers = {"Host": "localhost", "Connection": "close", "Content-Type": draw.choice(TYPES)}
    if content or draw.random() < 0.9:
        headers["Content-Length"] = str(len(content))
    for name in draw.sample(sorted(HEADERS), draw.choice([0, 0, 1, 2])):
        headers[name] = draw.choice(HEADERS[name])
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("utf-8", "surrogatepass") + content


def _broken(draw: random.Random, data: bytes) -> bytes:
    """The bytes with some cut off, changed, or said twice."""
    kind = draw.randrange(3)
    if kind == 0:
        return data[: draw.randint(1, len(data))]
    if kind == 1:
        changed = bytearray(data)
        for _ in range(draw.randint(1, 5)):
            changed[draw.randrange(min(len(changed), 400))] = draw.randrange(256)
        return bytes(changed)
    return data + data[draw.randrange(len(data)) :]
