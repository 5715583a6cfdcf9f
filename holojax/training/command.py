"""What all commands share: flags that say which devices are used, and errors that are told in one line."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags, logging

from holojax.errors import HoloJAXError
from holojax.parallel import Layout

_DATA = flags.DEFINE_integer("data", 1, "Devices that the scenes of a batch are spread over.", lower_bound=1)
_REGION = flags.DEFINE_integer(
    "region",
    0,
    "Devices that the regions of a scene are spread over; 0: the largest number that divides the regions.",
    lower_bound=0,
)
_VIRTUAL = flags.DEFINE_integer(
    "virtual_devices",
    0,
    "Make this many devices of the CPU, to try things; 0: use what is there.",
    lower_bound=0,
)


def run(main: Callable[[], None]) -> None:
    """Parse the command line, set up devices, call `main`; a user's mistake ends in one line, not a trace."""

    def guarded(_: Sequence[str]) -> None:
        _make_virtual_devices()
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # orbax tells at length how it saves
        try:
            main()
        except HoloJAXError as error:
            sys.exit(f"{type(error).__name__}: {error}")

    app.run(guarded, flags_parser=_parse)


def layout_for(regions: Sequence[int]) -> Layout:
    """Return the layout that the flags ask for, and say on stderr if devices are left over."""
    rows, cols = regions
    data, region = _DATA.value, _REGION.value
    layout = Layout.create(data, region) if region else Layout.fitting(rows * cols, data)
    layout.regions_per_device(rows * cols)
    there = len(jax.devices())
    if layout.mesh.size < there:
        why = "as --region asks" if region else f"the most that {rows} x {cols} regions spread over evenly"
        print(f"uses {layout.mesh.size} of {there} devices, {why}", file=sys.stderr)
    return layout


def _parse(args: Sequence[str]) -> Any:
    """Parse flags; a key that no configuration has is a user's mistake like any other."""
    try:
        return app.parse_flags_with_usage(args)
    except (AttributeError, KeyError) as error:
        text = str(error.args[0] if error.args else error)
        hint = re.search(r'Did you mean "(.+?)" instead of "(.+?)"', text)
        known = f"{hint[2]!r}. Did you mean {hint[1]!r}?" if hint else text
        sys.exit(f"ConfigError: --config: unknown key {known}")


def _make_virtual_devices() -> None:
    if not _VIRTUAL.value:
        return
    option = "--xla_force_host_platform_device_count"
    others = re.sub(rf"{option}=\d+", "", os.environ.get("XLA_FLAGS", ""))
    os.environ["XLA_FLAGS"] = f"{others} {option}={_VIRTUAL.value}".strip()
    jax.config.update("jax_platforms", "cpu")
