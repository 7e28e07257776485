"""Evaluation of affect predictions: metrics, intervals, baselines, published figures beside them, and a report.

NumPy only; nothing here needs torch, so a file of predictions from anywhere can be evaluated. ``docs/evaluation.md`` is the
guide; ``evaluate`` is the one function that training code needs.

Example:
    >>> predictions = make_predictions("expression", ids=ids, labels=labels, scores=probabilities, names=classes)
    >>> result = evaluate({"last": predictions}, dataset="dfew")
    >>> result.paper.pooled["uar"].value
"""

from ssl_affect.evaluation.engine import abaw_multitask, evaluate
from ssl_affect.evaluation.intervals import Bootstrap
from ssl_affect.evaluation.missing import split_missing
from ssl_affect.evaluation.predictions import Predictions, make_predictions
from ssl_affect.evaluation.reading import ReadOptions, read_predictions
from ssl_affect.evaluation.results import EvaluationResult
from ssl_affect.evaluation.selection import check_monitor
from ssl_affect.evaluation.views import ViewPrediction, WindowPrediction, merge_frames, merge_views

__all__ = [
    "Bootstrap",
    "EvaluationResult",
    "Predictions",
    "ReadOptions",
    "ViewPrediction",
    "WindowPrediction",
    "abaw_multitask",
    "check_monitor",
    "evaluate",
    "make_predictions",
    "merge_frames",
    "merge_views",
    "read_predictions",
    "split_missing",
]
