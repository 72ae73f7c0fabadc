"""WebUI entry: lets this checkout be cloned into `stable-diffusion-webui/extensions/`."""

import a1111_extension  # noqa: F401 - the WebUI puts this checkout's folder on sys.path
