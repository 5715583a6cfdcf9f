"""The one schema: every key of an experiment, its default and its unit.

A configuration is nested mappings. `experiment(...)` completes one, refuses what it does not know by naming
the nearest key that it does, and returns an `ml_collections.ConfigDict` for scripts; `complete_model` does
the same for `cfg.model` alone and returns a plain dict, so a model can be built from any mapping.
"""

import json
from typing import TYPE_CHECKING, Any

from holojax.errors import ConfigError
from holojax.schema import (
    Choice,
    PerStage,
    Section,
    complete_part,
    config_dict_of,
    fill,
    is_number,
    is_weights,
    nearest,
    plain,
)

if TYPE_CHECKING:
    from ml_collections import ConfigDict

# --- parts of a model: name -> defaults ------------------------------------------------------------------

# Keys that every encoder has.
_ENCODER = dict(
    drop_path=0.1,  # probability of dropping the last block's branches; grows linearly from 0
    output_norms=True,  # normalise the maps that leave the encoder (a vit: the last); an import does as its source
    bands_init=Choice(("mean", "repeat", "first", "random")),  # how imported weights meet another number of bands
    freeze=0,  # stages that do not learn, from the first; drop path is off in them
    remat=Choice(("none", "block", "stage")),  # what is computed again in the backward pass to save memory
    dtype=Choice(("float32", "bfloat16")),  # of the computation; parameters are float32
)

ENCODERS = {
    "swin": dict(
        size=Choice(("tiny", "small", "base", "large"), none=True),  # in place of embed_dim, depths, heads
        embed_dim=96,  # channels of the first stage; doubled at each following one
        depths=(2, 2, 6, 2),  # blocks per stage
        heads=(3, 6, 12, 24),  # attention heads per stage
        window=PerStage(7),  # side of an attention window, tokens
        patch=4,  # side of a patch, pixels
        mlp_ratio=4.0,  # hidden width of an MLP over its input width
        numerics=Choice(("mmseg", "timm", "transformers", "torchvision")),  # whose details; an import sets its own
        **_ENCODER,
    ),
    "convnext": dict(
        size=Choice(
            ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "xlarge", "huge"), none=True
        ),  # in place of dims, depths
        dims=(96, 192, 384, 768),  # channels per stage
        depths=(3, 3, 9, 3),  # blocks per stage
        layer_scale=False,  # a factor per channel after each block (V1; REST's has it beside GRN)
        grn=True,  # global response normalisation (V2)
        numerics=Choice(("mmseg", "timm", "transformers", "torchvision")),
        **_ENCODER,
    ),
    "vmamba": dict(
        size=Choice(("tiny", "small", "base"), none=True),  # in place of dims, depths
        dims=(96, 192, 384, 768),  # channels per stage
        depths=(2, 2, 5, 2),  # blocks per stage
        state=1,  # numbers of state per channel of the scans
        ssm_ratio=2.0,  # channels of the scans over the stage's
        mlp_ratio=4.0,
        numerics=Choice(("mmseg", "vmamba")),
        **_ENCODER,
    ),
    "vit": dict(
        size=Choice(("tiny", "small", "base", "large", "huge"), none=True),  # in place of dim, depth, heads
        dim=192,  # channels
        depth=12,  # blocks
        heads=3,  # attention heads
        patch=16,  # side of a patch, pixels
        pos=Choice(("learned", "sincos", "none")),  # position embedding
        grid=(14, 14),  # rows and columns of the table of learned positions
        class_token=False,  # one extra token that takes part in attention (per region when isolated)
        mlp_ratio=4.0,
        numerics=Choice(("timm", "mmseg", "transformers", "torchvision")),
        **_ENCODER | dict(drop_path=0.0),
    ),
}

