import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdserver.prompt.networks import NetworkTag, extract_networks


@pytest.mark.parametrize(
    ("prompt", "clean", "tags"),
    [
        ("a cat", "a cat", []),
        ("a cat <lora:x:1>", "a cat ", [("lora", ("x", "1"))]),
        ("<lora:x:0.6> a <b> <hypernet:y>", " a <b> ", [("lora", ("x", "0.6")), ("hypernet", ("y",))]),
        ("a <foo:bar:1> b", "a  b", [("foo", ("bar", "1"))]),
        ("<lora:>", "<lora:>", []),
        ("<lora:><lora:x>", "<lora:>", [("lora", ("x",))]),
        ("<lora:<lora:x>", "", [("lora", ("<lora", "x"))]),
        ("<lora:x", "<lora:x", []),
        ("<a b:c> <:c> <lora x>", "<a b:c> <:c> <lora x>", []),
        ("(<lora:x:1>:1.2)", "(:1.2)", [("lora", ("x", "1"))]),
        ("a<lora:x\n:1>b", "ab", [("lora", ("x\n", "1"))]),
    ],
)
def test_tags_leave_the_prompt(prompt: str, clean: str, tags: list[tuple[str, tuple[str, ...]]]) -> None:
    assert extract_networks(prompt) == (clean, tuple(NetworkTag(*tag) for tag in tags))


def test_items_have_a_place_or_a_name() -> None:
    tag = NetworkTag("lora", ("name", "te=0.5", "0.9", "a=b=c", "te=0.7"))
    assert tag.positional == ("name", "0.9", "a=b=c")
    assert tag.named == {"te": "0.7"}


TEXTS = st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]))
ITEMS = st.text(st.sampled_from("ab =.<é\n"), min_size=1)


@settings(deadline=None)
@given(
    st.lists(st.tuples(TEXTS, st.sampled_from(["lora", "lyco", "x1"]), st.lists(ITEMS, min_size=1))), TEXTS
)
def test_printing_and_extracting_is_the_identity(pieces: list[tuple[str, str, list[str]]], rest: str) -> None:
    prompt = "".join(f"{text}<{kind}:{':'.join(items)}>" for text, kind, items in pieces) + rest
    clean, tags = extract_networks(prompt)
    assert clean == "".join(text for text, _, _ in pieces) + rest
    assert tags == tuple(NetworkTag(kind, tuple(items)) for _, kind, items in pieces)
