"""Tensor names of diffusers' and transformers' modules in Stable Diffusion's single-file layout.

The inverse of what a loader does. Used to write the demo checkpoint and the tests' tiny ones.
"""

from torch import Tensor, nn

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer."

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_prefixes(unet: nn.Module) -> dict[str, str]:
    """Module prefixes of a diffusers UNet2DConditionModel to those of the original UNet."""
    names = dict(UNET_ENDS)
    names |= {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1"}
    names["mid_block.resnets.1"] = "middle_block.2"
    index = 1
    for i, block in enumerate(unet.down_blocks):
        for j in range(len(block.resnets)):
            names[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{index}.0"
            names[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{index}.1"
            index += 1
        if block.downsamplers:
            names[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{index}.0.op"
            index += 1
    index = 0
    for i, block in enumerate(unet.up_blocks):
        for j in range(len(block.resnets)):
            names[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{index}.0"
            names[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{index}.1"
            index += 1
        if block.upsamplers:
            place = 2 if getattr(block, "attentions", None) else 1
            names[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{index - 1}.{place}.conv"
    return names


def vae_prefixes(vae: nn.Module) -> dict[str, str]:
    """Module prefixes of a diffusers AutoencoderKL to those of the original autoencoder."""
    names = {}
    for side in ("encoder", "decoder"):
        names[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        names[f"{side}.mid_block.attentions.0"] = f"{side}.mid.attn_1"
        for j in range(2):
            names[f"{side}.mid_block.resnets.{j}"] = f"{side}.mid.block_{j + 1}"
    for i, block in enumerate(vae.encoder.down_blocks):
        for j in range(len(block.resnets)):
            names[f"encoder.down_blocks.{i}.resnets.{j}"] = f"encoder.down.{i}.block.{j}"
        names[f"encoder.down_blocks.{i}.downsamplers.0"] = f"encoder.down.{i}.downsample"
    last = len(vae.decoder.up_blocks) - 1
    for i, block in enumerate(vae.decoder.up_blocks):
        for j in range(len(block.resnets)):
            names[f"decoder.up_blocks.{i}.resnets.{j}"] = f"decoder.up.{last - i}.block.{j}"
        names[f"decoder.up_blocks.{i}.upsamplers.0"] = f"decoder.up.{last - i}.upsample"
    return names


def renamed(state: dict[str, Tensor], prefixes: dict[str, str], inner: dict[str, str]) -> dict[str, Tensor]:
    """The state with the longest matching module prefix replaced, then `inner` module names."""
    result = {}
    for name, tensor in state.items():
        matches = [p for p in prefixes if name.startswith(p + ".")]
        if not matches:
            result[name] = tensor
            continue
        prefix = max(matches, key=len)
        rest = name[len(prefix) + 1 :]
        for old, new in inner.items():
            if rest.startswith(old + "."):
                rest = new + rest[len(old) :]
                break
        result[f"{prefixes[prefix]}.{rest}"] = tensor
    return result


def unet_state(unet: nn.Module) -> dict[str, Tensor]:
    """A UNet's tensors under their single-file names."""
    state = renamed(unet.state_dict(), unet_prefixes(unet), RESNET)
    return {UNET + name: tensor for name, tensor in state.items()}


def vae_state(vae: nn.Module) -> dict[str, Tensor]:
    """A VAE's tensors under their single-file names; its attention's matrices are 1x1 convolutions there."""
    state = renamed(vae.state_dict(), vae_prefixes(vae), VAE_ATTENTION | {"conv_shortcut": "nin_shortcut"})
    for name, tensor in state.items():
        if ".attn_1." in name and tensor.ndim == 2:
            state[name] = tensor[:, :, None, None]
    return {VAE + name: tensor for name, tensor in state.items()}


def clip_state(text_encoder: nn.Module) -> dict[str, Tensor]:
    """CLIP-L's tensors under their single-file names."""
    state = text_encoder.state_dict()
    return {CLIP + "text_model." + name.removeprefix("text_model."): tensor for name, tensor in state.items()}
