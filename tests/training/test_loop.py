"""A run leaves what it promises, stops at a loss that is no number, and goes on where it ended."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from holojax.checkpoints.store import Store, load_config, load_model, save_config
from holojax.data import Skipped
from holojax.errors import CheckpointError, ConfigError, HoloJAXError, RasterError
from holojax.metrics import Counts, boundary_counts, confusion_matrix, grid_seams, seam_counts
from holojax.models import segment
from holojax.parallel import Layout, Window
from holojax.training import evaluate_run, hooks, train
from holojax.training.loop import open_data, run
from holojax.training.scenes import open_scenes
from holojax.training.state import State, Weights, fingerprint, take_apart
from tests.training import tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its folder, configuration and result."""
    folder = tmp_path_factory.mktemp("run")
    cfg = tiny.experiment(root=str(folder / "scenes"))
    return folder / "work", cfg, train(cfg, folder / "work", Layout.create(1, 4))


def test_the_result_says_what_was_reached(finished):
    workdir, _, result = finished
    assert list(result) == ["step", "loss", "miou", "seconds", "params_sha256"]
    assert result["step"] == 4
    assert 0 < result["loss"] < 10
    assert 0 <= result["miou"] <= 1
    model, _, step = load_model(workdir, Layout.create(1, 1))
    assert step == 4
    assert fingerprint(take_apart(model)[1].params) == result["params_sha256"]


def test_a_run_leaves_configuration_checkpoints_log_and_events(finished):
    workdir, cfg, _ = finished
    assert sorted(path.name for path in workdir.iterdir()) == [
        "checkpoints",
        "config.json",
        "events",
        "log.txt",
    ]
    assert load_config(workdir) == cfg
    assert len(cfg.data.class_names) == len(cfg.data.palette) == 5  # for maps made where the data are not
    assert [path.name for path in sorted((workdir / "checkpoints").iterdir())] == ["2", "4"]
    log = (workdir / "log.txt").read_text()
    assert "stage 3: cdcr over 8 tokens a device: ring, " in log
    assert "step 3/4  loss " in log
    assert "steps/s" in log
    assert "pixels/s" in log
    assert "ETA 0:00:00" in log
    assert "step 4: miou " in log


def test_a_finished_run_called_again_says_the_same(finished):
    workdir, cfg, result = finished
    again = train(cfg, workdir, Layout.create(1, 4))
    assert {key: value for key, value in again.items() if key != "seconds"} == {
        key: value for key, value in result.items() if key != "seconds"
    }


def test_a_break_changes_nothing(finished, tmp_path):
    workdir, cfg, result = finished
    with Store(workdir, keep=9) as store:
        layout = Layout.create(1, 4)
        model, _, _ = load_model(workdir, layout, step=2)
        params = take_apart(model)[1].params
        assert fingerprint(params) != result["params_sha256"]
        halfway = tmp_path / "half" / "checkpoints"
        halfway.mkdir(parents=True)
        shutil.copytree(store.folder / "2", halfway / "2")
    (tmp_path / "half" / "config.json").write_text((workdir / "config.json").read_text())
    resumed = train(cfg, tmp_path / "half", layout)
    assert resumed["params_sha256"] == result["params_sha256"]
    assert resumed["loss"] == result["loss"]


def test_a_break_changes_nothing_with_measured_data_drawn_classes_worker_processes_and_a_bad_file(finished, tmp_path):
    root = tmp_path / "scenes"
    shutil.copytree(finished[1].data.root, root)
    with open(root / "train" / "image" / "train_001.tif", "r+b") as file:
        file.truncate(file.seek(0, 2) - 500)

    def configuration(steps):
        cfg = tiny.experiment(root=str(root))
        cfg.data.update(dict(mean=(), std=(), sampling="classes", on_error="skip", workers=1, window=(24, 24)))
        cfg.train.update(dict(steps=steps, schedule="constant"))
        return cfg

    layout = Layout.create(1, 4)
    unbroken = train(configuration(4), tmp_path / "a", layout)
    train(configuration(2), tmp_path / "b", layout)
    resumed = train(configuration(4), tmp_path / "b", layout)
    assert resumed["params_sha256"] == unbroken["params_sha256"]
    kept = load_config(tmp_path / "a").data
    pixels = [scene.image.read() for scene in open_scenes(load_config(tmp_path / "b"), "val")]
    assert len(kept.mean) == len(kept.std) == pixels[0][0].shape[-1]
    assert all(20 < mean < 230 and 1 < std < 128 for mean, std in zip(kept.mean, kept.std, strict=True))
    assert unbroken["skipped"] > 0
    log = (tmp_path / "a" / "log.txt").read_text()
    assert "train_001.tif: expected a readable raster" in log
    assert f"skipped {unbroken['skipped']} windows or scenes that could not be read:" in log
    assert "warning: not the data" not in (tmp_path / "b" / "log.txt").read_text()


