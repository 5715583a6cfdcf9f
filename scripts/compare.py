"""Compare two evaluations: which class gained, and which lost.

    python scripts/evaluate.py --workdir=runs/a --out=reports/a
    python scripts/evaluate.py --workdir=runs/b --out=reports/b
    python scripts/compare.py --before=reports/a --after=reports/b

Prints overall figures and the IoU of every class, the largest gain first. Refuses evaluations of other classes or
another split.
"""

from absl import flags

from holojax.metrics import compare, read_report
from holojax.training import command

_BEFORE = flags.DEFINE_string("before", None, "Folder of a report of scripts/evaluate.py.")
_AFTER = flags.DEFINE_string("after", None, "Folder of the report to compare with it.")
flags.mark_flags_as_required(["before", "after"])


def main() -> None:
    """Compare as the flags say."""
    print(compare(read_report(_BEFORE.value), read_report(_AFTER.value)), end="", flush=True)


if __name__ == "__main__":
    command.run(main)
