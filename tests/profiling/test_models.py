"""No hidden communication in whole models: the forward sends what the mixers state, training no activation besides."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

import holojax
from holojax import config
from holojax.errors import ConfigError, HoloJAXError
from holojax.parallel import Layout
from holojax.profiling import differences, totals, traffic
from holojax.profiling.contract.calls import border_calls, borders, stated
from holojax.profiling.contract.collectives import add
from holojax.profiling.contract.models import gradients, mixers
from holojax.profiling.programs import abstract_model, forward
from holojax.training.optimizer import make_optimizer
from holojax.training.shapes import scene_size
from holojax.training.state import first_state, take_apart
from holojax.training.step import make_recipe, make_train_step
from tests.training import tiny

ROOT = Path(__file__).resolve().parents[2]
SIZE = (62, 118)  # neither patches nor windows nor regions divide it
COMMON = dict(bands=3, classes=5, regions=(2, 4))
SPIM = dict(name="spim", heads=8, stages=(1, 2), kv_pool=(3, 1), mlp_ratio=1.0)
CONTEXTS = {
    "all_to_all": ("rest", SPIM),
    "hybrid": ("rest", SPIM | dict(heads=2)),
    "ring": ("rest", SPIM | dict(exchange="ring")),
    "cdcr": ("ringformer", dict(name="cdcr", heads=2, stages=(1, 3), kv_pool=3, placement="trunk", mlp_ratio=1.0)),
    "paper": ("ringformer", dict(name="cdcr", heads=2, stages=(1, 3), mode="paper", placement="trunk", mlp_ratio=1.0)),
}
MODELS = {"rest": tiny.REST, "ringformer": tiny.RINGFORMER}
BARE = dict(context=None, decoder=dict(name="fcn", channels=8, stage=3), aux=None, regions=(2, 2))
EXACT = MODELS | {
    "vit with a class token": tiny.RINGFORMER
    | dict(
        encoder=tiny.RINGFORMER["encoder"] | dict(pos="learned", class_token=True),
        decoder=dict(name="setr", variant="pup", channels=8),
    ),
    "convnext": tiny.REST | BARE | dict(encoder=dict(name="convnext", dims=(8, 8, 8, 8), depths=(1, 1, 1, 1))),
    "vmamba": tiny.REST
    | BARE
    | dict(encoder=dict(name="vmamba", dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), mlp_ratio=1.0, ssm_ratio=1.0)),
}


def sent(model, layout, scenes):
    f, shapes = forward(model, layout, SIZE, scenes)
    return totals(traffic(f, *shapes))


@pytest.mark.parametrize("name", MODELS)
def test_isolated_encoders_and_decoders_send_nothing(name):
    model = abstract_model(MODELS[name] | COMMON | dict(context=None))
    assert sent(model, Layout.create(data=2, region=4), 2) == {}


@pytest.mark.parametrize(
    ("name", "data", "region"), [*((name, 2, 4) for name in CONTEXTS), ("hybrid", 1, 8), ("paper", 2, 2)]
)
def test_a_forward_sends_what_its_mixers_state(name, data, region):
    base, context = CONTEXTS[name]
    model = abstract_model(MODELS[base] | COMMON | dict(context=context))
    layout = Layout.create(data=data, region=region)
    stated = mixers(model, layout, SIZE, scenes=2)
    assert stated, "something is sent"
    assert differences(sent(model, layout, 2), stated) == []


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_forward_sends_what_its_mixers_and_borders_state(name):
    model = abstract_model(COMMON | EXACT[name] | dict(border="exact"))
    layout = Layout.create(data=2, region=4)
    stated = [formula(model, layout, SIZE, scenes=2) for formula in (mixers, borders)]
    assert sent(model, layout, 2) == add(*stated)
    assert stated[1]["collective-permute"] > 0


def test_borders_without_a_formula_are_named():
    model = abstract_model(MODELS["ringformer"] | COMMON | dict(border="exact"))
    call = border_calls(model, Layout.create(region=2), SIZE)[0]
    with pytest.raises(HoloJAXError, match=r"No formula says what Exact\.stretch sends"):
        stated(dataclasses.replace(call, method="stretch"))
    assert border_calls(abstract_model(MODELS["ringformer"] | COMMON), Layout.create(region=2), SIZE) == []


@pytest.mark.parametrize(
    ("name", "border"),
    [
        *((name, "isolated") for name in ("ringformer", "vit, spim")),
        ("vit, spim", "exact"),
        *(pytest.param("rest", border, marks=pytest.mark.slow) for border in ("isolated", "exact")),
    ],
)
def test_training_sends_the_mixers_traffic_and_sums_besides(name, border):
    layout = Layout.create(region=4)
    models = MODELS | {"vit, spim": tiny.RINGFORMER | dict(context=tiny.REST["context"] | dict(stages=(3,)))}
    cfg = tiny.experiment(models[name] | dict(border=border))
    model = holojax.build_model(cfg.model, cfg.seed)
    structure, weights = take_apart(model)
    recipe, optimizer = make_recipe(cfg, structure, layout), make_optimizer(cfg.train)
    state, batch = first_state(weights, optimizer, layout), tiny.batch(layout, model.grid)
    found = totals(traffic(make_train_step(recipe, optimizer, cfg.seed), state, batch))
    sums, (summed,) = found.pop("all-reduce"), gradients(model).values()
    # Beside every parameter's gradient: statistics of batch norms and losses.
    assert summed <= sums < 1.03 * summed
    if border == "isolated":
        both = (mixers(model, layout, (30, 61), scenes=2, backward=back) for back in (False, True))
        assert differences(found, add(*both)) == []
    assert set(found) <= {"all-to-all", "collective-permute"}


def measure(*arguments):
    command = [sys.executable, ROOT / "scripts" / "measure.py", *arguments]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}
    )


def test_the_command_prints_the_table_and_the_formula():
    done = measure(
        "traffic",
        "--config=configs/quickstart.py",
        "--virtual_devices=8",
        "--region=4",
        "--data=2",
        "--size=64,96",
        "--config.model.encoder.embed_dim=8",
        "--config.model.decoder.channels=8",
    )
    assert done.returncode == 0, done.stderr
    assert "forward: 2 scene(s) of 64 x 96 pixels, border isolated" in done.stdout
    assert "tokens a device: all_to_all, 0.0 MB forward\n" in done.stdout
    assert "total all-to-all" in done.stdout
    kind, found, stated, rest = done.stdout.strip().splitlines()[-1].split()
    assert (kind, rest) == ("all-to-all", "0")
    assert found == stated


def test_the_command_says_what_it_lacks(tmp_path):
    config = tmp_path / "config.py"
    config.write_text("from holojax.config import experiment\n\ndef get_config(arg=None):\n    return experiment()\n")
    for arguments, message in (
        ([], "expected one of traffic as the first word, found ''"),
        (["traffic", "--size=64"], "--size: expected HEIGHT,WIDTH in pixels, found '64'"),
    ):
        done = measure(*arguments, f"--config={config}", "--virtual_devices=4")
        assert done.returncode != 0
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_scenes_are_as_large_as_the_configuration_says():
    cfg = tiny.experiment()
    assert scene_size(cfg) == (32, 32)
    cfg.data.window = (48, 64)
    assert scene_size(cfg) == (48, 64)
    with pytest.raises(ConfigError, match="--size: the configuration gives none"):
        scene_size(config.experiment())