SIZES = {
    "swin": {
        "tiny": dict(embed_dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),
        "small": dict(embed_dim=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24)),
        "base": dict(embed_dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
        "large": dict(embed_dim=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48)),
    },
    "convnext": {
        "atto": dict(dims=(40, 80, 160, 320), depths=(2, 2, 6, 2)),
        "femto": dict(dims=(48, 96, 192, 384), depths=(2, 2, 6, 2)),
        "pico": dict(dims=(64, 128, 256, 512), depths=(2, 2, 6, 2)),
        "nano": dict(dims=(80, 160, 320, 640), depths=(2, 2, 8, 2)),
        "tiny": dict(dims=(96, 192, 384, 768), depths=(3, 3, 9, 3)),
        "small": dict(dims=(96, 192, 384, 768), depths=(3, 3, 27, 3)),
        "base": dict(dims=(128, 256, 512, 1024), depths=(3, 3, 27, 3)),
        "large": dict(dims=(192, 384, 768, 1536), depths=(3, 3, 27, 3)),
        "xlarge": dict(dims=(256, 512, 1024, 2048), depths=(3, 3, 27, 3)),
        "huge": dict(dims=(352, 704, 1408, 2816), depths=(3, 3, 27, 3)),
    },
    "vmamba": {
        "tiny": dict(dims=(96, 192, 384, 768), depths=(2, 2, 5, 2)),
        "small": dict(dims=(96, 192, 384, 768), depths=(2, 2, 15, 2)),
        "base": dict(dims=(128, 256, 512, 1024), depths=(2, 2, 15, 2)),
    },
    "vit": {
        "tiny": dict(dim=192, depth=12, heads=3),
        "small": dict(dim=384, depth=12, heads=6),
        "base": dict(dim=768, depth=12, heads=12),
        "large": dict(dim=1024, depth=24, heads=16),
        "huge": dict(dim=1280, depth=32, heads=16),
    },
}

CONTEXTS = {
    "spim": dict(
        heads=8,  # attention heads over the scene; never taken from the number of devices
        stages=(0, 1, 2, 3),  # encoder stages after which regions see each other
        exchange=Choice(("all_to_all", "ring", "hybrid")),  # how keys and values reach the queries
        residual=Choice(("double", "single")),  # double, as REST's code: the mixer's input is added twice
        placement=Choice(("side", "trunk"), none=True),  # its result goes to the decoder only, or to
        # the next stage too; None: trunk for convnext, else side
        kv_pool=PerStage(1),  # keys and values are averaged over kv_pool x kv_pool tokens of the scene
        position=Choice(("none", "rope2d")),  # rope2d: queries and keys know where in the scene they lie
        mlp_ratio=4.0,
        drop_path=0.0,  # probability of dropping its MLP
    ),
    "cdcr": dict(
        heads=8,
        stages=(0, 1, 2, 3),
        mode=Choice(("exact", "paper")),  # one softmax over the whole ring | one softmax and residual per hop
        placement=Choice(("side", "trunk"), none=True),
        kv_pool=PerStage(1),  # as for spim
        position=Choice(("none", "rope2d")),  # as for spim; rope2d in mode="exact" alone
        mlp_ratio=4.0,
    ),
    "none": dict(),
}

_NORM = Choice(("batch", "group", "layer"))  # statistics of all scenes | of what a region sees | of a place

DECODERS = {
    "upernet": dict(
        variant=Choice(("mmseg", "lwc")),  # lwc: for REST's released weights alone; its scores are very coarse
        channels=512,
        pool_scales=(1, 2, 3, 6),  # bins per side of the pyramid pooling
        norm=_NORM,
        dropout=0.1,  # probability of dropping a channel before the classifier; lwc: 0, it drops nothing
    ),
    "fcn": dict(
        channels=256,
        stage=2,  # the encoder stage it reads
        convs=1,  # convolutions before the classifier
        kernel=3,  # side of their kernels
        concat=False,  # one more of them reads the map and what the others made of it
        norm=_NORM,
        dropout=0.1,
    ),
    "setr": dict(
        variant=Choice(("naive", "pup", "mla")),
        channels=256,
        norm=_NORM,
        dropout=0.0,
    ),
    "segvit": dict(
        channels=256,
        layers=3,  # of the queries, for each map
        heads=8,
        stages=(1, 2, 3),  # the encoder stages it reads, the last one first
        dropout=0.1,
    ),
    "mask2former": dict(
        channels=256,
        queries=100,  # segments it can find
        heads=8,  # of all its attention
        points=4,  # that a head of deformable attention reads on each level
        encoder_layers=6,  # of deformable attention
        encoder_mlp=1024,  # hidden width of their MLPs
        decoder_layers=9,  # of the queries (transformers counts one more)
        decoder_mlp=2048,
    ),
}

