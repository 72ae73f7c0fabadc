"""Import this first: it lets the modules of `benchmarks/` and `benchmarks/reference/` be found."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHMARKS, ROOT = HERE.parent, HERE.parent.parent
REFERENCE, ASSETS, RESULTS = BENCHMARKS / "reference", ROOT / "assets", HERE / "results"
sys.path += [str(folder) for folder in (REFERENCE, BENCHMARKS, ROOT)]
