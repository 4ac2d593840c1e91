from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_calls import use
from safetensors.torch import load_file, save_file
from tiny_checkpoints import POOLED, SIZES, TEXT_WIDTH, Tensors, Write, full_size, make, tensors
from torch import Tensor

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.detect import Detected, detect
from sdserver.bundle.load import Frame
from sdserver.bundle.schedule import scaled_linear, zero_terminal_snr
from sdserver.bundle.sidecar import Sidecar, read_sidecar
from sdserver.bundle.spec import TextSpec, VaeSpec
from sdserver.bundle.weights import LoadedWeights
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.jobs.model import Family


@pytest.fixture(scope="module")
def files() -> dict[Family, Tensors]:
    families: tuple[Family, ...] = ("sd1", "sd2", "sdxl")
    return {family: tensors(family, make(family)) for family in families}


def detected(stored: Tensors, sidecar: Sidecar | None = None) -> Detected:
    return detect(LoadedWeights(stored), sidecar)


def without(stored: Tensors, piece: str) -> Tensors:
    return {name: value for name, value in stored.items() if piece not in name}


def test_dimensions_of_sd1(files: dict[Family, Tensors]) -> None:
    found = detected(files["sd1"])
    unet, spec = found.layout.unet, found.spec
    assert (unet.widths, unet.res_blocks, unet.heads) == ((32, 64, 64), 2, (8, 8, 8))
    assert (unet.down_depths, unet.mid_depth) == (((1, 1), (1, 1), (0, 0)), 1)
    assert unet.up_depths == ((1, 1, 1), (1, 1, 1), (0, 0, 0))
    assert (unet.context_dim, unet.linear_projection, unet.vector_dim) == (TEXT_WIDTH, False, None)
    assert found.layout.vae == VaeSpec(widths=(32, 32, 64), res_blocks=1, latent_channels=4)
    (text,) = found.layout.text
    assert text == TextSpec(
        kind="clip",
        prefix="cond_stage_model.transformer.text_model.",
        width=TEXT_WIDTH,
        layers=3,
        heads=4,
        intermediate=2 * TEXT_WIDTH,
        vocabulary=49408,
        positions=77,
        projection=None,
    )
    assert (spec.family, spec.prediction, spec.latent_scale) == ("sd1", "epsilon", 0.18215)
    assert not any((spec.is_inpainting, spec.is_edit, spec.is_refiner, spec.zero_snr))


def test_dimensions_of_sd2(files: dict[Family, Tensors]) -> None:
    found = detected(files["sd2"])
    assert (found.layout.unet.heads, found.layout.unet.linear_projection) == ((1, 2, 2), True)
    assert (found.spec.family, found.spec.prediction, found.spec.text) == ("sd2", None, ("open_clip",))
    assert found.layout.text[0].projection is None


def test_dimensions_of_sdxl(files: dict[Family, Tensors]) -> None:
    found = detected(files["sdxl"])
    unet = found.layout.unet
    assert (unet.res_blocks, unet.down_depths, unet.mid_depth) == (1, ((0,), (2,), (3,)), 3)
    assert (unet.up_depths, unet.vector_dim) == (((0, 0), (2, 2), (3, 3)), POOLED + SIZES)
    assert (found.spec.family, found.spec.prediction, found.spec.latent_scale) == ("sdxl", "epsilon", 0.13025)
    assert [text.projection for text in found.layout.text] == [None, POOLED]


def test_full_size_sd1() -> None:
    found = detected(tensors("sd1", full_size("sd1")))
    assert (found.layout.unet.widths, found.layout.unet.heads) == ((320, 640, 1280, 1280), (8, 8, 8, 8))
    assert (found.layout.text[0].heads, found.layout.text[0].layers) == (12, 12)
    assert found.layout.vae.widths == (128, 256, 512, 512)


def test_full_size_sd2() -> None:
    found = detected(tensors("sd2", full_size("sd2")))
    assert found.layout.unet.heads == (5, 10, 20, 20)
    assert (found.layout.text[0].heads, found.layout.text[0].layers) == (16, 24)


