"""Array types: one letter, one meaning.

`b` scenes, `r` regions, `h w` rows and columns of a region, `H W` of a scene, `n` regions folded into the batch
(`b * r`) or tokens, `c` channels, `k` heads or classes, `d` width of a head.
"""

from jax import Array
from jaxtyping import Bool, Float, Int, Key

Scene = Float[Array, "b H W c"]
RegionStack = Float[Array, "b r h w c"]
RegionMask = Bool[Array, "b r h w"]
FeatureMap = Float[Array, "n h w c"]
TokenMask = Bool[Array, "n h w"]
Tokens = Float[Array, "b n k d"]
KeyMask = Bool[Array, "b n"]
Keys = Key[Array, "n"]
Labels = Int[Array, "..."]

__all__ = ["FeatureMap", "KeyMask", "Keys", "Labels", "RegionMask", "RegionStack", "Scene", "TokenMask", "Tokens"]
