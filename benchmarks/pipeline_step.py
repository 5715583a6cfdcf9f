"""What the pipeline costs a training step: quickstart's steps with their batches, against one batch again and again.

    python benchmarks/pipeline_step.py [--steps=16] [--rounds=12] [--workers=0]

Both run the loop of training (the next batch is placed while the devices compute), on the scenes of quickstart, which
are made if they are not there. On a CPU reading and computing share the cores, so the ratio holds the whole cost of
reading; on an accelerator only what it cannot hide.
"""

import argparse
import itertools
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
from ratios import race, report

from configs import quickstart
from holojax.data import train_batches
from holojax.models import build_model
from holojax.parallel import Layout
from holojax.training.loop import run
from holojax.training.optimizer import make_optimizer
from holojax.training.scenes import augmentation, open_scenes
from holojax.training.state import first_state, take_apart
from holojax.training.step import make_recipe, make_train_step


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()

    cfg = quickstart.get_config()
    cfg.train.steps = 10**6  # of the schedule; so that rounds do not end it
    rows, cols = cfg.model.regions
    layout = Layout.fitting(rows * cols)
    scenes = open_scenes(cfg, cfg.data.split)
    structure, weights = take_apart(build_model(cfg.model.to_dict(), cfg.seed))
    recipe, optimizer = make_recipe(cfg, structure, layout), make_optimizer(cfg.train, structure.frozen)
    step = make_train_step(recipe, optimizer, cfg.seed)
    settings = dict(batch=cfg.data.batch, augment=augmentation(cfg), seed=cfg.seed)
    settings |= dict(prefetch=cfg.data.prefetch, workers=options.workers)
    batches = train_batches(scenes, recipe.grid, layout, **settings)
    one = next(batches)

    def steps(source):
        state = first_state(weights, optimizer, layout)
        return lambda: run(step, state_of(state), source, options.steps, [])[0].loss

    def state_of(state):
        return jax.tree.map(lambda leaf: leaf.copy(), state)  # a step uses its state up

    contestants = {"repeated": steps(itertools.repeat(one)), "pipeline": steps(batches)}
    seconds = race(contestants, options.rounds)
    batches.close()
    report("quickstart: seconds a step, one batch again and again", seconds["repeated"] / options.steps)
    report(
        "quickstart: step with the pipeline / with one repeated batch", seconds["pipeline"] / seconds["repeated"], 1.05
    )


if __name__ == "__main__":
    main()
