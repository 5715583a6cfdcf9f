"""Encoders: images to a pyramid of four maps. They know nothing of the mesh."""

from holojax.encoders.base import Encoder, Mix
from holojax.encoders.convnext import ConvNeXt
from holojax.encoders.swin import Swin
from holojax.encoders.vit import ViT
from holojax.encoders.vmamba import VMamba

ENCODERS = {"convnext": ConvNeXt, "swin": Swin, "vit": ViT, "vmamba": VMamba}

__all__ = ["ENCODERS", "ConvNeXt", "Encoder", "Mix", "Swin", "VMamba", "ViT"]
