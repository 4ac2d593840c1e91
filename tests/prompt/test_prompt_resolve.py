import subprocess
import sys
from pathlib import Path

import pytest

import sdserver.prompt
from sdserver.errors import InvalidField
from sdserver.prompt.resolve import Part, check_parts, resolve_negative, resolve_positive
from sdserver.prompt.timeline import Span


def test_positive_prompt_has_weighted_parts_each_with_its_timeline() -> None:
    assert resolve_positive("[a:b:0.5]:1.5 AND c", 10) == (
        Part(1.5, (Span(5, "a"), Span(10, "b"))),
        Part(1.0, (Span(10, " c"),)),
    )
    assert resolve_positive("[a:b:1.5] AND c", 10, 8)[0] == Part(1.0, (Span(4, "a"), Span(8, "b")))
    assert resolve_positive("[a:b:1.5]", 10, 8, old=True) == (Part(1.0, (Span(1, "a"), Span(10, "b"))),)


def test_negative_prompt_is_never_split_nor_stripped() -> None:
    assert resolve_negative("a AND [b|c]:2 ", 2) == (
        Part(1.0, (Span(1, "a AND b:2 "), Span(2, "a AND c:2 "))),
    )
    assert resolve_negative("[a:b:9]", 10, 2) == (Part(1.0, (Span(2, "b"),)),)


def test_check_finds_what_shows_only_late() -> None:
    parts = resolve_negative("[a:(b:1000001):0.9]", 10)
    with pytest.raises(InvalidField) as caught:
        check_parts(parts, "negative_prompt")
    assert caught.value.field == "negative_prompt"
    check_parts(resolve_negative("[a:(b:1000001):1.0]", 10), "negative_prompt")


def test_knows_neither_torch_nor_tokenizers() -> None:
    files = Path(sdserver.prompt.__path__[0]).glob("[a-z]*.py")
    imports = "; ".join(f"import sdserver.prompt.{file.stem}" for file in files)
    check = "import sys; sys.exit(bool({'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", f"{imports}; {check}"], check=False).returncode == 0
