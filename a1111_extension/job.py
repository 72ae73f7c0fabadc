"""The life of a job: its networks are activated, it draws, and the model is given back.

The WebUI swallows errors of networks, and does not deactivate them when a job fails or has none in
its prompt: so two of its functions are wrapped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from modules import extra_networks, processing

from shira_core.errors import ShiraError

from . import problems, tag
from .hosts import HOST
from .stack import Stack, of_tags
from .wrapping import wrap


def install() -> None:
    """Wrap the WebUI's functions, once, and its host's own; after each load of scripts."""
    wrap(processing, "process_images_inner", _giving_back)
    wrap(extra_networks, "activate", _wearing)
    HOST.install()


def _giving_back(draw: Callable[..., Any]) -> Callable[..., Any]:
    def process_images_inner(p: Any) -> Any:
        problems.clear(p)
        try:
            return draw(p)
        finally:
            HOST.take_off()

    return process_images_inner


def _wearing(activate: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the activation of all networks: ours comes last, since some others start afresh."""

    def wrapped(p: Any, data: Any) -> None:
        activate(p, data)
        put_on(p, data.get(tag.KIND, ()))

    return wrapped


def put_on(p: Any, parameters: Sequence[Any]) -> None:
    """Have the model wear the stack of a prompt; show what is wrong with it, then it wears none.

    p: the WebUI's processing object. parameters: its tags, as the WebUI has split them.
    """
    stack: Stack = ()
    try:
        stack = of_tags(parameters)
        HOST.wear(p, stack)
    except Exception as error:
        stack = ()
        HOST.take_off()
        problems.note(p, error)
        if not isinstance(error, ShiraError):
            raise
    finally:
        _mark(parameters, stack)


def _mark(parameters: Sequence[Any], stack: Stack) -> None:
    """Note in tags which adapters they stand for.

    The WebUI encodes texts anew only when tags differ: the same tags may stand for another file.
    """
    mark = tuple(each.entry.adapter for each in stack)
    for each in parameters:
        each.items = [*each.items, mark]
