"""Decoders: a pyramid of maps to class scores. They know nothing of the mesh."""

from holojax.decoders.base import Decoder
from holojax.decoders.fcn import FCN
from holojax.decoders.heads import Heads
from holojax.decoders.mask2former import Mask2Former
from holojax.decoders.pyramid import FeaturePyramid
from holojax.decoders.segvit import SegViT
from holojax.decoders.setr import SETR, SETRMLA, SETRAux, setr
from holojax.decoders.upernet import UPerNet, UPerNetLWC, upernet

DECODERS = {"upernet": upernet, "fcn": FCN, "setr": setr, "segvit": SegViT, "mask2former": Mask2Former}
AUXILIARIES = {"fcn": FCN, "setr": SETRAux}

__all__ = [
    "AUXILIARIES",
    "DECODERS",
    "FCN",
    "SETR",
    "SETRMLA",
    "Decoder",
    "FeaturePyramid",
    "Heads",
    "Mask2Former",
    "SETRAux",
    "SegViT",
    "UPerNet",
    "UPerNetLWC",
]
