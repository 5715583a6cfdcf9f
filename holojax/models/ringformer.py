"""RingFormer-Seg: a vision transformer whose regions exchange context round a ring of devices."""

from __future__ import annotations

from holojax.models.base import SceneModel


class RingFormer(SceneModel):
    """Encode regions with a ViT, join them by CDCR, paint the map with a SETR decoder.

    All tokens are kept: the paper's Saliency-aware Token Filter (STF), which drops the least salient 30 % of them
    before the encoder, is not part of this version. Arguments as `SceneModel`.
    """
