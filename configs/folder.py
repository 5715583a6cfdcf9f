"""Your own scenes: a folder of GeoTIFFs with labels, any number of bands and classes, on a laptop.

    python scripts/train.py --config=configs/folder.py --workdir=runs/mine --config.data.root=FOLDER \
        --config.model.bands=6 --config.model.classes=5

FOLDER holds {train,val}/{image,label}/NAME.tif: docs/data.md. Mean and standard deviation of the bands are measured
when training begins. The model is a small REST; the regions see each other at strides 16 and 32, with pooled keys, so
that windows of 512 x 512 pixels train on two cores. On GPUs take `configs/folder.py:swin_tiny` and larger windows, or
none (`--config.data.window=None`: whole scenes).
"""

from holojax.config import experiment

ENCODERS = {
    "small": dict(name="swin", embed_dim=32, depths=(2, 2, 2, 2), heads=(2, 4, 8, 8), window=7),
    "swin_tiny": dict(name="swin", size="tiny"),
}


def get_config(arg: str | None = None):
    """Return the configuration of `small` (by default) or `swin_tiny`."""
    name = arg or "small"
    if name not in ENCODERS:
        raise ValueError(f"folder has the variants {sorted(ENCODERS)}, found {arg!r}.")
    return experiment(
        name=f"folder_{name}",
        model=dict(
            name="rest",
            bands=3,
            classes=2,
            regions=(2, 2),
            encoder=ENCODERS[name],
            context=dict(name="spim", heads=4, stages=(2, 3), kv_pool=(2, 1), mlp_ratio=2.0),
            decoder=dict(name="upernet", channels=48),
            aux=None,
        ),
        data=dict(mean=(), std=(), window=(512, 512), batch=2),
        augment=dict(brightness=0.1, contrast=0.1),
        train=dict(
            steps=300,
            learning_rate=2e-3,
            schedule="cosine",
            warmup=20,
            clip=1.0,
            loss=(("ce", 1.0), ("dice", 1.0)),
            checkpoint_every=50,
        ),
        evaluate=dict(window=(512, 512)),
    )
