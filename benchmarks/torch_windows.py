"""What others do: windows of scenes, read and augmented by the workers of `torch.utils.data.DataLoader`.

    python benchmarks/torch_windows.py rasterio|torchgeo SETTINGS

`benchmarks/data.py` starts it and says the settings, as JSON; it prints the seconds of a batch. Both take a crop of
window / scale at a random place, resize it (bilinear; labels nearest), turn it by a right angle, mirror it, change
brightness and contrast, and normalise it.
"""

import functools
import json
import sys
import time

import numpy as np
import rasterio
import torch
from rasterio.windows import Window
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, IterableDataset, Sampler


def augment(image, label, window, ranges):
    """Resize image [c h w] and label [h w], uint8 or float, and augment them; float32 and uint8."""
    rng = generator()
    pixels = interpolate(image[None].float(), size=(window, window), mode="bilinear", align_corners=False)[0]
    label = interpolate(label[None, None], size=(window, window), mode="nearest")[0, 0]
    turns = int(rng.integers(4))
    pixels, label = torch.rot90(pixels, turns, (1, 2)), torch.rot90(label, turns, (0, 1))
    for axis in (0, 1):
        if rng.random() < 0.5:
            pixels, label = pixels.flip(axis + 1), label.flip(axis)
    contrast = 1 + ranges["contrast"] * (2 * rng.random() - 1)
    shift = ranges["center"] * (1 - contrast) + ranges["brightness"] * (2 * rng.random() - 1)
    pixels = (pixels * contrast + (shift - ranges["mean"][0])) / ranges["std"][0]
    return pixels.contiguous(), label.contiguous()


@functools.cache
def generator():
    """Return this worker's random numbers."""
    worker = torch.utils.data.get_worker_info()
    return np.random.default_rng(0 if worker is None else worker.id)


class Windows(IterableDataset):
    """Endless random windows of scenes, read by rasterio; each worker keeps its files open."""

    def __init__(self, settings):
        self.settings = settings

    def __iter__(self):
        rng, opened = generator(), functools.cache(rasterio.open)
        pairs, window = self.settings["pairs"], self.settings["window"]
        while True:
            image, label = map(opened, pairs[rng.integers(len(pairs))])
            side = round(window / rng.uniform(*self.settings["scale"]))
            top, left = (int(rng.integers(extent - side + 1)) for extent in (image.height, image.width))
            area = Window(left, top, side, side)
            pixels, classes = torch.from_numpy(image.read(window=area)), torch.from_numpy(label.read(1, window=area))
            yield augment(pixels, classes, window, self.settings["ranges"])


def rasterio_windows(settings):
    """Return a dataset that reads with rasterio, and no sampler."""
    return Windows(settings), None


def torchgeo_windows(settings):
    """Return torchgeo's dataset of rasters, and its random sampler with another size for each window."""
    from torchgeo.datasets import RasterDataset
    from torchgeo.samplers import RandomGeoSampler

    class Image(RasterDataset):
        dtype = torch.float32

    class Label(RasterDataset):
        is_image, dtype = False, torch.uint8

    class Scaled(Sampler):
        def __iter__(self):
            while True:
                side = round(settings["window"] / generator().uniform(*settings["scale"]))
                yield from RandomGeoSampler(data, size=side, length=1)

    def change(sample):
        pixels, classes = augment(sample["image"], sample["mask"], settings["window"], settings["ranges"])
        return dict(image=pixels, mask=classes)

    images, labels = zip(*settings["pairs"], strict=True)
    data = Image(list(images)) & Label(list(labels))
    data.transforms = change
    return data, Scaled()


def main():
    kind, settings = sys.argv[1], json.loads(sys.argv[2])
    data, sampler = dict(rasterio=rasterio_windows, torchgeo=torchgeo_windows)[kind](settings)
    batches = iter(DataLoader(data, settings["batch"], sampler=sampler, num_workers=settings["workers"]))
    for number in range(settings["warm_up"] + settings["count"]):
        if number == settings["warm_up"]:
            started = time.perf_counter()
        next(batches)
    print((time.perf_counter() - started) / settings["count"])


if __name__ == "__main__":
    main()
