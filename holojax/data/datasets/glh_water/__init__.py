"""GLH-Water: 250 scenes of 12,800 x 12,800 pixels at 0.3 m, surface water.

Source: Li, Dang, Zhao et al.: "GLH-Water: A Large-Scale Dataset for Global Surface Water Detection in Large-Size
    Very-High-Resolution Satellite Imagery", AAAI 2024.
"""

from holojax.data.classes import ClassTable
from holojax.data.datasets.base import Files, SceneSet

FACTS = SceneSet(
    name="glh_water",
    title="GLH-Water",
    url="https://jack-bo1220.github.io/project/GLH-water.html",
    citation="Li et al.: GLH-Water: A Large-Scale Dataset for Global Surface Water Detection. AAAI 2024.",
    layout="train/img/NN.jpg with train/label/NN.png, and the same in val and test (200, 25 and 25 scenes); image and "
    "label may stand for img and label. Labels hold 0 (background) and 255 (water).",
    classes=ClassTable(("background", "water"), ((0, 0, 0), (255, 255, 255))),
    files=tuple(
        Files(tuple(f"{{split}}/{folder}/*.{kind}" for kind in ("jpg", "png", "tif")), ("{split}/label/*.png",))
        for folder in ("img", "image")
    ),
    label_map={0: 0, 255: 1},  # 255 is water here, and means no "ignore"
    counts={"train": 200, "val": 25, "test": 25},
)
