"""The TFDS builder of the data set."""

from holojax.data.datasets.builder import SceneBuilder
from holojax.data.datasets.whu_ohs import FACTS


class Builder(SceneBuilder):
    """Builds the index or the blocks; see `SceneBuilder`."""

    FACTS = FACTS
    MANUAL_DOWNLOAD_INSTRUCTIONS = FACTS.instructions("manual_dir")
