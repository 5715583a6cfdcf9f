"""transformers' UperNet, backbone and heads, means here what it means there, and is written back equal."""

import numpy as np

import holojax
from holojax.checkpoints.torch_file import read_weights
from holojax.parallel import Layout
from tests.parity import ROOT

MODEL = dict(
    name="rest",
    classes=5,
    regions=(1, 1),
    encoder=dict(name="convnext", dims=(4, 8, 8, 8), depths=(1, 1, 1, 1), layer_scale=True, grn=False),
    context=None,
    decoder=dict(name="upernet", channels=8),
    aux=dict(name="fcn", channels=8),
)


def test_logits_are_matched_and_the_file_comes_back(tmp_path):
    arrays = dict(np.load(ROOT / "tests" / "parity" / "upernet_transformers.npz"))
    images, logits = arrays.pop("input:images"), arrays.pop("output:logits")
    model = holojax.build_model(MODEL)
    report = holojax.import_weights(model, arrays, source="auto")
    assert report.source == "transformers"
    assert set(report.consumed) == set(arrays)
    found = holojax.segment(model, images, Layout.create(region=1))
    np.testing.assert_allclose(found, logits, atol=2e-5 * max(1, np.abs(logits).max()))
    holojax.export_weights(model, tmp_path / "again.safetensors", "transformers", like=arrays)
    again = read_weights(tmp_path / "again.safetensors")
    assert again.keys() == arrays.keys()
    for key, value in arrays.items():
        assert again[key].shape == value.shape
        np.testing.assert_array_equal(again[key], value, err_msg=key)


def test_an_encoder_alone_leaves_the_heads():
    arrays = dict(np.load(ROOT / "tests" / "parity" / "upernet_transformers.npz"))
    encoder = holojax.build_encoder(MODEL["encoder"])
    report = holojax.import_weights(encoder, {k: v for k, v in arrays.items() if ":" not in k}, source="transformers")
    assert "belongs to the file's decoder" in report.ignored["decode_head.classifier.weight"]
