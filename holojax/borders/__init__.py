"""What a region sees beyond its edge: one interface, two modes."""

from holojax.borders.base import Borders
from holojax.borders.exact import Exact
from holojax.borders.isolated import ISOLATED, Isolated

__all__ = ["ISOLATED", "Borders", "Exact", "Isolated"]
