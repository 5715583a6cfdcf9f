"""WHU-OHS: 42 hyperspectral scenes of 32 bands at 10 m, published as 7,795 overlapping patches; 24 classes.

Source: Li, Fu, Zhong, Zhang: "WHU-OHS: A benchmark dataset for large-scale Hersepctral Image classification", JAG 2022.
    Palette and names are those of REST's `whuohs.py`.

The patches become scenes again (`mosaic`). Training, validation and test patches lie in the same scenes, so there are
two ways to split, and which one is used decides what a figure means:

- as published (default): every scene comes in each split it has patches of, whole, and only the patches of that split
  are labelled in it. Where patches of two splits overlap, the later of train, val, test has the pixels. The *image* of
  test places is seen in training as context, their labels are not.
- by scene: with `train.txt`, `val.txt` and `test.txt` (names of scenes) beside the patches, a scene is in one split and
  all its patches are labelled.
"""

from holojax.data.classes import IGNORE, ClassTable
from holojax.data.datasets.base import Files, SceneSet
from holojax.data.datasets.whu_ohs.mosaic import disagreements, make_scenes

_CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("paddy field", (188, 207, 251)),
    ("dry farm", (51, 223, 199)),
    ("woodland", (34, 113, 5)),
    ("shrubbery", (168, 237, 115)),
    ("sparse woodland", (79, 213, 0)),
    ("other forest land", (69, 210, 0)),
    ("high-covered grassland", (111, 113, 0)),
    ("medium-covered grassland", (166, 164, 0)),
    ("low-covered grassland", (255, 242, 3)),
    ("river or canal", (113, 174, 251)),
    ("lake", (0, 91, 228)),
    ("reservoir or pond", (5, 37, 113)),
    ("beach land", (121, 139, 244)),
    ("shoal", (0, 168, 132)),
    ("urban built-up", (114, 0, 3)),
    ("rural settlement", (252, 126, 125)),
    ("other construction land", (251, 188, 189)),
    ("sand", (254, 186, 229)),
    ("gobi", (248, 0, 197)),
    ("saline or alkali soil", (226, 5, 168)),
    ("marshland", (167, 0, 131)),
    ("bare land", (113, 0, 75)),
    ("bare rock", (254, 110, 222)),
    ("ocean", (160, 160, 160)),
)

FACTS = SceneSet(
    name="whu_ohs",
    title="WHU-OHS",
    url="http://irsip.whu.edu.cn/resources/WHU_OHS_show.php",
    citation="Li et al.: WHU-OHS: A benchmark dataset for large-scale hyperspectral image classification. JAG 2022.",
    layout="tr/image/SCENE_NNNN.tif with tr/label/SCENE_NNNN.tif, and the same in val and ts (4822, 513 and 2460 "
    "patches of 512 x 512). Patches without georeference are placed by their number, row by row: of scenes that are no "
    'square of patches, grid.json says how many there are: {"SCENE": [rows, columns]}. To split by scene, put '
    "train.txt, val.txt and test.txt with names of scenes beside tr.",
    classes=ClassTable(tuple(name for name, _ in _CLASSES), tuple(colour for _, colour in _CLASSES)),
    files=(Files(("{split}/image/*.vrt",), ("{split}/label/*.vrt",)),),
    label_map={0: IGNORE} | {value: value - 1 for value in range(1, len(_CLASSES) + 1)},
    bands=tuple(f"band {number}" for number in range(1, 33)),
    mean=(0.0,),
    std=(10_000.0,),  # REST's: reflectance is stored times 10,000
    pieces={"tr/image/*.tif": 4822, "val/image/*.tif": 513, "ts/image/*.tif": 2460},
    prepare=make_scenes,
    inspect=disagreements,
)
