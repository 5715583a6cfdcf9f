"""Names of mmseg's heads (UPerHead, FCNHead, SETR's, SegViT's), of transformers' copies, and of REST's mixers."""

from holojax.checkpoints.keymaps.rules import (
    BATCH_NORM,
    CONV,
    LINEAR,
    NORM,
    PACKED_LINEAR,
    POINT_CONV,
    SAME,
    KeyMap,
    Rule,
)

_MIXER, _OUR_MIXER = "backbone.spattns.{i}", "mixers.{i}"


# Layers of a convolution and a norm.
_LAYERS = {
    "pools.{i}": "psp_modules.{i}.1",
    "bottleneck": "bottleneck",
    "laterals.{i}": "lateral_convs.{i}",
    "smoothers.{i}": "fpn_convs.{i}",
    "fusion": "fpn_bottleneck",
    "convs.{i}": "convs.{i}",
    "join": "conv_cat",
}
# What mmseg alone has: SETR.
_MMSEG_LAYERS = _LAYERS | {"up_convs.{i}": "up_convs.{i}.0", "up_convs.{i}.{j}": "up_convs.{i}.{j}"}
_NECK_LAYERS = {"projections.{i}": "channel_proj.{i}", "smoothers.{i}": "feat_extract.{i}"}
# REST's head of the released weights: a convolution is 0 of these, its norm 1.
_LWC_LAYERS = {
    "body.pools.{i}": "ppm_conv.{i}",
    "body.bottleneck": "ppm_last_conv",
    "body.laterals.{i}": "fpn_in.{i}",
    "body.smoothers.{i}": "fpn_out.{i}.0",
    "body.fusion": "conv_fusion",
    "last": "object_head.0",
}
_PARTS = {"encoder": "backbone.", "decoder": "decode_head.", "aux": "auxiliary_head."}
# Ours, theirs; of several auxiliary heads each has a number.
_HEADS = (
    ("decoder", "decode_head"),
    ("aux", "auxiliary_head"),
    ("aux.heads.{h}", "auxiliary_head.{h}"),
)


def _conv_norm(ours: str, theirs: str, norms: tuple[str, ...]) -> list[Rule]:
    return [
        Rule(f"{ours}.conv", f"{theirs}.conv", CONV),
        *(Rule(f"{ours}.norm", f"{theirs}.{norm}", BATCH_NORM) for norm in norms),
    ]


def _heads(classifier: str, norms: tuple[str, ...], layers: dict[str, str]) -> tuple[Rule, ...]:
    rules = []
    for ours, theirs in _HEADS:
        rules.append(Rule(f"{ours}.classifier.linear", f"{theirs}.{classifier}", POINT_CONV))
        for layer, name in layers.items():
            rules += _conv_norm(f"{ours}.{layer}", f"{theirs}.{name}", norms)
    return tuple(rules)


def _lwc() -> tuple[Rule, ...]:
    rules = [Rule("decoder.scorer.linear", "decode_head.object_head.1", POINT_CONV)]
    for layer, name in _LWC_LAYERS.items():
        rules.append(Rule(f"decoder.{layer}.conv", f"decode_head.{name}.0", CONV))
        rules.append(Rule(f"decoder.{layer}.norm", f"decode_head.{name}.1", BATCH_NORM))
    return tuple(rules)


def _setr() -> tuple[Rule, ...]:
    """Return what mmseg's SETR heads have beside the others, and its neck, which is a part of our decoder."""
    rules = [Rule("decoder.mla.norms.{i}", "neck.norm.{i}", NORM)]
    rules += [Rule(f"{ours}.norm", f"{theirs}.norm", NORM) for ours, theirs in _HEADS]
    for layer, name in _NECK_LAYERS.items():
        rules += _conv_norm(f"decoder.mla.{layer}", f"neck.mla.{name}", _MMSEG_NORMS)
    return tuple(rules)


def _segvit() -> tuple[Rule, ...]:
    ours, theirs = "decoder.levels.{i}.{j}", "decode_head.decoder_{i+1}.layers.{j}"
    return (
        Rule("decoder", "decode_head.q", {"weight": ("queries", SAME)}),
        Rule("decoder.projections.{i}", "decode_head.input_proj_{i+1}", LINEAR),
        Rule("decoder.norms.{i}", "decode_head.proj_norm_{i+1}", NORM),
        Rule("decoder.class_embed", "decode_head.class_embed", LINEAR),
        Rule(f"{ours}.qkv", f"{theirs}.self_attn", PACKED_LINEAR),
        Rule(f"{ours}.out", f"{theirs}.self_attn.out_proj", LINEAR),
        *(Rule(f"{ours}.{name}", f"{theirs}.multihead_attn.{name}", LINEAR) for name in ("q", "k", "v", "proj")),
        Rule(f"{ours}.fc{{n}}", f"{theirs}.linear{{n}}", LINEAR),
        Rule(f"{ours}.norm{{n}}", f"{theirs}.norm{{n}}", NORM),
    )


_MMSEG_NORMS = ("bn", "gn", "ln")
MMSEG_HEADS = KeyMap(
    rules=_heads("conv_seg", _MMSEG_NORMS, _MMSEG_LAYERS) + _setr() + _segvit() + _lwc(),
    parts=_PARTS,
    more_parts={"neck.mla.": "decoder", "neck.norm.": "decoder"},
    ignored={
        r"decode_head\..*\.(_tmp_running_mean|_tmp_running_var|_running_iter)": "bookkeeping of running averages",
        r"decode_head\.conv_seg\.(weight|bias)": "a classifier that this head does not use",
    },
)
TRANSFORMERS_HEADS = KeyMap(rules=_heads("classifier", ("batch_norm",), _LAYERS), parts=_PARTS)

SPIM = KeyMap(
    rules=(
        Rule(_OUR_MIXER + ".norm{n}", _MIXER + ".ln{n}", NORM),
        Rule(_OUR_MIXER + ".qkv", _MIXER + ".attn.attn", PACKED_LINEAR),
        Rule(_OUR_MIXER + ".proj", _MIXER + ".attn.attn.out_proj", LINEAR),
        Rule(_OUR_MIXER + ".fc1", _MIXER + ".ffn.layers.0.0", LINEAR),
        Rule(_OUR_MIXER + ".fc2", _MIXER + ".ffn.layers.1", LINEAR),
    ),
    parts={"mixers": "backbone.spattns."},
)
