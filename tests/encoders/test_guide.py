"""The encoder of docs/add_an_encoder.md works as it stands there, in both border modes."""

import re

import jax
import numpy as np
import pytest

from holojax import config, encoders
from holojax.config import Choice
from holojax.models import build_model, segment
from holojax.parallel import Layout
from tests.parity import ROOT


@pytest.fixture
def toy(monkeypatch):
    """Add the guide's encoder for one test."""
    code, line = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "add_an_encoder.md").read_text(), re.DOTALL)[:2]
    names = {}
    exec(compile(code, "toy.py", "exec"), names)
    defaults = eval(f"{{{line}}}", {"dict": dict, "Choice": Choice, "_ENCODER": config._ENCODER})
    monkeypatch.setitem(encoders.ENCODERS, "toy", names["Toy"])
    monkeypatch.setitem(config.ENCODERS, "toy", defaults["toy"])


def logits(border, regions, devices):
    model = dict(name="rest", classes=3, regions=regions, border=border, encoder=dict(name="toy", dim=4), aux=None)
    parts = dict(context=dict(name="spim", heads=2, stages=(2,)), decoder=dict(name="upernet", channels=4))
    images = jax.random.normal(jax.random.key(0), (1, 61, 70, 3))
    return np.asarray(segment(build_model(model | parts), images, Layout.create(region=devices)))


def test_the_encoder_of_the_guide_runs_on_any_grid(toy):
    assert logits("isolated", (2, 2), 4).shape == (1, 61, 70, 3)
    whole = logits("exact", (1, 1), 1)
    np.testing.assert_allclose(logits("exact", (2, 2), 4), whole, atol=1e-5)
    assert np.abs(logits("isolated", (2, 2), 4) - whole).max() > 1e-3
