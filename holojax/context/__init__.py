"""How regions see each other."""

from holojax.context.cdcr import Cdcr
from holojax.context.spim import Spim

MIXERS = {"spim": Spim, "cdcr": Cdcr}

__all__ = ["MIXERS", "Cdcr", "Spim"]
