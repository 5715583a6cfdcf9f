"""Train a model on whole scenes.

    python scripts/train.py --config=configs/quickstart.py
    python scripts/train.py --config=configs/fbp.py:tiny --workdir=runs/tiny --config.train.steps=100

Progress goes to the terminal (stderr) and to WORKDIR/log.txt; the last line on stdout is JSON with step,
loss, miou, seconds and params_sha256. Called again, it goes on from the newest checkpoint.
"""

import json
import math

from absl import flags
from ml_collections import config_flags

from holojax import config
from holojax.training import command, train

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Configuration: configs/NAME.py[:VARIANT].")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of this run: configuration, checkpoints, log, events; by default runs/NAME."
)
_RESUME = flags.DEFINE_enum("resume", "auto", ["auto", "never"], "auto: go on from WORKDIR's newest checkpoint.")
flags.mark_flag_as_required("config")


def main() -> None:
    """Train as the flags say."""
    cfg = config.experiment(**_CONFIG.value.to_dict())
    workdir = _WORKDIR.value or f"runs/{cfg.name}"
    result = train(cfg, workdir, command.layout_for(cfg.model.regions), resume=_RESUME.value)
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in result.items()
    }
    print(json.dumps(finite), flush=True)


if __name__ == "__main__":
    command.run(main)
