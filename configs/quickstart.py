"""REST at toy size on generated scenes in which a field's class depends on the whole scene.

    python scripts/train.py --config=configs/quickstart.py --workdir=runs/quickstart --virtual_devices=4

A striped field is irrigated if the scene's markers are pump stations, and dry if they are silos, wherever
they stand. The scenes (192 x 192 pixels, 2 x 2 regions) are made in data/quickstart where they are missing.
The regions see each other at stride 8 only: attention at stride 4 would take most of the time.
"""

from holojax.config import experiment


def get_config(arg: str | None = None):
    """Return the configuration; it has no variants."""
    if arg:
        raise ValueError(f"quickstart has no variants, found {arg!r}.")
    return experiment(
        name="quickstart",
        model=dict(
            name="rest",
            bands=3,
            classes=5,
            regions=(2, 2),
            encoder=dict(name="swin", embed_dim=32, depths=(1, 1, 1, 1), heads=(2, 4, 8, 8), window=6, drop_path=0.0),
            context=dict(name="spim", heads=4, stages=(1,), mlp_ratio=2.0),
            decoder=dict(name="upernet", channels=48, dropout=0.0),
            aux=None,
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
        augment=dict(flip=True, rotate=True),
        train=dict(
            steps=240,
            learning_rate=3e-3,
            schedule="cosine",
            warmup=50,
            clip=1.0,
            class_weights=(1.0, 1.0, 1.0, 8.0, 8.0),  # the markers are 1 % of the pixels, and decide the rest
            log_every=20,
            checkpoint_every=100,
        ),
    )
