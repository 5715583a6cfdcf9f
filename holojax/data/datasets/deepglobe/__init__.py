"""DeepGlobe Land Cover: 803 labelled images of 2,448 x 2,448 pixels at 0.5 m, 6 classes, labels in colours.

Source: Demir et al.: "DeepGlobe 2018: A Challenge to Parse the Earth through Satellite Images", CVPRW 2018. Order of
    the classes as in torchgeo; `unknown` is ignored, as GLNet does when it evaluates.
"""

from holojax.data.classes import IGNORE, ClassTable
from holojax.data.coding import Coding
from holojax.data.datasets.base import ALL, Files, SceneSet

_COLOURS = {
    "urban land": (0, 255, 255),
    "agriculture land": (255, 255, 0),
    "rangeland": (255, 0, 255),
    "forest land": (0, 255, 0),
    "water": (0, 0, 255),
    "barren land": (255, 255, 255),
}
_UNKNOWN = (0, 0, 0)

FACTS = SceneSet(
    name="deepglobe",
    title="DeepGlobe Land Cover",
    url="https://www.kaggle.com/datasets/balraj98/deepglobe-land-cover-classification-dataset",
    citation="Demir et al.: DeepGlobe 2018: A Challenge to Parse the Earth through Satellite Images. CVPRW 2018.",
    layout="train/ID_sat.jpg with train/ID_mask.png (803 pairs; the published valid and test have no labels), and "
    "GLNet's lists train.txt, crossvali.txt and test.txt (454, 207 and 142 names) beside train; without lists all are "
    "in one split, `all`.",
    classes=ClassTable(tuple(_COLOURS), tuple(_COLOURS.values())),
    files=(Files(("train/*_sat.jpg",), ("train/*_mask.png",), r"(\d+)_(?:sat|mask)"),),
    label_map={number: number for number in range(len(_COLOURS))} | {len(_COLOURS): IGNORE},
    coding=Coding((*_COLOURS.values(), _UNKNOWN), threshold=128),  # the values of the masks are not exact
    counts={ALL: 803},
)
