"""Names of tensors in adapter files: which layer, and which part of its change."""

import re
from collections.abc import Container

BUNDLED = "bundle_emb."

_RENAMED = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora_A.default.weight": "lora_down.weight",
    "lora_B.default.weight": "lora_up.weight",
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
    "lora_linear_layer.down.weight": "lora_down.weight",
    "lora_linear_layer.up.weight": "lora_up.weight",
}
_PARTS = (
    "lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha", "scale", "dora_scale",
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
    "on_input", "diff", "diff_b", "w_norm", "b_norm", "a1.weight", "a2.weight", "b1.weight", "b2.weight",
    "oft_blocks", "oft_diag", "rescale",
)  # fmt: skip
_ENDING = re.compile(rf"(.+?)\.({'|'.join(re.escape(part) for part in (*_RENAMED, *_PARTS))})")
_PROCESSOR = re.compile(r"(.+)\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight")


def split_key(name: str, layers: Container[str]) -> tuple[str, str] | None:
    """A tensor's layer, dots as underscores, and part; None if the layer is none of `layers`.

    The layer ends at the first dot, as AUTOMATIC1111 reads it; where that gives no known layer, at a
    known part's name (diffusers and PEFT have dots within the layer's name).
    """
    layer, _, part = name.partition(".")
    if layer in layers:
        return layer, _RENAMED.get(part, part)
    if match := _PROCESSOR.fullmatch(name):
        layer = f"{match[1]}.to_{match[2]}{'.0' if match[2] == 'out' else ''}"
        part = f"lora_{match[3]}.weight"
    elif match := _ENDING.fullmatch(name):
        layer, part = match[1], match[2]
    layer = layer.replace(".", "_")
    return (layer, _RENAMED.get(part, part)) if layer in layers else None