def test_going_on_with_other_data_is_said(finished, tmp_path):
    workdir, cfg, _ = finished
    shutil.copytree(workdir, tmp_path / "work")
    other = tiny.experiment(root=cfg.data.root)
    other.data.batch = 4
    train(other, tmp_path / "work", Layout.create(1, 4))
    assert "warning: not the data of the run so far (batch was 2)" in (tmp_path / "work" / "log.txt").read_text()


def test_the_mean_of_a_run_that_never_began_is_not_taken_over(finished, tmp_path):
    cfg = tiny.experiment(root=finished[1].data.root)
    cfg.data.update(dict(mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0)))
    save_config(tmp_path / "work", cfg)
    fresh = tiny.experiment(root=cfg.data.root)
    fresh.data.update(dict(mean=(), std=()))
    open_data(fresh, tmp_path / "work", Skipped())
    assert min(fresh.data.mean) > 20
    shutil.copytree(finished[0] / "checkpoints", tmp_path / "work" / "checkpoints")
    fresh.data.update(dict(mean=(), std=()))
    open_data(fresh, tmp_path / "work", Skipped())
    assert fresh.data.mean == (1.0, 2.0, 3.0)


def test_a_folder_means_what_its_classes_file_says(finished, tmp_path):
    shutil.copytree(finished[1].data.root, tmp_path / "scenes")
    plain = open_scenes(tiny.experiment(root=str(tmp_path / "scenes")), "val")[0].label.read()
    swapped = {str(raw): (raw + 1) % 5 for raw in range(5)}
    table = dict(names=["v", "w", "x", "y", "z"], label_map=swapped)
    (tmp_path / "scenes" / "classes.json").write_text(json.dumps(table))
    cfg = tiny.experiment(root=str(tmp_path / "scenes"))
    scenes = open_scenes(cfg, "val")
    assert scenes.classes.names == ("v", "w", "x", "y", "z")
    np.testing.assert_array_equal(scenes[0].label.read(), np.where(plain == 255, 255, (plain + 1) % 5))
    cfg.data.label_map = {raw: raw for raw in range(5)}  # what the configuration says, holds
    np.testing.assert_array_equal(open_scenes(cfg, "val")[0].label.read(), plain)
    cfg = tiny.experiment(tiny.RINGFORMER, root=str(tmp_path / "scenes"))
    cfg.model.classes = 4
    with pytest.raises(ConfigError, match=r"model\.classes: folder in .* has 5 classes, found 4"):
        open_scenes(cfg, "val")


def test_evaluation_counts_what_the_model_says_of_whole_scenes(finished):
    workdir, _, result = finished
    model, cfg, _ = load_model(workdir, Layout.create(1, 1))
    scenes, parts = open_scenes(cfg, "val"), []
    for index in range(len(scenes)):
        scene = scenes.scene(index)
        whole = Window(0, 0, *scene.size)
        with scene.image.session() as image, scene.label.session() as label:
            (pixels, valid), truth = image(whole), label(whole)
        normal = np.where(valid[..., None], (pixels - np.float32(cfg.data.mean)) / np.float32(cfg.data.std), 0)
        logits = segment(
            model, jnp.asarray(normal, jnp.float32)[None], Layout.create(1, 1), valid=jnp.asarray(valid)[None]
        )
        maps = np.asarray(logits.argmax(-1)), np.where(valid, truth, 255)[None]
        seams = seam_counts(*maps, *grid_seams(model.grid, *scene.size), 4)
        parts.append(Counts(confusion_matrix(*maps, 5), boundary_counts(*maps, 5, 2), seams))
    total = sum(parts)
    for devices in (1, 4):
        figures = evaluate_run(workdir, Layout.create(1, devices), boundary=2, seam=4)
        assert np.abs(figures["confusion"] - total.confusion).sum() <= 2  # a tie may fall either way
        for name in ("miou", "mean_boundary_f1", "mean_boundary_iou", "error_near_seams"):
            assert figures[name] == pytest.approx(total.figures()[name], abs=0.01)
    assert figures["confusion"].dtype == np.int64
    assert result["miou"] == pytest.approx(figures["miou"], abs=0.01)


