"""WebUI entry: lets this checkout be cloned into `stable-diffusion-webui/extensions/`."""

from a1111_extension.script import Script, register

__all__ = ["Script", "register"]
register()