QUERY_DECODERS = ("segvit", "mask2former")  # answer with queries, not with scores of pixels

# They read the encoder's maps, beside "setr" with variant="mla" its sums. `stage` may be several, with a head for each;
# `weight` is that of the loss of each head beside the decoder's 1.
AUXILIARIES = {
    "fcn": DECODERS["fcn"] | dict(stage=PerStage(2), weight=0.4),
    "setr": DECODERS["setr"] | dict(variant=Choice(("naive", "pup")), stage=PerStage(0), weight=0.4),
}

MOST_CLASSES = 255  # maps are uint8, in which 255 means no label

MODEL = dict(
    name=Choice(("rest", "ringformer")),  # decides which parts are taken where none are named: MODELS
    bands=3,  # channels of an image
    classes=2,  # channels of the logits, up to MOST_CLASSES
    regions=(2, 2),  # rows x columns of the region grid
    border=Choice(("isolated", "exact")),  # what a region sees beyond its edge: nothing | the whole scene
)

MODELS = {
    "rest": dict(encoder="swin", context="spim", decoder="upernet", aux="fcn"),
    "ringformer": dict(encoder="vit", context="cdcr", decoder="setr", aux=None),
}

# --- the other sections of an experiment -----------------------------------------------------------------

DATA_SETS = (  # uavid_rest: REST's order of the classes; fbp_16bit: bands the other way round
    *("folder", "fbp", "fbp_16bit", "glh_water", "whu_ohs", "uavid", "uavid_rest", "deepglobe"),
    *("wuhan", "guangdong", "isic", "crag", "synapse"),
)

DATA = dict(
    name=Choice(DATA_SETS),  # how the files lie and what the labels mean: holojax.data.datasets
    root="",  # folder of the scenes, {split}/{image,label}/*.tif|png or as the set has them; or what its builder made
    split="train",  # subfolder trained on
    bands=None,  # indices of the bands to read, from 0; None: the first model.bands
    class_names=(),  # one per class; (): class 0, class 1 ...
    palette=(),  # one (red, green, blue) per class, 0..255; (): evenly spaced colours
    mean=(127.5,),  # per band, or one for all, raw units of the file; (): measured when training begins
    std=(64.0,),  # likewise, and (): of both; images are normalised as (x - mean) / std on the device
    nodata=None,  # value that marks pixels without data in all bands; None: what the file itself declares
    nodata_tolerance=0.0,  # values this close to it mark them too (lossy compression), raw units
    label_map=None,  # pairs (raw label, class or `ignore`); None: labels are classes already
    ignore=255,  # label of pixels that count nowhere
    window=None,  # (rows, columns) in pixels of a training sample; None: the whole scene
    batch=1,  # scenes per step, over all devices
    sampling=Choice(("scenes", "classes")),  # every scene once an epoch | every class as often, by scenes and crops
    # that hold it
    on_error=Choice(("raise", "skip")),  # a file that cannot be read ends the run | is left out, counted and listed
    verify=True,  # blocks compressed by deflate are compared with their checksums, each once, which GDAL does not do
    prefetch=2,  # batches prepared ahead
    workers=0,  # processes that prepare them; 0: threads
    cache="",  # folder in which PNGs and JPEGs above 4096 x 4096 pixels are converted once; "": .holojax beside them
    generator=Choice(("fields", "water", "fbp"), none=True),  # makes the scenes when `root` is missing
    generate=dict(
        size=192,  # side of a generated scene, pixels
        train=64,  # scenes of the training split
        val=24,  # scenes of the validation split
        seed=0,
    ),
)

