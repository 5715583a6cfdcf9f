"""What a compiled program costs, read from the program itself: so far, what its devices send each other."""

from holojax.profiling.traffic import Collective, collectives, differences, table, totals, traffic

__all__ = ["Collective", "collectives", "differences", "table", "totals", "traffic"]
