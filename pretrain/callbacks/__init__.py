"""Callbacks of a pretraining run, one subject per file."""
