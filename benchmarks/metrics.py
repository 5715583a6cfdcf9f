"""What it costs to count: the confusion matrix of a large map against numpy.bincount on the same core, and the rest.

    taskset -c 0 python benchmarks/metrics.py [--side=12800] [--classes=24] [--rounds=5]

The limit is against `bincount` alone, which is handed its int64 cell numbers ready-made; what NumPy needs to get
from two uint8 maps to a matrix is beside it. The map has patches of 64 x 64 pixels of one class, 20 % errors and
5 % unlabelled pixels: neighbours of one class are the hard case, since a count then waits for the one before it.
Boundaries (width 3) and seams (8 pixels) are counted in a third of the map's side.
"""

import argparse
import os

import jax
import numpy as np
from ratios import race, report

from holojax.metrics import boundary_counts, confusion_matrix, seam_counts


def maps(side, classes):
    rng = np.random.default_rng(0)
    patches = rng.integers(0, classes, (-(-side // 64),) * 2).astype(np.uint8)
    labels = np.repeat(np.repeat(patches, 64, 0), 64, 1)[:side, :side].copy()
    wrong = rng.random(labels.shape, np.float32) < 0.2
    prediction = np.where(wrong, rng.integers(0, classes, labels.shape, np.uint8), labels)
    labels[rng.random(labels.shape, np.float32) < 0.05] = 255
    return prediction, labels


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=12800)
    parser.add_argument("--classes", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    k = args.classes
    print(f"{args.side} x {args.side} pixels, {k} classes, {len(os.sched_getaffinity(0))} core(s)")
    prediction, labels = maps(args.side, k)

    def number():
        cells = labels.astype(np.int64) * k + prediction
        cells[labels == 255] = k * k
        return cells.ravel()

    cells = number()
    on_device = [jax.device_put(x) for x in (prediction, labels)]
    count = jax.jit(lambda p, t: confusion_matrix(p, t, k))
    expected = np.bincount(cells, minlength=k * k + 1)[:-1].reshape(k, k)
    assert np.array_equal(count(*on_device), expected)
    seconds = race(
        {
            "bincount": lambda: np.bincount(cells, minlength=k * k + 1),
            "numpy": lambda: np.bincount(number(), minlength=k * k + 1),
            "ours": lambda: count(*on_device),
        },
        args.rounds,
    )
    report("numpy.bincount of ready-made cells, seconds", seconds["bincount"])
    report("numpy from two uint8 maps, seconds", seconds["numpy"])
    report("confusion_matrix, seconds", seconds["ours"])
    report("confusion_matrix / numpy.bincount", seconds["ours"] / seconds["bincount"], 1.5)
    report("confusion_matrix / numpy from two maps", seconds["ours"] / seconds["numpy"])

    side = args.side // 3
    part = [x[None, :side, :side] for x in on_device]
    boundary = jax.jit(lambda p, t: boundary_counts(p, t, k, 3)).lower(*part).compile()
    seams = [side // 2]
    seconds = race(
        {
            "boundary": lambda: boundary(*part),
            "seam": lambda: seam_counts(*part, seams, seams, 8),
            "confusion": lambda: confusion_matrix(*part, k),
        },
        args.rounds,
    )
    for name, taken in seconds.items():
        report(f"{name}, {side} x {side} pixels, seconds", taken)
    report("boundary_counts, temporary bytes a pixel", boundary.memory_analysis().temp_size_in_bytes / side**2)


if __name__ == "__main__":
    main()
