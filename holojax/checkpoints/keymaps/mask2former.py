"""Names of Mask2Former's decoder in transformers' Mask2FormerForUniversalSegmentation."""

from holojax.checkpoints.keymaps.rules import CONV, LINEAR, NORM, PACKED_LINEAR, POINT_CONV, SAME, KeyMap, Rule

_PIXELS, _OUR_PIXELS = "model.pixel_level_module.decoder", "decoder.pixels"
_LAYER, _OUR_LAYER = _PIXELS + ".encoder.layers.{i}", _OUR_PIXELS + ".layers.{i}"
_TRANSFORMER = "model.transformer_module"
_QUERY_LAYER, _OUR_QUERY_LAYER = _TRANSFORMER + ".decoder.layers.{i}", "decoder.layers.{i}"


def _table(name: str) -> dict:
    return {"weight": (name, SAME)}


MASK2FORMER = KeyMap(
    rules=(
        Rule(_OUR_PIXELS, _PIXELS, {"level_embed": ("level_embed", SAME)}),
        Rule(_OUR_PIXELS + ".projections.{i}.linear", _PIXELS + ".input_projections.{i}.0", POINT_CONV),
        Rule(_OUR_PIXELS + ".projections.{i}.norm", _PIXELS + ".input_projections.{i}.1", NORM),
        Rule(_OUR_LAYER + ".attention.offsets", _LAYER + ".self_attn.sampling_offsets", LINEAR),
        Rule(_OUR_LAYER + ".attention.weights", _LAYER + ".self_attn.attention_weights", LINEAR),
        Rule(_OUR_LAYER + ".attention.value", _LAYER + ".self_attn.value_proj", LINEAR),
        Rule(_OUR_LAYER + ".attention.proj", _LAYER + ".self_attn.output_proj", LINEAR),
        Rule(_OUR_LAYER + ".norm1", _LAYER + ".self_attn_layer_norm", NORM),
        Rule(_OUR_LAYER + ".fc{n}", _LAYER + ".fc{n}", LINEAR),
        Rule(_OUR_LAYER + ".norm2", _LAYER + ".final_layer_norm", NORM),
        Rule(_OUR_PIXELS + ".laterals.{i}.linear", _PIXELS + ".adapter_{i+1}.0", POINT_CONV),
        Rule(_OUR_PIXELS + ".laterals.{i}.norm", _PIXELS + ".adapter_{i+1}.1", NORM),
        Rule(_OUR_PIXELS + ".smoothers.{i}.conv", _PIXELS + ".layer_{i+1}.0", CONV),
        Rule(_OUR_PIXELS + ".smoothers.{i}.norm", _PIXELS + ".layer_{i+1}.1", NORM),
        Rule(_OUR_PIXELS + ".mask", _PIXELS + ".mask_projection", POINT_CONV),
        Rule("decoder", _TRANSFORMER + ".queries_features", _table("features")),
        Rule("decoder", _TRANSFORMER + ".queries_embedder", _table("positions")),
        Rule("decoder", _TRANSFORMER + ".level_embed", _table("level_embed")),
        Rule(_OUR_QUERY_LAYER + ".cross.qkv", _QUERY_LAYER + ".cross_attn", PACKED_LINEAR),
        Rule(_OUR_QUERY_LAYER + ".cross.proj", _QUERY_LAYER + ".cross_attn.out_proj", LINEAR),
        Rule(
            _OUR_QUERY_LAYER + ".among.qkv",
            tuple(f"{_QUERY_LAYER}.self_attn.{part}_proj" for part in "qkv"),
            LINEAR,
        ),
        Rule(_OUR_QUERY_LAYER + ".among.proj", _QUERY_LAYER + ".self_attn.out_proj", LINEAR),
        Rule(_OUR_QUERY_LAYER + ".norm1", _QUERY_LAYER + ".cross_attn_layer_norm", NORM),
        Rule(_OUR_QUERY_LAYER + ".norm2", _QUERY_LAYER + ".self_attn_layer_norm", NORM),
        Rule(_OUR_QUERY_LAYER + ".norm3", _QUERY_LAYER + ".final_layer_norm", NORM),
        Rule(_OUR_QUERY_LAYER + ".fc{n}", _QUERY_LAYER + ".fc{n}", LINEAR),
        Rule("decoder.norm", _TRANSFORMER + ".decoder.layernorm", NORM),
        Rule("decoder.mask_mlp.{i}", _TRANSFORMER + ".decoder.mask_predictor.mask_embedder.{i}.0", LINEAR),
        Rule("decoder.classifier", "class_predictor", LINEAR),
    ),
    parts={},
    # Files of Mask2FormerModel alone lack "model.".
    more_parts={
        **{start + "pixel_level_module.encoder.": "encoder" for start in ("model.", "")},
        **{start + "pixel_level_module.decoder.": "decoder" for start in ("model.", "")},
        **{start + "transformer_module.": "decoder" for start in ("model.", "")},
        "class_predictor.": "decoder",
    },
    ignored={r"criterion\.empty_weight": "the loss's weights of the classes"},
)
