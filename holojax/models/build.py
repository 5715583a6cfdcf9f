"""From a configuration to a model: every name that a configuration may use leads to its constructor here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import nnx

from holojax.config import Section, complete_decoder, complete_encoder, complete_model
from holojax.context import MIXERS
from holojax.context.layer import SceneLayer
from holojax.decoders import AUXILIARIES, DECODERS, Heads
from holojax.decoders.base import Decoder
from holojax.decoders.pyramid import FeaturePyramid
from holojax.encoders import ENCODERS
from holojax.encoders.base import Encoder
from holojax.errors import ConfigError
from holojax.models.base import SceneModel
from holojax.models.rest import Rest
from holojax.models.ringformer import RingFormer
from holojax.parallel.regions import RegionGrid

MODELS = {"rest": Rest, "ringformer": RingFormer}


def build_model(model: Section, seed: int = 0) -> SceneModel:
    """Build the model that `cfg.model` describes, with random weights drawn from `seed`.

    Args:
        model: any mapping with the keys of `holojax.config` (DESIGN's `cfg.model`); keys left out take defaults.
        seed: of the weights.

    Raises:
        ConfigError: a name, key or value that does not fit; names the key and the nearest known one.
    """
    cfg, rngs = complete_model(model), nnx.Rngs(seed)
    encoder = _encoder(cfg["encoder"], cfg["bands"], rngs)
    aux = cfg["aux"] and {key: value for key, value in cfg["aux"].items() if key != "weight"}
    context = cfg["context"]
    decoder = _decoder(cfg["decoder"], encoder.channels, cfg["classes"], rngs)
    if cfg["border"] == "exact" and context.get("mode") == "paper":
        raise ConfigError(
            'model.border: "exact" does not go with context.mode="paper", whose result depends on the region grid. '
            'Use context.mode="exact", or border="isolated".'
        )
    flat = decoder.needs_pyramid and len(set(encoder.strides)) == 1
    return MODELS[cfg["name"]](
        bands=cfg["bands"],
        classes=cfg["classes"],
        encoder=encoder,
        mixers=_mixers(context, encoder.channels, rngs),
        decoder=decoder,
        aux=aux and _auxiliary(aux, decoder.neck_channels(encoder.channels), cfg["classes"], rngs),
        grid=RegionGrid(*cfg["regions"]),
        pyramid=FeaturePyramid(channels=encoder.channels[0], rngs=rngs) if flat else None,
        border=cfg["border"],
        placement=context.get("placement", "side"),
    )


def build_encoder(encoder: Section, bands: int = 3, seed: int = 0) -> Encoder:
    """Build an encoder alone: encoder(images [b h w bands]) -> one map [b h w c] a stage; errors as `build_model`."""
    return _encoder(complete_encoder(encoder), bands, nnx.Rngs(seed))


def build_decoder(decoder: Section, channels: Sequence[int], classes: int, seed: int = 0) -> Decoder:
    """Build a decoder alone: decoder(maps, size=(h, w)) -> logits [b h w classes]; errors as `build_model`."""
    return _decoder(complete_decoder(decoder), channels, classes, nnx.Rngs(seed))


def _encoder(cfg: dict[str, Any], bands: int, rngs: nnx.Rngs) -> Encoder:
    name, sizes = _split(cfg)
    options = {key: sizes.pop(key) for key in ("bands_init", "freeze", "remat", "dtype")}
    if name not in ENCODERS:
        raise ConfigError(f"model.encoder.name: {name} is not there yet; there are {', '.join(ENCODERS)}.")
    if not isinstance(bands, int) or bands < 1:
        raise ConfigError(f"model.bands: expected a number of bands of at least 1, found {bands!r}.")
    encoder = ENCODERS[name](bands=bands, **sizes, rngs=rngs)
    encoder.set_options(**options)
    encoder.bands = bands
    return encoder


def _decoder(cfg: dict[str, Any], channels: Sequence[int], classes: int, rngs: nnx.Rngs) -> Decoder:
    name, sizes = _split(cfg)
    if not isinstance(classes, int) or classes < 1:
        raise ConfigError(f"model.classes: expected a number of classes of at least 1, found {classes!r}.")
    return DECODERS[name](channels_in=tuple(channels), classes=classes, **sizes, rngs=rngs)


def _auxiliary(cfg: dict[str, Any], channels: Sequence[int], classes: int, rngs: nnx.Rngs) -> Decoder:
    name, sizes = _split(cfg)
    stages = sizes.pop("stage")

    def head(stage: int) -> Decoder:
        return AUXILIARIES[name](channels_in=tuple(channels), classes=classes, stage=stage, **sizes, rngs=rngs)

    return Heads(head(stage) for stage in stages) if isinstance(stages, tuple) else head(stages)


def _mixers(cfg: dict[str, Any], channels: Sequence[int], rngs: nnx.Rngs) -> dict[int, SceneLayer]:
    name, sizes = _split(cfg)
    if name == "none":
        return {}
    sizes = {key: value for key, value in sizes.items() if key != "placement"}
    stages, pools = sizes.pop("stages"), sizes.pop("kv_pool")
    wrong = [stage for stage in stages if stage not in range(len(channels))]
    if wrong:
        raise ConfigError(f"model.context.stages: expected numbers 0 to {len(channels) - 1}, found {wrong}.")
    if isinstance(pools, int):
        pools = (pools,) * len(stages)
    if len(pools) != len(stages) or min(pools, default=1) < 1:
        raise ConfigError(
            f"model.context.kv_pool: expected a positive number, or one for each of the stages {tuple(stages)}; "
            f"found {pools}."
        )
    return {
        stage: MIXERS[name](channels=channels[stage], kv_pool=pool, **sizes, rngs=rngs)
        for stage, pool in zip(stages, pools, strict=True)
    }


def _split(cfg: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return cfg["name"], {key: value for key, value in cfg.items() if key != "name"}
