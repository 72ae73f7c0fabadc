"""What the WebUI shows: accordion, cards, axes, settings, infotext, trainer, list for programs."""

from __future__ import annotations


def register() -> None:
    """Hand everything to the WebUI; called each time that it loads its scripts."""
    from modules import script_callbacks

    from . import accordion, api, settings, trainer_proxy, trainer_tab

    script_callbacks.on_before_ui(_before_ui)
    script_callbacks.on_ui_settings(settings.add)
    script_callbacks.on_app_started(api.add)
    script_callbacks.on_ui_tabs(trainer_tab.tabs)
    script_callbacks.on_app_started(trainer_proxy.add)
    script_callbacks.on_infotext_pasted(accordion.warn)


def _before_ui() -> None:
    from modules import ui_extra_networks

    from . import extra_page, xyz

    ui_extra_networks.register_page(extra_page.Page())
    xyz.add()
