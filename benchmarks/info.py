"""Wall time of `shira info` on a 300 MB file, a fresh process each time, interpreter included.

    python benchmarks/info.py

The interpreter alone and the interpreter with `import torch` are timed too: they are the floor.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import median_ms, save_results

from shira_core.adapter import Adapter, Header, MemoryWeights
from shira_core.mask import Mask, SparseDelta

WEIGHTS = 700  # about what an SDXL adapter changes
ENTRIES = 145_000  # of 2690 x 2690 each: 2 %, 300 MB together


def big_adapter() -> Adapter:
    """Return an adapter that makes a file of 300 MB; all weights share their tensors in memory."""
    shape = (2690, 2690)
    generator = torch.Generator().manual_seed(0)
    positions = torch.randperm(2690 * 2690, generator=generator)[:ENTRIES].sort().values
    delta = SparseDelta(Mask(shape, positions), torch.ones(ENTRIES, dtype=torch.float16))
    weights = MemoryWeights(
        {f"model.diffusion_model.block.{i}.weight": delta for i in range(WEIGHTS)}
    )
    return Adapter(Header(architecture="sdxl"), weights)


def wall_ms(command: list[str], repeats: int) -> float:
    """Return the median wall time of a command."""
    return median_ms(
        lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), repeats
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11)
    args = parser.parse_args()
    shira = str(Path(sys.executable).with_name("shira"))
    with tempfile.TemporaryDirectory() as folder:
        path = big_adapter().save(Path(folder) / "big.shira")
        results = {
            "bytes": path.stat().st_size,
            "info_ms": wall_ms([shira, "info", str(path)], args.repeats),
            "info_json_ms": wall_ms([shira, "info", str(path), "--json"], args.repeats),
            "python_ms": wall_ms([sys.executable, "-c", "pass"], args.repeats),
            "import_torch_ms": wall_ms([sys.executable, "-c", "import torch"], args.repeats),
        }
    print({key: round(value, 1) for key, value in results.items()})
    save_results("info", results)


if __name__ == "__main__":
    main()
