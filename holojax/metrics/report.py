"""An evaluation as tables and a picture: for people (text, PNG) and for programs (CSV, JSON)."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holojax.errors import HoloJAXError

METRICS, TABLE, CONFUSION = "metrics.json", "table.txt", "confusion.csv"
# Figures of a class, in the order of the columns, and the name of their mean where there is one.
PER_CLASS = {
    "iou": "miou",
    "accuracy": "macc",
    "precision": None,
    "recall": None,
    "f1": "mf1",
    "boundary_iou": "mean_boundary_iou",
    "boundary_f1": "mean_boundary_f1",
}
_LINES = (
    ("miou", "fwiou", "oa", "macc", "mf1", "kappa"),
    ("mean_boundary_iou", "mean_boundary_f1"),
    ("seam_error", "error_near_seams", "error_elsewhere"),
)
OVERALL = sum(_LINES, ())
_MOST_NUMBERS = 32  # classes up to which the picture has a number in every cell


def write_report(folder: str | os.PathLike[str], figures: dict[str, Any]) -> list[Path]:
    """Write an evaluation to a folder, which is made; return the files.

    `table.txt` is `format_table`, `metrics.csv` one line a class and one of means, `metrics.json` all figures but the
    confusion matrix, which is `confusion.csv` (integers, rows = truth) and `confusion.png` (shares of the truth).

    Args:
        folder: where to write; files of an evaluation before are replaced.
        figures: what `training.evaluate_run` returns: `Counts.figures()` and `classes` (names), `confusion` and
            anything else that JSON can hold.

    Raises:
        HoloJAXError: the folder is not writable.
    """
    folder, classes = Path(folder), figures["classes"]
    texts = {
        TABLE: format_table(figures),
        "metrics.csv": _csv(_rows(figures)),
        METRICS: to_json(figures, indent=2) + "\n",
        CONFUSION: _csv(
            [["true \\ predicted", *classes]]
            + [[name, *row] for name, row in zip(classes, np.asarray(figures["confusion"]).tolist(), strict=True)]
        ),
    }
    picture = folder / "confusion.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        draw_confusion(figures["confusion"], classes, picture)
    except OSError as error:
        raise HoloJAXError(f"{folder}: the report cannot be written: {error}") from error
    return [*(folder / name for name in texts), picture]


def read_report(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read `metrics.json` of a folder that `write_report` wrote: arrays per class, NaN where nothing is known.

    Raises:
        HoloJAXError: there is none, or it is no report.
    """
    path = Path(folder) / METRICS
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HoloJAXError(f"{path}: not found. Make it with scripts/evaluate.py --out={folder}.") from error
    except (OSError, ValueError) as error:
        raise HoloJAXError(f"{path}: no report of an evaluation ({error!r}). Make it anew.") from error
    wrong = _what_is_wrong(figures)
    if wrong:
        raise HoloJAXError(f"{path}: no report of an evaluation ({wrong}). Make it anew with scripts/evaluate.py.")
    for name in (*PER_CLASS, *OVERALL):
        if name in figures:
            figures[name] = np.asarray(figures[name], float)[()]  # null becomes NaN
    figures["pixels"] = np.asarray(figures["pixels"])
    return figures


def to_json(figures: dict[str, Any], indent: int | None = None) -> str:
    """Write all figures but the confusion matrix as JSON; NaN is null."""
    pixels = {"pixels": np.asarray(figures["confusion"]).sum(1)}
    plain = {name: _plain(value) for name, value in (figures | pixels).items() if name != "confusion"}
    return json.dumps(plain, indent=indent, allow_nan=False)


def format_table(figures: dict[str, Any]) -> str:
    """Lay figures out as text: one line a class, what is known of all, and which classes have no figures."""
    header, *rows, means = _rows(figures)
    shown = [index for index, name in enumerate(header) if name != "recall"]  # accuracy is the same
    lines = [[_text(row[index]) for index in shown] for row in (header, *rows, means)]
    text = align_columns(lines)
    overall = ["  ".join(f"{name} {_text(figures[name])}" for name in line if name in figures) for line in _LINES]
    return "\n".join([*text, *filter(None, overall), *_left_out(figures)]) + "\n"


