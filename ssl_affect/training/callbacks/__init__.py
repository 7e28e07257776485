"""Callbacks of a training run, one subject per file."""
