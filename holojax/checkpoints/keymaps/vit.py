"""Names of vision transformers."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from holojax.checkpoints.keymaps.rules import LINEAR, NORM, PACKED_LINEAR, STEM, KeyMap, Leaves, Rule, Shape, Transform
from holojax.ops.resize import source_weights

_BLOCK = "encoder.blocks.{b}"
_CLASSIFIER = "the classifier"
_CLASS_TOKEN = r"(.*\.)?(cls|class)_token"
_POSITIONS = r"(.*\.)?pos(ition)?_embed(ding)?s?"
_ROWS = Transform(lambda x: x[0], lambda x: x[None])
# Blocks have learned to attend to it: without it they would give something else.
_REFUSED = {
    _CLASS_TOKEN: "set model.encoder.class_token=True, or take it out of the weights to do without it",
}


def split_rows(rows: int, token: bool) -> tuple[int, int] | None:
    """Return the class tokens (0 or 1) among rows of a table and the side of its square grid; None if it has none.

    `token`: the file has a class token, so that the first row most likely is its.
    """
    for tokens in (1, 0) if token else (0, 1):
        side = round(max(rows - tokens, 0) ** 0.5)
        if side and side * side == rows - tokens:
            return tokens, side
    return None


@dataclasses.dataclass(frozen=True)
class Grid:
    """How a table of positions becomes that of an encoder.

    No file says how many rows and columns the grid of its table has. It is taken to be square; where its number of
    places is no square, it must be as many as the encoder's, and is taken to be the encoder's grid.

    Attributes:
        method: of `ops.resize.source_weights`, as the library resizes.
        token: the file has a class token.
        sides: rows and columns of the encoder's table.
        wanted: class tokens (0 or 1) of the encoder's table.
    """

    method: str
    token: bool
    sides: tuple[int, int]
    wanted: int

    def differs(self, shape: Shape) -> str:
        """Say how a table of this shape differs from the encoder's; "" if it does not, or does not fit."""
        found, rows = split_rows(shape[0], self.token), self.wanted + self.sides[0] * self.sides[1]
        if found is None or (found == (self.wanted, self.sides[0]) and self.sides[0] == self.sides[1]):
            return ""
        tokens, side = found
        what = f"from a grid of {side} x {side} to one of {self.sides[0]} x {self.sides[1]}"
        if tokens != self.wanted:
            what += ", a place of zeros for the class token" if self.wanted else ", without the class token's place"
        return what + ("" if shape[0] == rows else f", {shape[0]} to {rows} rows") + f" ({self.method})"

    def resize(self, table: np.ndarray, shape: Shape) -> np.ndarray | None:
        """Resize the grid of a table to the encoder's; None if it is not square, or has other channels.

        The class token's position is dropped where it is not wanted, and is zero where the file has none.
        """
        found = split_rows(len(table), self.token)
        if found is None or table.shape[1] != shape[1]:
            return None
        tokens, side = found
        rows, cols = (
            np.asarray(source_weights(np.arange(length), length, side, self.method), np.float64)
            for length in self.sides
        )
        grid = table[tokens:].reshape(side, side, -1).astype(np.float64)
        grid = np.einsum("hi,ijk,wj->hwk", rows, grid, cols).reshape(-1, table.shape[1])
        first = table[:tokens] if tokens else np.zeros((1, table.shape[1]))
        return np.concatenate([first[: self.wanted], grid]).astype(table.dtype)


def _tokens(token: str, positions: str, table: Transform) -> Leaves:
    """Return the leaves of the class token and of the positions, which have axes of one more in files."""
    flat = Transform(lambda x: x.reshape(-1), lambda x: x[None, None])
    return {token: ("class_token", flat), positions: ("positions", table)}


def _choose(make: Callable[[Transform], KeyMap], method: str, shapes: Mapping[str, Shape], encoder: Any) -> KeyMap:
    """Read the positions of a file as they must be for an encoder."""
    token = any(re.fullmatch(_CLASS_TOKEN, name) for name in shapes)
    grid = Grid(method, token, encoder.grid, int(encoder.class_token is not None))
    table = make(dataclasses.replace(_ROWS, resize=grid.resize, differs=grid.differs))
    if encoder.pos == "sincos":
        return dataclasses.replace(table, ignored={**table.ignored, _POSITIONS: "pos='sincos' computes positions"})
    return table


