"""Which exchange every mixer takes is told before anything runs; `tests/profiling` holds the bytes against programs."""

import pytest

from holojax.errors import LayoutError
from holojax.models.plans import stage_plans
from holojax.parallel import Layout
from holojax.profiling.programs import abstract_model
from tests.training import tiny

SIZE = (64, 128)  # 8 regions of 32 x 32 pixels


def lines(context, region, base=tiny.REST, scenes=1):
    model = abstract_model(base | dict(bands=3, classes=5, regions=(2, 4), context=context))
    return [one.describe() for one in stage_plans(model, Layout.create(region=region), SIZE, scenes)]


def test_every_stage_with_a_mixer_has_a_line():
    """Tokens are those of two regions: 8 x 8 and 4 x 4 each. 8 and 16 channels in float32, and a byte a mask."""
    found = lines(dict(name="spim", heads=4, stages=(0, 1), kv_pool=(1, 2)), 4)
    first = 4 * 128 * tiny.REST["encoder"]["embed_dim"] * 4 + 4 * 128
    assert found[0] == f"stage 0: spim over 128 tokens a device: all_to_all, {first / 1e6:.1f} MB forward"
    assert found[1].startswith("stage 1: spim over 32 tokens a device: all_to_all, ")


@pytest.mark.parametrize(
    ("context", "region", "said"),
    [
        (dict(heads=4), 8, "hybrid in groups of 4, 0.0 MB forward (4 heads do not divide over 8 devices, same result)"),
        (dict(heads=1), 4, "ring, 0.0 MB forward (1 heads do not divide over 4 devices, same result)"),
        (dict(heads=4, exchange="ring"), 4, "ring, 0.0 MB forward"),
        (dict(heads=4, exchange="hybrid"), 4, "all_to_all, 0.0 MB forward (cheapest legal plan)"),
        (dict(heads=4, exchange="hybrid", kv_pool=4), 4, "ring, 0.0 MB forward (cheapest legal plan)"),
        (dict(heads=4), 1, "all_to_all, 0.0 MB forward (one device, nothing travels)"),
    ],
)
def test_the_line_says_which_way_is_taken_and_why_it_is_another(context, region, said):
    (found,) = lines(dict(name="spim", stages=(1,)) | context, region)
    assert found.partition("device: ")[2] == said


def test_cdcr_goes_round():
    for mode, said in (("exact", "ring, 0.0 MB forward"), ("paper", "hops, 0.0 MB forward")):
        (found,) = lines(dict(name="cdcr", heads=2, stages=(3,), mode=mode), 4, tiny.RINGFORMER)
        assert found == f"stage 3: cdcr over 32 tokens a device: {said}"
    assert lines(None, 4, tiny.RINGFORMER) == []


def test_scenes_that_do_not_spread_are_refused():
    model = abstract_model(tiny.REST | dict(bands=3, classes=5, regions=(2, 4)))
    with pytest.raises(LayoutError, match="3 scenes cannot be spread evenly over 2 devices"):
        stage_plans(model, Layout.create(data=2, region=4), SIZE, 3)
