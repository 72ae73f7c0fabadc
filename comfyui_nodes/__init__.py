"""ComfyUI node pack: a thin translation of `shira_core` to ComfyUI's contracts."""

NODE_CLASS_MAPPINGS: dict[str, type] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
