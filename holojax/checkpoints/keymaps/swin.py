"""Names of Swin transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from holojax.checkpoints.keymaps.rules import (
    LINEAR,
    NORM,
    SAME,
    STEM,
    KeyMap,
    Leaves,
    Rule,
    Shape,
    Transform,
    check_square,
    window_bias,
)
from holojax.ops.resize import source_weights
from holojax.ops.windows import table_steps

_BLOCK = "encoder.stages.{s}.{b}"
_PARTS = {"encoder": "backbone."}
_CLASSIFIER_NORM = "a norm that only the classifier reads"


def _sides(table: np.ndarray, shape: Shape) -> tuple[int, int] | None:
    """Return the side of a table [rows * columns, heads] and of the wanted one; None unless both are square."""
    sides = tuple(round(len_**0.5) for len_ in (len(table), shape[0]))
    fits = table.shape[1] == shape[1] and all(
        side % 2 and side * side == n for side, n in zip(sides, (len(table), shape[0]), strict=True)
    )
    return sides if fits else None


def _resize(table: np.ndarray, steps: np.ndarray, side: int) -> np.ndarray:
    grid = table.reshape(side, side, -1).astype(np.float64)
    return np.einsum("hi,ijk,wj->hwk", steps, grid, steps).reshape(-1, table.shape[1]).astype(table.dtype)


def resize_bicubic(table: np.ndarray, shape: Shape) -> np.ndarray | None:
    """Resize a table as mmseg's loader does: bicubically, align_corners=False."""
    sides = _sides(table, shape)
    if sides is None:
        return None
    steps = np.asarray(source_weights(np.arange(sides[1]), sides[1], sides[0], "bicubic"), np.float64)
    return _resize(table, steps, sides[0])


