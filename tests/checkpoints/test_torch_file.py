import json
import pickle
import zipfile

import huggingface_hub.constants
import numpy as np
import pytest
from safetensors.numpy import save_file

from holojax.checkpoints.torch_file import read_weights, unwrap
from holojax.errors import WeightsError
from tests.parity import FIXTURES


def test_a_training_checkpoint_is_read_without_torch():
    weights = unwrap(read_weights(FIXTURES / "checkpoint.pth"))
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(weights["whole"], base)
    np.testing.assert_array_equal(weights["transposed"], base.T)
    np.testing.assert_array_equal(weights["part"], base[1:3, ::2])
    np.testing.assert_array_equal(weights["parameter"], np.ones(3))
    np.testing.assert_array_equal(weights["half"].astype(np.float32), [0.5, -2])
    np.testing.assert_array_equal(weights["bfloat16"].astype(np.float32), [1.5, -3])
    np.testing.assert_array_equal(weights["flags"], [True, False])
    assert weights["count"] == 7
    assert weights["empty"].shape == (0, 3)


def _archive(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", content)
    return path


class Harmful:
    """Unpickled by the book, it would write a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def test_nothing_that_is_stored_is_run(tmp_path):
    target = tmp_path / "written"
    path = _archive(tmp_path / "weights.pth", pickle.dumps({"harmful": Harmful(target)}))
    with pytest.raises(
        WeightsError, match=r"weights.pth: the pickle asks to call \w*io.open. It holds more than weights"
    ):
        read_weights(path)
    assert not target.exists()


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path):
    class Tensor:
        def __reduce__(self):
            return _rebuild, (Storage(), 1, (2, 2), (2, 1))

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            return ("storage", FloatStorage, "0", "cpu", 4) if isinstance(item, Storage) else None

    def _rebuild(*args):
        raise AssertionError("run")

    class FloatStorage:
        pass

    # The names under which a pickle of torch refers to them.
    import sys
    import types

    modules = {"torch": types.ModuleType("torch"), "torch._utils": types.ModuleType("torch._utils")}
    modules["torch"].FloatStorage, modules["torch._utils"]._rebuild_tensor_v2 = FloatStorage, _rebuild
    for thing, module, name in (
        (FloatStorage, "torch", "FloatStorage"),
        (_rebuild, "torch._utils", "_rebuild_tensor_v2"),
    ):
        thing.__module__, thing.__qualname__, thing.__name__ = module, name, name
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        with (tmp_path / "data.pkl").open("wb") as file:
            Pickler(file, protocol=2).dump({"weight": Tensor()})
    finally:
        for name, module in before.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", (tmp_path / "data.pkl").read_bytes())
        archive.writestr("w/data/0", np.zeros(4, np.float32).tobytes())
    with pytest.raises(WeightsError, match="beyond its storage"):
        read_weights(path)


@pytest.mark.parametrize("name", ["checkpoint.pth", "weights.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, name, share):
    save_file({"a": np.ones((20, 20), np.float32)}, tmp_path / "weights.safetensors")
    whole = (FIXTURES / name if name.endswith("pth") else tmp_path / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError, match=name):
        read_weights(path)


def test_missing_files_and_other_kinds_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pth: no such file"):
        read_weights(tmp_path / "none.pth")
    (tmp_path / "weights.npz").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"expected \.safetensors, .* or \.pth"):
        read_weights(tmp_path / "weights.npz")
    with pytest.raises(WeightsError, match="expected a dictionary of tensors, found list"):
        read_weights(_archive(tmp_path / "list.pth", pickle.dumps([1])))


def test_unwrapping_takes_the_state_and_drops_the_wrapper_of_parallel_training():
    assert unwrap({"state_dict": {"module.a": 1}, "meta": {}}) == {"a": 1}
    assert unwrap({"model": {"a": 1}}) == {"a": 1}
    assert unwrap({"a": 1}) == {"a": 1}


def test_a_file_in_parts_is_read_by_its_index(tmp_path):
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "x-1-of-2.safetensors")
    save_file({"b": np.zeros(3, np.float32)}, tmp_path / "x-2-of-2.safetensors")
    index = tmp_path / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "x-1-of-2.safetensors", "b": "x-2-of-2.safetensors"}}))
    assert {key: value.shape for key, value in read_weights(index).items()} == {"a": (2,), "b": (3,)}
    index.write_text(json.dumps({"weight_map": {"a": "x-2-of-2.safetensors"}}))
    with pytest.raises(WeightsError, match=r"x-2-of-2.safetensors: a is missing"):
        read_weights(index)
    index.write_text("[]")
    with pytest.raises(WeightsError, match=r"index.json: expected the index"):
        read_weights(index)


def test_weights_of_the_hub_come_out_of_its_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--owner--repository"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file({"a": np.ones(2, np.float32)}, folder / "snapshots" / ("0" * 40) / "model.safetensors")
    assert read_weights("hf://owner/repository/model.safetensors")["a"].shape == (2,)
    with pytest.raises(WeightsError, match=r"repository/none.safetensors: none.safetensors cannot be fetched"):
        read_weights("hf://owner/repository/none.safetensors")
    with pytest.raises(WeightsError, match="expected hf://owner/repository/file"):
        read_weights("hf://owner")
