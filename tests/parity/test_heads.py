"""Decoders against mmseg's, REST's and SegViT's heads, whose names they are imported from: numbers of make_heads.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import holojax
from holojax.borders import ISOLATED
from holojax.checkpoints.torch_file import read_weights
from holojax.decoders import FCN, Heads, SETRAux
from tests.parity import ROOT, assert_close, section, variables

PYRAMID, FLAT = (4, 6, 8, 10), (12,) * 4
SEGVIT = dict(name="segvit", channels=8, heads=2, dropout=0.0)
# File: decoder, channels of the maps.
FILES = {
    "fcn2": (dict(name="fcn", channels=6, convs=2, concat=True), PYRAMID),
    "fcn0": (dict(name="fcn", channels=6, convs=0), PYRAMID),
    "naive": (dict(name="setr", channels=6), FLAT),
    "pup": (dict(name="setr", variant="pup", channels=6), FLAT),
    "pup_aux": (dict(name="setr", variant="pup", channels=6, stage=1), FLAT),
    "mla": (dict(name="setr", variant="mla", channels=6), FLAT),
    "lwc": (dict(name="upernet", variant="lwc", channels=6), PYRAMID),
    "segvit_flat": (SEGVIT | dict(layers=2, stages=(0, 1)), FLAT[:2]),
    "segvit_pyramid": (SEGVIT | dict(layers=1, stages=(0, 1, 2)), PYRAMID[1:]),
}


class Both(nnx.Module):
    """A decoder and the auxiliary heads beside it, if there are any."""

    def __init__(self, decoder, aux):
        self.decoder, self.aux = decoder, aux

    def __call__(self, maps, size):
        maps = self.decoder.neck(maps)
        answer = self.decoder.decode(maps)
        if hasattr(answer, "masks"):
            found = [x for one in (*answer.earlier, answer) for x in (one.masks, one.classes.swapaxes(1, 2)[:, None])]
            return [*found, answer.paint(ISOLATED.resize(answer.source, size))]
        heads = () if self.aux is None else self.aux.decode(maps)
        return [one.spread(ISOLATED) for one in (answer, *heads)]


def auxiliary(name):
    heads = (FCN(channels_in=(6,) * 4, classes=5, stage=s, convs=0, dropout=0.0, rngs=nnx.Rngs(0)) for s in range(4))
    return Heads(heads) if name == "mla" else None


def fill(name, weights):
    """Build what a file is for and import it, whole: nothing but what another part takes is left out."""
    config, channels = FILES[name]
    if name == "pup_aux":
        sizes = {key: value for key, value in config.items() if key != "name"}
        decoder = SETRAux(channels_in=channels, classes=5, **sizes, rngs=nnx.Rngs(0))
    else:
        decoder = holojax.build_decoder(config, channels, classes=5)
    both = Both(decoder, auxiliary(name))
    parts = [part for part in (both.decoder, both.aux) if part is not None]
    taken = {key for part in parts for key in holojax.import_weights(part, weights, source="mmseg").consumed}
    # The lwc head has a classifier that it does not use.
    assert set(weights) - taken <= {f"decode_head.conv_seg.{leaf}" for leaf in ("weight", "bias")}
    return both


# Those whose like is tested in make test anyway, here or in tests/decoders, are left to make test-all.
SLOW = ("fcn0", "naive", "pup", "segvit_flat")


@pytest.mark.parametrize("name", [pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW)) for x in FILES])
def test_values_and_gradients_are_those_of_the_library(name):
    numbers = dict(np.load(ROOT / "tests" / "parity" / f"heads_{name}.npz"))
    weights = section(numbers, "weight:")
    both = fill(name, weights)
    maps = [jnp.asarray(numbers[f"map:{i}"]) for i in range(len(FILES[name][1]))]
    size = (19, 23)

    def run(graph, params, stats, maps):
        module = nnx.merge(graph, params, stats)
        found = module(maps, size)
        return sum(jnp.sin(x).sum() for x in found), (found, nnx.as_pure(nnx.state(module, nnx.BatchStat)))

    def split():
        graph, params, stats = nnx.split(both, nnx.Param, ...)
        return graph, nnx.as_pure(params), nnx.as_pure(stats)

    if not name.startswith("segvit"):  # which is the same in training
        graph, params, stats = split()
        compare(jax.jit(run, static_argnums=0)(graph, params, stats, maps)[1][0], section(numbers, "evaluated:"))
    both.train()
    graph, params, stats = split()
    step = jax.jit(jax.grad(run, argnums=(1, 3), has_aux=True), static_argnums=0)
    (dparams, dmaps), (found, moved) = step(graph, params, stats, maps)
    compare(found, section(numbers, "trained:"))
    for i, expected in section(numbers, "grad:map:").items():
        assert_close(dmaps[int(i)], expected, 2e-5 * max(1, np.abs(expected).max()))
    # The library's gradients and running averages take the way of weights through the import.
    twin = fill(name, weights | section(numbers, "moved:") | gradients(numbers))
    expected = variables(twin)
    for path, value in (*leaves(dparams), *leaves(moved)):
        assert_close(value, expected[path][...], 5e-5 * max(1, float(jnp.abs(expected[path][...]).max())))


def gradients(numbers):
    return {key: x for key, x in section(numbers, "grad:").items() if not key.startswith("map:")}


def leaves(tree):
    return [(".".join(str(k.key) for k in path), x) for path, x in jax.tree.leaves_with_path(tree)]


def compare(found, expected):
    for x, y in zip(found, (expected[str(i)] for i in range(len(expected))), strict=True):
        assert_close(x, y, 2e-5 * max(1, np.abs(y).max()))


@pytest.mark.parametrize("name", ["mla", "lwc", "segvit_pyramid"])
def test_what_was_imported_is_exported_under_its_names(name, tmp_path):
    weights = section(dict(np.load(ROOT / "tests" / "parity" / f"heads_{name}.npz")), "weight:")
    decoder = fill(name, weights).decoder
    holojax.export_weights(decoder, tmp_path / "again.safetensors", "mmseg", like=weights)
    again = read_weights(tmp_path / "again.safetensors")
    for key, value in again.items():
        np.testing.assert_array_equal(value, weights[key], err_msg=key)
    left = {key for key in weights if key not in again}
    assert all(key.startswith("auxiliary_head.") or (name == "lwc" and ".conv_seg." in key) for key in left)
