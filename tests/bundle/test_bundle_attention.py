"""Token merging and tiles in the networks, against plain ways to do the same."""

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from bundle_calls import assert_close, pixels, random
from tiny_checkpoints import Write, full_size
from torch import Tensor
from torch.nn.functional import cosine_similarity

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.self_attention import find_layers, join, split
from sdserver.bundle.tile_draws import Place, Tiled, TileDraws, draw_count, grid, least_side
from sdserver.bundle.token_merging import left, match, means_in_order
from sdserver.calls import Conditioning, Decode, Predict
from sdserver.jobs.events import Picture
from sdserver.jobs.model import Attention, Family, Model, TileRule

TEXTS = [Conditioning(random(77, 32, seed=seed)) for seed in (1, 2)]
RULE = TileRule(max_depth=3, max_tile=128, swap=1)


def tiles(side: int = 256, seed: int = 1, **changes: object) -> Attention:
    return Attention(unet=replace(RULE, **changes), width=side, height=side, seed=seed)  # type: ignore[arg-type]


def predicted(bundle: Bundle, calls: list[Predict]) -> list[Tensor]:
    results = bundle.run(calls)
    tensors = [result for result in results if isinstance(result, Tensor)]
    assert len(tensors) == len(calls), results
    return tensors


def one(bundle: Bundle, model: Model, x: Tensor, evaluation: int = 0) -> Tensor:
    return predicted(bundle, [Predict(model, x, 500.0, TEXTS[0], evaluation)])[0]


# --- token merging ---


def plainly_merged(x: Tensor, height: int, width: int, ratio: float) -> tuple[Tensor, list[list[int]]]:
    """One row: the merged tokens, and which tokens each of them stands for."""
    corners = [(y, x_) for y in range(0, height - 1, 2) for x_ in range(0, width - 1, 2)]
    targets = [y * width + x_ for y, x_ in corners]
    sources = [place for place in range(height * width) if place not in targets]
    best = []
    for source in sources:
        likeness = [cosine_similarity(x[source], x[target], dim=0).item() for target in targets]
        nearest = max(range(len(targets)), key=likeness.__getitem__)
        best.append((likeness[nearest], source, nearest))
    best.sort(key=lambda found: -found[0])
    count = min(int(height * width * ratio), len(sources))
    groups = [[source] for _, source, _ in best[count:]] + [[target] for target in targets]
    for _, source, nearest in best[:count]:
        groups[len(sources) - count + nearest].append(source)
    return torch.stack([x[group].mean(0) for group in groups]), groups


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 3)])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75, 1.0])
def test_tokens_are_merged_with_their_likest(size: tuple[int, int], ratio: float) -> None:
    height, width = size
    x = random(2, height * width, 8)
    found = match(x, height, width, ratio)
    if int(height * width * ratio) == 0:
        assert found is None
        return
    assert found is not None
    merged = found.merge(x)
    assert merged.shape[1] == left(height * width, ratio, height, width)
    back = found.unmerge(merged)
    for row in range(2):
        expected, groups = plainly_merged(x[row], height, width, ratio)
        assert_close(merged[row], expected)
        for value, group in zip(expected, groups, strict=True):
            assert_close(back[row, group], value.expand(len(group), -1))


def test_means_in_order_are_the_same_means() -> None:
    x = random(3, 64, 5)
    found = match(x, 8, 8, 0.6)
    assert found is not None
    merged = x[:, found.sources].gather(1, found.merged.unsqueeze(-1).expand(-1, -1, 5))
    means = means_in_order(x[:, found.targets], found.into, merged)
    assert_close(means, found.merge(x)[:, found.alone.shape[1] :])


def test_nothing_to_merge() -> None:
    assert match(random(1, 12, 4), 3, 4, 0.05) is None
    assert match(random(1, 5, 4), 1, 5, 0.5) is None
    assert left(5, 0.5, 1, 5) == 5


