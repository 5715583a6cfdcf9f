"""Pure functions of local arrays: no mesh, no communication."""
