"""What a compiled program costs, read from the program itself: so far, what its devices send each other."""

from holojax.profiling.traffic import Collective, beside, collectives, differences, table, totals, traffic

__all__ = ["Collective", "beside", "collectives", "differences", "table", "totals", "traffic"]
