"""Synapse multi-organ (BTCV): 30 labelled CT volumes of 512 x 512 pixels and 85 to 198 slices, 8 organs.

Source: Landman et al.: "MICCAI Multi-Atlas Labeling Beyond the Cranial Vault", Synapse syn3193805. Split and organs are
    TransUNet's (18 volumes for training, 12 for test); order of the classes and palette are mmseg's. Every slice is a
    scene, in Hounsfield units; TransUNet clips them to -125..275.
"""

from holojax.data.classes import ClassTable
from holojax.data.datasets.base import Files, SceneSet
from holojax.data.datasets.synapse.volumes import make_slices

_CLASSES = (
    ("background", (0, 0, 0)),
    ("aorta", (0, 0, 255)),
    ("gallbladder", (0, 255, 0)),
    ("left kidney", (255, 0, 0)),
    ("right kidney", (0, 255, 255)),
    ("liver", (255, 0, 255)),
    ("pancreas", (255, 255, 0)),
    ("spleen", (60, 255, 255)),
    ("stomach", (240, 240, 240)),
)
_ORGANS = {8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8}

FACTS = SceneSet(
    name="synapse",
    title="Synapse multi-organ",
    url="https://www.synapse.org/#!Synapse:syn3193805",
    citation="Landman et al.: MICCAI Multi-Atlas Labeling Beyond the Cranial Vault. Synapse syn3193805, 2015.",
    layout="img/imgNNNN.nii.gz with label/labelNNNN.nii.gz: the folder RawData/Training of Abdomen/RawData.zip (30 "
    "volumes, 1..10 and 21..40). Slices are written to the folder `slices` there, once.",
    classes=ClassTable(tuple(name for name, _ in _CLASSES), tuple(colour for _, colour in _CLASSES)),
    files=(Files(("{split}/image/*.tif",), ("{split}/label/*.tif",)),),
    label_map={raw: _ORGANS.get(raw, 0) for raw in range(14)},  # the other organs are background
    bands=("Hounsfield units",),
    pieces={"img/img*.nii*": 30, "label/label*.nii*": 30},
    prepare=make_slices,
)
