"""Adapters from other files, and other files from adapters."""
