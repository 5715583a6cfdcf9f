"""Parts go together: any encoder, decoder and mixer make a model that no mesh changes."""

import itertools

import pytest

from tests.models import product

# Every encoder and mixer, and decoders of all kinds, in the time that a change can wait for; swin with upernet and setr
# are held to the same in test_mesh.py and test_exact.py.
SOME = [
    ("swin", "mask2former", "spim", "exact"),
    ("convnext", "segvit", "cdcr", "exact"),
    ("vit", "segvit", "none", "isolated"),
    ("vmamba", "setr pup", "spim", "isolated"),
    ("convnext", "fcn", "cdcr", "isolated"),
]
ALL = list(itertools.product(product.ENCODERS, product.DECODERS, product.MIXERS, product.BORDERS))


@pytest.mark.parametrize(
    "names", [pytest.param(x, id=", ".join(x), marks=() if x in SOME else pytest.mark.slow) for x in ALL]
)
def test_any_parts_make_a_model_that_no_mesh_changes(names):
    difference = product.compare(*names)
    assert difference.agrees, difference
