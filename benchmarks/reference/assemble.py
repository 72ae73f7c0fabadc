"""Put trained weights together as a diffusers folder: `assemble.py WEIGHTS DATA assets/base`."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from models import SCHEDULER, text_encoder, unet, vae
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

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


def main() -> None:
    """Write every component's config and fp16 weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(options.data / "tokenizer", out / "tokenizer", dirs_exist_ok=True)
    words = len(CLIPTokenizer.from_pretrained(out / "tokenizer"))
    parts = [load_file(options.weights / f"unet-{n}.safetensors") for n in (1, 2)]
    components = {
        "unet": (unet(), parts[0] | parts[1], "diffusion_pytorch_model.safetensors"),
        "vae": (
            vae(),
            load_file(options.weights / "vae.safetensors"),
            "diffusion_pytorch_model.safetensors",
        ),
        "text_encoder": (
            text_encoder(words),
            load_file(options.weights / "text_encoder.safetensors"),
            "model.safetensors",
        ),
    }
    for name, (model, state, file) in components.items():
        model.load_state_dict(state)
        (out / name).mkdir(exist_ok=True)
        if name == "text_encoder":
            model.config.architectures = ["CLIPTextModel"]
            model.config.save_pretrained(out / name)
        else:
            model.save_config(out / name)
        save_file(state, out / name / file, metadata={"format": "pt"})
    (out / "scheduler").mkdir(exist_ok=True)
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2))
    (out / "model_index.json").write_text(json.dumps(INDEX, indent=2))


if __name__ == "__main__":
    main()
