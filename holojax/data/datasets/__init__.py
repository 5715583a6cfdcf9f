"""Data sets: where their files lie, what their numbers mean. `SETS` holds all that are known, by name."""

from holojax.data.datasets import (
    crag,
    deepglobe,
    fbp,
    folder,
    glh_water,
    guangdong,
    isic,
    synapse,
    uavid,
    whu_ohs,
    wuhan,
)
from holojax.data.datasets.base import SceneSet, is_built, open_set, survey, verify

SETS: dict[str, SceneSet] = {
    facts.name: facts
    for facts in (
        folder.FACTS,
        fbp.FACTS,
        fbp.FACTS_16BIT,
        glh_water.FACTS,
        whu_ohs.FACTS,
        uavid.FACTS,
        uavid.REST_ORDER,
        deepglobe.FACTS,
        wuhan.FACTS,
        guangdong.FACTS,
        isic.FACTS,
        crag.FACTS,
        synapse.FACTS,
    )
}

__all__ = ["SETS", "SceneSet", "is_built", "open_set", "survey", "verify"]
