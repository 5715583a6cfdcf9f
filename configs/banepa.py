"""Buildings in a drone scene of 11264 x 8704 pixels, on two CPU cores.

    python scripts/train.py --config=configs/banepa.py --workdir=runs/banepa --config.data.root=FOLDER
    python scripts/train.py --config=configs/banepa.py:ringformer --workdir=runs/r --config.data.root=FOLDER

FOLDER holds {train,val}/{image,label}/*.tif: RGB uint8 images, labels 0 (background), 1 (building) and 255.
Training sees windows of 1024 x 1024 pixels. Attention over a scene costs the square of its tokens, and two
cores do about 7e8 pairs of query and key a second: so the regions see each other at strides 16 and 32 only,
and keys are averaged over 4 x 4 and 2 x 2 tokens. The whole scene then takes about a minute of attention; at
stride 4 without pooling it would take days.
"""

from holojax.config import experiment

MODELS = {
    "rest": dict(
        name="rest",
        encoder=dict(name="swin", embed_dim=32, depths=(2, 2, 2, 2), heads=(2, 4, 8, 8), window=7),
        context=dict(name="spim", heads=4, stages=(2, 3), kv_pool=(4, 2), mlp_ratio=2.0),
        decoder=dict(name="upernet", channels=32),
        aux=None,
    ),
    "swin_tiny": dict(  # the size of published weights: see scripts/import_torch.py
        name="rest",
        encoder=dict(name="swin", size="tiny"),
        context=dict(name="spim", heads=8, stages=(2, 3), kv_pool=(4, 2), mlp_ratio=2.0),
        decoder=dict(name="upernet", channels=64),
        aux=None,
    ),
    "ringformer": dict(
        name="ringformer",
        encoder=dict(name="vit", dim=96, depth=6, heads=4, patch=32, pos="none"),
        context=dict(name="cdcr", heads=4, stages=(1, 3), kv_pool=2, placement="trunk", mlp_ratio=2.0),
        decoder=dict(name="setr", channels=64),
    ),
}


def get_config(arg: str | None = None):
    """Return the configuration of `rest` (by default), `swin_tiny` or `ringformer`."""
    name = arg or "rest"
    if name not in MODELS:
        raise ValueError(f"banepa has the variants {sorted(MODELS)}, found {arg!r}.")
    return experiment(
        name=f"banepa_{name}",
        model=MODELS[name] | dict(bands=3, classes=2, regions=(2, 2)),
        data=dict(
            class_names=("background", "building"),
            palette=((200, 200, 190), (220, 60, 50)),
            mean=(106.2, 107.6, 101.9),
            std=(51.7, 45.9, 46.0),
            nodata=255,  # two white holes, which the file does not declare
            nodata_tolerance=10,  # JPEG frays their rim
            window=(1024, 1024),
            batch=1,
        ),
        augment=dict(brightness=0.2, contrast=0.2),
        train=dict(
            steps=200,
            learning_rate=1e-3,
            schedule="cosine",
            warmup=20,
            clip=1.0,
            loss=(("cross_entropy", 1.0), ("dice", 1.0)),
            checkpoint_every=50,
        ),
    )
