"""The token counter over HTTP."""

from collections.abc import Callable

import pytest

from tests.api.conftest import Server


def count(server: Server, prompt: str, **more: object) -> dict[str, int]:
    answer = server.request("POST", "/v1/tokens", json={"prompt": prompt, **more})
    assert answer.status_code == 200, answer.text
    counted: dict[str, int] = answer.json()
    return counted


def test_a_prompts_tokens(server: Server) -> None:
    assert count(server, "a (red:1.2) circle <lora:x:1>\n# a note") == {"tokens": 3, "limit": 75}
    assert count(server, "cat BREAK dog") == {"tokens": 76, "limit": 150}
    assert count(server, "cat AND dog") == {"tokens": 1, "limit": 75}
    assert count(server, "cat AND dog", negative=True) == {"tokens": 3, "limit": 75}
    assert count(server, "[cat:big dog:10]", steps=5) == {"tokens": 1, "limit": 75}
    assert count(server, "cat", styles=["Tiny Style", "no such style"]) == {"tokens": 6, "limit": 75}
    assert count(server, "cat", negative=True, styles=["Tiny Style"]) == {"tokens": 6, "limit": 75}


def test_the_options_count(serve: Callable[..., Server]) -> None:
    server = serve()
    server.options.apply({"emphasis": "None", "enable_prompt_comments": False})
    assert count(server, "(cat) # dog") == {"tokens": 5, "limit": 75}
    server.options.apply({"emphasis": "Original", "use_old_emphasis_implementation": True})
    assert count(server, "cat BREAK dog") == {"tokens": 3, "limit": 75}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": None},
        {"prompt": ["cat"]},
        {"prompt": "x" * 50_001},
        {"prompt": "(" * 101},
        {"prompt": "cat", "steps": 0},
        {"prompt": "cat", "steps": 10**6},
        {"prompt": "cat", "styles": ["x"] * 101},
        {"prompt": "[a|b]" + "word " * 9000 + "".join(f"[x:y:{k}]" for k in range(20)), "steps": 20},
    ],
)
def test_what_makes_no_sense_is_refused(server: Server, body: object) -> None:
    answer = server.request("POST", "/v1/tokens", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"]
    assert "Traceback" not in answer.text
