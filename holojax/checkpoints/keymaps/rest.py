"""Names of the official REST code, and of the mmseg layers in it: Swin, SPIM, UPerHead, FCNHead."""

from holojax.checkpoints.keymaps.rules import (
    BATCH_NORM,
    CONV,
    LINEAR,
    NORM,
    PACKED_LINEAR,
    POINT_CONV,
    WINDOW_BIAS,
    KeyMap,
    Rule,
)

_BLOCK = r"backbone\.stages\.(\d+)\.blocks\.(\d+)"
_OUR_BLOCK = r"encoder.stages.\1.\2"
_MIXER = r"backbone\.spattns\.(\d+)"

SWIN = (
    Rule(r"backbone\.patch_embed\.projection", "encoder.patch_embed.projection", CONV),
    Rule(r"backbone\.patch_embed\.norm", "encoder.patch_embed.norm", NORM),
    Rule(_BLOCK + r"\.(norm[12])", _OUR_BLOCK + r".\3", NORM),
    Rule(_BLOCK + r"\.attn\.w_msa", _OUR_BLOCK + ".attention", WINDOW_BIAS),
    Rule(_BLOCK + r"\.attn\.w_msa\.(qkv|proj)", _OUR_BLOCK + r".attention.\3", LINEAR),
    Rule(_BLOCK + r"\.ffn\.layers\.0\.0", _OUR_BLOCK + ".mlp.fc1", LINEAR),
    Rule(_BLOCK + r"\.ffn\.layers\.1", _OUR_BLOCK + ".mlp.fc2", LINEAR),
    Rule(r"backbone\.stages\.(\d+)\.downsample\.norm", r"encoder.downsamples.\1.norm", NORM),
    Rule(r"backbone\.stages\.(\d+)\.downsample\.reduction", r"encoder.downsamples.\1.reduction", LINEAR),
    Rule(r"backbone\.norm(\d+)", r"encoder.norms.\1", NORM),
)

SPIM = (
    Rule(_MIXER + r"\.ln([12])", r"mixers.\1.norm\2", NORM),
    Rule(_MIXER + r"\.attn\.attn", r"mixers.\1.qkv", PACKED_LINEAR),
    Rule(_MIXER + r"\.attn\.attn\.out_proj", r"mixers.\1.proj", LINEAR),
    Rule(_MIXER + r"\.ffn\.layers\.0\.0", r"mixers.\1.fc1", LINEAR),
    Rule(_MIXER + r"\.ffn\.layers\.1", r"mixers.\1.fc2", LINEAR),
)


def _conv_norm(theirs: str, ours: str) -> tuple[Rule, Rule]:
    return Rule(theirs + r"\.conv", ours + ".conv", CONV), Rule(theirs + r"\.bn", ours + ".norm", BATCH_NORM)


def _head(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Return the rules of mmseg's UPerHead and FCNHead under the name of the head in the file."""
    return (
        Rule(theirs + r"\.conv_seg", ours + ".classifier.linear", POINT_CONV),
        *_conv_norm(theirs + r"\.psp_modules\.(\d+)\.1", ours + r".pools.\1"),
        *_conv_norm(theirs + r"\.bottleneck", ours + ".bottleneck"),
        *_conv_norm(theirs + r"\.lateral_convs\.(\d+)", ours + r".laterals.\1"),
        *_conv_norm(theirs + r"\.fpn_convs\.(\d+)", ours + r".smoothers.\1"),
        *_conv_norm(theirs + r"\.fpn_bottleneck", ours + ".fusion"),
        *_conv_norm(theirs + r"\.convs\.0", ours + ".conv"),
    )


REST = KeyMap(
    rules=(*SWIN, *SPIM, *_head("decode_head", "decoder"), *_head("auxiliary_head", "aux")),
    parts={
        "encoder": "backbone.",
        "mixers": "backbone.spattns.",
        "decoder": "decode_head.",
        "aux": "auxiliary_head.",
    },
    ignored={
        r".*\.bn\.num_batches_tracked": "a counter that torch's average by momentum does not use",
        r".*\.relative_position_index": "used to order the bias table, which is stored in one order here",
    },
)
