"""CLIP's text model in transformers as checkpoints name it: the same, after `text_model.`.

Later versions of transformers leave that beginning out.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..translate import Source

_PARTS = ("embeddings.", "encoder.", "final_layer_norm.")


def clip(names: Iterable[str], prefix: str) -> dict[str, Source]:
    """Return the source of each weight of a CLIP text model; other names are left out.

    prefix: of the text model in the checkpoint, e.g. "cond_stage_model.transformer.text_model.".
    """
    short = {name: name.removeprefix("text_model.") for name in names}
    return {name: Source(prefix + own) for name, own in short.items() if own.startswith(_PARTS)}


def clip_names(names: Iterable[str], prefix: str) -> list[str]:
    """Return the names that weights of a checkpoint's CLIP have in transformers."""
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
