"""Set the stage before jax starts: 8 virtual CPU devices, a compilation cache, annotated shapes checked."""

import gc
import os
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent

os.environ["JAX_PLATFORMS"] = "cpu"
_flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
# Compiling is most of the suite's time, and tiny shapes need no fast machine code: it is left as it comes (the program
# that XLA optimises is the same). XLA_FLAGS=--xla_backend_optimization_level=3 tests the code that users run.
if "xla_backend_optimization_level" not in _flags:
    _flags += " --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=8".strip()
# Processes started by tests inherit the cache as well.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# In this process, which keeps what it compiled, a small program costs more to store than to compile again.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
# Tracing makes millions of objects that live on: looking through all of them for garbage, again and again, is a tenth
# of the suite's time.
gc.set_threshold(200_000, 50, 100)

# Checks shapes and types of every annotated function of the package, at trace time, in tests only.
install_import_hook("holojax", "beartype.beartype")
