"""Benchmarks: ``python -m benchmarks.run`` writes a table, a picture and JSON to ``benchmarks/results/``.

Every file can be run alone: ``python -m benchmarks.loader --quick``. Nothing here is a test: times on a shared machine are
compared inside one run, candidates interleaved, and reported as medians and ratios.
"""
