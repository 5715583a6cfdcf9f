"""Exact attention over a scene's tokens, wherever they lie."""

from holojax.attention.hop import hop_attention
from holojax.attention.scene import all_to_all_attention, hybrid_attention, ring_attention, scene_attention
from holojax.parallel.exchange import Plan, Topology, choose_exchange

__all__ = [
    "Plan",
    "Topology",
    "all_to_all_attention",
    "choose_exchange",
    "hop_attention",
    "hybrid_attention",
    "ring_attention",
    "scene_attention",
]
