"""Sparse High Rank Adapters: files, masks, application, fusion, comparison and training."""
