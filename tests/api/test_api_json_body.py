"""Bodies are understood as Python's own parser understands them, whichever parser reads them."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdserver.api.json_body import parse_json
from tests.api.conftest import Server

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
ODD = [
    *(b'{"a": NaN, "b": [Infinity, -Infinity, 1e999, -0, -0.0]}', b'{"a": 1, "a": 2}', b"0.1e-400"),
    *(b'["\\ud83d\\ude00", "\\ud800"]', b'"\xed\xa0\x80"', b'\xef\xbb\xbf{"a": 1}', b"[" * 300 + b"]" * 300),
    *('{"a": "ü"}'.encode(each) for each in ("utf-8", "utf-16", "utf-16-le", "utf-32")),
    *(
        b"18446744073709551616",
        b"1" * 4000,
        b"-123456789012345678901234567890",
        b" [1 , 2 ]\n",
        b'"\\/\\u0000"',
    ),
]
BROKEN = [
    *(b"", b"{", b'{"a": }', b"[1,]", b"01", b"nul", b'"\n"', b'"\\x"', b"\xff", b'{"a": 1} x', b"{'a': 1}"),
    *(b"1" * 5000, b'"\xff"', b"[" * 100_000),
]


def same(one: object, other: object) -> bool:
    """Equal, of the same types, NaN with NaN and zeros by their sign."""
    return repr(one) == repr(other)


@given(JSON, st.booleans())
def test_what_is_json(value: object, is_ascii: bool) -> None:
    body = json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    assert same(parse_json(body), json.loads(body))


@pytest.mark.parametrize("body", ODD)
def test_what_is_odd(body: bytes) -> None:
    assert same(parse_json(body), json.loads(body))


@pytest.mark.parametrize("body", BROKEN)
def test_what_is_broken(body: bytes) -> None:
    expected = raised_by(json.loads, body)
    found = raised_by(parse_json, body)
    assert (type(found), str(found)) == (type(expected), str(expected))


def raised_by(parse: Callable[[bytes], object], body: bytes) -> Exception:
    with pytest.raises((ValueError, RecursionError)) as caught:
        parse(body)
    return caught.value


@pytest.mark.parametrize(
    "path",
    [
        *("/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/sdapi/v1/png-info", "/sdapi/v1/interrogate"),
        *("/sdapi/v1/extra-single-image", "/sdapi/v1/extra-batch-images", "/v1/jobs"),
    ],
)
def test_routes_that_take_pictures_read_so(
    server: Server, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []

    def parse(body: bytes) -> object:
        read.append(body)
        return json.loads(body)

    monkeypatch.setattr("sdserver.api.json_body.parse_json", parse)
    answer = server.request("POST", path, data='{"a": ')
    assert read == [b'{"a": ']
    assert answer.status_code == 422
    assert answer.json()["detail"][0] == {
        "loc": ["body", 6],
        "msg": "The body is no JSON: Expecting value",
        "type": "value_error.jsondecode",
    }


def test_not_a_number_is_no_number(server: Server) -> None:
    answer = server.request("POST", "/sdapi/v1/txt2img", data='{"cfg_scale": NaN}')
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"] == "type_error.float"
