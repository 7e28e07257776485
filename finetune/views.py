"""The merge of a test clip's views, under the name that the finetuning modules use; it lives in the library."""

from ssl_affect.evaluation.views import MergedPredictions, ViewPrediction, merge_views

__all__ = ["MergedPredictions", "ViewPrediction", "merge_views"]
