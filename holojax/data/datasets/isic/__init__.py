"""ISIC 2018 Task 1: 2,594 photographs of skin with the outline of a lesion; sizes vary up to 6,000 pixels.

Source: Codella et al.: "Skin Lesion Analysis Toward Melanoma Detection 2018", arXiv 1902.03368. REST's split is not
    published; the challenge's own is used here.
"""

from holojax.data.classes import ClassTable
from holojax.data.datasets.base import Files, SceneSet

_NAME = r"(ISIC_\d+)"

FACTS = SceneSet(
    name="isic",
    title="ISIC 2018 Task 1",
    url="https://challenge.isic-archive.com/data/#2018",
    citation="Codella et al.: Skin Lesion Analysis Toward Melanoma Detection 2018. arXiv 1902.03368.",
    layout="the unpacked archives: ISIC2018_Task1-2_Training_Input/ISIC_NNNNNNN.jpg (2594) with "
    "ISIC2018_Task1_Training_GroundTruth/ISIC_NNNNNNN_segmentation.png, likewise Validation (100) and Test (1000), "
    "whose labels may be missing; or {train,val,test}/{image,label} with the same names. Labels hold 0 and 255.",
    classes=ClassTable(("background", "lesion"), ((120, 120, 120), (6, 230, 230))),
    files=(
        Files(
            ("ISIC2018_Task1-2_{split}_Input/ISIC_*.jpg",),
            ("ISIC2018_Task1_{split}_GroundTruth/ISIC_*_segmentation.png",),
            _NAME,
        ),
        Files(("{split}/image/ISIC_*.jpg",), ("{split}/label/ISIC_*_segmentation.png",), _NAME),
    ),
    label_map={0: 0, 255: 1},
    counts={"train": 2594},
    splits={"train": ("Training", "train"), "val": ("Validation", "val"), "test": ("Test", "test")},
    unlabelled=("val", "test"),
)
