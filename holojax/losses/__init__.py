"""Losses over whole scenes: rounds of local sums, added over devices by the step, then one number."""

from typing import Any

from holojax.losses.boundary import Boundary, boundary
from holojax.losses.cross_entropy import CrossEntropy, cross_entropy
from holojax.losses.dice import Dice, SoftDice, dice, soft_dice
from holojax.losses.focal import Focal, focal
from holojax.losses.lovasz import Lovasz, lovasz_softmax
from holojax.losses.ohem import Ohem, ohem
from holojax.losses.set_loss import SetLoss
from holojax.losses.tversky import Tversky, tversky

# What configurations call them. `reads` of each says what it takes ("pixels", "map", "queries"), `rounds` how often.
LOSSES = {
    "ce": CrossEntropy,
    "cross_entropy": CrossEntropy,
    "dice": Dice,
    "soft_dice": SoftDice,
    "focal": Focal,
    "lovasz": Lovasz,
    "tversky": Tversky,
    "boundary": Boundary,
    "ohem": Ohem,
    "set": SetLoss,
}

# Keys of `cfg.train` that hold for several losses.
_SHARED = {
    "ce": ("average", "class_weights", "smoothing"),
    "cross_entropy": ("average", "class_weights", "smoothing"),
    "focal": ("average", "class_weights"),
    "ohem": ("class_weights",),
}


def build_losses(train: Any) -> tuple[tuple[str, Any, float], ...]:
    """Build the losses of `cfg.train`, a ConfigDict or a plain dict: (name, loss, weight) each.

    Raises:
        ConfigError: an option does not fit.
    """

    def build(name: str) -> Any:
        options = {key: train[key] for key in _SHARED.get(name, ())} | dict(train["losses"].get(name, {}))
        return LOSSES[name](**options)

    return tuple((name, build(name), weight) for name, weight in train["loss"])


__all__ = [
    "LOSSES",
    "Boundary",
    "CrossEntropy",
    "Dice",
    "Focal",
    "Lovasz",
    "Ohem",
    "SetLoss",
    "SoftDice",
    "Tversky",
    "boundary",
    "build_losses",
    "cross_entropy",
    "dice",
    "focal",
    "lovasz_softmax",
    "ohem",
    "soft_dice",
    "tversky",
]
