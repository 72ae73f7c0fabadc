"""The SHiRA trainer: `trainer_ui.engine` trains, pages only start it and read its events."""
