"""Every encoder with every decoder and every mixer, from a configuration alone: what runs, and alike on any mesh.

    python -m tests.models.product --jobs=2 --out=docs/models.md      # all of them, an hour on two quiet cores
    python -m tests.models.product --rotate                           # one mixer each, in turn: a third of that

Each is built at tiny width, predicts one scene and takes one step of training on 1 and on 8 devices, with isolated and
with exact borders.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import multiprocessing
import os
from pathlib import Path
from typing import Any

SIZE, GRID, CLASSES = (63, 125), (2, 4), 3  # regions of 32 x 32 pixels, the least for ConvNeXt; the last ones are cut
ENCODERS = {
    "swin": dict(name="swin", embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=2, mlp_ratio=1.0),
    "convnext": dict(name="convnext", dims=(8, 8, 8, 8), depths=(1, 1, 1, 1)),
    "vmamba": dict(name="vmamba", dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), mlp_ratio=1.0, ssm_ratio=1.0),
    "vit": dict(name="vit", dim=8, depth=4, heads=2, patch=8, pos="sincos", mlp_ratio=1.0),
}
DECODERS = {
    "upernet": dict(name="upernet", channels=8, pool_scales=(1, 2)),
    "fcn": dict(name="fcn", channels=8, stage=2),
    "setr naive": dict(name="setr", channels=8),
    "setr pup": dict(name="setr", variant="pup", channels=8),
    "setr mla": dict(name="setr", variant="mla", channels=8),
    "segvit": dict(name="segvit", channels=8, layers=1, heads=2),
    "mask2former": dict(
        name="mask2former",
        channels=8,
        queries=5,
        heads=2,
        points=2,
        encoder_layers=1,
        encoder_mlp=8,
        decoder_layers=2,
        decoder_mlp=8,
    ),
}
MIXERS = {
    "spim": dict(name="spim", heads=8, stages=(2,), mlp_ratio=1.0),
    "cdcr": dict(name="cdcr", heads=2, stages=(3,), mlp_ratio=1.0),
    "none": None,
}
BORDERS = ("isolated", "exact")
QUERIES = ("segvit", "mask2former")
# Of logits and of the loss, between 1 and 8 devices (P1).
LIMIT = 1e-4


@dataclasses.dataclass(frozen=True)
class Difference:
    """The largest differences between 1 and 8 devices.

    Of logits, relative to their spread where that is below 1 (untrained ones are small), and of the loss and the
    gradient's norm, relative.
    """

    logits: float
    loss: float
    gradient: float

    @property
    def agrees(self) -> bool:
        """Say whether both meshes have one result."""
        return self.logits <= LIMIT and self.loss <= LIMIT and self.gradient <= 10 * LIMIT


def experiment(encoder: str, decoder: str, mixer: str, border: str) -> Any:
    """Return the configuration of one combination."""
    from holojax import config

    loss = dict(loss=(("ce", 1.0), ("dice", 1.0)))
    if decoder in QUERIES:
        loss = dict(loss=(("set", 1.0),), losses=dict(set=dict(points=64)))
    return config.experiment(
        model=dict(
            classes=CLASSES,
            regions=GRID,
            border=border,
            encoder=ENCODERS[encoder],
            decoder=DECODERS[decoder],
            context=MIXERS[mixer],
            aux=None,
        ),
        train=loss,
    )


def compare(encoder: str, decoder: str, mixer: str, border: str) -> Difference:
    """Run one combination on 1 and on 8 devices."""
    import numpy as np

    (logits, *figures), (others, *found) = (run(experiment(encoder, decoder, mixer, border), n) for n in (1, 8))
    loss, gradient = (abs(a - b) / max(abs(b), 1e-3) for a, b in zip(found, figures, strict=True))
    if not (np.isfinite(logits).all() and np.ptp(logits) > 0 and figures[1] > 0):
        raise AssertionError(f"{encoder}, {decoder}, {mixer}, {border}: logits or gradients are dead: {figures}")
    return Difference(float(np.abs(logits - others).max() / min(1, np.ptp(logits))), loss, gradient)


def run(cfg: Any, devices: int) -> tuple[Any, float, float]:
    """Return the logits of a scene, and loss and norm of the gradient of the first step of training."""
    import jax
    import numpy as np

    from holojax.models import build_model, segment
    from holojax.parallel import Layout
    from holojax.training.optimizer import make_optimizer
    from holojax.training.state import first_state, take_apart
    from holojax.training.step import make_recipe, make_train_step

    layout, model = Layout.create(data=1, region=devices), build_model(cfg.model.to_dict(), seed=0)
    rng = np.random.default_rng(0)
    image = rng.integers(1, 255, (1, *SIZE, 3)).astype(np.uint8)
    label = np.repeat(np.repeat(rng.integers(0, CLASSES, (1, 8, 16)), 8, 1), 8, 2)[:, : SIZE[0], : SIZE[1]]
    logits = np.asarray(segment(model, image.astype(np.float32) / 64 - 2, layout))
    grid = model.grid
    stacks = dict(image=image, label=label.astype(np.uint8), valid=np.ones((1, *SIZE), bool))
    stacks = {key: grid.split(x, fill=255 if key == "label" else 0) for key, x in stacks.items()}
    photometry = dict(gain=np.ones(1, np.float32), offset=np.zeros(1, np.float32))
    batch = jax.device_put(stacks, layout.scenes) | jax.device_put(photometry, layout.per_scene)
    structure, weights = take_apart(model)
    optimizer = make_optimizer(cfg.train, structure.frozen)
    step = make_train_step(make_recipe(cfg, structure, layout), optimizer, seed=0)
    _, figures = step(first_state(weights, optimizer, layout), batch)
    return logits, float(figures["loss"]), float(figures["gradient"])


def table(found: dict[tuple[str, ...], Difference]) -> str:
    """Return the page: a table of encoders and decoders for each kind of borders."""
    lines = [
        "# Encoders, decoders and mixers that go together",
        "",
        "Written by `python -m tests.models.product` (`--rotate`: one mixer for each cross, in turn; `make test-all`",
        "runs them all): every combination is built",
        "from a configuration at tiny width, predicts a scene of {} x {} pixels in {} x {} regions and takes".format(
            *SIZE, *GRID
        ),
        "one step of training, on 1 and on 8 devices. A cell has the largest difference between the logits of the two,",
        "as a part of their spread where that is below 1,",
        "after the mixer that was used (none: regions do not see each other); loss and gradient agree too, within 1e-4",
        "and 1e-3 relative.",
        "**no** stands where they do not, nothing where none was run.",
    ]
    for border in BORDERS:
        lines += [
            "",
            f"## {border.capitalize()} borders",
            "",
            "| | " + " | ".join(DECODERS) + " |",
            "|---" * (len(DECODERS) + 1) + "|",
        ]
        for encoder in ENCODERS:
            cells = []
            for decoder in DECODERS:
                run = {m: found[encoder, decoder, m, border] for m in MIXERS if (encoder, decoder, m, border) in found}
                cells.append(", ".join(f"{m} {_cell(difference)}" for m, difference in run.items()))
            lines.append(f"| {encoder} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(difference: Difference) -> str:
    return f"{difference.logits:.0e}" if difference.agrees else f"**no** ({difference})"


def _compare(names: tuple[str, ...]) -> tuple[tuple[str, ...], Difference]:
    return names, compare(*names)


def combinations(rotate: bool) -> list[tuple[str, ...]]:
    """List encoder, decoder, mixer and borders of what is run."""
    if not rotate:
        return list(itertools.product(ENCODERS, DECODERS, MIXERS, BORDERS))
    places = itertools.product(enumerate(ENCODERS), enumerate(DECODERS), enumerate(BORDERS))
    mixers = list(MIXERS)
    return [(e, d, mixers[(i + j + k) % len(mixers)], b) for (i, e), (j, d), (k, b) in places]


def main() -> None:
    """Run all combinations and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--rotate", action="store_true", help="one mixer for each encoder, decoder and kind of borders")
    parser.add_argument("--out", type=Path, default=Path("docs/models.md"))
    arguments = parser.parse_args()
    # Compiling is most of the time, and little of it is won back by code that is fast.
    flags = os.environ.get("XLA_FLAGS", "--xla_backend_optimization_level=0")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"
    found = {}
    # New processes now and then: each compilation leaves some memory behind.
    with multiprocessing.get_context("spawn").Pool(arguments.jobs, maxtasksperchild=8) as pool:
        for names, difference in pool.imap_unordered(_compare, combinations(arguments.rotate)):
            found[names] = difference
            print(*names, difference, flush=True)
            arguments.out.write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    main()
