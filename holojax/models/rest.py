"""REST (Chen et al. 2025): Robust and Efficient Segmentation of whole remote-sensing scenes."""

from __future__ import annotations

from holojax.models.base import SceneModel


class Rest(SceneModel):
    """Encode regions with any encoder, join them by SPIM, decode each with any decoder.

    In the paper's Swin and VMamba the mixers' results go to the decoder alone (`placement="side"`), in its ConvNeXt
    to the next stage too (`"trunk"`). Training adds an auxiliary FCN head on stage 2. Arguments as `SceneModel`.
    """