def test_another_model_does_not_go_on_in_the_folder(finished):
    workdir, cfg, _ = finished
    other = tiny.experiment(tiny.RINGFORMER | {"decoder": dict(name="setr", channels=16)}, root=cfg.data.root)
    with pytest.raises(CheckpointError, match=r"another model: model\.decoder\.channels was 8, is 16"):
        train(other, workdir, Layout.create(1, 4))
    with pytest.raises(CheckpointError, match="starts anew"):
        train(cfg, workdir, Layout.create(1, 4), resume="never")
    with pytest.raises(ConfigError, match="found 'maybe'"):
        train(cfg, workdir, Layout.create(1, 4), resume="maybe")
    assert load_config(workdir) == cfg


def a_state(step=0):
    weights = Weights({"w": jnp.zeros(2)}, {})
    return State(jnp.asarray(step, jnp.int32), jnp.zeros(()), weights, ())


def a_step(losses):
    def step(state, batch):
        new = State(state.step + 1, jnp.asarray(losses[int(batch["number"])]), state.weights, ())
        return new, {"loss": new.loss}

    return step


def numbered(count):
    return [{"number": jnp.asarray(number)} for number in range(count)]


def test_a_loss_that_is_no_number_stops_the_run_before_anything_is_kept():
    seen = []
    with pytest.raises(HoloJAXError, match="step 3: the loss is nan"):
        run(
            a_step([1.0, 2.0, np.nan, 4.0]),
            a_state(),
            numbered(4),
            4,
            [lambda moment: seen.append(moment.step)],
        )
    assert seen == [1, 2]


def test_a_batch_that_cannot_be_read_is_an_error_after_the_hooks_of_the_step_before():
    seen = []

    def batches():
        yield from numbered(2)
        raise RasterError("s3.tif is damaged")

    with pytest.raises(RasterError, match=r"s3\.tif"):
        run(a_step([3.0, 2.0]), a_state(), batches(), 5, [lambda moment: seen.append(moment.step)])
    assert seen == [1, 2]


def test_hooks_act_when_they_are_due_and_after_the_last_step():
    seen = []

    def hook(moment):
        if moment.due(2):
            seen.append(moment.step)

    state, figures = run(a_step([5.0, 4.0, 3.0]), a_state(2), numbered(3), 5, [hook])
    assert seen == [4, 5]
    assert int(state.step) == 5
    assert figures["loss"] == 3.0


def test_progress_tells_speed_and_time_left(monkeypatch):
    lines, clock = [], iter([0.0, 5.0, 6.0])
    monkeypatch.setattr(hooks.time, "perf_counter", lambda: next(clock))
    progress = hooks.Progress(2, pixels=1_000_000, rate=lambda step: 1e-3 / (step + 1), say=lines.append)
    for step in (1, 2, 3):
        moment = hooks.Moment(step, 1003, a_state(), {"loss": 0.5})
        progress(moment)
    assert lines == ["step    2/1003  loss 0.5000  lr 5.00e-04  0.2 steps/s  200 kpixels/s  ETA 1:23:25"]
    assert moment.figures == {"loss": 0.5}


def test_data_that_are_not_there_are_named(tmp_path):
    cfg = tiny.experiment()
    with pytest.raises(RasterError, match=r"data\.root: no folder given"):
        open_scenes(cfg, "train")
    cfg.data.generator, cfg.data.root = None, str(tmp_path / "nothing")
    with pytest.raises(RasterError, match=r"nothing.*train.*image"):
        open_scenes(cfg, "train")
    cfg.data.name = "fbp"
    with pytest.raises(RasterError, match=r"(?s)Five-Billion-Pixels.*https://x-ytong"):
        open_scenes(cfg, "train")


def test_folders_that_somebody_else_filled_are_left_alone(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "notes.json").write_text(json.dumps({}))
    cfg = tiny.experiment(root=str(tmp_path))
    with pytest.raises(RasterError, match="image"):
        open_scenes(cfg, "train")
    assert not (tmp_path / "scenes.json").exists()
