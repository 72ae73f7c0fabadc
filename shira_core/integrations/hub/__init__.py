"""Sharing adapters on a model hub: build a folder, push it, pull from others."""

from .about import About, Bundle, Progress
from .bundle import build, contents, is_bundle
from .names import check_repository
from .pull import Pulled, pull
from .push import push

__all__ = [
    "About",
    "Bundle",
    "Progress",
    "Pulled",
    "build",
    "check_repository",
    "contents",
    "is_bundle",
    "pull",
    "push",
]
