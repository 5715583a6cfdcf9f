"""Segment a whole raster with the model of a run: GeoTIFF in, class map out.

    python scripts/predict.py --workdir=runs/quickstart --input in.tif --output out.tif

Uses the devices that it finds, not those of the training run: the most that the regions spread over evenly.
"""

import sys
import time

from absl import flags

import holojax
from holojax.checkpoints.store import load_config, load_model
from holojax.training import command

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_INPUT = flags.DEFINE_string("input", None, "Raster to segment, with the bands of the training data.")
_OUTPUT = flags.DEFINE_string("output", None, "GeoTIFF to write: uint8 classes, 255 where there are no data.")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint; by default the newest.")
flags.mark_flags_as_required(["workdir", "input", "output"])


def main() -> None:
    """Predict as the flags say."""
    started = time.perf_counter()
    layout = command.layout_for(load_config(_WORKDIR.value).model.regions)
    model, cfg, step = load_model(_WORKDIR.value, layout, _STEP.value)
    holojax.predict_scene(model, _INPUT.value, _OUTPUT.value, layout, data=cfg.data, report=tell)
    seconds = time.perf_counter() - started
    tell(f"{_OUTPUT.value}: done, model of step {step}, {seconds:.1f} s")


def tell(text: str) -> None:
    """Say on the terminal what is being done."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    command.run(main)
