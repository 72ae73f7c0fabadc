"""Put trained weights together as a diffusers folder: `assemble.py WEIGHTS DATA assets/base`.

`assemble.py --split WEIGHTS DATA assets/base` does the reverse: it writes the weights of a
diffusers folder as files that `train.py --resume` reads.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from denoiser import TEXT, UNET, halves
from models import SCHEDULER, text_encoder, unet, vae
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTokenizer

# component: (files of train.py, file of diffusers)
FILES = {
    "unet": (UNET, "diffusion_pytorch_model.safetensors"),
    "vae": (("vae.safetensors",), "diffusion_pytorch_model.safetensors"),
    "text_encoder": ((TEXT,), "model.safetensors"),
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.35.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def assemble(weights: Path, data: Path, out: Path) -> None:
    """Write every component's config and fp16 weights."""
    shutil.copytree(data / "tokenizer", out / "tokenizer", dirs_exist_ok=True)
    words = len(CLIPTokenizer.from_pretrained(out / "tokenizer"))
    models: dict[str, nn.Module] = {
        "unet": unet(),
        "vae": vae(),
        "text_encoder": text_encoder(words),
    }
    models["text_encoder"].config.architectures = ["CLIPTextModel"]
    for name, (parts, file) in FILES.items():
        state = {k: v for part in parts for k, v in load_file(weights / part).items()}
        models[name].load_state_dict(state)
        (out / name).mkdir(exist_ok=True)
        if name == "text_encoder":
            models[name].config.save_pretrained(out / name)
        else:
            models[name].save_config(out / name)
        save_file(state, out / name / file, metadata={"format": "pt"})
    (out / "scheduler").mkdir(exist_ok=True)
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2))
    (out / "model_index.json").write_text(json.dumps(INDEX, indent=2))


def split(weights: Path, out: Path) -> None:
    """Write the weights of the diffusers folder `out` as files of `train.py`."""
    weights.mkdir(parents=True, exist_ok=True)
    for name, (parts, file) in FILES.items():
        state = load_file(out / name / file)
        pieces = halves(state) if name == "unet" else (state,)
        for part, piece in zip(parts, pieces, strict=True):
            save_file(piece, weights / part)


def main() -> None:
    """Parse the command line and assemble or split."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", action="store_true")
    options = parser.parse_args()
    if options.split:
        split(options.weights, options.out)
    else:
        assemble(options.weights, options.data, options.out)


if __name__ == "__main__":
    main()
