"""Decoders: a pyramid of maps to class scores. They know nothing of the mesh."""

from holojax.decoders.base import Decoder
from holojax.decoders.fcn import FCN
from holojax.decoders.mask2former import Mask2Former
from holojax.decoders.pyramid import FeaturePyramid
from holojax.decoders.setr import SETR
from holojax.decoders.upernet import UPerNet

DECODERS = {"upernet": UPerNet, "fcn": FCN, "setr": SETR, "mask2former": Mask2Former}

__all__ = ["DECODERS", "FCN", "SETR", "Decoder", "FeaturePyramid", "Mask2Former", "UPerNet"]