def test_merging_in_the_network_is_attention_over_merged_tokens(checkpoint: Write) -> None:
    """Against a network whose blocks of the first level are rewritten."""
    path, made = checkpoint("sd1")
    original = copy.deepcopy(made)
    bundle, x = Bundle("cpu"), random(4, 8, 16)
    ratio = 0.4

    def rewritten(block):  # type: ignore[no-untyped-def]
        def forward(hidden, encoder_hidden_states=None, **_):  # type: ignore[no-untyped-def]
            normed = block.norm1(hidden)
            _, groups = plainly_merged(hidden[0], 8, 16, ratio)
            attended = block.attn1(torch.stack([normed[0][group].mean(0) for group in groups])[None])[0]
            spread = torch.empty_like(hidden)
            for value, group in zip(attended, groups, strict=True):
                spread[0, group] = value
            hidden = hidden + spread
            hidden = hidden + block.attn2(block.norm2(hidden), encoder_hidden_states=encoder_hidden_states)
            return hidden + block.ff(block.norm3(hidden))

        return forward

    unet = original.unet
    for layer in find_layers(unet, "sd1"):
        if layer.level == 0:
            layer.block.forward = rewritten(layer.block)
    expected = unet(x[None], torch.tensor([500.0]), TEXTS[0].context[None]).sample[0]
    model = Model(str(path), attention=Attention(merging=ratio))
    assert_close(one(bundle, model, x), expected)
    assert not torch.allclose(one(bundle, Model(str(path)), x), expected, atol=1e-3)


# --- tiles ---


def test_tiles_are_rectangles_of_the_picture() -> None:
    x = torch.arange(24.0).reshape(1, 24, 1)
    tiled = Tiled(4, 6, 2, 3)
    parts = split(x, tiled)
    assert parts.shape == (6, 4, 1)
    assert parts[:2, :, 0].tolist() == [[0, 1, 6, 7], [2, 3, 8, 9]]
    assert torch.equal(join(parts, tiled), x)
    pair = random(2, 24, 5)
    assert torch.equal(join(split(pair, tiled), tiled), pair)
    assert torch.equal(split(pair, tiled)[6:], split(pair[1:], tiled)), "rows stay apart"


def test_counts_leave_tiles_of_the_least_side() -> None:
    generator = Random(0)
    assert [draw_count(64, least, 1, generator) for least in (16, 24, 64, 99)] == [4, 2, 1, 1]
    assert {draw_count(64, 16, 3, generator) for _ in range(60)} == {4, 2, 1}
    assert {draw_count(96, 16, 2, generator) for _ in range(60)} == {6, 4}
    assert draw_count(17, 2, 3, generator) == 1, "a prime has no divisors"


@pytest.mark.parametrize(
    ("size", "most", "least"),
    [((512, 512), 256, 32), ((512, 512), 1024, 64), ((768, 512), 256, 32), ((520, 512), 256, 16)],
)
def test_the_least_side_divides_the_picture(size: tuple[int, int], most: int, least: int) -> None:
    assert least_side(TileRule(3, most, 1), Attention(width=size[0], height=size[1])) == least


def test_grids() -> None:
    assert grid(4096, 1.0) == (64, 64)
    assert grid(96 * 64, 1.5) == (96, 64), "A1111 takes them the wrong way round"
    assert grid(35, 1.0) == (7, 5)
    assert grid(7, 1.0) == (7, 1)
    assert grid(1, 1.0) == (1, 1)
    for tokens in range(1, 200):
        height, width = grid(tokens, 1.3)
        assert height * width == tokens


def test_draws_go_on_from_evaluation_to_evaluation() -> None:
    """By hand: height, then width, layer by layer, from one generator."""
    attention = tiles(512, seed=7, swap=3)
    rule = attention.unet
    assert rule is not None
    places = (Place(4096, 0), Place(1024, 1), Place(4096, 0))
    generator = Random(7)
    options = {4096: [4, 2, 1], 1024: [1]}
    expected = [
        tuple(
            Tiled(
                *grid(tokens, 1.0),
                *(options[tokens][generator.randint(0, len(options[tokens]) - 1)] for _ in "hw"),
            )
            for tokens, _ in places
        )
        for _ in range(6)
    ]
    draws = TileDraws(rule, attention, places)
    assert draws.at(5) == expected[5], "without those before"
    assert [draws.at(k) for k in range(6)] == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize(
    ("family", "counts"),
    [("sd1", {0: 5, 1: 5, 2: 5, 3: 1}), ("sd2", {0: 5, 1: 5, 2: 5, 3: 1}), ("sdxl", {0: 5, 1: 55, 2: 10})],
)
def test_depths_are_a1111s(family: Family, counts: dict[int, int]) -> None:
    layers = find_layers(full_size(family).unet, family)
    assert Counter(layer.depth for layer in layers) == counts, "all have one"
    outer = [layer.depth for layer in layers[:4]]
    assert outer == ([0, 1, 0, 1] if family == "sdxl" else [0, 0, 1, 1]), "in the order in which they run"
    assert {layer.level for layer in layers if layer.depth == 0} == {1 if family == "sdxl" else 0}


