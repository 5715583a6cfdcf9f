"""UAVid: 420 drone images of 3,840 or 4,096 x 2,160 pixels of streets, 8 classes, labels in colours.

Source: Lyu, Vosselman, Xia, Yilmaz, Yang: "UAVid: A semantic segmentation dataset for UAV imagery", ISPRS Journal
    2020. There are two orders of the classes: the official toolkit's (`FACTS`) and REST's (`REST_ORDER`); weights
    trained with one are wrong with the other.
"""

import dataclasses

from holojax.data.classes import ClassTable
from holojax.data.coding import Coding
from holojax.data.datasets.base import Files, SceneSet

_OFFICIAL = (
    ("clutter", (0, 0, 0)),
    ("building", (128, 0, 0)),
    ("road", (128, 64, 128)),
    ("static car", (192, 0, 192)),
    ("tree", (0, 128, 0)),
    ("vegetation", (128, 128, 0)),
    ("human", (64, 64, 0)),
    ("moving car", (64, 0, 128)),
)
_REST = ("clutter", "building", "road", "tree", "vegetation", "moving car", "static car", "human")
_COLOURS = dict(_OFFICIAL)

FACTS = SceneSet(
    name="uavid",
    title="UAVid",
    url="https://uavid.nl/",
    citation="Lyu et al.: UAVid: A semantic segmentation dataset for UAV imagery. ISPRS Journal 165, 2020.",
    layout="train/seqN/Images/NNNNNN.png with train/seqN/Labels/NNNNNN.png, the same in valid (200 and 70 images), and "
    "test/seqN/Images (150, without labels). Labels are colours; the folders uavid_train ... of the archives may keep "
    "their names.",
    classes=ClassTable(tuple(_COLOURS), tuple(_COLOURS.values())),
    files=(Files(("{split}/seq*/Images/*.png",), ("{split}/seq*/Labels/*.png",), r"(seq\d+)/\w+/([^/]+)\.png$"),),
    coding=Coding(tuple(_COLOURS.values())),
    counts={"train": 200, "val": 70},
    splits={
        "train": ("train", "uavid_train"),
        "val": ("val", "valid", "uavid_val"),
        "test": ("test", "uavid_test"),
    },
    unlabelled=("test",),
)

REST_ORDER = dataclasses.replace(
    FACTS,
    name="uavid_rest",
    classes=ClassTable(_REST, tuple(_COLOURS[name] for name in _REST)),
    label_map={official: _REST.index(name) for official, name in enumerate(_COLOURS)},
)
