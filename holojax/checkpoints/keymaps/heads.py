"""Names of mmseg's heads, UPerHead and FCNHead, of transformers' copies of them, and of REST's mixers."""

from holojax.checkpoints.keymaps.rules import BATCH_NORM, CONV, LINEAR, NORM, PACKED_LINEAR, POINT_CONV, KeyMap, Rule

_MIXER, _OUR_MIXER = "backbone.spattns.{i}", "mixers.{i}"


_LAYERS = {
    "pools.{i}": "psp_modules.{i}.1",
    "bottleneck": "bottleneck",
    "laterals.{i}": "lateral_convs.{i}",
    "smoothers.{i}": "fpn_convs.{i}",
    "fusion": "fpn_bottleneck",
    "conv": "convs.0",
}


def _heads(classifier: str, norm: str) -> KeyMap:
    rules = []
    for ours, theirs in (("decoder", "decode_head"), ("aux", "auxiliary_head")):
        rules.append(Rule(f"{ours}.classifier.linear", f"{theirs}.{classifier}", POINT_CONV))
        for layer, name in _LAYERS.items():
            rules.append(Rule(f"{ours}.{layer}.conv", f"{theirs}.{name}.conv", CONV))
            rules.append(Rule(f"{ours}.{layer}.norm", f"{theirs}.{name}.{norm}", BATCH_NORM))
    parts = {"encoder": "backbone.", "decoder": "decode_head.", "aux": "auxiliary_head."}
    return KeyMap(rules=tuple(rules), parts=parts)


MMSEG_HEADS = _heads("conv_seg", "bn")
TRANSFORMERS_HEADS = _heads("classifier", "batch_norm")

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
