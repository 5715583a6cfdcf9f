"""Array types: one letter, one meaning.

`b` scenes, `r` regions, `h w` rows and columns of a region, `H W` of a scene, `n` regions folded into the batch
(`b * r`) or tokens, `m` tokens that are attended, `c` channels, `k` heads or classes, `d` width of a head.

The annotations are checked in tests only. Functions that check their arrays themselves and raise an error that says
what to change take a plain `jax.Array`.
"""

from jax import Array

try:
    from jaxtyping import Bool, Float, Key
except ModuleNotFoundError:  # a machine with jax and flax alone runs the models; there the shapes are comments

    class _Shaped:
        def __class_getitem__(cls, item: tuple) -> type:
            return item[0]

    Bool = Float = Key = _Shaped

RegionStack = Float[Array, "b r h w c"]
RegionMask = Bool[Array, "b r h w"]
FeatureMap = Float[Array, "n h w c"]
TokenMask = Bool[Array, "n h w"]
Queries = Float[Array, "b n k d"]
KeysValues = Float[Array, "b m k d"]
KeyMask = Bool[Array, "b m"]
Keys = Key[Array, "n"]
SceneKeys = Key[Array, "b"]

__all__ = [
    "Bool",
    "FeatureMap",
    "Float",
    "KeyMask",
    "Keys",
    "KeysValues",
    "Queries",
    "RegionMask",
    "RegionStack",
    "SceneKeys",
    "TokenMask",
]
