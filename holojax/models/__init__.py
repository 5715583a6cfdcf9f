"""Whole models, and how a configuration becomes one."""

from holojax.models.build import build_decoder, build_encoder, build_model
from holojax.models.segment import segment

__all__ = ["build_decoder", "build_encoder", "build_model", "segment"]
