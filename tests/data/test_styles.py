from xml.etree import ElementTree

import pytest

from holojax.data import ClassTable
from holojax.data.datasets import SETS
from holojax.data.styles import clr, qml, write_styles
from holojax.errors import RasterError


@pytest.mark.parametrize("name", ["fbp", "whu_ohs", "uavid_rest"])
def test_styles_say_what_the_table_says(name):
    table = SETS[name].classes
    root = ElementTree.fromstring(qml(table))
    assert root.tag == "qgis"
    renderer = root.find("pipe/rasterrenderer")
    assert (renderer.get("type"), renderer.get("band")) == ("paletted", "1")
    entries = renderer.findall("colorPalette/paletteEntry")
    assert [int(entry.get("value")) for entry in entries] == list(range(len(table)))
    assert tuple(entry.get("label") for entry in entries) == table.names
    assert tuple(tuple(bytes.fromhex(entry.get("color")[1:])) for entry in entries) == table.palette
    lines = [line.split(maxsplit=5) for line in clr(table).splitlines()]
    assert tuple(line[5] for line in lines) == table.names
    assert tuple(tuple(map(int, line[1:4])) for line in lines) == table.palette


def test_names_may_hold_any_character():
    table = ClassTable(("<\"&'> été",), ((1, 2, 3),))
    entry = ElementTree.fromstring(qml(table)).find("pipe/rasterrenderer/colorPalette/paletteEntry")
    assert entry.get("label") == table.names[0]
    assert len(clr(ClassTable(("two\nlines",), ((1, 2, 3),))).splitlines()) == 1


def test_styles_lie_beside_the_map(tmp_path):
    table = ClassTable.numbered(3)
    paths = write_styles(tmp_path / "map.tif", table)
    assert [path.name for path in paths] == ["map.qml", "map.clr"]
    assert paths[0].read_text(encoding="utf-8") == qml(table)
    with pytest.raises(RasterError, match=r"map\.qml: cannot be written"):
        write_styles(tmp_path / "none" / "map.tif", table)
