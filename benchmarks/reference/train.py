"""Train the reference base on one GPU or, under `torchrun`, on several, stage by stage.

`vae` trains the autoencoder, `base` the denoiser and the text encoder on its latents, `judge` the
network that names object and style of a picture, `sheet` draws samples,
`score` draws every object in every style and asks the judge. With `--resume`, a stage
goes on from weights of an earlier run, or from the shipped ones as written by
`assemble.py --split`. Without a GPU the same code runs a few steps slowly (a dry run).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.distributed as dist
from autoencoder import train_vae
from denoiser import draw_sheet, train_base
from judge import score_base, train_judge
from loop import DEVICE, PROCESSES, join_processes

STAGES = {
    "vae": train_vae,
    "base": train_base,
    "judge": train_judge,
    "sheet": draw_sheet,
    "score": score_base,
}
RATES = {"vae": 1e-3, "base": 1e-3, "judge": 2e-3, "sheet": 0.0, "score": 0.0}
BATCHES = {"vae": 48, "base": 256, "judge": 256, "sheet": 0, "score": 0}  # of each process


def main() -> None:
    """Parse the command line and run one stage."""
    began = time.time()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--data", type=Path, required=True, help="folder written by data.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and sheets")
    parser.add_argument("--resume", type=Path, help="folder with weights to go on from")
    parser.add_argument("--vae", type=Path, help="folder with vae.safetensors, if not --out")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--seconds", type=float, default=300.0, help="with all preparations")
    parser.add_argument("--max-steps", type=int, default=10**9)
    parser.add_argument("--eager", action="store_true", help="no compilation, no CUDA graph")
    options = parser.parse_args()
    options.until = began + options.seconds
    options.vae = options.vae or options.out
    options.lr = options.lr or RATES[options.stage]
    options.batch = options.batch or BATCHES[options.stage]
    options.eager = options.eager or DEVICE.type == "cpu"
    options.out.mkdir(parents=True, exist_ok=True)
    join_processes()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    STAGES[options.stage](options)
    if PROCESSES > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