def test_full_size_sdxl() -> None:
    found = detected(tensors("sdxl", full_size("sdxl")))
    unet = found.layout.unet
    assert (unet.heads, unet.mid_depth, unet.vector_dim) == ((5, 10, 20), 10, 2816)
    assert unet.up_depths == ((0, 0, 0), (2, 2, 2), (10, 10, 10))
    assert [text.heads for text in found.layout.text] == [12, 20]


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_full_size_networks_find_all_their_tensors(family: Family) -> None:
    """`Frame` compares names and shapes of everything that a real file would hold."""
    weights = LoadedWeights(tensors(family, full_size(family)))
    Frame(detect(weights, None), weights)


def test_markers_and_inputs(files: dict[Family, Tensors]) -> None:
    mark = torch.zeros(0)
    marked = detected(files["sdxl"] | {"v_pred": mark, "ztsnr": mark}).spec
    assert (marked.prediction, marked.zero_snr) == ("v", True)
    assert marked.alphas == zero_terminal_snr(scaled_linear())
    inpainting = detected(tensors("sd2", make("sd2", in_channels=9))).spec
    assert (inpainting.is_inpainting, inpainting.prediction) == (True, "epsilon")
    assert detected(tensors("sd1", make("sd1", in_channels=8))).spec.is_edit


def test_refiner_has_one_encoder(files: dict[Family, Tensors]) -> None:
    stored = without(without(files["sdxl"], "embedders.0."), "diffusion_model")
    stored = {name.replace("embedders.1.", "embedders.0."): value for name, value in stored.items()}
    narrow = tensors("sd2", make("sd2"))
    stored |= {name: value for name, value in narrow.items() if name.startswith("model.")}
    stored["model.diffusion_model.label_emb.0.0.weight"] = torch.zeros(128, POOLED + 5 * 256)
    spec = detected(stored).spec
    assert (spec.family, spec.is_refiner, spec.text) == ("sdxl", True, ("open_clip",))


def test_the_files_own_alphas_win(files: dict[Family, Tensors]) -> None:
    table = torch.linspace(0.99, 0.01, 1000)
    found = detected(files["sd1"] | {"alphas_cumprod": table}, Sidecar(beta_start=0.5)).spec.alphas
    assert found == tuple(table.tolist())


@pytest.mark.parametrize(
    "table", [torch.ones(10), torch.linspace(0.1, 0.9, 1000), torch.full((1000,), float("nan"))]
)
def test_bad_alphas_are_refused(files: dict[Family, Tensors], table: Tensor) -> None:
    with pytest.raises(UnreadableCheckpoint, match="alphas_cumprod"):
        detected(files["sd1"] | {"alphas_cumprod": table})


def test_scaled_linear_is_the_product_of_the_betas() -> None:
    alphas = scaled_linear()
    assert len(alphas) == 1000
    assert alphas[0] == pytest.approx(1 - 0.00085)
    roots = [0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * k / 999 for k in range(1000)]
    assert alphas[-1] == pytest.approx(np.prod([1 - root**2 for root in roots]), rel=1e-6)


def test_zero_terminal_snr_keeps_the_first_and_empties_the_last() -> None:
    before, after = scaled_linear(), zero_terminal_snr(scaled_linear())
    assert after[0] == pytest.approx(before[0], rel=1e-6)
    assert after[-1] == np.float32(4.8973451890853435e-08)
    assert all(new <= old for new, old in zip(after[1:], before[1:], strict=True))
    assert list(after) == sorted(after, reverse=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora_unet_down_blocks_0.lora_down.weight", "LoRA"),
        ("transformer.single_blocks.0.lora_A.weight", "LoRA"),
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3"),
        ("control_model.input_blocks.0.0.weight", "ControlNet"),
        ("emb_params", "embedding"),
        ("first_stage_model.encoder.conv_in.weight", "VAE"),
        ("encoder.conv_in.weight", "VAE"),
        ("something", "no Stable Diffusion"),
    ],
)
def test_other_files_are_named(name: str, words: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=words):
        detected({name: torch.zeros(1)})


