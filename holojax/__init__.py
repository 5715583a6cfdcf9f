"""HoloJAX: whole-scene semantic segmentation of very large images on device meshes."""

import importlib
from typing import Any

from holojax import attention, losses, metrics
from holojax.models import build_decoder, build_encoder, build_model, segment
from holojax.parallel import Layout, RegionGrid

# Loaded when first asked for: they need packages (rasterio, optax, orbax) that a machine which only runs models lacks.
_LAZY = {
    "export_weights": "holojax.checkpoints.torch_export",
    "import_weights": "holojax.checkpoints.torch_import",
    "predict_scene": "holojax.inference.predict",
}

__all__ = [
    "Layout",
    "RegionGrid",
    "attention",
    "build_decoder",
    "build_encoder",
    "build_model",
    "export_weights",
    "import_weights",
    "losses",
    "metrics",
    "predict_scene",
    "segment",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'holojax' has no attribute {name!r}")
