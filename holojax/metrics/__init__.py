"""Metrics that add up: integer confusion matrices first, ratios once at the end."""

from holojax.metrics.confusion import confusion_matrix, summarize

__all__ = ["confusion_matrix", "summarize"]
