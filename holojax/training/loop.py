"""Training, from a configuration to a finished working directory: a recipe, read from top to bottom."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from holojax.checkpoints.convert import adopt_numerics, initial_weights
from holojax.checkpoints.store import CONFIG, Store, load_config, save_config
from holojax.data import RasterScenes, Skipped, train_batches
from holojax.data.order import Order
from holojax.errors import CheckpointError, ConfigError, HoloJAXError
from holojax.models import build_model
from holojax.models.plans import stage_plans
from holojax.parallel import Layout
from holojax.training import hooks
from holojax.training.evaluate import evaluate, make_count
from holojax.training.optimizer import learning_rate, make_optimizer
from holojax.training.scenes import (
    augmentation,
    data_record,
    measure_scenes,
    open_scenes,
    order_of,
    other_data,
    skipper,
)
from holojax.training.state import State, Weights, fingerprint, first_state, take_apart
from holojax.training.step import Batch, Recipe, make_recipe, make_train_step

RESUME = ("auto", "never")


def train(cfg: Any, workdir: str | Path, layout: Layout, *, resume: str = "auto") -> dict[str, Any]:
    """Train the model of a configuration; leave config.json, checkpoints, log.txt and events in `workdir`.

    `resume="auto"` goes on from the newest checkpoint of `workdir`, with the data that would have come next:
    on the same mesh the result is bit for bit that of a run without a break. `"never"` refuses a folder with
    checkpoints.

    Returns `step`, `loss` (of the last step), `miou` (on the validation split; None without one), `seconds` (of this
    call), `params_sha256`, and `skipped` (scenes and windows that could not be read) where these are skipped. Raises
    ConfigError, LayoutError, RasterError, LabelError, CheckpointError, and HoloJAXError if the loss is no longer a
    number.
    """
    started = time.perf_counter()
    skipped = Skipped(lambda line: print(line, file=sys.stderr, flush=True))
    scenes, unseen, order = open_data(cfg, workdir, skipped)  # first: without scenes no folder is made
    augment = augmentation(cfg)
    adopted = adopt_numerics(cfg, cfg.train.init) if cfg.train.init else []
    workdir = prepare(cfg, workdir, resume)

    model = build_model(cfg.model.to_dict(), cfg.seed)
    structure, weights = take_apart(model)
    recipe = make_recipe(cfg, structure, layout)
    optimizer = make_optimizer(cfg.train, structure.frozen)
    state = first_state(weights, optimizer, layout)
    with contextlib.ExitStack() as stack:
        say = skipped.say = stack.enter_context(contextlib.closing(hooks.Report(workdir / "log.txt")))
        store, data = stack.enter_context(Store(workdir, keep=cfg.train.keep)), data_record(cfg, scenes)
        events = hooks.TensorBoard(cfg.train.log_every, workdir / "events")
        stack.callback(events.close)
        height, width = cfg.data.window or scenes.largest
        say(_title(cfg, layout, recipe, weights, len(scenes)))
        for one in stage_plans(model, layout, (height, width), cfg.data.batch):
            say(one.describe())
        if store.latest() is not None:
            state = restored(store, state)
            say(f"goes on from step {int(state.step)} of {store.folder}")
            for line in other_data(store.restore_data(), data):
                say(line)
        elif cfg.train.init:
            state = dataclasses.replace(state, weights=initial_weights(cfg.train.init, state.weights))
            say(" ".join([f"begins with the weights of {cfg.train.init}", *adopted]))
        start = int(state.step)

        batches = train_batches(
            scenes,
            recipe.grid,
            layout,
            batch=cfg.data.batch,
            window=cfg.data.window,
            augment=augment,
            seed=cfg.seed,
            order=order,
            start_step=start,
            prefetch=cfg.data.prefetch,
            workers=cfg.data.workers,
            on_skip=skipper(cfg, skipped),
        )
        count = make_count(recipe, cfg.evaluate.boundary, cfg.evaluate.seam)

        def measure(state: State) -> dict[str, float]:
            on_skip = skipper(cfg, skipped)
            figures = evaluate(count, state.weights, unseen, recipe, cfg.evaluate.window, on_skip).figures()
            return {name: value for name, value in figures.items() if np.ndim(value) == 0}

        every = [hooks.WarnOfNoLabels(say)]
        every += [hooks.Progress(cfg.train.log_every, cfg.data.batch * height * width, learning_rate(cfg.train), say)]
        every += [hooks.Evaluate(cfg.train.evaluate_every, measure, say)] if unseen else []
        every += [events, hooks.Checkpoint(cfg.train.checkpoint_every, store, data)]

        with contextlib.closing(batches):
            state, figures = run(make_train_step(recipe, optimizer, cfg.seed), state, batches, cfg.train.steps, every)
        if unseen and "miou" not in figures:  # the run was finished before
            figures |= measure(state)
        if skipped.counts:
            say(skipped.summary())
    result = {
        "step": int(state.step),
        "loss": float(state.loss),
        "miou": figures.get("miou"),
        "seconds": round(time.perf_counter() - started, 3),
        "params_sha256": fingerprint(state.weights.params),
    }
    return result | ({"skipped": skipped.counts.total()} if cfg.data.on_error == "skip" else {})


def open_data(cfg: Any, workdir: str | Path, skipped: Skipped) -> tuple[RasterScenes, RasterScenes | None, Order]:
    """Open the scenes of training and of validation, complete what the configuration leaves to the data, order them."""
    scenes = open_scenes(cfg, cfg.data.split, skipped)
    unseen = open_scenes(cfg, cfg.evaluate.split, skipped) if cfg.evaluate.split else None
    if not (cfg.data.class_names and cfg.data.palette):  # a run's maps need them, where its data may not be
        cfg.data.class_names, cfg.data.palette = scenes.classes.names, scenes.classes.palette
    if not cfg.data.mean and latest_step(workdir) is not None:
        before = load_config(workdir).data  # what a run began with it goes on with
        cfg.data.mean, cfg.data.std = before.mean, before.std
    return scenes, unseen, order_of(cfg, scenes, measure_scenes(cfg, scenes, skipped))


def latest_step(workdir: str | Path) -> int | None:
    """Return the step of the newest checkpoint of a run; None where there is none."""
    if not (Path(workdir) / CONFIG).exists():
        return None
    with Store(workdir) as store:
        return store.latest()


def run(
    step: Any, state: State, batches: Iterable[Batch], steps: int, every: list[hooks.Hook]
) -> tuple[State, dict[str, float]]:
    """Take steps until `steps` are done, with every hook after each; return the state and the last figures.

    Raises HoloJAXError, naming the step, if the loss is no longer a number; no hook sees that state. A batch that
    cannot be read is an error after the hooks of the step before.
    """
    figures: dict[str, float] = {}
    batches = iter(batches)
    first = int(state.step) + 1
    batch = next(batches) if first <= steps else None
    for number in range(first, steps + 1):
        state, values = step(state, batch)
        batch, failure = None, None
        try:  # the next batch goes to the devices while they compute
            batch = next(batches) if number < steps else None
        except HoloJAXError as error:  # what this step gave is kept before it is raised
            failure = error
        # Waiting for each step keeps the devices in step, and a bad loss from being saved.
        figures = {name: float(value) for name, value in jax.device_get(values).items()}
        if not np.isfinite(figures["loss"]):
            raise HoloJAXError(
                f"step {number}: the loss is {figures['loss']}. Lower train.learning_rate or set train.clip, "
                f"or look for labels and pixels that are not what the configuration says."
            )
        moment = hooks.Moment(number, steps, state, figures)
        for hook in every:
            hook(moment)
        if failure is not None:
            raise failure
    return state, figures


def prepare(cfg: Any, workdir: str | Path, resume: str) -> Path:
    """Make the working directory, refuse one of another run, and leave the configuration in it."""
    if resume not in RESUME:
        raise ConfigError(f"--resume: expected one of {', '.join(RESUME)}, found {resume!r}.")
    workdir = Path(workdir).absolute()
    if cfg.train.init:
        cfg.train.init = str(Path(cfg.train.init).absolute())
    if cfg.data.root:
        cfg.data.root = str(Path(cfg.data.root).absolute())  # evaluation may start elsewhere
    step = latest_step(workdir)
    if step is not None:
        if resume == "never":
            raise CheckpointError(
                f"{workdir}: holds the checkpoints of a run (step {step}), and --resume=never starts anew. "
                f"Give another --workdir, or remove the folder."
            )
        if (before := load_config(workdir).model) != cfg.model:
            what = _difference(before.to_dict(), cfg.model.to_dict())
            raise CheckpointError(f"{workdir}: holds checkpoints of another model: {what}. Give another --workdir.")
    save_config(workdir, cfg)
    return workdir


def restored(store: Store, state: State) -> State:
    """Return the newest state of the store, placed as `state` is."""
    weights = store.restore("model", state.weights)
    rest = store.restore("training", hooks.rest_of(state))
    return State(rest["step"], rest["loss"], weights, rest["optimizer"])


def _title(cfg: Any, layout: Layout, recipe: Recipe, weights: Weights, scenes: int) -> str:
    size = sum(leaf.size for leaf in jax.tree.leaves(weights.params))
    return (
        f"{cfg.name}: {cfg.model.name} with {cfg.model.encoder.name}, {size:,} parameters; {scenes} scenes, "
        f"{cfg.data.batch} a step, {cfg.train.steps} steps; {layout.describe(recipe.grid.count)}"
    )


def _difference(before: dict[str, Any], now: dict[str, Any], path: str = "model") -> str:
    """Name the first key in which two nested dicts differ."""
    for key in before | now:
        old, new = before.get(key), now.get(key)
        if old != new:
            if isinstance(old, dict) and isinstance(new, dict):
                return _difference(old, new, f"{path}.{key}")
            return f"{path}.{key} was {old}, is {new}"
    return "nothing differs"
