"""Class tables: what the numbers of a label raster are called and how they are coloured."""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Sequence

from holojax.errors import ConfigError

IGNORE = 255


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """Names and colours of the classes 0..K-1.

    `names` is one name a class; `palette` one (red, green, blue) a class, 0 to 255.

    Raises:
        ConfigError: names and colours differ in number, a colour is out of range, or there are more than 255
            classes (maps are uint8 and 255 means nodata).
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.palette):
            raise ConfigError(
                f"A class table needs one colour per name: found {len(self.names)} names and "
                f"{len(self.palette)} colours. Add or remove colours."
            )
        if not 1 <= len(self.names) <= IGNORE:
            raise ConfigError(f"A class table holds 1 to {IGNORE} classes, found {len(self.names)}.")
        for name, colour in zip(self.names, self.palette, strict=True):
            if len(colour) != 3 or any(not 0 <= value <= 255 for value in colour):
                raise ConfigError(f"Class {name!r}: expected a colour (r, g, b) of 0..255, found {colour}.")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def numbered(cls, count: int) -> ClassTable:
        """Make a table of `count` classes called `class 0`, ..., in well separated colours."""
        golden = 0.618033988749895  # steps round the colour circle that never fall close together
        colours = (
            colorsys.hsv_to_rgb(index * golden % 1, 0.55 + 0.4 * (index % 2), 0.95 - 0.25 * (index % 3))
            for index in range(count)
        )
        palette = tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colours)
        return cls(tuple(f"class {index}" for index in range(count)), palette)

    @classmethod
    def complete(
        cls, count: int, names: Sequence[str] = (), palette: Sequence[tuple[int, int, int]] = ()
    ) -> ClassTable:
        """Make a table of `count` classes; names or colours that are not given are those of `numbered`."""
        numbered = cls.numbered(count)
        return cls(tuple(names) or numbered.names, tuple(palette) or numbered.palette)

    def colormap(self) -> dict[int, tuple[int, int, int, int]]:
        """Return the colour table of a GeoTIFF: opaque class colours, transparent black for 255 (nodata)."""
        table = {index: (r, g, b, 255) for index, (r, g, b) in enumerate(self.palette)}
        return table | {IGNORE: (0, 0, 0, 0)}

    def tags(self) -> dict[str, str]:
        """Return the class names as metadata of a raster band: `class_0`, `class_1`, ..."""
        return {f"class_{index}": name for index, name in enumerate(self.names)}
