"""Decoders against torch, on numbers that are part of the tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from holojax import build_decoder, config
from holojax.borders import ISOLATED
from holojax.decoders import AUXILIARIES, DECODERS, FCN, SETR, FeaturePyramid, SegViT
from holojax.decoders.prediction import Queries
from holojax.errors import ConfigError
from tests.parity import FIXTURES, assert_close, fill, section


@pytest.fixture(scope="module")
def numbers():
    return dict(np.load(FIXTURES / "decoders.npz"))


def _setr(variant):
    return SETR(channels_in=(3, 3, 3, 12), classes=5, variant=variant, channels=8, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("variant", ["naive", "pup"])
def test_setr_equals_mmsegs_in_training_and_evaluation(variant, numbers):
    arrays, setr = section(numbers, f"{variant}/"), _setr(variant)
    fill(setr, {path.replace("convs.", "up_convs."): value for path, value in arrays.items()})
    maps = [None, None, None, jnp.asarray(numbers["x"])]
    setr.train()
    assert_close(setr.scores(maps), arrays["out:trained"], 1e-5)
    for path, moved in section(arrays, "moved:").items():
        average = setr.up_convs[int(path.split(".")[1])].norm
        assert_close(getattr(average, path.rpartition(".")[2])[...], moved, 1e-6)
    setr.eval()
    assert_close(setr.scores(maps), arrays["out:evaluated"], 1e-5)


def test_pyramid_equals_mmsegs_feature2pyramid(numbers):
    arrays, pyramid = section(numbers, "pyramid/"), FeaturePyramid(channels=12, rngs=nnx.Rngs(0))
    fill(pyramid, arrays)
    for i, x in enumerate(pyramid([jnp.asarray(numbers["x"])] * 4)):
        assert_close(x, arrays[f"out:{i}"], 1e-5)


def test_pyramid_keeps_what_cannot_be_halved():
    maps = FeaturePyramid(channels=2, rngs=nnx.Rngs(0))([jnp.ones((1, 1, 3, 2))] * 4)
    assert [x.shape[1:3] for x in maps] == [(4, 12), (2, 6), (1, 3), (1, 1)]


def test_unknown_variant_names_the_known_ones():
    with pytest.raises(ConfigError, match="'map'; known: naive, pup, mla"):
        _setr("map")


def test_fcn_reads_one_stage_and_refuses_a_missing_one():
    fcn = FCN(channels_in=(2, 4, 6, 8), classes=3, channels=4, stage=2, rngs=nnx.Rngs(0))
    maps = [jnp.ones((1, *size)) for size in ((16, 20, 2), (8, 10, 4), (4, 5, 6), (2, 3, 8))]
    assert fcn.scores(maps).shape == (1, 4, 5, 3)
    logits = fcn([x.astype(jnp.bfloat16) for x in maps], (16, 20))
    assert (logits.shape, logits.dtype) == ((1, 16, 20, 3), jnp.float32)
    with pytest.raises(ConfigError, match=r"0 to 3, found 4"):
        FCN(channels_in=(2, 4, 6, 8), classes=3, stage=4, rngs=nnx.Rngs(0))


def test_dropout_drops_channels_in_training_alone():
    fcn = FCN(channels_in=(2,), classes=3, channels=16, stage=0, dropout=0.5, rngs=nnx.Rngs(0))
    x, keys = jax.random.normal(jax.random.key(0), (2, 5, 5, 2)), jax.random.split(jax.random.key(1), 2)
    plain = fcn.scores([x])
    assert not np.allclose(fcn.scores([x], ISOLATED, keys), plain)
    np.testing.assert_array_equal(fcn.scores([x], ISOLATED, None), plain)


CHANNELS = (4, 8, 12, 16)
SMALL = dict(segvit=dict(layers=1), mask2former=dict(encoder_layers=1, decoder_layers=1))
EVERY = [(name, {}) for name in DECODERS] + [("setr", dict(variant="mla")), ("upernet", dict(variant="lwc"))]


def trace(use):
    """Run what makes and uses a decoder, of which nothing is computed."""
    jax.eval_shape(lambda: (use(), jnp.zeros(()))[1])


def build(name, **options):
    return build_decoder(dict(name=name, channels=8) | SMALL.get(name, {}) | options, CHANNELS, 3)


def maps_of(channels):
    return [jnp.ones((1, 8 >> i, 8 >> i, c)) for i, c in enumerate(channels)]


@pytest.mark.parametrize("name", DECODERS)
def test_the_configuration_knows_which_decoders_answer_with_queries(name):
    answers = []
    trace(lambda: answers.append(build(name).decode(maps_of(CHANNELS))))
    assert isinstance(answers[0], Queries) == (name in config.QUERY_DECODERS)


def check_maps(head):
    head.check(maps_of(CHANNELS))
    for channels in (CHANNELS[:3], (*CHANNELS, 4), (4, 8, 12, 15)):
        with pytest.raises(ConfigError, match=rf"expected 4 maps .*, found {len(channels)} of shapes \(1, 8, 8, 4\)"):
            head(maps_of(channels), (16, 16))


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_maps_that_a_decoder_was_not_made_for_are_refused(name, options):
    trace(lambda: check_maps(build(name, **options)))


@pytest.mark.parametrize("name", AUXILIARIES)
def test_auxiliary_heads_know_all_maps_too(name):
    trace(lambda: check_maps(AUXILIARIES[name](channels_in=CHANNELS, classes=3, stage=1, channels=8, rngs=nnx.Rngs(0))))


@pytest.mark.parametrize(("name", "options"), EVERY)
@pytest.mark.parametrize("channels", [(), (4, 8, 0, 16)])
def test_a_decoder_without_maps_to_read_is_refused(name, options, channels):
    with pytest.raises(ConfigError, match="expected the channels of one map or more"):
        build_decoder(dict(name=name) | options, channels, 3)


@pytest.mark.parametrize("classes", [0, -1])
def test_a_decoder_without_classes_is_refused(classes):
    with pytest.raises(ConfigError, match="expected a number of classes of at least 1, found"):
        build_decoder(dict(name="fcn"), CHANNELS, classes)


@pytest.mark.parametrize("heads", [0, -1, 3])
def test_heads_that_do_not_divide_the_channels_are_refused(heads):
    with pytest.raises(ConfigError, match=f"heads={heads} do not divide channels=8"):
        SegViT(channels_in=CHANNELS, classes=3, channels=8, heads=heads, rngs=nnx.Rngs(0))
