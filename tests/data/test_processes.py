"""Several processes with a scene between them: real ones, two with two devices each."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from holojax.data import Augment, RasterScenes, train_batches
from holojax.parallel import Layout, RegionGrid

AUGMENT = Augment(brightness=5, contrast=0.2, center=100, scale=(0.7, 1.4), class_share=0.6)
CHILD = """
import json, sys
import jax
import numpy as np
number, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", 2, number)
from holojax.data import Augment, RasterScenes, batches, train_batches
from holojax.parallel import Layout, RegionGrid
read = []
look = batches.View.look, batches.Warp.look
for kind, plain in zip((batches.View, batches.Warp), look):
    def counted(view, window, *readers, plain=plain):
        read.append(window.height * window.width)
        return plain(view, window, *readers)
    kind.look = counted
scenes = RasterScenes.from_folder(folder, "train", classes=4)
augment = Augment(brightness=5, contrast=0.2, center=100, scale=(0.7, 1.4), class_share=0.6)
ready = train_batches(scenes, RegionGrid(2, 2), Layout.create(1, 4), batch=1, window=(20, 22), augment=augment, seed=5)
parts = []
for step in range(3):
    batch = next(ready)
    for shard in batch["image"].addressable_shards:
        parts.append((step, shard.index[1].start, np.asarray(shard.data).tolist()))
ready.close()
from holojax.errors import ConfigError
from holojax.training.scenes import check_same_scenes
check_same_scenes(scenes)
try:
    check_same_scenes(scenes if number else RasterScenes.from_folder(folder, "val", classes=4))
    refused = ""
except ConfigError as error:
    refused = str(error)
print(json.dumps(dict(parts=parts, pixels=sum(read[:6]), refused=refused)))
"""


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return str(found.getsockname()[1])


@pytest.fixture
def folder(scene_folder):
    scene_folder([(24, 24), (30, 27)], split="val")
    return scene_folder([(24, 24), (30, 27), (24, 31)])


def test_processes_read_their_own_regions_of_one_augmented_scene_and_see_the_same_scenes(folder):
    port = free_port()
    flags = dict(XLA_FLAGS="--xla_force_host_platform_device_count=2", JAX_PLATFORMS="cpu")
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(number), port, str(folder)],
            env=os.environ | flags,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [child.communicate(timeout=240)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    found = [json.loads(output.splitlines()[-1]) for output in outputs]
    scenes = RasterScenes.from_folder(folder, "train", classes=4)
    settings = dict(batch=1, window=(20, 22), augment=AUGMENT, seed=5)
    ready = train_batches(scenes, RegionGrid(2, 2), Layout.create(1, 1), **settings)
    wanted = [np.asarray(next(ready)["image"]) for _ in range(3)]
    ready.close()
    seen = [(step, region) for each in found for step, region, _ in each["parts"]]
    assert sorted(seen) == [(step, region) for step in range(3) for region in range(4)]  # each once, between them
    for each in found:
        assert "processes see other scenes beside it (they have 2, 3)" in each["refused"]
        assert each["pixels"] <= 3 * 20 * 22 // 2  # half of each scene
        for step, region, pixels in each["parts"]:
            np.testing.assert_array_equal(np.array(pixels, np.uint8)[:, 0], wanted[step][:, region])