AUGMENT = dict(
    flip=True,  # upside down and left to right, each with probability 1/2
    rotate=True,  # by 0, 90, 180 or 270 degrees
    angle=0.0,  # largest free turn beside that, degrees either way
    scale=(1.0, 1.0),  # smallest and largest factor by which the scene grows, 0.25 to 4
    class_share=1.0,  # of up to 10 crops (data.window) one is taken in which no class has more of the labelled pixels
    brightness=0.0,  # largest change of the brightness, as a fraction of std
    contrast=0.0,  # largest change of the contrast, as a fraction: 0.1 is a factor of 0.9 to 1.1
    distort=dict(  # mmseg's PhotoMetricDistortion, for red, green and blue in uint8
        probability=0.0,  # of each of the four
        brightness=32.0,  # largest shift, raw units
        contrast=0.5,  # largest change, as a fraction
        saturation=0.5,  # likewise
        hue=36.0,  # largest turn, degrees either way
    ),
    noise=0.0,  # largest standard deviation of white noise, as a fraction of std
    band_dropout=0.0,  # probability of each band to be set to its mean; one band always stays
)

TRAIN = dict(
    init="",  # a folder of scripts/import_torch.py, or of another run, whose weights training begins with
    steps=1000,
    learning_rate=6e-5,  # the highest of the schedule
    schedule=Choice(("poly", "cosine", "constant")),  # poly: linearly to 0
    warmup=0,  # steps of linear growth from 0 before it
    weight_decay=0.01,  # AdamW; not on biases, norms and position tables
    clip=0.0,  # largest global norm of the gradient; 0: no limit
    loss=(("cross_entropy", 1.0),),  # pairs (name, weight): names of LOSSES
    losses=dict(  # options of each loss
        dice=dict(
            squared=True,  # p^2 + y^2 below the line (RingFormer-Seg), else p + y
            eps=1e-5,  # added above and below, pixels
        ),
        soft_dice=dict(
            classes=Choice(("present", "all")),  # what the mean is over: classes with a label, or all
            eps=1e-5,
        ),
        focal=dict(
            gamma=2.0,  # power of the probability of being wrong
            alpha=0.5,  # sigmoid: weight of the label's class; the others have 1 - alpha
            form=Choice(("softmax", "sigmoid")),  # sigmoid: mmseg's
        ),
        lovasz=dict(classes=Choice(("present", "all"))),
        tversky=dict(
            alpha=0.3,  # weight of what is found wrongly
            beta=0.7,  # weight of what is missed
            eps=1.0,  # added above and below, pixels
        ),
        boundary=dict(
            inner=3,  # width of the pool that finds outlines, pixels, odd
            outer=5,  # width of the pool that widens them, pixels, odd
        ),
        ohem=dict(
            threshold=0.7,  # pixels whose class has a smaller probability are hard
            keep=100000,  # pixels of a batch that are hard at least
            average=Choice(("kept", "all")),  # over hard pixels, or all (mmseg)
        ),
        set=dict(
            class_weight=2.0,  # of the cross entropy of the queries' classes
            mask_weight=5.0,  # of the masks' cross entropy or focal loss
            dice_weight=5.0,  # of the masks' Dice loss
            no_object=0.1,  # weight of queries without a mask
            points=12544,  # at which masks are compared
            oversample=3.0,  # points drawn for each that is chosen for importance
            importance=0.75,  # share of the points that are chosen; the others are random
            mask_loss=Choice(("bce", "focal")),  # focal: SegViT's
        ),
    ),
    average=Choice(("valid", "all")),  # cross entropy, focal: over pixels with a label, or all
    class_weights=None,  # cross entropy, focal, ohem: one per class
    smoothing=0.0,  # cross entropy: share of the label's mass spread over all classes
    log_every=10,  # steps
    evaluate_every=0,  # steps; 0: at the end only
    checkpoint_every=200,  # steps; the last step is always kept
    keep=2,  # checkpoints kept
)

