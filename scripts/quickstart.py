"""Show the point of whole scenes in a few minutes: train, evaluate and predict on generated GeoTIFF scenes.

    python scripts/quickstart.py --workdir=runs/quickstart

A field is irrigated or dry by objects anywhere else in its scene. The model of configs/quickstart.py is trained twice
for as many pixels: on whole scenes in 2 x 2 regions, and on crops. Leaves WORKDIR/map.tif, picture.png and report.md.
"""

import pathlib
import shutil
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import holojax
from holojax.checkpoints.store import load_model
from holojax.data import SceneReader
from holojax.inference.geotiff import MapWriter
from holojax.inference.picture import class_overview, image_overview, side_by_side
from holojax.ops.normalize import normalize
from holojax.parallel import Layout, RegionGrid, Window
from holojax.training import command, evaluate_run, train
from holojax.training.scenes import class_table, open_scenes

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from configs import quickstart

_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Folder to leave everything in.")
_STEPS = flags.DEFINE_integer("steps", None, "Training steps of each model; by default the configuration's.")

CROP = 48  # pixels: a quarter of a scene's side
FIELDS = ("dry field", "irrigated field")


def main() -> None:
    """Train both, compare them, predict one scene with each, and say where everything is."""
    workdir = pathlib.Path(_WORKDIR.value).absolute()
    whole, crops = quickstart.get_config(), quickstart.get_config()
    for cfg in (whole, crops):
        cfg.train.steps = _STEPS.value or cfg.train.steps
    cut_into_crops(crops)
    runs = {}
    for name, cfg in (("whole scenes", whole), ("crops", crops)):
        folder = workdir / name.replace(" ", "_")
        shutil.rmtree(folder, ignore_errors=True)
        print(f"\n== Training on {name} ==", file=sys.stderr)
        layout = layout_for(cfg)
        result = train(cfg, folder, layout)
        runs[name] = (cfg, folder, layout, result, evaluate_run(folder, layout))
    pictures(workdir, runs)
    text = report(workdir, runs)
    (workdir / "report.md").write_text(text)
    print("\n" + text)


def cut_into_crops(cfg: Any) -> None:
    """Turn the configuration into that of the usual way: crops, as many pixels a step, the same model on each."""
    side = cfg.data.generate.size // CROP
    cfg.name = "quickstart_crops"
    cfg.model.regions = (1, 1)
    cfg.data.window = cfg.evaluate.window = (CROP, CROP)
    cfg.data.batch *= side * side


def layout_for(cfg: Any) -> Layout:
    """Spread the regions of a scene over the devices, or the crops of a batch."""
    rows, cols = cfg.model.regions
    devices = min(len(jax.devices()), 4)
    return Layout.fitting(rows * cols) if rows * cols > 1 else Layout.create(data=devices, region=1)


def pictures(workdir: pathlib.Path, runs: dict[str, tuple]) -> None:
    """Predict a validation scene with both models; leave the maps and a picture."""
    cfg, folder, layout, *_ = runs["whole scenes"]
    table = class_table(cfg)
    # Scenes take turns. Where crops cannot know they guess "dry", so an irrigated scene shows what they miss.
    scene = open_scenes(cfg, cfg.evaluate.split).scene(1)
    model, *_ = load_model(folder, layout)
    holojax.predict_scene(model, scene.image.path, workdir / "map.tif", layout, data=cfg.data)
    cfg, folder, layout, *_ = runs["crops"]
    model, *_ = load_model(folder, layout)
    predict_crops(model, scene.image, workdir / "map_crops.tif", layout, cfg)
    panels = [image_overview(scene.image), *(class_overview(x, table) for x in (scene.label, workdir / "map.tif"))]
    panels.append(class_overview(workdir / "map_crops.tif", table))
    side_by_side(workdir / "picture.png", [panel.repeat(2, 0).repeat(2, 1) for panel in panels])


def predict_crops(model: Any, reader: SceneReader, target: pathlib.Path, layout: Layout, cfg: Any) -> None:
    """Segment every crop of a scene by itself and put the pieces together: what whole-scene models replace."""
    pixels, valid = (x[None] for x in reader.read())
    grid = RegionGrid(reader.height // CROP, reader.width // CROP)
    crops, inside = grid.split(pixels), grid.split(valid)
    images = normalize(jnp.asarray(crops), jnp.asarray(inside), cfg.data.mean, cfg.data.std)
    logits = holojax.segment(model, images[0], layout, valid=inside[0])
    classes = np.asarray(logits.argmax(-1), np.uint8)
    with MapWriter.like(target, reader, class_table(cfg)) as writer:
        for index, part in enumerate(classes):
            writer.write(Window(*grid.window(index, reader.height, reader.width)), part, inside[0, index])


def report(workdir: pathlib.Path, runs: dict[str, tuple]) -> str:
    """Put both models' figures side by side."""
    cfg, *_ = runs["whole scenes"]
    names = tuple(cfg.data.class_names)
    iou = {name: dict(zip(names, run[-1]["iou"], strict=True)) for name, run in runs.items()}
    rows = [(name, *(iou[run][name] for run in runs)) for name in names]
    rows.append(("fields, mean", *(float(np.mean([iou[run][field] for field in FIELDS])) for run in runs)))
    rows.append(("all, mean", *(run[-1]["miou"] for run in runs.values())))
    table = "\n".join(f"| {name} | {whole:.3f} | {crops:.3f} |" for name, whole, crops in rows)
    seconds = ", ".join(f"{name} {run[3]['seconds']:.0f} s" for name, run in runs.items())
    size = cfg.data.generate.size
    steps = runs["whole scenes"][3]["step"]
    return f"""# Quickstart: whole scenes against crops

Whether a field is dry or irrigated is decided by objects elsewhere in its scene ({size} x {size} pixels). The same
model, trained for {steps} steps and as many pixels, on whole scenes in 2 x 2 regions that see each other, and on crops
of {CROP} x {CROP}. IoU on {cfg.data.generate.val} scenes that neither has seen:

| class | whole scenes | crops |
|---|---|---|
{table}

Training with evaluation: {seconds}.

- `{workdir / "map.tif"}`: class map of one scene, uint8 with CRS, nodata and colour table
- `{workdir / "picture.png"}`: that scene, its label, the map, and the map put together from crops
- `{workdir / "whole_scenes"}`: the run: configuration, checkpoints, log, TensorBoard events
- `{workdir / "report.md"}`: this text
"""


if __name__ == "__main__":
    command.run(main)
