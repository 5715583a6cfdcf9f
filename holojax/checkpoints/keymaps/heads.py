"""Names of mmseg's heads, UPerHead and FCNHead, and of REST's mixers."""

from holojax.checkpoints.keymaps.rules import BATCH_NORM, CONV, LINEAR, NORM, PACKED_LINEAR, POINT_CONV, KeyMap, Rule

_MIXER, _OUR_MIXER = "backbone.spattns.{i}", "mixers.{i}"


def _conv_norm(ours: str, theirs: str) -> tuple[Rule, Rule]:
    return Rule(ours + ".conv", theirs + ".conv", CONV), Rule(ours + ".norm", theirs + ".bn", BATCH_NORM)


def _head(ours: str, theirs: str) -> tuple[Rule, ...]:
    return (
        Rule(ours + ".classifier.linear", theirs + ".conv_seg", POINT_CONV),
        *_conv_norm(ours + ".pools.{i}", theirs + ".psp_modules.{i}.1"),
        *_conv_norm(ours + ".bottleneck", theirs + ".bottleneck"),
        *_conv_norm(ours + ".laterals.{i}", theirs + ".lateral_convs.{i}"),
        *_conv_norm(ours + ".smoothers.{i}", theirs + ".fpn_convs.{i}"),
        *_conv_norm(ours + ".fusion", theirs + ".fpn_bottleneck"),
        *_conv_norm(ours + ".conv", theirs + ".convs.0"),
    )


HEADS = KeyMap(
    rules=(*_head("decoder", "decode_head"), *_head("aux", "auxiliary_head")),
    parts={"encoder": "backbone.", "decoder": "decode_head.", "aux": "auxiliary_head."},
)

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
