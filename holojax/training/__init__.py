"""Training and evaluation: a pure step, a loop that is a recipe, and hooks for all that is periodic."""

from holojax.training.evaluate import evaluate, evaluate_run
from holojax.training.loop import train

__all__ = ["evaluate", "evaluate_run", "train"]
