"""Every module imports, every configuration completes, and models need no more than jax and flax."""

import importlib
import importlib.util
import pathlib
import pkgutil
import re
import subprocess
import sys

import pytest

import holojax
from holojax.config import complete

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODULES = sorted(module.name for module in pkgutil.walk_packages(holojax.__path__, "holojax."))
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
VARIANTS = {"fbp": ("tiny",), "banepa": ("rest", "ringformer"), "global_landcover": ("rest", "ringformer")}

# What a machine that only runs models does without.
UNNEEDED = "absl jaxtyping ml_collections optax orbax rasterio safetensors tensorboardX tqdm"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports(name):
    importlib.import_module(name)


def test_every_room_is_there():
    rooms = {name.split(".")[1] for name in MODULES}
    assert {"attention", "borders", "checkpoints", "config", "context", "data", "decoders"} < rooms
    assert {"encoders", "inference", "losses", "metrics", "models", "ops", "parallel", "training"} < rooms


def load(path):
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_and_variant_completes(path):
    for variant in (None, *VARIANTS.get(path.stem, ())):
        cfg = load(path).get_config(variant)
        assert complete(cfg) == cfg.to_dict()
    with pytest.raises(ValueError, match="found 'tyni'"):
        load(path).get_config("tyni")


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_every_script_explains_itself(path):
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert f"python scripts/{path.name}" in done.stdout, done.stderr


def test_models_import_without_the_packages_for_data_and_training():
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe()
        while frame:
            here = frame.f_globals.get("__name__", "")
            if here.startswith("holojax") and frame.f_code.co_name == "<module>":
                if name.split(".")[0] in {UNNEEDED.split()!r}:
                    raise ModuleNotFoundError(name)
                return None
            if here.split(".")[0] in ("flax", "jax"):
                return None
            frame = frame.f_back
sys.meta_path.insert(0, Block())
import holojax, holojax.models, holojax.losses, holojax.metrics
assert "rasterio" not in sys.modules
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_axes_of_the_mesh_are_spelled_once():
    spelled = re.compile(r"""["'](data|region)["']\s*[,)]""")
    for path in (ROOT / "holojax").rglob("*.py"):
        if path.name == "mesh.py" or "training" in path.parts or "config" in path.name:
            continue
        found = [line for line in path.read_text().splitlines() if spelled.search(line) and "P(" in line]
        assert not found, (path, found)
