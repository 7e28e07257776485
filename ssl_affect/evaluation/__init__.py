"""Evaluation of affect predictions: metrics, intervals, baselines, published numbers beside them, and a report."""
