"""Wuhan-1 of RingFormer-Seg: 20 scenes of about 5,000 x 6,000 pixels at 0.5 m, 8 classes; not public.

Source: the RingFormer-Seg paper; "requests to the author". Neither names of classes nor of files are known: the
    layout is this project's own, and the classes come from `classes.json`.
"""

from holojax.data.classes import ClassTable
from holojax.data.datasets.base import CLASSES_FILE, SceneSet
from holojax.data.datasets.folder import FILES

FACTS = SceneSet(
    name="wuhan",
    title="Wuhan-1",
    url="the authors of RingFormer-Seg, on request",
    citation="RingFormer-Seg: Wuhan-1, 20 scenes of RGB aerial images.",
    layout=f"{{train,val,test}}/{{image,label}}/NAME.tif|png|jpg (12, 4 and 4 scenes) and {CLASSES_FILE}: "
    '{"names": [8 names], "palette": [[r, g, b], ...], "label_map": {"raw": class or 255}}, the last two if any.',
    classes=ClassTable.numbered(8),
    files=FILES,
    table_file=True,
    counts={"train": 12, "val": 4, "test": 4},
)
