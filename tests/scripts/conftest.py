import importlib.util

import pytest

from tests.parity import ROOT


@pytest.fixture(scope="module")
def prepare():
    """Return scripts/prepare.py as a module."""
    spec = importlib.util.spec_from_file_location("prepare", ROOT / "scripts" / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
