"""Measure a model from its configuration without running it: it is compiled for shapes alone, so any size will do.

    python scripts/measure.py traffic --config=configs/quickstart.py --virtual_devices=4
    python scripts/measure.py traffic --config=configs/fbp.py --virtual_devices=8 --size=3400,3600 --backward

traffic: what the devices send each other, by kind and source, and what the formulas say (what exact borders send in the
backward pass has none for a whole model). Of the forward to the logits
of as many scenes as --data says; with --backward of a whole training step of data.batch scenes.
"""

import sys
from typing import Any

from absl import flags
from ml_collections import config_flags

from holojax import config, profiling
from holojax.errors import ConfigError
from holojax.models.base import SceneModel
from holojax.models.plans import stage_plans
from holojax.parallel import Layout
from holojax.profiling.contract.calls import borders
from holojax.profiling.contract.models import gradients, mixers
from holojax.profiling.programs import abstract_model, forward
from holojax.training import command
from holojax.training.shapes import scene_size, training_step

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Configuration: configs/NAME.py[:VARIANT].")
_SIZE = flags.DEFINE_list("size", None, "Height,width of a scene in pixels; by default what the configuration gives.")
_BACKWARD = flags.DEFINE_bool("backward", False, "Measure a training step instead of the forward.")
flags.mark_flag_as_required("config")


def main(word: str) -> None:
    """Measure what `word` and the flags say."""
    if word not in COMMANDS:
        raise ConfigError(f"measure.py: expected one of {', '.join(COMMANDS)} as the first word, found {word!r}.")
    cfg = config.experiment(**_CONFIG.value.to_dict())
    layout = command.layout_for(cfg.model.regions)
    size = scene_size(cfg) if _SIZE.value is None else parse_size(_SIZE.value)
    model = abstract_model(cfg.model)
    scenes = cfg.data.batch if _BACKWARD.value else layout.data
    what = "training step" if _BACKWARD.value else "forward"
    print(f"{what}: {scenes} scene(s) of {size[0]} x {size[1]} pixels, border {cfg.model.border}")
    print(layout.describe(model.grid.count))
    for one in stage_plans(model, layout, size, scenes):
        print(one.describe())
    print()
    COMMANDS[word](cfg, model, layout, size, scenes)


def print_traffic(cfg: Any, model: SceneModel, layout: Layout, size: tuple[int, int], scenes: int) -> None:
    """Print what the devices send each other."""
    shapes = model, layout, size, scenes
    f, arguments = training_step(cfg, *shapes) if _BACKWARD.value else forward(*shapes)
    found = profiling.traffic(f, *arguments)
    print(profiling.table(found, layout.mesh.size))
    stated = {"mixers": mixers(*shapes)}
    if model.border == "exact":
        stated["borders"] = borders(*shapes)
    if _BACKWARD.value:
        stated |= {"their backward": mixers(*shapes, backward=True), "gradients": gradients(model)}
    print("\n" + profiling.beside(profiling.totals(found), stated))


def parse_size(parts: list[str]) -> tuple[int, int]:
    """Read HEIGHT,WIDTH."""
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(f"--size: expected HEIGHT,WIDTH in pixels, found {','.join(parts)!r}.")
    height, width = map(int, parts)
    return height, width


COMMANDS = {"traffic": print_traffic}

if __name__ == "__main__":
    # Taken away before the flags are parsed, which ends at the first word that is no flag.
    first = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else ""
    command.run(lambda: main(first))