_COUNTS = (
    *("steps", "learning_rate", "warmup", "weight_decay", "clip"),
    *("log_every", "evaluate_every", "checkpoint_every"),
)
LOSSES = ("ce", "cross_entropy", "dice", "soft_dice", "focal", "lovasz", "tversky", "boundary", "ohem", "set")

EVALUATE = dict(
    split="val",  # subfolder
    window=None,  # (rows, columns) in pixels seen at once; None: the whole scene
    boundary=0,  # width in pixels of what counts as a boundary between classes; 0: not measured
    seam=0,  # pixels on each side of a border between regions that count as near it; 0: not measured
)

EXPERIMENT = dict(name="experiment", seed=0)  # seed: weights, order of scenes, augmentation, dropping
SECTIONS = dict(data=DATA, augment=AUGMENT, train=TRAIN, evaluate=EVALUATE)


def complete_model(model: Section) -> dict[str, Any]:
    """Complete `cfg.model` with the defaults of the parts it names.

    `model` is any mapping (a ConfigDict too); the result is a plain nested dict that holds every key. A
    part's section may be left out, name a part by `name`, or be None (`context`: the regions do not see each
    other; `aux`: no auxiliary head). Raises ConfigError for a name or key that does not exist, naming the
    nearest one, and for a value of the wrong kind.
    """
    model = plain(model, "model")
    parts = {key: model.pop(key) for key in ("encoder", "context", "decoder", "aux") if key in model}
    full = fill(model, MODEL, "model", known=("encoder", "context", "decoder", "aux"))
    names = MODELS[full["name"]]
    full["encoder"] = complete_encoder(_named(parts, "encoder", names))
    full["context"] = complete_part(_named(parts, "context", names) or {"name": "none"}, CONTEXTS, "model.context")
    full["decoder"] = complete_decoder(_named(parts, "decoder", names))
    aux = _named(parts, "aux", names)
    full["aux"] = aux and complete_part(aux, AUXILIARIES, "model.aux")
    _check_model(full)
    if full["context"].get("placement", "") is None:
        full["context"]["placement"] = "trunk" if full["encoder"]["name"] == "convnext" else "side"
    return full


def complete_encoder(encoder: Section) -> dict[str, Any]:
    """Complete `cfg.model.encoder`; a `size` is resolved to numbers. Errors as `complete_model`."""
    given = plain(encoder, "model.encoder")
    full = complete_part(given, ENCODERS, "model.encoder")
    size = full.pop("size", None)
    if size is not None:
        full.update({key: value for key, value in SIZES[full["name"]][size].items() if key not in given})
    for key, value in full.items():
        if key not in ("freeze", "drop_path") and not _is_size(value):
            raise ConfigError(f"model.encoder.{key}: expected numbers above 0, found {value}.")
    if not 0 <= full["drop_path"] < 1:
        raise ConfigError(f"model.encoder.drop_path: expected a probability below 1, found {full['drop_path']}.")
    return full


def complete_decoder(decoder: Section) -> dict[str, Any]:
    """Complete `cfg.model.decoder`. Errors as `complete_model`."""
    given = plain(decoder, "model.decoder")
    lwc = given.get("name") == "upernet" and given.get("variant") == "lwc"
    full = complete_part({"dropout": 0.0, **given} if lwc else given, DECODERS, "model.decoder")
    _check_part(full, "model.decoder")
    if lwc and full["dropout"]:
        raise ConfigError(
            f'model.decoder.dropout: variant="lwc" drops nothing, found {full["dropout"]}. Set it to 0 or leave it out.'
        )
    return full


