"""The SHiRA trainer: `engine` trains, pages only start it; `reference` widens the shipped base."""
