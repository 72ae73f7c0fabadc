"""Training, in a process of its own: `python -m trainer_ui.engine run config.toml`.

The line of dependency: config -> data -> base -> cache, sample -> opening -> tuning -> loop -> cli.
"""
