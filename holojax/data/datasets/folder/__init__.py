"""Anyone's own scenes: `{split}/{image,label}/NAME.tif|png|jpg` and a table of the classes."""

import re

from holojax.data.classes import ClassTable
from holojax.data.datasets.base import CLASSES_FILE, Files, SceneSet
from holojax.data.raster import SUFFIXES
from holojax.data.scenes import IMAGE_FOLDERS, LABEL_FOLDERS, LAYOUT

_NAME = rf"(?i)([^/]+)(?:{'|'.join(map(re.escape, SUFFIXES))})$"
FILES = tuple(
    Files((f"{{split}}/{images}/*",), tuple(f"{{split}}/{labels}/*" for labels in LABEL_FOLDERS), _NAME, True)
    for images in IMAGE_FOLDERS
)

FACTS = SceneSet(
    name="folder",
    title="A folder of scenes",
    url="",
    citation="",
    layout=f'{LAYOUT}, and {CLASSES_FILE}: {{"names": [...], "palette": [[r, g, b], ...], "label_map": {{"raw value": '
    'class or 255}, "colours": true where labels are written in the palette\'s colours}; all but the names if any.',
    classes=ClassTable.numbered(255),
    files=FILES,
    bands=(),
    table_file=True,
    any_split=True,
)
