"""Stubs of a fork of the WebUI."""
