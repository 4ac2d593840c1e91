"""BLIP's authors' file gives the network that transformers has; other files say what is wrong."""

from pathlib import Path
from typing import Any

import pytest
import torch
from authors_layouts import salesforce_state, tiny_blip, write_salesforce
from tiny_captioner import WORDS
from transformers import BlipConfig, BlipForConditionalGeneration

from sdserver.bundle import blip_names, captioner
from sdserver.bundle.bundle import Bundle
from sdserver.bundle.device import resolve
from sdserver.calls import Caption
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.jobs.events import Picture
from tests.bundle.test_bundle_captioner import captions, noise

NAME = "model_base_caption_capfilt_large.pth"
PLACE = resolve("cpu", "auto", "auto")
PROMPTED = [2, 5, 6, 7]  # [CLS] a picture of


def described(
    file: Path, *pictures: Picture, allow_pickle: bool = True, vocabulary: Path | None = None
) -> Any:
    bundle, words = Bundle("cpu", allow_pickle=allow_pickle), str(vocabulary or file.parent)
    return bundle.run([Caption(str(file), picture, 1, 8, 16, words) for picture in pictures])


@pytest.mark.parametrize("name", [NAME, "blip.safetensors"])
def test_the_networks_outputs_are_equal(tmp_path: Path, name: str) -> None:
    original = write_salesforce(tmp_path / name)
    loaded = captioner._load_file(tmp_path / name, tmp_path, PLACE, allow_pickle=True)
    pixels = torch.stack([loaded.preparation.pixels(noise(seed)) for seed in range(2)])
    tokens = torch.tensor([[len(WORDS), 5, 6, 7, 9]] * 2)
    given = {"pixel_values": pixels, "input_ids": tokens}
    with torch.no_grad():
        mine, wanted = loaded.network(**given).logits, original(**given).logits
    assert torch.equal(mine, wanted)
    assert wanted[0].sub(wanted[1]).abs().max() > 0.1, "the picture matters"
    assert loaded.network.config.text_config.num_attention_heads == 2
    assert loaded.network.config.vision_config.layer_norm_eps == 1e-6


def test_captions_are_those_of_the_same_network_in_a_folder(tmp_path: Path) -> None:
    file, folder = tmp_path / NAME, tmp_path / "folder"
    write_salesforce(file).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    pictures = [noise(seed) for seed in range(4)]
    told = described(file, *pictures)
    assert told == captions(Bundle("cpu"), folder, *pictures)
    assert len(set(told)) > 1
    (tmp_path / "vocab.txt").unlink()
    assert described(file, *pictures, vocabulary=folder) == told


def test_the_published_file_tells_its_network() -> None:
    with torch.device("meta"):
        original = BlipForConditionalGeneration(BlipConfig())
    state = blip_names.renamed(salesforce_state(original))
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in original.state_dict().items()
    }
    found = blip_names.configuration(state, mark=102, padding=0)
    text, vision = found.text_config, found.vision_config
    assert (text.num_hidden_layers, text.num_attention_heads, text.hidden_size) == (12, 12, 768)
    assert (text.vocab_size, text.bos_token_id, text.sep_token_id) == (30524, 30522, 102)
    assert (vision.num_hidden_layers, vision.num_attention_heads) == (12, 12)
    assert (vision.image_size, vision.patch_size) == (384, 16)


def test_a_file_is_read_again_once_it_changed(tmp_path: Path) -> None:
    file = tmp_path / NAME
    write_salesforce(file)
    bundle = Bundle("cpu", allow_pickle=True)
    calls = [Caption(str(file), noise(seed), 1, 8, 16, str(tmp_path)) for seed in range(3)]
    before = bundle.run(calls)
    assert bundle.run(calls) == before
    write_salesforce(file, seed=7)
    assert bundle.run(calls) != before


def test_pickles_need_to_be_allowed(tmp_path: Path) -> None:
    write_salesforce(tmp_path / NAME)
    with pytest.raises(UnsupportedCheckpoint, match=rf"{NAME} is a pickle.*--allow-pickle"):
        described(tmp_path / NAME, noise(0), allow_pickle=False)


class _Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    write_salesforce(tmp_path / NAME)
    torch.save({"model": {}, "more": _Hostile(tmp_path / "mark")}, tmp_path / NAME)
    with pytest.raises(UnreadableCheckpoint, match=NAME):
        described(tmp_path / NAME, noise(0))
    assert not (tmp_path / "mark").exists()


LAYER = "text_decoder.bert.encoder.layer.1.crossattention.self.query.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({LAYER: None}, f"lacks {LAYER}"),
        ({"visual_encoder.pos_embed": None}, "lacks vision_model.embeddings.position_embedding"),
        ({"visual_encoder.pos_embed": torch.zeros(1, 14, 128)}, "sizes that BLIP does not have"),
        ({"visual_encoder.cls_token": torch.zeros(1, 1, 64)}, "damaged"),
        ({LAYER: torch.zeros(3, 3)}, "damaged"),
    ],
)
def test_files_of_another_network_say_so(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    write_salesforce(tmp_path / NAME)
    state = {**salesforce_state(tiny_blip()), **change}
    kept = {name: value for name, value in state.items() if value is not None}
    torch.save({"model": kept}, tmp_path / NAME)
    with pytest.raises(UnreadableCheckpoint, match=words) as caught:
        described(tmp_path / NAME, noise(0))
    assert NAME in str(caught.value)


@pytest.mark.parametrize("words", ["", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nno\nword\n", "x\n" * 99])
def test_words_of_another_network_are_an_error(tmp_path: Path, words: str) -> None:
    write_salesforce(tmp_path / NAME)
    (tmp_path / "vocab.txt").write_text(words)
    with pytest.raises(UnreadableCheckpoint, match=r"tokenizer|sizes|vocab\.txt"):
        described(tmp_path / NAME, noise(0))
