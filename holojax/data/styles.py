"""Styles of class maps for QGIS, written from the same table as the maps: `.qml` (layer style) and `.clr` (colours)."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree as xml

from holojax.data.classes import ClassTable
from holojax.errors import RasterError


def qml(table: ClassTable) -> str:
    """Return the layer style of a class map as QGIS 3 writes it: a paletted renderer, every class with its name.

    QGIS applies `MAP.qml` on its own when it opens `MAP.tif`. Pixels of 255 are the map's nodata and stay clear.
    """
    root = xml.Element("qgis", version="3.22.0", styleCategories="AllStyleCategories", maxScale="0", minScale="1e+08")
    pipe = xml.SubElement(root, "pipe")
    renderer = xml.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    xml.SubElement(renderer, "rasterTransparency")
    palette = xml.SubElement(renderer, "colorPalette")
    for value, (name, (red, green, blue)) in enumerate(zip(table.names, table.palette, strict=True)):
        colour = f"#{red:02x}{green:02x}{blue:02x}"
        xml.SubElement(palette, "paletteEntry", value=str(value), color=colour, label=name, alpha="255")
    xml.SubElement(pipe, "brightnesscontrast", brightness="0", contrast="0", gamma="1")
    xml.SubElement(pipe, "huesaturation", saturation="0", grayscaleMode="0", colorizeOn="0")
    xml.SubElement(pipe, "rasterresampler", maxOversampling="2")
    xml.SubElement(root, "blendMode").text = "0"
    xml.indent(root)
    return f"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n{xml.tostring(root, encoding='unicode')}\n"


def clr(table: ClassTable) -> str:
    """Return the colours as a `.clr` text: a line `value red green blue alpha name` a class.

    That is what QGIS exports from and loads into a paletted renderer.
    """
    lines = [
        f"{value} {red} {green} {blue} 255 {' '.join(name.split())}"
        for value, (name, (red, green, blue)) in enumerate(zip(table.names, table.palette, strict=True))
    ]
    return "\n".join(lines) + "\n"


def write_styles(target: str | os.PathLike[str], table: ClassTable) -> tuple[Path, Path]:
    """Write `.qml` and `.clr` beside a class map; return their paths. Files that are there are replaced.

    Raises:
        RasterError: the place is not writable.
    """
    written = []
    for suffix, text in ((".qml", qml(table)), (".clr", clr(table))):
        path = Path(target).with_suffix(suffix)
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise RasterError(f"{path}: cannot be written ({error.strerror}). Choose a writable folder.") from error
        written.append(path)
    return written[0], written[1]
