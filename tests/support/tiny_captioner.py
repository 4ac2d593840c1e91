"""A BLIP with random weights, in a folder laid out as blip-image-captioning-base's."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import BlipConfig, BlipForConditionalGeneration

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PLAIN = ["a", "picture", "of", "red", "blue", "round", "square", "cat", "dog", "on", "the"]
WORDS = [*MARKS, *PLAIN, "##s"]
SIDE = 32
MEAN, DEVIATION = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
PREPROCESSOR = {
    "do_normalize": True,
    "do_resize": True,
    "image_mean": MEAN,
    "image_std": DEVIATION,
    "image_processor_type": "BlipImageProcessor",
    "resample": 3,
    "size": {"height": SIDE, "width": SIDE},
}


def configuration(**text: Any) -> BlipConfig:
    """As small as it may be; weights so large that pictures matter to what is said."""
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 1.0,
    }
    count = len(WORDS)
    spoken = {"vocab_size": count + 2, "bos_token_id": count, "sep_token_id": 3, "pad_token_id": 0}
    return BlipConfig(
        text_config={**small, **spoken, "eos_token_id": 2, "max_position_embeddings": 64, **text},
        vision_config={**small, "image_size": SIDE, "patch_size": 8},
        projection_dim=32,
        image_text_hidden_size=32,
    )


def write_captioner(folder: Path, seed: int = 0, **text: Any) -> Any:
    """Write the folder's files.

    Returns:
        The network that is in them.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = BlipForConditionalGeneration(configuration(**text)).eval()
    network.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return network
