"""The TFDS builders of the data set and of its other form."""

from holojax.data.datasets.builder import SceneBuilder
from holojax.data.datasets.fbp import FACTS, FACTS_16BIT


class Builder(SceneBuilder):
    """Builds the index or the blocks; see `SceneBuilder`."""

    FACTS = FACTS
    MANUAL_DOWNLOAD_INSTRUCTIONS = FACTS.instructions("manual_dir")


class Fbp16bit(SceneBuilder):
    """Builds the index or the blocks of the 16-bit images, whose bands are in the other order; see `SceneBuilder`."""

    name = "fbp_16bit"
    FACTS = FACTS_16BIT
    MANUAL_DOWNLOAD_INSTRUCTIONS = FACTS_16BIT.instructions("manual_dir")
