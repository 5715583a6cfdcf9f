"""Prepare data before training.

    python scripts/prepare.py check FOLDER [--set=folder] [--classes=K] [--bands=N] [--ignore=255] [--any-crs]
    python scripts/prepare.py convert FOLDER OUT [--set=folder] [--codec=deflate] [--ignore=255]
    python scripts/prepare.py index FOLDER OUT [--set=folder] [--partial]
    python scripts/prepare.py blocks FOLDER OUT [--set=folder] [--codec=zstd] [--partial]
    python scripts/prepare.py stats FOLDER [--split=train] [--set=folder] [--classes=K] [--bands=0,1,2] [--ignore=255]
        [--nodata=V] [--cache=DIR] [--weights=median]
    python scripts/prepare.py preview FOLDER --out=preview.png [--count=12] [... as stats]

check: opens every file of a data set, or of what its builder made, reads every block, and names all that is wrong: a
line `FILE: what is wrong; what to do` for each fault, `note: ...` for what is odd and does no harm, and a summary. The
exit status is 1 if there is a fault.

convert: writes any data set as tiled GeoTIFFs to OUT/{split}/{image,label}, labels as class numbers with names and
colours, and the classes to OUT/classes.json. Called again it goes on where it stopped.

index, blocks: build the data set with its TFDS builder, as an index of its files or as blocks of their pixels. The last
line is the folder to give as data.root.

stats: reads a split once and prints mean and standard deviation of the bands, how many pixels and scenes have which
class, and the lines of a configuration that say so. What it finds is kept beside the data.

preview: draws a contact sheet: images, their labels, and what the colours mean.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from holojax.data import IGNORE, RasterScenes
from holojax.data.blocks import CODECS as BLOCK_CODECS
from holojax.data.check import check_set
from holojax.data.convert import CODECS, convert_set
from holojax.data.datasets import SETS, is_built, open_set
from holojax.data.datasets.base import CLASSES_FILE, exists
from holojax.data.statistics import count_classes, measure
from holojax.errors import HoloJAXError


def add_check(commands: argparse._SubParsersAction) -> None:
    """Add the command `check`."""
    parser = commands.add_parser("check", help="read every block of every file, and name all that is wrong")
    add_set(parser)
    parser.add_argument("--classes", type=parse_classes, metavar="K", help="how many (default: the set's, or any)")
    parser.add_argument("--bands", type=int, metavar="N", help="bands an image has (default: what most images have)")
    add_ignore(parser)
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


def add_stats(commands: argparse._SubParsersAction) -> None:
    """Add the command `stats`."""
    parser = commands.add_parser("stats", help="mean and standard deviation of the bands, pixels of the classes")
    add_set(parser)
    add_split(parser)
    parser.add_argument("--weights", default="inverse", choices=("inverse", "median"),
                        help="how rare classes are weighed (default: inverse)")  # fmt: skip
    parser.set_defaults(run=run_stats)


def run_stats(options: argparse.Namespace) -> int:
    """Print statistics of a split; return the exit status."""
    scenes = open_split(options)
    print(f"classes: {len(scenes.classes)}{'' if options.classes else ', from the data'}")
    found = measure(scenes, cache=options.cache)
    print(found.summary())  # also where no pixel is labelled and weights cannot be had
    print(f"\nfor the configuration:\n{found.settings(options.weights)}")
    return 0


def add_preview(commands: argparse._SubParsersAction) -> None:
    """Add the command `preview`."""
    parser = commands.add_parser("preview", help="draw a contact sheet: images, labels, legend")
    add_set(parser)
    add_split(parser)
    parser.add_argument("--out", required=True, metavar="NAME.png", help="picture to write")
    parser.add_argument("--count", type=int, default=12, metavar="N", help="scenes, evenly spread (default: 12)")
    parser.set_defaults(run=run_preview)


def run_preview(options: argparse.Namespace) -> int:
    """Draw a contact sheet of a split; return the exit status."""
    from holojax.data.preview import write_preview  # matplotlib takes a while, and no other command needs it

    print(write_preview(options.out, open_split(options), count=options.count))
    return 0


def open_split(options: argparse.Namespace) -> RasterScenes:
    """Open the scenes that the options name; where nothing says how many classes there are, labels are read for it."""
    folder, split = Path(options.folder), options.split
    settings = dict(bands=options.bands, ignore=options.ignore, nodata=options.nodata, cache=options.cache)
    if options.classes:
        settings["classes"] = options.classes
    if is_built(folder):
        from holojax.data.datasets.built import open_built  # half a second for TFDS

        return open_built(folder, split, **settings)
    if options.set != "folder" or exists(folder / CLASSES_FILE):
        return open_set(SETS[options.set], folder, split, **settings)
    if not options.classes:
        settings["classes"] = count_classes(RasterScenes.from_folder(folder, split, **settings, classes=IGNORE))
    return RasterScenes.from_folder(folder, split, **settings)


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add what says which scenes are read, and how."""
    parser.add_argument("--split", default="train", help="which scenes (default: train)")
    parser.add_argument("--classes", type=parse_classes, metavar="K", help="how many (default: from the data)")
    parser.add_argument("--bands", type=parse_bands, metavar="B,B", help="bands, from 0 (default: all but alpha)")
    add_ignore(parser)
    parser.add_argument("--nodata", type=float, metavar="V", help="value without data (default: what files declare)")
    parser.add_argument("--cache", default="", metavar="DIR", help="keeps what is made (default: .holojax beside)")


