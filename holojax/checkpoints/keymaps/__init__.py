"""Key maps: what parameters of published code are called here. One module a family of encoders, one table a source."""

from collections.abc import Mapping

from holojax.checkpoints.keymaps.convnext import CONVNEXT
from holojax.checkpoints.keymaps.heads import MMSEG_HEADS, SPIM, TRANSFORMERS_HEADS
from holojax.checkpoints.keymaps.mask2former import MASK2FORMER
from holojax.checkpoints.keymaps.rules import KeyMap
from holojax.checkpoints.keymaps.swin import SWIN
from holojax.checkpoints.keymaps.vit import VIT
from holojax.checkpoints.keymaps.vmamba import VMAMBA

# Family of encoders, as in `encoders.ENCODERS`: source: its names.
FAMILIES: dict[str, Mapping[str, KeyMap]] = {"convnext": CONVNEXT, "swin": SWIN, "vit": VIT, "vmamba": VMAMBA}
# What files of a source hold beside encoders.
OTHERS = {"rest": MMSEG_HEADS + SPIM, "mmseg": MMSEG_HEADS, "transformers": TRANSFORMERS_HEADS + MASK2FORMER}

SOURCES = ("rest", "mmseg", "timm", "transformers", "vmamba", "torchvision")

__all__ = ["FAMILIES", "SOURCES", "KeyMap", "key_map"]


def key_map(source: str, family: str | None) -> KeyMap | None:
    """Return the names of a source for a family of encoders and all else its files hold.

    `family` is None for a decoder alone. None if the source has no such weights.
    """
    others = OTHERS.get(source)
    if family is None:
        return others
    encoder = FAMILIES.get(family, {}).get(source)
    return encoder if encoder is None or others is None else encoder + others
