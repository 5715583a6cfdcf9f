"""CRAG v2: 213 histological images of mostly 1,512 x 1,516 pixels, glands numbered one by one.

Source: Graham et al.: "MILD-Net: Minimal information loss dilated network for gland instance segmentation in colon
    histology images", Medical Image Analysis 2019.
"""

from holojax.data.classes import ClassTable
from holojax.data.coding import Coding
from holojax.data.datasets.base import Files, SceneSet

FACTS = SceneSet(
    name="crag",
    title="CRAG v2",
    url="https://warwick.ac.uk/fac/cross_fac/tia/data/mildnet/ (registration)",
    citation="Graham et al.: MILD-Net. Medical Image Analysis 52, 2019.",
    layout="train/Images/NAME.png with train/Annotation/NAME.png (173), and the same in test (40); Annotations will do "
    "as well. Annotations number the glands, 0 is background.",
    classes=ClassTable(("background", "gland"), ((0, 0, 0), (230, 60, 120))),
    files=(Files(("{split}/Images/*.png",), ("{split}/Annotation/*.png", "{split}/Annotations/*.png")),),
    coding=Coding(above=0),
    label_map={0: 0, 1: 1},
    counts={"train": 173, "test": 40},
)
