"""Stubs of the WebUI's modules."""
