import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from holojax.checkpoints.torch_import import check_names, import_weights
from holojax.decoders import FCN, UPerNet, UPerNetLWC
from tests.parity import assert_close, shared

CHANNELS = (4, 6, 8, 10)


def _upernet(**changes):
    sizes = dict(channels_in=CHANNELS, classes=3, channels=5, pool_scales=(1, 2, 3, 6))
    return UPerNet(**{**sizes, **changes}, rngs=nnx.Rngs(0))


def _maps(*sizes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(2, *size, c)), jnp.float32) for size, c in zip(sizes, CHANNELS, strict=True)]


def test_logits_have_the_size_asked_for_whatever_the_maps():
    upernet, maps = _upernet(), _maps((7, 5), (4, 3), (2, 2), (1, 1))
    logits = nnx.jit(lambda net, maps: net(maps, (27, 18)))(upernet, maps)
    assert (logits.shape, logits.dtype) == ((2, 27, 18, 3), jnp.float32)


def test_every_parameter_has_a_gradient():
    upernet, maps = _upernet(), _maps((8, 8), (4, 4), (2, 2), (2, 2))
    upernet.train()
    grads = nnx.jit(nnx.grad(lambda net: jnp.sin(net.scores(maps)).sum()))(upernet)
    for path, grad in nnx.to_flat_state(grads):
        assert float(jnp.abs(grad[...]).max()) > 0, path


@pytest.mark.parametrize("head", ["decode", "aux"])
def test_official_numbers_are_matched(head):
    weights = load_file(shared("parity_fixtures/rest_swin_upernet.safetensors"))
    numbers = np.load(shared("parity_fixtures/rest_swin_upernet.c108x180_batch2.npz"))
    config = json.loads(shared("parity_fixtures/rest_swin_upernet.json").read_text())["model"]["decode_head"]
    kind = UPerNet if head == "decode" else FCN
    sizes = dict(channels_in=config["in_channels"], classes=config["num_classes"], channels=config["channels"])
    module = kind(**sizes, rngs=nnx.Rngs(0))
    import_weights(module, weights)
    graph, state = nnx.split(module)
    score = jax.jit(lambda state, maps: nnx.merge(graph, state).scores(maps))
    for rank in range(4):
        stages = [f"rank{rank}_stage{s}" for s in range(4)]
        if all(stage in numbers for stage in stages):
            maps = [jnp.asarray(numbers[stage].transpose(0, 2, 3, 1)) for stage in stages]
            expected = numbers[f"rank{rank}_{head}"].transpose(0, 2, 3, 1)
            assert_close(score(nnx.as_pure(state), maps), expected, 2e-5)


def test_full_size_names_of_the_lwc_head_fit():
    listed = json.loads(shared("parity_keys/UPerHead_lwc_swinL_2.json").read_text())
    shapes = {key: shape for key, (shape, _) in listed.items()}
    sizes = dict(channels_in=(192, 384, 768, 1536), classes=2)
    report = check_names(nnx.eval_shape(lambda: UPerNetLWC(**sizes, rngs=nnx.Rngs(0))), shapes)
    assert set(report.consumed) | set(report.ignored) == set(shapes)
    assert report.parameters == pytest.approx(39.239e6, rel=1e-4)
    assert set(report.ignored.values()) == {
        "bookkeeping of running averages",
        "a classifier that this head does not use",
    }