def complete(config: Section) -> dict[str, Any]:
    """Complete a whole experiment to a plain nested dict that holds every key. Errors as `complete_model`."""
    given = plain(config, "config")
    model = complete_model(given.pop("model", {}))
    sections = {key: given.pop(key, {}) for key in SECTIONS}
    full = fill(given, EXPERIMENT, "config", known=("model", *SECTIONS))
    full["model"] = model
    for key, defaults in SECTIONS.items():
        full[key] = fill(plain(sections[key], key), defaults, key)
    _complete_losses(full["train"], model["decoder"]["name"])
    _check_sizes(full)
    return full


def experiment(**sections: Any) -> "ConfigDict":
    """Build the configuration of an experiment from what differs from the defaults.

    Keywords: `name`, `seed` and the sections `model`, `data`, `augment`, `train`, `evaluate`, each a mapping.
    Returns a locked `ml_collections.ConfigDict` that holds every key, ready for command-line overrides.
    Errors as `complete_model`.
    """
    return config_dict_of(complete(sections))


def to_json(config: Section) -> str:
    """Write a whole configuration as JSON text; `from_json` reads it back."""
    return json.dumps(complete(config), indent=2) + "\n"


def from_json(text: str) -> "ConfigDict":
    """Read a configuration that `to_json` wrote."""
    return experiment(**json.loads(text))


# --- how it is done --------------------------------------------------------------------------------------


def _named(parts: dict[str, Any], key: str, names: dict[str, Any]) -> dict[str, Any] | None:
    """Return the section of a part, with the model's own choice of part where it names none."""
    section = parts.get(key, {} if names[key] else None)
    if section is None:
        if key in ("encoder", "decoder"):
            raise ConfigError(f"model.{key}: a model needs one, found None; name it, or leave the key out.")
        return None
    return {"name": names[key] or "fcn", **plain(section, f"model.{key}")}


def _is_size(value: Any, zero: bool = False) -> bool:
    """Say whether all numbers, one at least, are above 0, or at least 0 with `zero`; what is no number passes."""
    if isinstance(value, tuple):
        return bool(value) and all(_is_size(item, zero) for item in value)
    return isinstance(value, bool) or not isinstance(value, int | float) or value > 0 or (zero and value == 0)


def _check_model(full: dict[str, Any]) -> None:
    """Refuse what no model can have; encoder and decoder have been checked."""
    if not 1 <= full["classes"] <= MOST_CLASSES:
        raise ConfigError(
            f"model.classes: expected 1 to {MOST_CLASSES} (maps are uint8, where 255 is no label), found "
            f"{full['classes']}."
        )
    if len(full["regions"]) != 2:
        raise ConfigError(f"model.regions: expected (rows, columns), found {full['regions']}.")
    # Its stages may be none, and `kv_pool` is compared with them where it is built.
    sizes = {key: full["context"][key] for key in ("heads", "mlp_ratio", "drop_path") if key in full["context"]}
    _check_part(sizes, "model.context")
    if full["aux"]:
        _check_part(full["aux"], "model.aux")


def _check_part(full: dict[str, Any], path: str) -> None:
    """Refuse sizes that no part of a model can have."""
    for key, value in full.items():
        zero = key in ("convs", "stage", "stages", "weight")
        wanted, fits = f"numbers {'of at least' if zero else 'above'} 0", _is_size(value, zero)
        if key in ("dropout", "drop_path"):
            wanted, fits = "a probability below 1", 0 <= value < 1
        if not fits:
            raise ConfigError(f"{path}.{key}: expected {wanted}, found {value}.")


def _complete_losses(train: dict[str, Any], decoder: str) -> None:
    """Refuse losses that do not add up to one, and make all weights floats."""
    if not train["loss"]:
        raise ConfigError("train.loss: expected one pair (name, weight) or more, as (('ce', 1.0),); found none.")
    names = [_check_loss(pair, decoder) for pair in train["loss"]]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"train.loss: {name!r} is there twice (cross_entropy is ce). Add up its weights.")
    if not any(weight for _, weight in train["loss"]):
        raise ConfigError(f"train.loss: all weights are 0 and nothing would be learned, found {train['loss']}.")
    if not 0 <= train["smoothing"] <= 1:
        raise ConfigError(f"train.smoothing: expected a share from 0 to 1, found {train['smoothing']}.")
    table = train["class_weights"]
    if table is not None and not is_weights(table):
        raise ConfigError(
            f"train.class_weights: expected numbers of at least 0, one for each class and not all 0, or None; found "
            f"{table!r}."
        )
    train["loss"] = tuple((name, float(weight)) for name, weight in train["loss"])
    train["class_weights"] = table and tuple(float(weight) for weight in table)


