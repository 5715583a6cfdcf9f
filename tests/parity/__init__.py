"""Numbers of other libraries that tests compare with: where they are, and how they get into a module."""

import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"


def shared(name):
    """Return a file of the shared fixtures, which lie beside the checkout; skip where they do not."""
    path = pathlib.Path(os.environ.get("HOLOJAX_SHARED", ROOT.parent / "shared")) / name
    if not path.exists():
        pytest.skip(f"shared fixtures: no {name} here; set HOLOJAX_SHARED to their folder")
    return path


def variables(module):
    """Return the parameters and running averages of a module by their dotted paths."""
    return {
        ".".join(map(str, path)): node
        for path, node in nnx.iter_graph(module)
        if isinstance(node, nnx.Param | nnx.BatchStat)
    }


def fill(module, arrays):
    """Put arrays, named by our paths, into all parameters of a module."""
    for path, variable in variables(module).items():
        assert variable.shape == arrays[path].shape, path
        variable[...] = jnp.asarray(arrays[path])


def section(arrays, prefix):
    """Return the arrays whose names begin with `prefix`, without it."""
    return {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}


def assert_close(found, expected, tolerance):
    """Compare the largest absolute difference with `tolerance`."""
    assert np.shape(found) == np.shape(expected)
    assert float(np.abs(np.asarray(found) - np.asarray(expected)).max()) <= tolerance
