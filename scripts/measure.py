"""Measure a model from its configuration without running it: it is compiled for shapes alone, so any size will do.

    python scripts/measure.py traffic --config=configs/quickstart.py --virtual_devices=4
    python scripts/measure.py traffic --config=configs/fbp.py --virtual_devices=8 --size=3400,3600 --backward

traffic: what the devices send each other, by kind and source, and what the formulas say. Of the forward to the logits
of as many scenes as --data says; with --backward of a whole training step of data.batch scenes.
"""

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import NamedSharding
from ml_collections import config_flags

from holojax import config, profiling
from holojax.errors import ConfigError
from holojax.models.base import SceneModel
from holojax.parallel import Layout
from holojax.profiling.contract.models import gradients, mixers
from holojax.profiling.programs import Program, abstract_model, forward, placed
from holojax.training import command
from holojax.training.optimizer import make_optimizer
from holojax.training.state import first_state, take_apart
from holojax.training.step import BATCH_SPECS, make_recipe, make_train_step

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
    size = scene_size(cfg)
    model = abstract_model(cfg.model)
    scenes = cfg.data.batch if _BACKWARD.value else layout.data
    what = "training step" if _BACKWARD.value else "forward"
    print(f"{what}: {scenes} scene(s) of {size[0]} x {size[1]} pixels, border {cfg.model.border}")
    print(layout.describe(model.grid.count), end="\n\n")
    COMMANDS[word](cfg, model, layout, size, scenes)


def print_traffic(cfg: Any, model: SceneModel, layout: Layout, size: tuple[int, int], scenes: int) -> None:
    """Print what the devices send each other."""
    build = training_step if _BACKWARD.value else lambda cfg, *rest: forward(*rest)
    f, arguments = build(cfg, model, layout, size, scenes)
    found = profiling.traffic(f, *arguments)
    print(profiling.table(found, layout.mesh.size))
    stated = {"mixers": mixers(model, layout, size, scenes)}
    if _BACKWARD.value:
        back = mixers(model, layout, size, scenes, backward=True)
        stated |= {"their backward": back, "gradients": gradients(model)}
    print("\n" + profiling.beside(profiling.totals(found), stated))


def training_step(cfg: Any, model: SceneModel, layout: Layout, size: tuple[int, int], scenes: int) -> Program:
    """Return the training step and the shapes of its arguments (state, batch)."""
    layout.check_batch(scenes)
    structure, weights = take_apart(model)
    # What nobody learns (tables of indices) is part of the step, and its values make no difference here.
    constants = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), structure.constants)
    recipe = make_recipe(cfg, dataclasses.replace(structure, constants=constants), layout)
    optimizer = make_optimizer(cfg.train)
    state = jax.eval_shape(lambda weights: first_state(weights, optimizer, layout), weights)
    stack = (scenes, recipe.grid.count, *recipe.grid.region_size(*size))
    kinds = {
        "image": ((*stack, model.bands), jnp.uint8),
        "label": (stack, jnp.uint8),
        "valid": (stack, jnp.bool),
        "gain": ((scenes,), jnp.float32),
        "offset": ((scenes,), jnp.float32),
    }
    batch = {
        name: jax.ShapeDtypeStruct(*kinds[name], sharding=NamedSharding(layout.mesh, spec))
        for name, spec in BATCH_SPECS.items()
    }
    return make_train_step(recipe, optimizer, cfg.seed), (placed(state, layout.replicated), batch)


def scene_size(cfg: Any) -> tuple[int, int]:
    """Return the height and width that the flags ask for, else those of the configuration."""
    if _SIZE.value is None:
        if cfg.data.window:
            return tuple(cfg.data.window)
        if cfg.data.generator:
            return (cfg.data.generate.size,) * 2
        raise ConfigError("--size: the configuration gives none (data.window); say --size=HEIGHT,WIDTH in pixels.")
    if len(_SIZE.value) != 2 or not all(part.isdecimal() and int(part) for part in _SIZE.value):
        raise ConfigError(f"--size: expected HEIGHT,WIDTH in pixels, found {','.join(_SIZE.value)!r}.")
    height, width = map(int, _SIZE.value)
    return height, width


COMMANDS = {"traffic": print_traffic}

if __name__ == "__main__":
    # Taken away before the flags are parsed, which ends at the first word that is no flag.
    first = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else ""
    command.run(lambda: main(first))
