"""REST on Five-Billion-Pixels, as in its paper: whole Gaofen-2 scenes on 8 GPUs.

    python scripts/train.py --config=configs/fbp.py --workdir=runs/fbp
    python scripts/train.py --config=configs/fbp.py:tiny --workdir=runs/fbp_tiny    # stand-ins, toy size

Swin-L (paper: from SkySense weights), SPIM after every stage, UPerNet of 512 channels with an auxiliary FCN;
10,000 steps of 8 scenes, AdamW 6e-5 falling linearly to 0, weight decay 0.01, cross entropy over all pixels,
unlabelled ones too. REST reads 3 of the 4 bands and does not say which: here red, green and blue. Its random
resizing is left out.
"""

from holojax.config import experiment


def get_config(arg: str | None = None):
    """Return the configuration at the paper's size, or `tiny` for generated stand-ins."""
    if arg not in (None, "tiny"):
        raise ValueError(f"fbp has the variant 'tiny', found {arg!r}.")
    tiny = arg == "tiny"
    model = dict(
        name="rest",
        bands=3,
        classes=24,
        regions=(2, 4),
        encoder=dict(name="swin", embed_dim=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=7, drop_path=0.3),
        context=dict(name="spim", heads=8, stages=(0, 1, 2, 3)),
        decoder=dict(name="upernet", channels=512),
        aux=dict(name="fcn", stage=2, channels=256, weight=0.4),
    )
    data = dict(
        name="fbp",
        root="data/fbp",
        bands=(1, 2, 3),
        mean=(124.3, 94.2, 98.0),
        std=(51.0, 50.0, 47.1),
        class_names=CLASSES,
        palette=PALETTE,
        window=(6800, 7200),
        batch=8,
    )
    train = dict(
        steps=10_000,
        learning_rate=6e-5,
        weight_decay=0.01,
        average="all",
        evaluate_every=500,
        checkpoint_every=500,
    )
    if tiny:
        model["encoder"] |= dict(embed_dim=16, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8))
        model["decoder"] |= dict(channels=32)
        model["aux"] |= dict(channels=16)
        data |= dict(root="data/fbp_tiny", window=(72, 72), generator="fbp")
        data |= dict(generate=dict(size=72, train=8, val=2), batch=2)
        train |= dict(steps=200, learning_rate=5e-3, log_every=20, evaluate_every=0)
    return experiment(name=f"fbp_{arg}" if arg else "fbp", model=model, data=data, train=train)


# fmt: off
CLASSES = (
    "industrial area", "paddy field", "irrigated field", "dry cropland", "garden land", "arbor forest",
    "shrub forest", "park land", "natural meadow", "artificial meadow", "river", "urban residential", "lake",
    "pond", "fish pond", "snow", "bareland", "rural residential", "stadium", "square", "road", "overpass",
    "railway station", "airport",
)
PALETTE = (
    (200, 0, 0), (0, 200, 0), (150, 250, 0), (150, 200, 150), (200, 0, 200), (150, 0, 250), (150, 150, 250),
    (200, 150, 200), (250, 200, 0), (200, 200, 0), (0, 0, 200), (250, 0, 150), (0, 150, 200), (0, 200, 250),
    (150, 200, 250), (250, 250, 250), (200, 200, 200), (200, 150, 150), (250, 200, 150), (150, 150, 0),
    (250, 150, 150), (250, 150, 0), (250, 200, 250), (200, 150, 0),
)
# fmt: on
