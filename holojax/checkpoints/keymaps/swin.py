"""Names of Swin transformers."""

from holojax.checkpoints.keymaps.rules import LINEAR, NORM, STEM, WINDOW_BIAS, KeyMap, Rule

_BLOCK = "backbone.stages.{s}.blocks.{b}"
_OUR_BLOCK = "encoder.stages.{s}.{b}"

MMSEG = KeyMap(
    rules=(
        Rule("encoder.patch_embed.projection", "backbone.patch_embed.projection", STEM),
        Rule("encoder.patch_embed.norm", "backbone.patch_embed.norm", NORM),
        Rule(_OUR_BLOCK + ".norm{n}", _BLOCK + ".norm{n}", NORM),
        Rule(_OUR_BLOCK + ".attention", _BLOCK + ".attn.w_msa", WINDOW_BIAS),
        Rule(_OUR_BLOCK + ".attention.qkv", _BLOCK + ".attn.w_msa.qkv", LINEAR),
        Rule(_OUR_BLOCK + ".attention.proj", _BLOCK + ".attn.w_msa.proj", LINEAR),
        Rule(_OUR_BLOCK + ".mlp.fc1", _BLOCK + ".ffn.layers.0.0", LINEAR),
        Rule(_OUR_BLOCK + ".mlp.fc2", _BLOCK + ".ffn.layers.1", LINEAR),
        Rule("encoder.downsamples.{s}.norm", "backbone.stages.{s}.downsample.norm", NORM),
        Rule("encoder.downsamples.{s}.reduction", "backbone.stages.{s}.downsample.reduction", LINEAR),
        Rule("encoder.norms.{i}", "backbone.norm{i}", NORM),
    ),
    parts={"encoder": "backbone."},
    numerics="mmseg",
)

SWIN = {"rest": MMSEG, "mmseg": MMSEG}
