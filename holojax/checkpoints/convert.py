"""From published weights to a folder that training, evaluation and prediction begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
from flax import nnx

from holojax.checkpoints.store import CONFIG, Store, load_config, save_config
from holojax.checkpoints.torch_import import ImportReport, import_weights
from holojax.errors import CheckpointError
from holojax.models import build_model


def convert_weights(
    cfg: Any, weights: str | Path, source: str, out: str | Path, *, heads: str = "file"
) -> ImportReport:
    """Import published weights into the model of a configuration and write it as checkpoint 0 of the folder `out`.

    What the encoder takes over from the source is written into the configuration beside it, so `load_model`,
    `scripts/predict.py` and `scripts/evaluate.py` compute the same. `cfg.train.init` starts training from it.

    Args:
        cfg: a whole configuration (ConfigDict).
        weights: as `import_weights`.
        source: as `import_weights`.
        out: the folder; it must hold no run.
        heads: as `import_weights`.

    Raises:
        CheckpointError: `out` holds a run already, or cannot be written.
        ConfigError, WeightsError: as `import_weights`; nothing is written then.
    """
    if (Path(out) / CONFIG).exists():
        raise CheckpointError(f"{out}: holds a run already ({CONFIG} is there). Give another --out.")
    model = build_model(cfg.model.to_dict(), cfg.seed)
    report = import_weights(model, weights, source, heads=heads)
    cfg.model.encoder.update(numerics_of(model.encoder))
    params, stats = (nnx.as_pure(nnx.state(model, kind)) for kind in (nnx.Param, nnx.BatchStat))
    with Store(out, keep=1) as store:
        store.save(0, {"params": params, "stats": stats})
    save_config(out, cfg)
    return report


def numerics_of(encoder: Any) -> dict[str, Any]:
    """Return the keys of an encoder (or of its configuration) that weights cannot carry."""
    return {"numerics": encoder.numerics, "output_norms": encoder.output_norms}


def adopt_numerics(cfg: Any, folder: str | Path) -> list[str]:
    """Let the encoder of a configuration compute as that of the folder `folder`; return what was changed, in words."""
    before, encoder = load_config(folder).model.encoder, cfg.model.encoder
    if before.name != encoder.name:
        raise CheckpointError(
            f"{folder}: holds weights of a {before.name}, but model.encoder.name is {encoder.name}. "
            "Give another train.init, or the configuration that it was made with."
        )
    changed = [f"model.encoder.{key}={value!r}" for key, value in numerics_of(before).items() if encoder[key] != value]
    encoder.update(numerics_of(before))
    return changed


def initial_weights(folder: str | Path, like: Any) -> Any:
    """Return the newest weights of a folder (of `convert_weights` or of a run) in the form of `like`.

    Raises CheckpointError if there are none, or if they do not fit; all differences are named.
    """
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like)
    with Store(folder) as store:
        return store.restore("model", target)
