import numpy as np
import pytest
import torch

from sdserver.jobs.job import SharedPath, Size, Start
from sdserver.sampling.brownian import BrownianTree
from sdserver.sampling.noise import ImageNoise, PhiloxGenerator, make_generator, paste_centred, slerp
from sdserver.sampling.plan import make_plan

CPU = torch.device("cpu")
SHAPE = (4, 8, 8)
TREE = (0.0292, 14.6146)


@pytest.fixture
def golden(goldens):
    with np.load(goldens / "noise.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def _close(drawn, expected):
    np.testing.assert_allclose(drawn.numpy(), expected, atol=2e-6)


def test_philox_equals_what_an_nvidia_gpu_draws():
    drawn = PhiloxGenerator(0).draw((1, 3, 4))
    _close(drawn[0], [
        [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
        [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
        [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
    ])  # fmt: skip


def test_philox_draws_standard_normals_for_seeds_of_more_than_32_bits():
    values = PhiloxGenerator(2**40 + 3).draw((4, 64, 64)).double()
    assert values.mean().abs() < 0.03
    assert values.std() == pytest.approx(1, abs=0.03)
    assert not torch.equal(values, PhiloxGenerator(3).draw((4, 64, 64)).double())


@pytest.mark.parametrize("source", ["CPU", "NV"])
@pytest.mark.parametrize(
    ("case", "index", "shape", "changes"),
    [
        ("sub", 0, SHAPE, {"subseed": 99, "strength": 0.3}),
        ("sub", 1, SHAPE, {"seed": 1235, "subseed": 100, "strength": 0.3}),
        ("resize", 0, SHAPE, {"resize_from": Size(128, 128)}),
        ("resize_small", 0, (4, 16, 16), {"resize_from": Size(64, 64)}),
        ("ensd", 0, SHAPE, {"seed_delta": 31337}),
    ],
)
def test_draws_equal_automatic1111s(golden, noise_spec, source, case, index, shape, changes):
    noise = ImageNoise(noise_spec(source=source, **changes), shape, CPU)
    _close(noise.first(), golden[f"{source}|{case}|first"][index])
    _close(noise.next(), golden[f"{source}|{case}|second"][index])


@pytest.mark.parametrize("source", ["CPU", "NV"])
def test_the_brownian_tree_equals_automatic1111s(golden, noise_spec, source):
    tree = ImageNoise(noise_spec(source=source), SHAPE, CPU).brownian(*TREE)
    for sigma, sigma_next in ((14.6146, 9.0), (9.0, 4.0), (4.0, 1.0)):
        _close(tree(sigma, sigma_next), golden[f"{source}|brownian|{sigma}_{sigma_next}"][0])


def test_plain_draws_are_those_of_the_seeds_generator(noise_spec):
    noise = ImageNoise(noise_spec(), SHAPE, CPU)
    generator = make_generator("CPU", 1234, CPU)
    for drawn in (noise.first(), noise.next(), noise.next()):
        assert torch.equal(drawn, generator.draw(SHAPE))


def test_on_a_cpu_the_device_source_is_the_cpus(noise_spec):
    first, second = (ImageNoise(noise_spec(source=source), SHAPE, CPU).first() for source in ("CPU", "GPU"))
    assert torch.equal(first, second)


def test_no_global_random_state_is_read_or_written(noise_spec):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for source in ("CPU", "NV"):
        spec = noise_spec(source=source, subseed=3, strength=0.5, resize_from=Size(96, 32), seed_delta=5)
        noise = ImageNoise(spec, SHAPE, CPU)
        noise.first()
        noise.next()
        noise.brownian(*TREE)(3.0, 1.0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_brownian_noise_does_not_move_the_images_generator(noise_spec):
    noise, untouched = (ImageNoise(noise_spec(), SHAPE, CPU) for _ in range(2))
    noise.brownian(*TREE)(5.0, 2.0)
    assert torch.equal(noise.first(), untouched.first())


def test_a_subseeds_share_of_one_is_the_subseeds_noise(noise_spec):
    mixed = ImageNoise(noise_spec(subseed=77, strength=1.0), SHAPE, CPU).first()
    torch.testing.assert_close(mixed, make_generator("CPU", 77, CPU).draw(SHAPE))


def test_slerp_keeps_rows_between_two_unit_vectors_on_the_circle():
    low, high = torch.zeros(1, 2, 1), torch.zeros(1, 2, 1)
    low[0, 0], high[0, 1] = 1.0, 1.0
    halfway = slerp(1 / 3, low, high)[0, :, 0]
    torch.testing.assert_close(halfway, torch.tensor([3**0.5 / 2, 0.5]))


def test_slerp_of_parallel_noise_has_automatic1111s_reversed_weights():
    low = make_generator("CPU", 1, CPU).draw(SHAPE)
    torch.testing.assert_close(slerp(0.25, low, 2 * low), low * 0.25 + 2 * low * 0.75)


def test_paste_centred_larger_and_smaller():
    canvas, patch = torch.zeros(1, 4, 6), torch.arange(1.0, 9.0).reshape(1, 2, 4)
    pasted = paste_centred(canvas, patch)
    assert torch.equal(pasted[:, 1:3, 1:5], patch)
    assert pasted.sum() == patch.sum()
    assert torch.equal(
        paste_centred(torch.zeros(1, 2, 4), torch.nn.functional.pad(patch, (1, 1, 1, 1))), patch
    )


def _tree(seed=5, shape=(1, 100, 100)):
    return BrownianTree(lambda node: make_generator("CPU", node, CPU).draw(shape).double(), seed, 0.03, 14.0)


def test_brownian_increments_add_up():
    tree = _tree()
    whole = tree(14.0, 0.5) * (13.5**0.5)
    parts = tree(14.0, 6.0) * (8.0**0.5) + tree(6.0, 0.5) * (5.5**0.5)
    torch.testing.assert_close(whole, parts)


def test_brownian_noise_has_variance_one_and_independent_steps():
    tree = _tree()
    first, second = tree(9.0, 4.0), tree(4.0, 1.5)
    assert first.std() == pytest.approx(1, abs=0.03)
    assert second.std() == pytest.approx(1, abs=0.03)
    assert (first * second).mean().abs() < 0.03


def test_brownian_noise_depends_neither_on_order_nor_on_other_queries():
    one, other = _tree(), _tree()
    other(13.0, 2.5)
    other(0.7, 0.1)
    assert torch.equal(one(5.0, 2.0), other(5.0, 2.0))
    assert torch.equal(one(2.0, 5.0), -one(5.0, 2.0))


def test_brownian_times_outside_the_range_are_clamped():
    """A sigma may leave the range by a last digit on its way through a logarithm."""
    tree = _tree()
    torch.testing.assert_close(tree(14.0 + 1e-7, 3.0), tree(14.0, 3.0))
    assert tree(14.1, 14.05).abs().max() == 0


@pytest.mark.parametrize("source", ["CPU", "NV"])
def test_a_shared_path_is_one_draw_for_the_batch_from_the_last_images_seed(noise_spec, source):
    with torch.random.fork_rng():
        torch.manual_seed(1236)
        entropy = torch.randint(0, 2**63 - 1, []).item()
    whole = BrownianTree(lambda seed: make_generator(source, seed, CPU).draw((3, *SHAPE)), entropy, *TREE)
    for place in range(3):
        spec = noise_spec(seed=1234 + place, source=source, shared_path=SharedPath(1236, 3, place))
        mine = ImageNoise(spec, SHAPE, CPU).brownian(*TREE)
        for sigma, sigma_next in ((14.6146, 9.0), (4.0, 1.0)):
            assert torch.equal(mine(sigma, sigma_next), whole(sigma, sigma_next)[place])
    own = ImageNoise(noise_spec(seed=1236, source=source), SHAPE, CPU).brownian(*TREE)
    assert not torch.equal(own(4.0, 1.0), whole(4.0, 1.0)[2])


def test_a_shared_path_spans_what_is_walked(facts, sampling, noise_spec):
    class Seen(ImageNoise):
        def brownian(self, sigma_min, sigma_max):
            limits.append((sigma_min, sigma_max))
            return super().brownian(sigma_min, sigma_max)

    start, limits = Start(strength=0.5, exact_steps=False), []
    plan = make_plan(sampling("DPM++ SDE"), facts, start)
    for path in (None, SharedPath(1234, 1, 0)):
        next(plan.start(torch.zeros(SHAPE), Seen(noise_spec(shared_path=path), SHAPE, CPU)))
    walked = [sigma for sigma in plan.sigmas if sigma > 0]
    assert limits == [plan.tree_limits, (walked[-1], walked[0])]
    assert limits[0][1] > limits[1][1]