def align_columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Pad the cells of a table: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first, *others = widths
    return [
        "  ".join([line[0].ljust(first), *(cell.rjust(width) for cell, width in zip(line[1:], others, strict=True))])
        for line in lines
    ]


def draw_confusion(cm: Any, classes: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Draw a confusion matrix as a PNG: the share of each true class (row) that is called so; grey without pixels."""
    from matplotlib.figure import Figure  # takes its time: only where a picture is drawn

    counts = np.asarray(cm).astype(np.float64)
    total = counts.sum(1, keepdims=True)
    share = np.ma.masked_where(np.broadcast_to(total == 0, counts.shape), counts / np.maximum(total, 1))
    side = min(3 + 0.4 * len(classes), 40)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("0.85")
    image = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(image, label="share of the true pixels")
    if len(classes) <= _MOST_NUMBERS:
        for (row, col), value in np.ndenumerate(counts):
            if value:
                part = share[row, col]
                colour = "white" if part > 0.5 else "black"
                axes.text(col, row, f"{100 * part:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.savefig(path, dpi=100)


def _what_is_wrong(figures: Any) -> str:
    """Name the first key of a report that is missing or holds something else; empty if there is none."""
    if not isinstance(figures, dict):
        return f"expected keys and values, found {_short(figures)}"
    classes = figures.get("classes")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        return f"classes: expected a list of names, found {_short(classes)}"
    for name in ("iou", "pixels", *PER_CLASS, *OVERALL):
        if name not in figures and name not in ("iou", "pixels"):
            continue
        value = figures.get(name)
        if name in OVERALL:
            wanted, fits = "a number", _is_figure(value)
        else:
            wanted = f"{len(classes)} numbers, one for each class"
            fits = isinstance(value, list) and len(value) == len(classes)
            fits = fits and all(_is_figure(item) and (name != "pixels" or isinstance(item, int)) for item in value)
        if not fits:
            return f"{name}: expected {wanted}, found {_short(value)}"
    return ""


def _is_figure(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _rows(figures: dict[str, Any]) -> list[list[Any]]:
    """Return the table of classes: a header, one row a class, and one of the means."""
    columns = [name for name in PER_CLASS if name in figures]
    pixels = np.asarray(figures["confusion"]).sum(1).tolist()
    rows: list[list[Any]] = [["class", *columns, "pixels"]]
    for index, name in enumerate(figures["classes"]):
        rows.append([name, *(float(figures[column][index]) for column in columns), pixels[index]])
    means = (figures[PER_CLASS[column]] if PER_CLASS[column] else math.nan for column in columns)
    return [*rows, ["(mean)", *means, sum(pixels)]]


def _left_out(figures: dict[str, Any]) -> list[str]:
    """Say which classes a mean does not count, and why."""
    cm, classes = np.asarray(figures["confusion"]), figures["classes"]
    true, called = cm.sum(1) > 0, cm.sum(0) > 0
    reasons = {
        "absent from truth and map, left out of all means": ~true & ~called,
        "absent from the truth, called by mistake: IoU and F1 are 0 in the means, accuracy is left out": ~true & called,
    }
    if "boundary_iou" in figures:
        reasons["without a boundary in truth and map, left out of its means"] = (true | called) & np.isnan(
            figures["boundary_iou"]
        )
    return [
        f"{reason}: {', '.join(name for name, is_so in zip(classes, which, strict=True) if is_so)}"
        for reason, which in reasons.items()
        if which.any()
    ]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4f}"
    return str(value)


def _csv(rows: list[list[Any]]) -> str:
    """Write rows as CSV; NaN is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([["" if isinstance(x, float) and math.isnan(x) else x for x in row] for row in rows])
    return text.getvalue()


def _plain(value: Any) -> Any:
    """Turn arrays into lists and NaN into None, as JSON wants."""
    if isinstance(value, np.ndarray | tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
