"""The training pictures: which files, which captions, which sizes, in which order."""

from .buckets import STEP
from .captions import join
from .dataset import Dataset, Example, Skipped, digest, scan, summary
from .report import Report, report

__all__ = [
    "STEP",
    "Dataset",
    "Example",
    "Report",
    "Skipped",
    "digest",
    "join",
    "report",
    "scan",
    "summary",
]
