"""Anyone's own scenes: `{split}/{image,label}/NAME.tif|png|jpg` and a table of the classes."""

from holojax.data.classes import ClassTable
from holojax.data.datasets.base import CLASSES_FILE, Files, SceneSet
from holojax.data.scenes import IMAGE_FOLDERS, LABEL_FOLDERS, LAYOUT, SUFFIXES

FILES = tuple(
    Files(
        tuple(f"{{split}}/{images}/*{suffix}" for suffix in SUFFIXES),
        tuple(f"{{split}}/{labels}/*{suffix}" for labels in LABEL_FOLDERS for suffix in SUFFIXES),
    )
    for images in IMAGE_FOLDERS
)

FACTS = SceneSet(
    name="folder",
    title="A folder of scenes",
    url="wherever they come from",
    citation="",
    layout=f'{LAYOUT}, and {CLASSES_FILE}: {{"names": [...], "palette": [[r, g, b], ...], "label_map": {{"raw value": '
    'class or 255}, "colours": true where labels are written in the palette\'s colours}; all but the names if any.',
    classes=ClassTable.numbered(255),
    files=FILES,
    bands=(),
    table_file=True,
    any_split=True,
)
