"""ComfyUI node pack: a thin translation of `shira_core` to ComfyUI's contracts."""

from __future__ import annotations

import sys

from . import core

core.find()

from . import folder  # noqa: E402 - it needs shira_core
from .nodes.files import Bake, Info, Save  # noqa: E402
from .nodes.fusing import FuseStack  # noqa: E402
from .nodes.loading import AlphaSweep, LoadShira  # noqa: E402
from .nodes.timing import Hook, Schedule  # noqa: E402

_NODES: dict[str, tuple[type, str]] = {
    "SHiRALoader": (LoadShira, "Load SHiRA"),
    "SHiRAStack": (FuseStack, "Fuse SHiRA Stack"),
    "SHiRAInfo": (Info, "SHiRA Info"),
    "SHiRASave": (Save, "Save SHiRA"),
    "SHiRABake": (Bake, "SHiRA Bake"),
    "SHiRASchedule": (Schedule, "SHiRA Schedule"),
    "SHiRAHook": (Hook, "SHiRA Hook"),
    "SHiRAAlphaSweep": (AlphaSweep, "SHiRA Alpha Sweep"),
}
NODE_CLASS_MAPPINGS = {name: node for name, (node, _) in _NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS = {name: title for name, (_, title) in _NODES.items()}


def _serve() -> None:
    """Add the routes where a server runs; scripts import nodes without one."""
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    instance = getattr(server, "instance", None)
    if instance is not None:
        from . import routes

        routes.register(instance)


folder.register()
_serve()
