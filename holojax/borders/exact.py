"""Exact borders: a region sees across its edge what one large device would see."""

from __future__ import annotations

from holojax.errors import ConfigError


class Exact:
    """Refuse to be made: of the exact mode only the neighbour primitive (`parallel.collectives`) exists so far."""

    def __init__(self, valid: object = None, strides: tuple = (), axes: tuple = ()) -> None:
        raise ConfigError(
            'model.border: "exact" (halos, rolled windows and scene-wide statistics across regions) is not available '
            'in this version. Use border="isolated".'
        )
