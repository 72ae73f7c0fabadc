"""Training jobs: a queue on disk, the processes that train, and how far they are.

job <- store <- progress (with follow), which reads what a run tells <- runner (with process,
outcome).
"""

from .job import Job, JobRefused
from .progress import Kept, Progress, Sample, progress
from .runner import Runner
from .store import Store

__all__ = [
    "Job",
    "JobRefused",
    "Kept",
    "Progress",
    "Runner",
    "Sample",
    "Store",
    "progress",
]
