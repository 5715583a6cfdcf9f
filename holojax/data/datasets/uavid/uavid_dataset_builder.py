"""The TFDS builders of the data set and of its other form."""

from holojax.data.datasets.builder import SceneBuilder
from holojax.data.datasets.uavid import FACTS, REST_ORDER


class Builder(SceneBuilder):
    """Builds the index or the blocks; see `SceneBuilder`."""

    FACTS = FACTS
    MANUAL_DOWNLOAD_INSTRUCTIONS = FACTS.instructions("manual_dir")


class UavidRest(SceneBuilder):
    """Builds the index or the blocks of REST's order of the classes; see `SceneBuilder`."""

    name = "uavid_rest"
    FACTS = REST_ORDER
    MANUAL_DOWNLOAD_INSTRUCTIONS = REST_ORDER.instructions("manual_dir")
