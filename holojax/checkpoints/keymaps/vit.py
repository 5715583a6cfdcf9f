"""Names of vision transformers."""

from __future__ import annotations

import functools

import numpy as np

from holojax.checkpoints.keymaps.rules import LINEAR, NORM, PACKED_LINEAR, STEM, KeyMap, Leaves, Rule, Shape, Transform
from holojax.ops.resize import source_weights

_BLOCK = "encoder.blocks.{b}"
_CLASSIFIER = "the classifier"
_NO_TOKEN = "the encoder has no class token; set class_token=True for one"


def _split(rows: int) -> tuple[int, int] | None:
    """Return the class tokens (0 or 1) among rows of a table and the side of its square grid; None if it has none."""
    for tokens in (0, 1):
        side = round(max(rows - tokens, 0) ** 0.5)
        if side and side * side == rows - tokens:
            return tokens, side
    return None


def resize_positions(table: np.ndarray, shape: Shape, *, method: str) -> np.ndarray | None:
    """Resize the grid of a table of positions; None unless both grids are square.

    The class token's position is dropped where it is not wanted, and is zero where the file has none.
    """
    source, target = _split(len(table)), _split(shape[0])
    if source is None or target is None or table.shape[1] != shape[1]:
        return None
    (given, side), (wanted, length) = source, target
    steps = np.asarray(source_weights(np.arange(length), length, side, method), np.float64)
    grid = table[given:].reshape(side, side, -1).astype(np.float64)
    grid = np.einsum("hi,ijk,wj->hwk", steps, grid, steps).reshape(length * length, -1)
    first = table[:given] if given else np.zeros((1, table.shape[1]))
    return np.concatenate([first[:wanted], grid]).astype(table.dtype)


def _tokens(token: str, positions: str, method: str) -> Leaves:
    """Return the leaves of the class token and of the positions, which have axes of one more in files."""
    flat = Transform(lambda x: x.reshape(-1), lambda x: x[None, None])
    rows = Transform(lambda x: x[0], lambda x: x[None], functools.partial(resize_positions, method=method))
    return {token: ("class_token", flat), positions: ("positions", rows)}


def _rules(block: str, names: tuple[str, ...]) -> tuple[Rule, ...]:
    """Return the rules of a block, whose parts are called norm1, norm2, qkv, proj, fc1, fc2 here."""
    parts = ("norm1", "norm2", "qkv", "proj", "mlp.fc1", "mlp.fc2")
    leaves = (NORM, NORM, LINEAR, LINEAR, LINEAR, LINEAR)
    return tuple(
        Rule(f"{_BLOCK}.{ours}", f"{block}.{theirs}", kind)
        for ours, theirs, kind in zip(parts, names, leaves, strict=True)
        if theirs
    )


def _mmseg() -> KeyMap:
    """Return the names of mmseg, and of mmpretrain, which has another attention."""
    block = "backbone.layers.{b}"
    return KeyMap(
        rules=(
            Rule("encoder", "backbone", _tokens("cls_token", "pos_embed", "bicubic")),
            Rule("encoder.patch_embed", "backbone.patch_embed.projection", STEM),
            Rule(_BLOCK + ".qkv", block + ".attn.attn", PACKED_LINEAR),
            Rule(_BLOCK + ".proj", block + ".attn.attn.out_proj", LINEAR),
            *_rules(block, ("ln1", "ln2", "attn.qkv", "attn.proj", "ffn.layers.0.0", "ffn.layers.1")),
            Rule("encoder.norms.0", "backbone.ln1", NORM),
        ),
        parts={"encoder": "backbone."},
        ignored={r"head\..*": _CLASSIFIER, r"(backbone\.)?cls_token": _NO_TOKEN},
        numerics="mmseg",
        output_norms=r"backbone\.ln1\..*",
    )


def _timm() -> KeyMap:
    return KeyMap(
        rules=(
            Rule("encoder", "backbone", _tokens("cls_token", "pos_embed", "bicubic antialias")),
            Rule("encoder.patch_embed", "backbone.patch_embed.proj", STEM),
            *_rules("backbone.blocks.{b}", ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
            Rule("encoder.norms.0", "backbone.norm", NORM),
        ),
        parts={"encoder": "backbone."},
        ignored={
            r"(head|fc_norm|head_drop)\..*": _CLASSIFIER,
            r"(head_dist|pre_logits)\..*": _CLASSIFIER,
            r"(backbone\.)?cls_token": _NO_TOKEN,
        },
        numerics="timm",
        # Where tokens are averaged, the norm comes after that and is called fc_norm.
        output_norms=r"backbone\.norm\..*",
    )


def _transformers() -> KeyMap:
    """Return the names of transformers: of published files, and those that its modules have since version 5."""
    norms = ("layernorm_before", "layernorm_after")
    old, new = "vit.encoder.layer.{b}", "vit.layers.{b}"
    attention = old + ".attention.attention."
    return KeyMap(
        rules=(
            Rule("encoder", "vit.embeddings", _tokens("cls_token", "position_embeddings", "bicubic")),
            Rule("encoder.patch_embed", "vit.embeddings.patch_embeddings.projection", STEM),
            *_rules(old, (*norms, "", "attention.output.dense", "intermediate.dense", "output.dense")),
            Rule(_BLOCK + ".qkv", tuple(attention + name for name in ("query", "key", "value")), LINEAR),
            *_rules(new, (*norms, "", "attention.o_proj", "mlp.fc1", "mlp.fc2")),
            Rule(_BLOCK + ".qkv", tuple(f"{new}.attention.{name}_proj" for name in "qkv"), LINEAR),
            Rule("encoder.norms.0", "vit.layernorm", NORM),
        ),
        parts={"encoder": "vit."},
        ignored={
            r"classifier\..*|vit\.pooler\..*": _CLASSIFIER,
            r"vit\.embeddings\.mask_token": "stands for hidden patches in pretraining",
            r"vit\.embeddings\.cls_token": _NO_TOKEN,
        },
        numerics="transformers",
        output_norms=r"vit\.layernorm\..*",
    )


def _torchvision() -> KeyMap:
    block = "backbone.encoder.layers.encoder_layer_{b}"
    norms = ("ln_1", "ln_2", "", "self_attention.out_proj")
    return KeyMap(
        rules=(
            Rule("encoder", "backbone", _tokens("class_token", "encoder.pos_embedding", "bicubic corners")),
            Rule("encoder.patch_embed", "backbone.conv_proj", STEM),
            *_rules(block, (*norms, "mlp.0", "mlp.3")),
            # Its published files are older than its modules.
            *_rules(block, (*norms, "mlp.linear_1", "mlp.linear_2")),
            Rule(_BLOCK + ".qkv", block + ".self_attention", PACKED_LINEAR),
            Rule("encoder.norms.0", "backbone.encoder.ln", NORM),
        ),
        parts={"encoder": "backbone."},
        ignored={r"heads\..*": _CLASSIFIER, r"(backbone\.)?class_token": _NO_TOKEN},
        numerics="torchvision",
    )


VIT = {"mmseg": _mmseg(), "timm": _timm(), "transformers": _transformers(), "torchvision": _torchvision()}
