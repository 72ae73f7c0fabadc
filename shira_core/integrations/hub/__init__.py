"""Sharing adapters on a model hub: build a folder, push it, pull from others."""

from .about import About, Bundle, Progress
from .bundle import build
from .push import push

__all__ = ["About", "Bundle", "Progress", "build", "push"]
