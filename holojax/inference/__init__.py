"""From a trained model to maps on disk."""

from holojax.inference.predict import predict_scene

__all__ = ["predict_scene"]
