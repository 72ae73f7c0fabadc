"""Extension for AUTOMATIC1111, Forge and reForge: a thin translation of `shira_core`."""
