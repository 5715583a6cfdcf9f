import numpy as np
import pytest
import rasterio

from holojax.data.files import write_geotiff

PLACE = dict(crs="EPSG:32633", transform=rasterio.Affine(10, 0, 500_000, 0, -10, 5_300_000))


@pytest.fixture
def tiff(tmp_path):
    """Write an array as a georeferenced GeoTIFF and return its path."""

    def write(name, pixels, **settings):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_geotiff(path, np.asarray(pixels), **(PLACE | settings))
        return path

    return write


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def scene_folder(tiff, rng, tmp_path):
    """Make `train/{image,label}` of random scenes of the given sizes; labels 0..3 and 255."""

    def make(sizes, split="train", images="image", labels="label"):
        for number, (height, width) in enumerate(sizes):
            image = rng.integers(1, 256, (height, width, 3)).astype(np.uint8)
            label = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (height, width))
            tiff(f"{split}/{images}/s{number}.tif", image)
            tiff(f"{split}/{labels}/s{number}.tif", label)
        return tmp_path

    return make
