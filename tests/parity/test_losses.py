"""Losses against torch's cross entropy and formulas of mmseg, smp and papers: values and gradients."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from holojax import losses
from holojax.losses.common import evaluate
from tests.parity import assert_close

FIXTURE = np.load(pathlib.Path(__file__).parent / "losses.npz")
WEIGHTS = (1.0, 2.0, 0.5, 3.0, 1.5)
TOLERANCE = 2e-5
SLOW = pytest.mark.slow

CASES = {
    "ce": (losses.cross_entropy, {}),
    "ce_all": (losses.cross_entropy, dict(average="all")),
    "ce_weights_smoothing": (losses.cross_entropy, dict(class_weights=WEIGHTS, smoothing=0.1)),
    "dice": (losses.dice, {}),
    "soft_dice": (losses.soft_dice, {}),
    "tversky": (losses.tversky, {}),
    "tversky_other": (losses.tversky, dict(alpha=0.6, beta=0.4, eps=0.5)),
    "focal": (losses.focal, {}),
    "focal_other": (losses.focal, dict(gamma=0.5, class_weights=WEIGHTS)),
    "focal_sigmoid": (losses.focal, dict(form="sigmoid", average="all")),
    "focal_sigmoid_other": (losses.focal, dict(form="sigmoid", average="all", gamma=1.5, alpha=0.25)),
    "lovasz": (losses.lovasz_softmax, {}),
    "lovasz_all": (losses.lovasz_softmax, dict(classes="all")),
    "ohem_threshold": (losses.ohem, dict(threshold=0.7, keep=10)),
    "ohem_keep": (losses.ohem, dict(threshold=0.01, keep=60, average="all")),
    "ohem_weights": (losses.ohem, dict(threshold=0.0, keep=90, class_weights=WEIGHTS)),
    "ohem_everything": (losses.ohem, dict(threshold=0.1, keep=10_000, average="all")),
    "boundary": (losses.boundary, {}),
    "boundary_wide": (losses.boundary, dict(inner=5, outer=3)),
}


@pytest.mark.parametrize("name", [pytest.param(x, marks=SLOW) if x == "boundary_wide" else x for x in CASES])
def test_values_and_gradients(name):
    function, options = CASES[name]
    loss = jax.jit(jax.value_and_grad(functools.partial(function, **options)))
    value, gradient = loss(FIXTURE["logits"], FIXTURE["labels"])
    assert abs(float(value) - float(FIXTURE[f"{name}:value"])) <= TOLERANCE
    # Gradients are of the size of one over the pixels: errors are counted in that.
    assert_close(gradient * gradient[..., 0].size, FIXTURE[f"{name}:gradient"] * gradient[..., 0].size, TOLERANCE)


def test_all_fixtures_are_used():
    assert {key.partition(":")[0] for key in FIXTURE} == {*CASES, "logits", "labels"}


@pytest.mark.parametrize("classes", ["present", pytest.param("all", marks=SLOW)])
def test_lovasz_by_a_histogram_is_within_its_bound(classes):
    loss = losses.Lovasz(classes=classes)
    value = jax.jit(functools.partial(evaluate, loss))(FIXTURE["logits"], FIXTURE["labels"])
    name = {"present": "lovasz", "all": "lovasz_all"}[classes]
    assert abs(float(value) - float(FIXTURE[f"{name}:value"])) <= 2**-16
