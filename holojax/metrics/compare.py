"""Two evaluations side by side: which class gained, and which lost."""

from __future__ import annotations

from typing import Any

import numpy as np

from holojax.errors import ConfigError
from holojax.metrics.report import OVERALL, align_columns

_WIDTHS = {"boundary": "mean_boundary", "seam": ("seam_error", "error_")}  # a setting, and the figures that it changes


def compare(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Compare two evaluations (`read_report`) as text: overall figures, then IoU by class, the largest gain first.

    Figures that only one of them has, or that were taken with other widths, are left out.

    Raises:
        ConfigError: the classes or splits are not the same; names the first that differs.
    """
    _check(before, after)
    lines = [["", "before", "after", "difference"]]
    for name in OVERALL:
        if name in before and name in after and _same_width(name, before, after):
            lines.append([name, *_cells(before[name], after[name])])
    overall, lines = align_columns(lines), [["IoU", "before", "after", "difference"]]
    change = np.asarray(after["iou"]) - np.asarray(before["iou"])
    for index in np.argsort(-change, kind="stable"):  # NaN comes last
        lines.append([before["classes"][index], *_cells(before["iou"][index], after["iou"][index])])
    counts = [int((change > 0).sum()), int((change < 0).sum()), int((change == 0).sum()), int(np.isnan(change).sum())]
    words = ("gained", "lost", "as before", "absent from one of them")
    verdict = ", ".join(f"{count} {word}" for count, word in zip(counts, words, strict=True) if count)
    return "\n".join([*overall, "", *align_columns(lines), "", verdict, *_remarks(before, after)]) + "\n"


def _check(before: dict[str, Any], after: dict[str, Any]) -> None:
    old, new = list(before["classes"]), list(after["classes"])
    if len(old) != len(new):
        raise ConfigError(
            f"The evaluations are of {len(old)} and {len(new)} classes. Only in the first: "
            f"{', '.join(x for x in old if x not in new) or 'none'}; only in the second: "
            f"{', '.join(x for x in new if x not in old) or 'none'}."
        )
    for index, (a, b) in enumerate(zip(old, new, strict=True)):
        if a != b:
            raise ConfigError(f"The evaluations are of other classes: number {index} is {a!r} and {b!r}.")
    if before.get("split") != after.get("split"):
        raise ConfigError(
            f"The evaluations are of the splits {before.get('split')!r} and {after.get('split')!r}; evaluate both "
            f"with the same --split."
        )


def _same_width(name: str, before: dict[str, Any], after: dict[str, Any]) -> bool:
    return all(before.get(key) == after.get(key) for key, starts in _WIDTHS.items() if name.startswith(starts))


def _remarks(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Say what makes the comparison doubtful."""
    remarks = []
    if not np.array_equal(before["pixels"], after["pixels"]):
        first, second = (int(np.sum(x["pixels"])) for x in (before, after))
        remarks.append(f"The labels are not the same ({first} and {second} pixels count): compare with care.")
    for key in _WIDTHS:
        if before.get(key) and after.get(key) and before[key] != after[key]:
            remarks.append(f"The {key} widths are {before[key]} and {after[key]} pixels: not compared.")
    return remarks


def _cells(before: float, after: float) -> list[str]:
    def text(value: float, form: str) -> str:
        return "-" if np.isnan(value) else format(value, form)

    return [text(before, ".4f"), text(after, ".4f"), text(after - before, "+.4f")]