@pytest.mark.parametrize("size", [(33, 40), (17, 9)])
def test_odd_sides(checkpoint: Write, size: tuple[int, int]) -> None:
    """Tokens are counted as the network's layers see them, whatever is halved how."""
    path, _ = checkpoint("sd1")
    height, width = size
    attention = Attention(0.4, replace(RULE, swap=3), None, width * 8, height * 8, 3)
    x = random(4, height, width)
    result = one(Bundle("cpu"), Model(str(path), attention=attention), x)
    assert result.shape == x.shape
    assert result.isfinite().all()


def test_a_picture_of_one_tile_is_untouched(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    bundle, x = Bundle("cpu"), random(4, 16, 16)
    plain = one(bundle, Model(str(path)), x)
    assert torch.equal(one(bundle, Model(str(path), attention=tiles(128, swap=3)), x), plain)
    large = random(4, 32, 32)
    plain = one(bundle, Model(str(path)), large)
    whole = tiles(256, max_tile=512)
    assert torch.equal(one(bundle, Model(str(path), attention=whole), large), plain)
    assert not torch.equal(one(bundle, Model(str(path), attention=tiles(256)), large), plain)
    assert torch.equal(one(bundle, Model(str(path)), large), plain), "and leaves no trace"


def test_tokens_see_their_tile_only(checkpoint: Write) -> None:
    """With all else but the first block's attention at a distance: a far corner's change is not seen."""
    path, original = checkpoint("sd1")
    unet = original.unet
    layer = find_layers(unet, "sd1")[0]
    hidden = random(1, 32 * 32, layer.block.norm1.normalized_shape[0])
    changed = hidden.clone()
    changed[0, -1] += 5
    tiled = Tiled(32, 32, 2, 2)

    def attended(x: Tensor) -> Tensor:
        return join(layer.block.attn1(split(x, tiled)), tiled).reshape(32, 32, -1)

    differs = (attended(hidden) - attended(changed)).abs().amax(-1) > 0
    assert differs[16:, 16:].all()
    assert not differs[:16].any()
    assert not differs[:, :16].any()
    assert str(path)


def decoded(bundle: Bundle, model: Model, latent: Tensor) -> Tensor:
    (picture,) = bundle.run([Decode(model, latent)])
    assert isinstance(picture, Picture)
    return pixels(picture)


def test_the_decoder_may_be_tiled(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    bundle, latent = Bundle("cpu"), random(4, 32, 32) * 0.2
    plain = Model(str(path))
    attention = Attention(vae=RULE, width=256, height=256, seed=1)
    before = decoded(bundle, plain, latent)
    assert not torch.equal(decoded(bundle, replace(plain, attention=attention), latent), before)
    assert torch.equal(decoded(bundle, plain, latent), before)
    whole = replace(attention, vae=replace(RULE, max_tile=512))
    # What is watched runs as diffusers has it, which rounds otherwise than the lean decoder.
    assert (decoded(bundle, replace(plain, attention=whole), latent) - before).abs().max() <= 1


# --- batches ---


@pytest.mark.parametrize(
    "attention",
    [Attention(merging=0.5), tiles(256), tiles(256, swap=3), replace(tiles(256, swap=2), merging=0.3)],
)
def test_rows_do_not_hang_on_their_mates(checkpoint: Write, attention: Attention) -> None:
    path, _ = checkpoint("sd1")
    model, bundle = Model(str(path), attention=attention), Bundle("cpu")
    rows = [Predict(model, random(4, 32, 32, seed=k), 500.0, TEXTS[k % 2], 2) for k in range(3)]
    together = predicted(bundle, rows)
    for row, result in zip(rows, together, strict=True):
        assert_close(predicted(bundle, [row])[0], result)


def key(attention: Attention, evaluation: int = 0, path: Path = Path("/a")) -> object:
    return Predict(
        Model(str(path), attention=attention), random(4, 8, 8), 5.0, TEXTS[0], evaluation
    ).batch_key()


def test_batch_keys() -> None:
    plain = Attention()
    assert key(plain, 1) == key(plain, 2)
    assert key(Attention(merging=0.5), 1) == key(Attention(merging=0.5), 2)
    vae_only = Attention(vae=RULE, width=64, height=64, seed=4)
    assert key(vae_only) == key(plain), "the UNet is not concerned"
    different = [
        key(plain),
        key(Attention(merging=0.5)),
        key(Attention(merging=0.4)),
        key(tiles()),
        key(tiles(seed=2)),
        key(tiles(), 1),
        key(tiles(128)),
    ]
    assert len(set(different)) == len(different)

    def decode_key(attention: Attention) -> object:
        return Decode(Model("/a", attention=attention), random(4, 8, 8)).batch_key()

    assert decode_key(tiles()) == decode_key(Attention(merging=0.3)) == decode_key(plain)
    assert decode_key(vae_only) != decode_key(plain)
