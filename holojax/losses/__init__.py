"""Losses over whole scenes: one round of local sums, added over devices by the step, then one number."""

from holojax.losses.cross_entropy import CrossEntropy, cross_entropy
from holojax.losses.dice import Dice, dice

LOSSES = {"cross_entropy": CrossEntropy, "dice": Dice}

__all__ = ["LOSSES", "CrossEntropy", "Dice", "cross_entropy", "dice"]
