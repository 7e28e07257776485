"""Benchmarks for a GPU, which need PyTorch, timm and einops and nothing that reads videos. See README.md."""
