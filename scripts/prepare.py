"""Prepare data before training.

    python scripts/prepare.py check FOLDER [--set=folder] [--classes=K] [--bands=N] [--ignore=255] [--any-crs]

check: opens every file of a data set, or of what its builder made, reads every block, and names all that is wrong: a
line `FILE: what is wrong; what to do` for each fault, `note: ...` for what is odd and does no harm, and a summary. The
exit status is 1 if there is a fault.
"""

import argparse
import sys
from collections.abc import Sequence

from absl import logging

from holojax.data.check import check_set
from holojax.data.datasets import SETS
from holojax.errors import HoloJAXError


def add_check(commands: argparse._SubParsersAction) -> None:
    """Add the command `check`."""
    parser = commands.add_parser("check", help="read every block of every file, and name all that is wrong")
    add_set(parser)
    parser.add_argument("--classes", type=int, metavar="K", help="number of classes (default: the set's, or any)")
    parser.add_argument("--bands", type=int, metavar="N", help="bands an image has (default: what most images have)")
    parser.add_argument("--ignore", type=int, default=255, metavar="V", help="raw label that is ignored (default: 255)")
    parser.add_argument("--any-crs", action="store_true", help="scenes may lie in different CRSs")
    parser.set_defaults(run=run_check)


def run_check(options: argparse.Namespace) -> int:
    """Check a data set; return the exit status."""
    report = check_set(
        options.folder,
        name=options.set,
        classes=options.classes,
        bands=options.bands,
        ignore=options.ignore,
        any_crs=options.any_crs,
        progress=True,
    )
    print(report)
    return 1 if report.faults else 0


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add what says where a data set lies and which it is."""
    parser.add_argument("folder", metavar="FOLDER", help="folder of the data set's files, or what its builder made")
    parser.add_argument("--set", default="folder", choices=sorted(SETS), metavar="NAME",
                        help=f"which data set: {', '.join(SETS)} (default: folder)")  # fmt: skip


COMMANDS = (add_check,)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake ends in one line on stderr and the exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)  # what readers warn of is in the report
    try:
        return options.run(options)
    except HoloJAXError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
