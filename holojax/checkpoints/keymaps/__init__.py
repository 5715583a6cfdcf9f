"""Key maps: what parameters of published code are called here. One table per source."""

from holojax.checkpoints.keymaps.rest import REST
from holojax.checkpoints.keymaps.rules import KeyMap

SOURCES = {"rest": REST}

__all__ = ["SOURCES", "KeyMap"]