def _known(make: Callable[[Transform], KeyMap], method: str) -> KeyMap:
    """Return the names of a library that resizes tables of positions by `method`."""
    return dataclasses.replace(make(_ROWS), variant=functools.partial(_choose, make, method))


def _rules(block: str, names: tuple[str, ...]) -> tuple[Rule, ...]:
    """Return the rules of a block, whose parts are called norm1, norm2, qkv, proj, fc1, fc2 here."""
    parts = ("norm1", "norm2", "qkv", "proj", "mlp.fc1", "mlp.fc2")
    leaves = (NORM, NORM, LINEAR, LINEAR, LINEAR, LINEAR)
    return tuple(
        Rule(f"{_BLOCK}.{ours}", f"{block}.{theirs}", kind)
        for ours, theirs, kind in zip(parts, names, leaves, strict=True)
        if theirs
    )


def _mmseg(positions: Transform) -> KeyMap:
    """Return the names of mmseg, and of mmpretrain, which has another attention."""
    block = "backbone.layers.{b}"
    return KeyMap(
        rules=(
            Rule("encoder", "backbone", _tokens("cls_token", "pos_embed", positions)),
            Rule("encoder.patch_embed", "backbone.patch_embed.projection", STEM),
            Rule(_BLOCK + ".qkv", block + ".attn.attn", PACKED_LINEAR),
            Rule(_BLOCK + ".proj", block + ".attn.attn.out_proj", LINEAR),
            *_rules(block, ("ln1", "ln2", "attn.qkv", "attn.proj", "ffn.layers.0.0", "ffn.layers.1")),
            Rule("encoder.norms.0", "backbone.ln1", NORM),
        ),
        parts={"encoder": "backbone."},
        ignored={r"head\..*": _CLASSIFIER},
        numerics="mmseg",
        refused=_REFUSED,
        output_norms=r"backbone\.ln1\..*",
    )


def _timm(positions: Transform) -> KeyMap:
    return KeyMap(
        rules=(
            Rule("encoder", "backbone", _tokens("cls_token", "pos_embed", positions)),
            Rule("encoder.patch_embed", "backbone.patch_embed.proj", STEM),
            *_rules("backbone.blocks.{b}", ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
            Rule("encoder.norms.0", "backbone.norm", NORM),
        ),
        parts={"encoder": "backbone."},
        prefixes=("model.",),  # features_only=True
        ignored={
            r"(model\.)?(head|fc_norm|head_drop|head_dist|pre_logits)\..*": _CLASSIFIER,
        },
        numerics="timm",
        refused=_REFUSED,
        # Where tokens are averaged, the norm comes after that and is called fc_norm.
        output_norms=r"backbone\.norm\..*",
    )


def _transformers(positions: Transform) -> KeyMap:
    """Return the names of transformers: of published files, and those that its modules have since version 5."""
    norms = ("layernorm_before", "layernorm_after")
    old, new = "vit.encoder.layer.{b}", "vit.layers.{b}"
    attention = old + ".attention.attention."
    return KeyMap(
        rules=(
            Rule("encoder", "vit.embeddings", _tokens("cls_token", "position_embeddings", positions)),
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
        },
        numerics="transformers",
        refused=_REFUSED,
        output_norms=r"vit\.layernorm\..*",
    )


def _torchvision(positions: Transform) -> KeyMap:
    block = "backbone.encoder.layers.encoder_layer_{b}"
    norms = ("ln_1", "ln_2", "", "self_attention.out_proj")
    return KeyMap(
        rules=(
            Rule("encoder", "backbone", _tokens("class_token", "encoder.pos_embedding", positions)),
            Rule("encoder.patch_embed", "backbone.conv_proj", STEM),
            *_rules(block, (*norms, "mlp.0", "mlp.3")),
            # Its published files are older than its modules.
            *_rules(block, (*norms, "mlp.linear_1", "mlp.linear_2")),
            Rule(_BLOCK + ".qkv", block + ".self_attention", PACKED_LINEAR),
            Rule("encoder.norms.0", "backbone.encoder.ln", NORM),
        ),
        parts={"encoder": "backbone."},
        ignored={r"heads\..*": _CLASSIFIER},
        numerics="torchvision",
        refused=_REFUSED,
    )


VIT = {
    "mmseg": _known(_mmseg, "bicubic"),
    "timm": _known(_timm, "bicubic antialias"),
    "transformers": _known(_transformers, "bicubic"),
    "torchvision": _known(_torchvision, "bicubic corners"),
}