def resize_geometric(table: np.ndarray, shape: Shape) -> np.ndarray | None:
    """Resize a table as timm's loader does (`ops.windows.table_steps`)."""
    sides = _sides(table, shape)
    return sides and _resize(table, table_steps((sides[0] + 1) // 2, (sides[1] + 1) // 2), sides[0])


def embed_table(table: np.ndarray, shape: Shape) -> np.ndarray | None:
    """Return the table from which timm's way of making it smaller gives this one back, its edges repeated outwards.

    A model of timm's has smaller tables in its later stages where its maps were smaller than a window; on such maps
    `Swin` makes its own as small, and must find what the file had.
    """
    sides = _sides(table, shape)
    if sides is None or sides[0] > sides[1]:
        return resize_geometric(table, shape)
    small, large = sides
    repeat = np.clip(np.arange(large) - (large - small) // 2, 0, small - 1)
    spread = np.eye(small)[repeat]
    steps = spread @ np.linalg.inv(table_steps((large + 1) // 2, (small + 1) // 2) @ spread)
    return _resize(table, steps, small)


def _mmseg(**options) -> KeyMap:
    """Return mmseg's names, which mmpretrain and the official REST code share."""
    block = "backbone.stages.{s}.blocks.{b}"
    rules = (
        Rule("encoder.patch_embed.projection", "backbone.patch_embed.projection", STEM),
        Rule("encoder.patch_embed.norm", "backbone.patch_embed.norm", NORM),
        Rule(_BLOCK + ".norm{n}", block + ".norm{n}", NORM),
        Rule(_BLOCK + ".attention", block + ".attn.w_msa", window_bias(resize_bicubic)),
        Rule(_BLOCK + ".attention.qkv", block + ".attn.w_msa.qkv", LINEAR),
        Rule(_BLOCK + ".attention.proj", block + ".attn.w_msa.proj", LINEAR),
        Rule(_BLOCK + ".mlp.fc1", block + ".ffn.layers.0.0", LINEAR),
        Rule(_BLOCK + ".mlp.fc2", block + ".ffn.layers.1", LINEAR),
        Rule("encoder.downsamples.{s}.norm", "backbone.stages.{s}.downsample.norm", NORM),
        Rule("encoder.downsamples.{s}.reduction", "backbone.stages.{s}.downsample.reduction", LINEAR),
        Rule("encoder.norms.{i}", "backbone.norm{i}", NORM),
    )
    return KeyMap(rules=rules, parts=_PARTS, numerics="mmseg", **options)


def _official(block: str, merging: str, stem: str, norm: str, mlp: tuple[str, str], table: Leaves) -> tuple[Rule, ...]:
    """Return the rules of the libraries that keep the first Swin code's names inside a block."""
    return (
        Rule("encoder.patch_embed.projection", stem, STEM),
        Rule("encoder.patch_embed.norm", norm, NORM),
        Rule(_BLOCK + ".norm{n}", block + ".norm{n}", NORM),
        Rule(_BLOCK + ".attention", block + ".attn", table),
        Rule(_BLOCK + ".attention.qkv", block + ".attn.qkv", LINEAR),
        Rule(_BLOCK + ".attention.proj", block + ".attn.proj", LINEAR),
        Rule(_BLOCK + ".mlp.fc1", block + f".mlp.{mlp[0]}", LINEAR),
        Rule(_BLOCK + ".mlp.fc2", block + f".mlp.{mlp[1]}", LINEAR),
        Rule("encoder.downsamples.{s}.norm", merging + ".norm", NORM),
        Rule("encoder.downsamples.{s}.reduction", merging + ".reduction", LINEAR),
    )


def _timm(table: Leaves, *, merging: int = 1, variant=None) -> KeyMap:
    """Return timm's names; `merging` is the number that a merging has less the number of the stage before it."""
    stem, norm, mlp = "backbone.patch_embed.proj", "backbone.patch_embed.norm", ("fc1", "fc2")
    number = "{s+1}" if merging else "{s}"
    return KeyMap(
        rules=(
            *(
                rule
                # features_only=True makes "layers_0" of "layers.0".
                for point in (".", "_")
                for rule in _official(
                    f"backbone.layers{point}{{s}}.blocks.{{b}}",
                    f"backbone.layers{point}{number}.downsample",
                    stem,
                    norm,
                    mlp,
                    table,
                )
            ),
        ),
        parts=_PARTS,
        ignored={
            r"(backbone\.)?norm\.(weight|bias)": _CLASSIFIER_NORM,
            r"head\..*": "the classifier",
            r".*\.(attn_mask|relative_position_index)": "computed from the size of a window",
        },
        numerics="timm",
        output_norms=False,
        variant=variant,
    )


def _choose_timm(shapes: Mapping[str, Shape], encoder: Any = None) -> KeyMap | None:
    """Choose how to read a file of timm's kind."""
    if any(name.endswith("layers.0.downsample.reduction.weight") for name in shapes):
        return _MICROSOFT
    tables = {name: shape for name, shape in shapes.items() if name.endswith("relative_position_bias_table")}
    first = [shape[0] for name, shape in tables.items() if "layers.0." in name or "layers_0." in name]
    # Tables that shrink towards the later stages belong to a model whose maps were smaller than its windows.
    shrunk = first and any(shape[0] < first[0] for shape in tables.values())
    return _TIMM_SMALL if shrunk else None


def _table(resize) -> Leaves:
    """Return the leaves of a table whose index is not stored: it has one order, which is ours."""
    return {"relative_position_bias_table": ("bias_table", Transform(check_square, SAME.save, resize))}


_TIMM_SMALL = _timm(_table(embed_table))
# The first Swin code's files, which timm's loader takes too: a merging is counted with the stage before it.
_MICROSOFT = _timm(_table(resize_geometric), merging=0)


def _transformers() -> KeyMap:
    """Return the names of transformers: of published files, and those that its modules have since version 5."""
    old = dict(
        q=("query", "key", "value"),
        attention=".attention.self",
        proj=".attention.output.dense",
        mlp=(".intermediate.dense", ".output.dense"),
        table=".attention.self",
        leaves=window_bias(),
    )
    new = dict(
        q=("q_proj", "k_proj", "v_proj"),
        attention=".attention",
        proj=".attention.o_proj",
        mlp=(".mlp.fc1", ".mlp.fc2"),
        table=".attention.relative_position_bias",
        leaves=_table(None),
    )
    rules = []
    for inside in ("backbone.", "backbone.swin."):
        block, merging = inside + "encoder.layers.{s}.blocks.{b}", inside + "encoder.layers.{s}.downsample"
        rules += [
            Rule("encoder.patch_embed.projection", inside + "embeddings.patch_embeddings.projection", STEM),
            Rule("encoder.patch_embed.norm", inside + "embeddings.norm", NORM),
            Rule(_BLOCK + ".norm1", block + ".layernorm_before", NORM),
            Rule(_BLOCK + ".norm2", block + ".layernorm_after", NORM),
            Rule("encoder.downsamples.{s}.norm", merging + ".norm", NORM),
            Rule("encoder.downsamples.{s}.reduction", merging + ".reduction", LINEAR),
        ]
        for names in (old, new):
            packed = tuple(f"{block}{names['attention']}.{q}" for q in names["q"])
            rules += [
                Rule(_BLOCK + ".attention.qkv", packed, LINEAR),
                Rule(_BLOCK + ".attention", block + names["table"], names["leaves"]),
                Rule(_BLOCK + ".attention.proj", block + names["proj"], LINEAR),
                Rule(_BLOCK + ".mlp.fc1", block + names["mlp"][0], LINEAR),
                Rule(_BLOCK + ".mlp.fc2", block + names["mlp"][1], LINEAR),
            ]
    rules += [Rule("encoder.norms.{i}", "backbone.hidden_states_norms.stage{i+1}", NORM)]
    return KeyMap(
        rules=tuple(rules),
        parts={**_PARTS, "decoder": "decode_head.", "aux": "auxiliary_head."},
        prefixes=("model.pixel_level_module.encoder.", "pixel_level_module.encoder."),
        ignored={
            r"(backbone\.)?(swin\.)?layernorm\.(weight|bias)": _CLASSIFIER_NORM,
            r"classifier\..*": "the classifier",
            r".*embeddings\.mask_token": "stands for hidden patches in pretraining",
        },
        numerics="transformers",
        output_norms=r"backbone\.hidden_states_norms\..*",
        optional=(r"encoder\.norms\.\d\..*",),  # a backbone has those of its out_features alone
    )


SWIN = {
    "rest": _mmseg(),
    # A file of mmpretrain has the last of the output norms alone, and a classifier.
    "mmseg": _mmseg(optional=(r"encoder\.norms\.\d\..*",), ignored={r"head\..*": "the classifier"}),
    "timm": _timm(_table(resize_geometric), variant=_choose_timm),
    "transformers": _transformers(),
    "torchvision": KeyMap(
        rules=_official(
            "backbone.features.{2*s+1}.{b}",
            "backbone.features.{2*s+2}",
            "backbone.features.0.0",
            "backbone.features.0.2",
            ("0", "3"),
            window_bias(flat=True),
        ),
        parts=_PARTS,
        ignored={r"(backbone\.)?norm\.(weight|bias)": _CLASSIFIER_NORM, r"head\..*": "the classifier"},
        numerics="torchvision",
        output_norms=False,
    ),
}
