"""Data: rasters on disk, read by window, on their way to the devices; and scenes to try things on."""

from holojax.data.augment import NO_AUGMENT, Augment
from holojax.data.classes import IGNORE, ClassTable
from holojax.data.photometry import Distortion
from holojax.data.pipeline import Skipped, eval_batches, load_scene, train_batches
from holojax.data.scene import SceneReader
from holojax.data.scenes import RasterScenes, SceneSource

__all__ = [
    "IGNORE",
    "NO_AUGMENT",
    "Augment",
    "ClassTable",
    "Distortion",
    "RasterScenes",
    "SceneReader",
    "SceneSource",
    "Skipped",
    "eval_batches",
    "load_scene",
    "train_batches",
]
