import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdserver.prompt.comments import strip_comments


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("a cat", "a cat"),
        ("a\nb\n", "a\nb\n"),
        ("a # x\nb", "a \nb"),
        ("a # x", "a \n"),
        ("a\n# x\nb", "a\nb"),
        ("# x\nb", "\nb"),
        ("# x", "\n"),
        ("#", "\n"),
        ("a\n# x", "a\n"),
        ("a\n# x\n# y\nb", "a\n\nb"),
        ("a # x\n# y\nb", "a \nb"),
        ("a # x # y\nb", "a \nb"),
    ],
)
def test_comments_go(text: str, stripped: str) -> None:
    assert strip_comments(text) == stripped


@settings(deadline=None)
@given(st.text(st.sampled_from("#\na ")) | st.text())
def test_no_mark_is_left_and_stripping_twice_changes_nothing(text: str) -> None:
    stripped = strip_comments(text)
    assert "#" not in stripped
    assert strip_comments(stripped) == stripped
