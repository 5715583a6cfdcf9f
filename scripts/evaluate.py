"""Evaluate the newest checkpoint of a run on the scenes of a split.

    python scripts/evaluate.py --workdir=runs/quickstart [--split=val] [--root=FOLDER]

Prints a table, and as the last line JSON with step, split, miou, oa, macc, mf1, kappa and the figures per
class.
"""

import json
import math

import numpy as np
from absl import flags

from holojax.checkpoints.store import load_config
from holojax.training import command, evaluate_run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_SPLIT = flags.DEFINE_string("split", None, "Split to evaluate on; by default the configuration's evaluate.split.")
_ROOT = flags.DEFINE_string("root", None, "Folder of the data; by default the configuration's data.root.")
flags.mark_flag_as_required("workdir")

PER_CLASS = ("iou", "accuracy", "precision", "f1")
OVERALL = ("miou", "oa", "macc", "mf1", "kappa")


def main() -> None:
    """Evaluate as the flags say."""
    layout = command.layout_for(load_config(_WORKDIR.value).model.regions)
    figures = evaluate_run(_WORKDIR.value, layout, split=_SPLIT.value, root=_ROOT.value)
    width = max(len(name) for name in figures["classes"])
    print(f"{'class':{width}}  " + "  ".join(f"{name:>9}" for name in PER_CLASS) + "     pixels")
    for index, name in enumerate(figures["classes"]):
        row = "  ".join(f"{figures[key][index]:9.4f}" for key in PER_CLASS)
        print(f"{name:{width}}  {row}  {figures['confusion'][index].sum():9d}")
    print("  ".join(f"{name} {figures[name]:.4f}" for name in OVERALL))
    print(
        json.dumps({name: _plain(value) for name, value in figures.items() if name != "confusion"}),
        flush=True,
    )


def _plain(value: object) -> object:
    """Turn arrays into lists and NaN into null, as JSON wants."""
    if isinstance(value, np.ndarray | tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value


if __name__ == "__main__":
    command.run(main)
