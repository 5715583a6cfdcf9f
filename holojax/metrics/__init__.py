"""Metrics that add up: integer counts first, ratios once at the end."""

from holojax.metrics.boundary import boundary_counts, summarize_boundary
from holojax.metrics.compare import compare
from holojax.metrics.confusion import confusion_matrix, summarize
from holojax.metrics.counts import Counts, join_counts, split_counts
from holojax.metrics.report import format_table, read_report, to_json, write_report
from holojax.metrics.seam import grid_seams, region_seam_counts, seam_counts, summarize_seam

__all__ = [
    "Counts",
    "boundary_counts",
    "compare",
    "confusion_matrix",
    "format_table",
    "grid_seams",
    "join_counts",
    "read_report",
    "region_seam_counts",
    "seam_counts",
    "split_counts",
    "summarize",
    "summarize_boundary",
    "summarize_seam",
    "to_json",
    "write_report",
]