def parse_classes(text: str) -> int:
    """Read a number of classes."""
    if not 1 <= int(text) <= IGNORE:
        raise argparse.ArgumentTypeError(f"expected 1 to {IGNORE} classes, found {text}")
    return int(text)


def parse_bands(text: str) -> tuple[int, ...]:
    """Read B,B,..."""
    return tuple(int(part) for part in text.split(","))


def add_convert(commands: argparse._SubParsersAction) -> None:
    """Add the command `convert`."""
    parser = commands.add_parser("convert", help="write any data set as tiled GeoTIFFs in the plain layout")
    add_set(parser)
    add_out(parser)
    parser.add_argument("--codec", choices=CODECS, default=CODECS[0], help=f"compression (default: {CODECS[0]})")
    add_ignore(parser)
    parser.set_defaults(run=run_convert)


def run_convert(options: argparse.Namespace) -> int:
    """Convert a data set; return the exit status."""
    written, there = convert_set(
        options.folder, options.out, name=options.set, codec=options.codec, ignore=options.ignore, progress=True
    )
    print(f"{options.out}: {written:,} files written, {there:,} were there")
    return 0


def add_builders(commands: argparse._SubParsersAction) -> None:
    """Add the commands `index` and `blocks`."""
    for word, text in (("index", "headers of all files: takes seconds"), ("blocks", "copy all pixels into records")):
        parser = commands.add_parser(word, help=text)
        add_set(parser)
        add_out(parser)
        if word == "blocks":
            parser.add_argument("--codec", choices=BLOCK_CODECS, default="zstd", help="of images (default: zstd)")
        parser.add_argument("--partial", action="store_true", help="take a part of a published set")
        parser.set_defaults(run=run_builder, config=word)


def run_builder(options: argparse.Namespace) -> int:
    """Build a data set; return the exit status."""
    from holojax.data.datasets.builder import build_set  # half a second for TFDS, only where it is needed

    settings = dict(codec=options.codec) if options.config == "blocks" else {}
    how = dict(config=options.config, partial=options.partial, **settings)
    print(build_set(options.set, options.folder, options.out, **how))
    return 0


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add what says where a data set lies and which it is."""
    parser.add_argument("folder", metavar="FOLDER", help="folder of the data set's files, or what its builder made")
    parser.add_argument("--set", default="folder", choices=sorted(SETS), metavar="NAME",
                        help=f"which data set: {', '.join(SETS)} (default: folder)")  # fmt: skip


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add the folder that is written to."""
    parser.add_argument("out", metavar="OUT", help="folder to write to")


def add_ignore(parser: argparse.ArgumentParser) -> None:
    """Add the label that is ignored."""
    parser.add_argument("--ignore", type=int, default=IGNORE, metavar="V", help="raw label ignored (default: 255)")


COMMANDS = (add_check, add_stats, add_preview, add_convert, add_builders)


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
        print(f"{type(error).__name__}: {error}{advice(options, error)}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or options.folder}: {error.strerror or error}. Check its permissions.", file=sys.stderr)
        return 1


def advice(options: argparse.Namespace, error: HoloJAXError) -> str:
    """Say which option leaves out a label value that has no class."""
    value = re.search(r"label value (-?\d+) at row", str(error))
    return f" Or say --ignore={value[1]}." if value and hasattr(options, "ignore") else ""


if __name__ == "__main__":
    sys.exit(main())
