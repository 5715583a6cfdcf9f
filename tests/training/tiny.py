"""The smallest experiments that have all parts: what the tests of training share."""

from typing import Any

import jax
import numpy as np

from holojax import config
from holojax.parallel import Layout, RegionGrid

RINGFORMER = dict(
    name="ringformer",
    encoder=dict(name="vit", dim=8, depth=4, heads=2, patch=8, pos="sincos", mlp_ratio=1.0, drop_path=0.2),
    context=dict(name="cdcr", heads=2, stages=(3,), mlp_ratio=1.0),
    decoder=dict(name="setr", channels=8, dropout=0.1),
)
REST = dict(
    name="rest",
    encoder=dict(name="swin", embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=2, mlp_ratio=1.0),
    context=dict(name="spim", heads=8, stages=(2,), mlp_ratio=1.0),
    decoder=dict(name="upernet", channels=8, pool_scales=(1, 2)),
    aux=dict(name="fcn", channels=8),
)


def experiment(model: dict[str, Any] = RINGFORMER, regions=(2, 2), root: str = "", **train: Any) -> Any:
    """Make a configuration on generated scenes of 32 x 32 pixels and 5 classes."""
    return config.experiment(
        name="tiny",
        model=model | dict(bands=3, classes=5, regions=regions),
        data=dict(
            root=root,
            generator="fields",
            generate=dict(size=32, train=4, val=2),
            mean=(102.0, 110.0, 102.0),
            std=(25.0, 32.0, 25.0),
            batch=2,
        ),
        augment=dict(brightness=0.1, contrast=0.1),
        train=dict(steps=4, learning_rate=1e-3, log_every=1, checkpoint_every=2, **train),
    )


def batch(layout: Layout, grid: RegionGrid, seed: int = 0, scenes: int = 2, size=(30, 61)) -> dict[str, Any]:
    """Make a random batch with padding, nodata and ignored labels, placed by the layout."""
    rng = np.random.default_rng(seed)
    valid = rng.random((scenes, *size)) < 0.9
    image = rng.integers(1, 255, (scenes, *size, 3)).astype(np.uint8)
    label = rng.integers(0, 5, (scenes, *size)).astype(np.uint8)
    label[rng.random(label.shape) < 0.2] = 255
    stacks = dict(image=grid.split(image), label=grid.split(label, fill=255), valid=grid.split(valid, fill=False))
    photometry = dict(
        gain=rng.uniform(0.9, 1.1, scenes).astype(np.float32),
        offset=rng.normal(size=scenes).astype(np.float32),
    )
    return jax.device_put(stacks, layout.scenes) | jax.device_put(photometry, layout.per_scene)
