"""Shard building: raw videos in, checked WebDataset shards out, behind ``ssl-affect shards``."""
