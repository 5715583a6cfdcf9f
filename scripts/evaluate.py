"""Evaluate the newest checkpoint of a run on the scenes of a split.

    python scripts/evaluate.py --workdir=runs/quickstart [--split=val] [--root=FOLDER] [--out=FOLDER]
        [--boundary=3] [--seam=8]

Prints a table, and as the last line JSON with step, split, miou, fwiou, oa, macc, mf1, kappa and the figures per
class. With --out, leaves table.txt, metrics.csv, metrics.json, confusion.csv and confusion.png in a folder, which
scripts/compare.py compares with another.
"""

from absl import flags

from holojax.checkpoints.store import load_config
from holojax.metrics import format_table, to_json, write_report
from holojax.training import command, evaluate_run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_SPLIT = flags.DEFINE_string("split", None, "Split to evaluate on; by default the configuration's evaluate.split.")
_ROOT = flags.DEFINE_string("root", None, "Folder of the data; by default the configuration's data.root.")
_OUT = flags.DEFINE_string("out", None, "Folder for the report; by default none is written.")
_BOUNDARY = flags.DEFINE_integer(
    "boundary",
    None,
    "Width in pixels for boundary F1 and boundary IoU, 0: not measured; by default evaluate.boundary.",
    lower_bound=0,
)
_SEAM = flags.DEFINE_integer(
    "seam",
    None,
    "Pixels on each side of a border between regions for the seam error, 0: not measured; by default evaluate.seam.",
    lower_bound=0,
)
flags.mark_flag_as_required("workdir")


def main() -> None:
    """Evaluate as the flags say."""
    layout = command.layout_for(load_config(_WORKDIR.value).model.regions)
    figures = evaluate_run(
        _WORKDIR.value,
        layout,
        split=_SPLIT.value,
        root=_ROOT.value,
        boundary=_BOUNDARY.value,
        seam=_SEAM.value,
    )
    print(format_table(figures), end="")
    if _OUT.value:
        write_report(_OUT.value, figures)
    print(to_json(figures), flush=True)


if __name__ == "__main__":
    command.run(main)
