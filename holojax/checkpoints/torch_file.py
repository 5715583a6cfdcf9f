"""Reading weight files without running anything that is stored in them, and without torch."""

from __future__ import annotations

import collections
import json
import os
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from holojax.errors import WeightsError

_TORCH = (".pth", ".pt", ".bin", ".ckpt")
_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


# What training frameworks leave beside tensors and rebuild by calling something; skipped here, like all classes.
_HARMLESS = frozenset(
    ("_codecs", "argparse", "collections", "copyreg", "datetime", "mmcv", "mmengine", "numpy", "pathlib", "torch")
)
_HUB = "hf://"
_INDEX = ".safetensors.index.json"


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the named tensors of a file as numpy arrays.

    Known are .safetensors, the .safetensors.index.json of a file in several parts, and torch files (.pth, .pt, .bin,
    .ckpt); `hf://owner/repository/file` is one of them on the Hugging Face hub, which huggingface_hub fetches.

    Torch files are zip archives of a pickle and raw numbers. The pickle is read by an interpreter that knows
    tensors and dictionaries alone: objects beside them (optimizers, training logs) are skipped, and a pickle that asks
    to call anything else is refused; nothing in it is ever run.

    Raises:
        WeightsError: the file is missing, damaged, of another kind, asks for code, or holds no named tensors.
    """
    if os.fspath(path).startswith(_HUB):
        return read_weights(_fetch(os.fspath(path)))
    path = pathlib.Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give the path of a .safetensors or .pth file.")
    if path.name.endswith(_INDEX):
        return _read_parts(path)
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.numpy.load_file(path))
        if path.suffix in _TORCH:
            return _read_torch(path)
    # A damaged pickle can fail in any way; what matters is that it does so here.
    except Exception as error:
        if isinstance(error, WeightsError):
            raise
        if isinstance(error, _CodeError):
            raise WeightsError(f"{path}: {error}.") from error
        raise WeightsError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); it may be truncated, get it again."
        ) from error
    raise WeightsError(
        f"{path}: expected .safetensors, {_INDEX} or {', '.join(_TORCH)}, found {path.suffix or 'no suffix'!r}."
    )


def unwrap(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Take the named tensors out of a training checkpoint and drop a leading `module.` of their names."""
    for key in ("state_dict", "model"):
        if isinstance(weights.get(key), Mapping):
            weights = weights[key]
            break
    return {str(key).removeprefix("module."): value for key, value in weights.items()}


def _read_parts(path: pathlib.Path) -> dict[str, Any]:
    """Read the files that an index names, and check that each holds what the index says."""
    try:
        places = json.loads(path.read_text())["weight_map"]
        files = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: expected the index of a safetensors file in parts ({error!r}).") from error
    tensors = {}
    for name in files:
        part = read_weights(path.parent / name)
        missing = [key for key, place in places.items() if place == name and key not in part]
        if missing:
            raise WeightsError(f"{path.parent / name}: {missing[0]} is missing, which {path.name} says is there.")
        tensors |= part
    return tensors


def _fetch(address: str) -> pathlib.Path:
    """Return the local copy of hf://owner/repository/file; of an index, with all its parts."""
    owner, _, rest = address.removeprefix(_HUB).partition("/")
    repository, _, file = rest.partition("/")
    if not (owner and repository and file):
        raise WeightsError(f"{address}: expected hf://owner/repository/file.")
    try:
        import huggingface_hub  # optional: most weights are files
    except ImportError as error:
        raise WeightsError(f"{address}: needs the package huggingface_hub: pip install 'holojax[hub]'.") from error

    def fetch(name: str) -> pathlib.Path:
        try:
            return pathlib.Path(huggingface_hub.hf_hub_download(f"{owner}/{repository}", name))
        # Offline, no such repository, no such file, no rights: all end here.
        except Exception as error:
            raise WeightsError(f"{address}: {name} cannot be fetched ({type(error).__name__}: {error}).") from error

    path = fetch(file)
    if file.endswith(_INDEX):
        folder = file.rpartition("/")[0]
        for name in sorted(set(json.loads(path.read_text()).get("weight_map", {}).values())):
            fetch(f"{folder}/{name}" if folder else name)
    return path


def _read_torch(path: pathlib.Path) -> dict[str, Any]:
    if not zipfile.is_zipfile(path):
        raise WeightsError(
            f"{path}: expected a zip archive as torch >= 1.6 writes, found another format (or half a file); "
            "load it with torch, save it again, or save it as .safetensors."
        )
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise WeightsError(f"{path}: expected one data.pkl in the archive, found {len(names)}.")
        folder = names[0].removesuffix("data.pkl")
        order = archive.read(folder + "byteorder") if folder + "byteorder" in archive.namelist() else b"little"
        if order != b"little":
            raise WeightsError(f"{path}: expected little-endian numbers, found {order.decode()}.")
        with archive.open(names[0]) as file:
            content = _Reader(file, archive, folder + "data/").load()
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}.")
    return dict(content)


class _Reader(pickle.Unpickler):
    """A pickle interpreter that can build tensors and plain containers, and nothing else."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str):
        super().__init__(file)
        self._archive, self._folder, self._storages = archive, folder, {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a global of the pickle: of all but tensors, something inert."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch._utils":
            known = {"_rebuild_tensor_v2": _tensor, "_rebuild_parameter": _parameter}
            return known.get(name, _Skipped)
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        if module.partition(".")[0] in _HARMLESS:
            return _Skipped
        return type("_Refused", (_Refused,), {"asked": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Read the numbers that a tensor of the pickle refers to."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"unknown kind of storage {dtype!r}")
        if key not in self._storages:
            self._storages[key] = np.frombuffer(self._archive.read(self._folder + key), dtype)
        if len(self._storages[key]) < count:
            raise pickle.UnpicklingError(f"storage {key} holds fewer than {count} numbers")
        return self._storages[key]


class _Skipped:
    """Stands for an object that is no tensor: takes whatever a pickle does to it, and keeps nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Take an item of a list and forget it."""

    def extend(self, items: Any) -> None:
        """Take items of a list and forget them."""

    def add(self, item: Any) -> None:
        """Take an item of a set and forget it."""


class _Refused(_Skipped):
    """Stands for a class or function of which nothing is known: its objects are skipped, to call it is refused."""

    asked: str

    def __init__(self, *args: Any, **kwargs: Any):
        # An object is restored without its class being called; only a request to call something leads here.
        raise _CodeError(
            f"the pickle asks to call {self.asked}. It holds more than weights and was not run; "
            "get the weights from elsewhere, or load the file where you trust it and save it as .safetensors"
        )


class _CodeError(pickle.UnpicklingError):
    """A pickle asks to run code."""


def _tensor(storage: np.ndarray, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    # Checked because the file decides where is read: outside the storage lies foreign memory.
    if 0 not in shape and (offset < 0 or min(stride, default=0) < 0 or last >= len(storage)):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    if 0 in shape:
        return np.empty(shape, storage.dtype)
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()


def _parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data
