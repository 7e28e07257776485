"""Predictions of a finetuned model over the time of a video: a page to look at, a table, and tiers for ELAN.

In two lines::

    from ssl_affect.timeline import make_report
    make_report("video.mp4", model="runs/mine/weights", out="video_report")
"""

from ssl_affect.timeline.run import Report, ReportSettings, make_report

__all__ = ["Report", "ReportSettings", "make_report"]
