"""Checkpoints come back bit for bit, on any mesh, or with a clear error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from holojax import config
from holojax.checkpoints.store import Store, load_config, save_config
from holojax.errors import CheckpointError
from holojax.parallel import Layout


def a_model(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "blocks": {
            0: {"kernel": jnp.asarray(rng.normal(size=(8, 4)), jnp.float32)},
            1: {"bias": jnp.ones(3)},
        },
        "low": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
    }


def the_rest(step):
    return {"step": jnp.asarray(step, jnp.int32), "moments": (jnp.full(4, 0.1), None)}


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    with Store(tmp_path, keep=2) as store:
        store.save(3, a_model(), the_rest(3))
        model = store.restore("model", jax.tree.map(jnp.zeros_like, a_model()))
        rest = store.restore("training", the_rest(0))
    assert jax.tree.structure(model) == jax.tree.structure(a_model())
    for found, saved in zip(jax.tree.leaves(model), jax.tree.leaves(a_model()), strict=True):
        assert found.dtype == saved.dtype
        assert np.array_equal(np.asarray(found), np.asarray(saved))
    assert int(rest["step"]) == 3
    assert rest["moments"][1] is None


def test_a_checkpoint_is_restored_onto_another_mesh(tmp_path):
    one, many = Layout.create(1, 1), Layout.create(2, 4)
    sharded = NamedSharding(many.mesh, PartitionSpec("region"))
    with Store(tmp_path, keep=1) as store:
        store.save(1, {"w": jax.device_put(jnp.arange(8.0), one.replicated)}, the_rest(1))
        found = store.restore("model", {"w": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=sharded)})
    assert found["w"].sharding == sharded
    assert np.array_equal(found["w"], np.arange(8.0))


def test_only_the_newest_are_kept(tmp_path):
    with Store(tmp_path, keep=2) as store:
        for step in (1, 2, 3):
            store.save(step, a_model(step), the_rest(step))
        assert store.latest() == 3
        with pytest.raises(CheckpointError, match=r"no checkpoint 1; there are \[2, 3\]"):
            store.restore("model", a_model(), step=1)


def test_saving_a_step_again_changes_nothing(tmp_path):
    with Store(tmp_path, keep=2) as store:
        store.save(1, a_model(1), the_rest(1))
        store.save(1, a_model(2), the_rest(1))
        found = store.restore("model", a_model())
    assert np.array_equal(found["low"], a_model(1)["low"])


def test_a_reader_changes_nothing(tmp_path):
    with Store(tmp_path, keep=1) as store:
        store.save(1, a_model(), the_rest(1))
    before = sorted(tmp_path.rglob("*"))
    with Store(tmp_path) as store:
        store.restore("model", a_model())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    with Store(tmp_path, keep=2) as store:
        store.save(1, a_model(), the_rest(1))
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
    with Store(tmp_path, keep=2) as store:
        assert store.latest() == 1


def test_what_does_not_fit_is_named(tmp_path):
    other = {"blocks": {0: {"kernel": jnp.zeros((8, 5))}, 1: {"scale": jnp.ones(3)}}, "low": a_model()["low"]}
    with Store(tmp_path, keep=1) as store:
        store.save(1, a_model(), the_rest(1))
        with pytest.raises(CheckpointError, match="does not fit the model") as caught:
            store.restore("model", other)
    text = str(caught.value)
    assert "blocks.0.kernel: expected (8, 5), found (8, 4)" in text
    assert "blocks.1.scale: not in the checkpoint" in text
    assert "blocks.1.bias: not in the model" in text


def test_an_empty_folder_says_so(tmp_path):
    with Store(tmp_path) as store, pytest.raises(CheckpointError, match="no checkpoint here"):
        store.restore("model", a_model())
    with pytest.raises(CheckpointError, match=r"config\.json: not found"):
        load_config(tmp_path)


def test_the_configuration_comes_back(tmp_path):
    cfg = config.experiment(name="one", data={"window": (8, 8)})
    save_config(tmp_path / "new", cfg)
    assert load_config(tmp_path / "new") == cfg
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["config.json"]


def test_an_unwritable_folder_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_config(tmp_path / "file" / "run", config.experiment())
