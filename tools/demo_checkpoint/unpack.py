"""Take the trained networks out of a demo checkpoint again, to train them on.

PYTHONPATH=.:tools python tools/demo_checkpoint/unpack.py --decoder decoder.pt --unet unet.pt
"""

import argparse
from pathlib import Path

import torch
from networks import decoder

from sdserver.bundle.device import resolve
from sdserver.bundle.load import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("models/Stable-diffusion/demo.safetensors"))
    parser.add_argument("--decoder", type=Path, default=Path("decoder.pt"))
    parser.add_argument("--unet", type=Path, default=Path("unet.pt"))
    args = parser.parse_args()
    with prepare(args.checkpoint, allow_pickle=False) as read:
        parts = read(resolve("cpu", "fp32", "auto"))
    drawn = parts.vae.decoder.state_dict()
    torch.save({name: drawn[name].contiguous() for name in decoder().state_dict()}, args.decoder)
    text = parts.text[0].state_dict()
    (table,) = (name for name in text if "token_embedding" in name)
    ids = text[table].abs().sum(1).nonzero().flatten().tolist()
    text[table] = torch.cat([torch.zeros(1, text[table].shape[1]), text[table][ids]])
    unet = {name: tensor.contiguous() for name, tensor in parts.unet.state_dict().items()}
    torch.save({"unet": unet, "text": text, "ids": (-1, *ids)}, args.unet)


if __name__ == "__main__":
    main()
