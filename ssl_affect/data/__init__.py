"""Shards, the exact order in which they are read, decoders and clip sampling."""
