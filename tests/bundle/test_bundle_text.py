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
    texts = ("a (cat:1.5)", LONG, "a (cat:1.5)")
    cat, long = encode(bundle, [text_call(path, text, variants=texts) for text in texts[:2]])
    alone, loud, empty, rest = encode(
        bundle,
        [text_call(path, t) for t in ("a (cat:1.5)", "a cat", "")]
        + [text_call(path, LONG, emphasis="No norm")],
    )
    assert len(cat.context) == len(long.context) == len(rest.context) > 77
    assert_close(cat.context[77:154], empty.context)
    raw, plain = alone.context * (weighted_mean(bundle, path) / loud.context.mean()), rest.context[:77]
    before = 2 * loud.context.mean() + plain.mean()
    after = 2 * raw.mean() + plain.mean()
    assert_close(cat.context[:77], raw * (before / after))
    assert_close(long.context[:77], plain * (before / after))


def weighted_mean(bundle: Bundle, path: object) -> torch.Tensor:
    (weighted,) = encode(bundle, [text_call(path, "a (cat:1.5)", emphasis="No norm")])  # type: ignore[arg-type]
    return weighted.context.mean()


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
    assert tokenize(["A  CAT’s\n“dog”"], "clip") == tokenize(['a cat\'s "dog"'], "clip")
    assert tokenize(["&amp;lt; cat <b"], "open_clip") == tokenize(["< cat <b"], "open_clip")
    assert tokenize(["&amp;lt; cat <b"], "clip") != tokenize(["< cat <b"], "clip")
    assert tokenize(["", "a cat"], "clip") == [[], [320, 2368]]
    assert tokenize(["a \ud800 cat"], "clip") == tokenize(["a ? cat"], "clip")
