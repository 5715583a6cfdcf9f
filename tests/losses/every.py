"""One of each loss, with options that matter, for the tests that hold for all of them."""

import numpy as np

from holojax import losses

WEIGHTS = (1.0, 2.0, 0.5, 3.0)

PIXELS = {
    "ce": losses.CrossEntropy(),
    "ce_all": losses.CrossEntropy(average="all", class_weights=WEIGHTS, smoothing=0.2),
    "dice": losses.Dice(),
    "soft_dice": losses.SoftDice(),
    "soft_dice_all": losses.SoftDice(classes="all"),
    "focal": losses.Focal(class_weights=WEIGHTS),
    "focal_sigmoid": losses.Focal(form="sigmoid", average="all"),
    "lovasz": losses.Lovasz(bins=64),
    "lovasz_all": losses.Lovasz(bins=64, classes="all"),
    "tversky": losses.Tversky(),
    "ohem": losses.Ohem(threshold=0.3, keep=9),
    "ohem_keep": losses.Ohem(threshold=0.0, keep=20, average="all", class_weights=WEIGHTS),
}
# One of each way to add up, where the others would take long to compile.
KINDS = {name: PIXELS[name] for name in ("ce_all", "soft_dice", "focal", "lovasz", "ohem")}
ALL = PIXELS | {"boundary": losses.Boundary()}


def a_scene(seed=0, shape=(2, 5, 7), classes=4):
    """Draw logits and labels; a third of the pixels is ignored."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, shape).astype(np.uint8)
    labels[rng.random(shape) < 0.3] = 255
    return rng.normal(size=(*shape, classes)).astype(np.float32), labels


def patches(seed=0, shape=(2, 7, 13), classes=4, side=3):
    """Draw logits and labels in patches of `side` pixels, so that there are outlines; a few pixels are ignored."""
    rng = np.random.default_rng(seed)
    n, h, w = shape
    labels = rng.integers(0, classes, (n, -(-h // side), -(-w // side))).astype(np.uint8)
    labels = labels.repeat(side, 1).repeat(side, 2)[:, :h, :w].copy()
    labels[rng.random(shape) < 0.1] = 255
    return rng.normal(size=(*shape, classes)).astype(np.float32), labels
