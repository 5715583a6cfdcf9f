"""Parts go together: any encoder, decoder and mixer make a model that no mesh changes."""

import itertools

import pytest

from tests.models import product

# What a change can wait for: one of the cheapest. The other parts are held to the same in test_mesh.py, test_exact.py,
# tests/encoders and tests/decoders.
SOME = [("convnext", "fcn", "cdcr", "isolated")]
ALL = list(itertools.product(product.ENCODERS, product.DECODERS, product.MIXERS, product.BORDERS))


@pytest.mark.parametrize(
    "names", [pytest.param(x, id=", ".join(x), marks=() if x in SOME else pytest.mark.slow) for x in ALL]
)
def test_any_parts_make_a_model_that_no_mesh_changes(names):
    difference = product.compare(*names)
    assert difference.agrees, difference
