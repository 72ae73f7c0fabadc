"""The tab of the trainer: its page, in a frame that javascript/shira_trainer.js fills."""

from __future__ import annotations

from typing import Any

import gradio as gr

FRAME = '<iframe id="shira_trainer_frame" title="SHiRA trainer"></iframe>'


def tabs() -> list[tuple[Any, str, str]]:
    """Return the tab as the WebUI wants it."""
    with gr.Blocks(analytics_enabled=False) as tab:
        gr.HTML(FRAME)
    return [(tab, "SHiRA trainer", "shira_trainer")]
