"""The extension's page in the WebUI's settings."""

from __future__ import annotations

from modules import shared

SECTION = ("shira", "SHiRA")
OPTIONS = {
    "shira_card_words": (True, "A card adds the trigger words to the prompt"),
    "shira_hide_others": (True, "Show only cards that fit the loaded model's architecture"),
    "shira_interference": (True, "Tell in the accordion how much adapters have in common"),
}


def add() -> None:
    """Add our options; called when the WebUI builds its settings."""
    for name, (default, label) in OPTIONS.items():
        shared.opts.add_option(name, shared.OptionInfo(default, label, section=SECTION))