def _check_loss(pair: Any, decoder: str) -> str:
    """Return the one name of a loss, or refuse it."""
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise ConfigError(f"train.loss: expected pairs (name, weight), found {pair!r}.")
    name, weight = pair
    if name not in LOSSES:
        raise ConfigError("train.loss: " + nearest(str(name), LOSSES, "loss"))
    if not is_number(weight, 0):
        raise ConfigError(f"train.loss: the weight of {name!r} has to be a number of at least 0, found {weight!r}.")
    if name == "set" and decoder not in QUERY_DECODERS:
        raise ConfigError(
            f"train.loss: 'set' matches queries, which {decoder} does not answer with. Take a decoder that does "
            f"({', '.join(QUERY_DECODERS)}), or another loss, as (('ce', 1.0), ('dice', 1.0))."
        )
    return "ce" if name == "cross_entropy" else name


def _check_sizes(full: dict[str, Any]) -> None:
    """Refuse sections that do not fit each other."""
    model, data = full["model"], full["data"]
    lengths = [
        ("data.bands", data["bands"], (model["bands"],), "model.bands"),
        ("data.mean", data["mean"] or None, (1, model["bands"]), "model.bands"),
        ("data.std", data["std"] or None, (1, model["bands"]), "model.bands"),
        ("data.class_names", data["class_names"] or None, (model["classes"],), "model.classes"),
        ("data.palette", data["palette"] or None, (model["classes"],), "model.classes"),
        ("train.class_weights", full["train"]["class_weights"], (model["classes"],), "model.classes"),
    ]
    for path, value, allowed, because in lengths:
        if value is not None and (not isinstance(value, tuple) or len(value) not in allowed):
            wanted, found = (
                " or ".join(str(n) for n in allowed),
                len(value) if isinstance(value, tuple) else repr(value),
            )
            raise ConfigError(f"{path}: expected {wanted} entries ({because}), found {found}.")
    if bool(data["mean"]) != bool(data["std"]):
        raise ConfigError(
            f"data.mean and data.std: expected both, or () for both (measured when training begins), found "
            f"{data['mean']} and {data['std']}."
        )
    least = dict(data=dict(batch=1, prefetch=1, workers=0), train=dict.fromkeys(_COUNTS, 0) | dict(keep=1))
    for section, limits in least.items():
        for key, limit in limits.items():
            if not full[section][key] >= limit:
                raise ConfigError(f"{section}.{key}: expected {limit} or more, found {full[section][key]}.")
    if len(full["augment"]["scale"]) != 2:
        raise ConfigError(f"augment.scale: expected (smallest, largest), found {full['augment']['scale']}.")
    if full["augment"]["distort"]["probability"] > 0 and model["bands"] != 3:
        raise ConfigError(
            f"augment.distort: changes of colour need red, green and blue (model.bands=3), found {model['bands']} "
            f"band(s). Set augment.distort.probability to 0; augment.brightness and augment.contrast do for any bands."
        )
    for key in ("boundary", "seam"):
        if full["evaluate"][key] < 0:
            raise ConfigError(f"evaluate.{key}: expected a width in pixels, or 0, found {full['evaluate'][key]}.")
    for path, window in (("data.window", data["window"]), ("evaluate.window", full["evaluate"]["window"])):
        if window is not None and (not isinstance(window, tuple) or len(window) != 2):
            raise ConfigError(f"{path}: expected (rows, columns) in pixels, or None, found {window!r}.")
