from dataclasses import replace

import torch
from bundle_calls import assert_close, encode, random, text_call
from tiny_checkpoints import POOLED, Write

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.text import MAX_CHUNKS, emphasise
from sdserver.bundle.tokenizer import tokenize
from sdserver.calls import Conditioning
from sdserver.errors import InvalidField
from sdserver.jobs.job import Emphasis

LONG = ", ".join(f"word{k}" for k in range(60))


def test_original_emphasis_scales_vectors_and_keeps_the_mean() -> None:
    vectors, weights = random(2, 77, 8) + 1, torch.ones(2, 77)
    weights[0, 3] = 1.5
    scaled = emphasise(vectors, weights, "No norm")
    assert_close(scaled[0, 3], vectors[0, 3] * 1.5)
    assert_close(scaled[1], vectors[1])
    kept = emphasise(vectors, weights, "Original")
    assert_close(kept.mean(), vectors.mean())
    assert_close(kept * (scaled.mean() / vectors.mean()), scaled)


def test_weights_of_zero_give_zeros() -> None:
    assert not emphasise(random(1, 77, 8), torch.zeros(1, 77), "Original").any()


def test_emphasis_modes(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")
    modes: tuple[Emphasis, ...] = ("Original", "No norm", "Ignore", "None")
    found = {
        mode: encode(bundle, [text_call(path, "a (cat:1.5)", emphasis=mode)])[0].context for mode in modes
    }
    plain, literal = encode(bundle, [text_call(path, "a cat"), text_call(path, "a \\(cat:1.5\\)")])
    assert_close(found["Ignore"], plain.context)
    assert_close(found["None"], literal.context)
    assert_close(found["No norm"][2], plain.context[2] * 1.5)
    assert_close(found["No norm"][[0, 1, 3]], plain.context[[0, 1, 3]])
    assert_close(found["Original"].mean(), plain.context.mean())


def test_texts_of_a_timeline_share_mean_and_length(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")
    loud = "a (cat:1.5)"
    texts = (loud, LONG, loud)
    cat, long = encode(bundle, [text_call(path, text, variants=texts) for text in (loud, LONG)])
    plain = [text_call(path, text, emphasis="Ignore") for text in (loud, LONG, "")]
    quiet, rest, empty = encode(bundle, plain)
    (raw,) = encode(bundle, [text_call(path, loud, emphasis="No norm")])
    assert len(cat.context) == len(long.context) == len(rest.context) > 77
    assert_close(cat.context[77:154], empty.context)
    first = rest.context[:77]
    ratio = (2 * quiet.context.sum() + first.sum()) / (2 * raw.context.sum() + first.sum())
    assert abs(ratio - 1) > 1e-3
    assert_close(cat.context[:77], raw.context * ratio)
    assert_close(long.context[:77], first * ratio)


def test_sdxl_zeroes_an_empty_negative_prompt(checkpoint: Write) -> None:
    path, _ = checkpoint("sdxl")
    bundle = Bundle("cpu")
    calls = [
        text_call(path, "", is_negative=True),
        text_call(path, ""),
        text_call(path, " ", is_negative=True),
        text_call(path, "", is_negative=True, variants=("", "x")),
    ]
    zeroed, positive, space, varied = encode(bundle, calls)
    assert zeroed.vector is not None
    assert positive.vector is not None
    assert not zeroed.context.any()
    assert not zeroed.vector[:POOLED].any()
    assert_close(zeroed.vector[POOLED:], positive.vector[POOLED:])
    for other in (positive, space, varied):
        assert other.context.any()


def test_a_batch_equals_its_calls_alone(checkpoint: Write) -> None:
    path, _ = checkpoint("sdxl")
    bundle = Bundle("cpu")
    calls = [
        text_call(path, text, clip_skip=skip) for text, skip in (("cat", 1), (LONG, 2), ("cat", 2), ("", 1))
    ]
    for call, together in zip(calls, encode(bundle, calls), strict=True):
        (alone,) = encode(bundle, [call])
        assert_close(together.context, alone.context)
        assert together.vector is not None
        assert alone.vector is not None
        assert_close(together.vector, alone.vector)


def test_bad_texts_fail_alone(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    calls = [
        text_call(path, "cat"),
        text_call(path, "cat", clip_skip=4),
        text_call(path, "cat " * 75 * (MAX_CHUNKS + 1), is_negative=True),
        text_call(path, "(cat:1e9)" + "(" * 1000),
    ]
    good, *bad = Bundle("cpu").run(calls)
    assert isinstance(good, Conditioning)
    fields = [error.field for error in bad if isinstance(error, InvalidField)]
    assert fields == ["CLIP_stop_at_last_layers", "negative_prompt", "prompt"]


def test_texts_are_cleaned_as_the_original_tokenizers_do() -> None:
    assert tokenize(["A  CAT\u2019s\n\u201cdog\u201d"], "clip") == tokenize(['a cat\'s "dog"'], "clip")
    assert tokenize(["&amp;lt; cat <b"], "open_clip") == tokenize(["< cat <b"], "open_clip")
    assert tokenize(["&amp;lt; cat <b"], "clip") != tokenize(["< cat <b"], "clip")
    assert tokenize(["", "a cat"], "clip") == [[], [320, 2368]]
    assert tokenize(["a \ud800 cat"], "clip") == tokenize(["a ? cat"], "clip")


def test_emphasis_read_the_old_way(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")

    def old(text: str, emphasis: Emphasis = "No norm") -> torch.Tensor:
        call = text_call(path, text, emphasis=emphasis)
        call = replace(call, prompt=replace(call.prompt, old_emphasis=True))
        return encode(bundle, [call])[0].context

    (plain,) = encode(bundle, [text_call(path, "a cat")])
    assert_close(old("a cat"), plain.context)
    loud = old("a (cat")
    assert_close(loud[:2], plain.context[:2])
    assert_close(loud[2], plain.context[2] * 1.1)
    assert_close(loud[3:], plain.context[3:])
    assert_close(old("a (cat", "Original").mean(), plain.context.mean())
    assert_close(old("a (cat", "Ignore"), plain.context)
    assert len(old(LONG)) == 77, "one chunk"