@pytest.mark.parametrize(
    ("missing", "words"), [("first_stage_model.", "no VAE"), ("cond_stage_model.", "no text encoder")]
)
def test_incomplete_checkpoints_are_refused(files: dict[Family, Tensors], missing: str, words: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=words):
        detected(without(files["sd1"], missing))


def test_unserved_unets_are_refused(files: dict[Family, Tensors]) -> None:
    depth = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 5, 3, 3)}
    with pytest.raises(UnsupportedCheckpoint, match="takes 5 channels"):
        detected(files["sd1"] | depth)
    with pytest.raises(UnsupportedCheckpoint, match="different families"):
        detected(files["sd1"] | {"model.diffusion_model.label_emb.0.0.weight": torch.zeros(128, 64)})
    with pytest.raises(UnsupportedCheckpoint, match="EDM"):
        detected(files["sdxl"] | {"edm_mean": torch.zeros(4)})
    with pytest.raises(UnsupportedCheckpoint, match="different length"):
        detected(without(files["sd1"], "input_blocks.8."))
    with pytest.raises(UnsupportedCheckpoint, match="other places"):
        detected(without(files["sd1"], "input_blocks.2.1."))
    with pytest.raises(UnreadableCheckpoint, match="text vectors of 32"):
        detected(
            files["sd1"]
            | {
                "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.zeros(
                    9, 64
                )
            }
        )
    with pytest.raises(UnreadableCheckpoint, match="is missing"):
        detected(without(files["sd1"], "post_quant_conv"))
    with pytest.raises(UnreadableCheckpoint, match="is missing"):
        detected(without(files["sd1"], "encoder.down."))


def write_yaml(folder: Path, text: str) -> Sidecar | None:
    (folder / "x.yaml").write_text(text)
    return read_sidecar(folder / "x.safetensors")


def test_sidecar_says_what_tensors_cannot(tmp_path: Path, files: dict[Family, Tensors]) -> None:
    assert read_sidecar(tmp_path / "x.safetensors") is None
    sd2 = """
    model:
      params:
        parameterization: v
        linear_start: 0.001
        linear_end: 0.01
        scale_factor: 0.2
        unet_config: {params: {num_heads: -1, num_head_channels: 16}}
    """
    sidecar = write_yaml(tmp_path, sd2)
    assert sidecar == Sidecar("v", None, 16, 0.2, 0.001, 0.01)
    found = detected(files["sd2"], sidecar)
    assert (found.layout.unet.heads, found.spec.prediction) == ((2, 4, 4), "v")
    assert (found.spec.latent_scale, found.spec.alphas) == (0.2, scaled_linear(0.001, 0.01))
    sdxl = """
    model:
      params:
        denoiser_config: {params: {scaling_config: {target: sgm.modules.VScaling}}}
        network_config: {params: {num_heads: 4}}
    """
    assert write_yaml(tmp_path, sdxl) == Sidecar("v", num_heads=4)
    assert write_yaml(tmp_path, "model: {params: {}}") == Sidecar("epsilon")
    assert write_yaml(tmp_path, "- 1\n- 2") == Sidecar("epsilon")


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "model: !!python/object/apply:os.system [true]",
        "model: {params: {linear_start: yes}}",
        "#" * (1 << 21),
    ],
)
def test_bad_sidecars_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"x\.yaml"):
        write_yaml(tmp_path, text)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_silent_sd2_network_is_asked(checkpoint: Write, prediction: str) -> None:
    """A network that nearly returns its input predicts epsilon; one that returns its opposite, v."""
    path, _ = checkpoint("sd2")
    stored = load_file(path)
    stored["model.diffusion_model.out.2.weight"] *= 0
    stored["model.diffusion_model.out.2.bias"][:] = 0.5 if prediction == "epsilon" else -0.6
    save_file(stored, path)
    assert use(Bundle("cpu"), path).prediction == prediction
