"""RingFormer-Seg at toy size on the quickstart's scenes: a ViT whose regions see each other round a ring.

    python scripts/train.py --config=configs/ringformer_quickstart.py --workdir=runs/ringformer
    --virtual_devices=4

See configs/quickstart.py for the scenes and the task. CDCR in its exact mode: one softmax over the whole
ring.
"""

from holojax.config import experiment


def get_config(arg: str | None = None):
    """Return the configuration; it has no variants."""
    if arg:
        raise ValueError(f"ringformer_quickstart has no variants, found {arg!r}.")
    return experiment(
        name="ringformer_quickstart",
        model=dict(
            name="ringformer",
            bands=3,
            classes=5,
            regions=(2, 2),
            encoder=dict(name="vit", dim=96, depth=4, heads=4, patch=8, pos="none"),
            context=dict(name="cdcr", heads=4, stages=(1, 3), mode="exact", placement="trunk", mlp_ratio=2.0),
            decoder=dict(name="setr", variant="naive", channels=64),
        ),
        data=dict(
            root="data/quickstart",
            generator="fields",
            generate=dict(size=192, train=256, val=24, seed=0),
            class_names=("bare soil", "dry field", "irrigated field", "silo", "pump station"),
            palette=((190, 170, 140), (230, 200, 60), (40, 150, 60), (60, 60, 220), (220, 50, 50)),
            mean=(102.0, 110.0, 102.0),
            std=(25.0, 32.0, 25.0),
            batch=4,
        ),
        train=dict(
            steps=300,
            learning_rate=1e-3,
            schedule="cosine",
            warmup=50,
            clip=1.0,
            class_weights=(1.0, 1.0, 1.0, 8.0, 8.0),  # the markers are 1 % of the pixels, and decide the rest
            log_every=20,
            checkpoint_every=100,
        ),
    )
