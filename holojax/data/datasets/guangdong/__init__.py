"""Guangdong of RingFormer-Seg: 15 Gaofen scenes of 8,192 x 8,192 pixels at 0.5 to 2 m, 11 classes; not public.

Source: the RingFormer-Seg paper; "requests to the author". Neither names of classes nor of files are known: the
    layout is this project's own, and the classes come from `classes.json`.
"""

from holojax.data.classes import ClassTable
from holojax.data.datasets.base import CLASSES_FILE, SceneSet
from holojax.data.datasets.folder import FILES

FACTS = SceneSet(
    name="guangdong",
    title="Guangdong",
    url="the authors of RingFormer-Seg, on request",
    citation="RingFormer-Seg: Guangdong, 15 Gaofen scenes.",
    layout=f"{{train,val,test}}/{{image,label}}/NAME.tif|png|jpg (9, 3 and 3 scenes) and {CLASSES_FILE}: "
    '{"names": [11 names], "palette": [[r, g, b], ...], "label_map": {"raw": class or 255}}, the last two if any.',
    classes=ClassTable.numbered(11),
    files=FILES,
    table_file=True,
    counts={"train": 9, "val": 3, "test": 3},
)
