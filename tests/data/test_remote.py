"""Rasters over HTTP: a server in a process of its own (GDAL holds the GIL while it opens a file) that counts bytes."""

import json
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
import rasterio

from holojax.data import SceneReader
from holojax.data.labels import LabelReader
from holojax.data.raster import LOCAL, REMOTE, gdal_env, gdal_path, gdal_settings, is_remote
from holojax.errors import RasterError
from holojax.parallel import Window

SERVER = r"""
import http.server, json, os, re
seen, busy = [], []
class Files(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def do_HEAD(self): self.answer(False)
    def do_GET(self): self.answer(True)
    def say(self, status, content, body=True, **headers):
        self.send_response(status)
        for name, value in headers.items(): self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body: self.wfile.write(content)
    def answer(self, body):
        path = self.path.partition("?")[0].lstrip("/")
        if path == "seen":
            text = json.dumps(seen).encode(); seen.clear(); return self.say(200, text)
        if path == "busy":
            busy.append(1); return self.say(200, b"")
        if busy and body:
            busy.pop(); seen.append((path, 503, 0)); return self.say(503, b"")
        if not os.path.isfile(path):
            seen.append((path, 404, 0)); return self.say(404, b"")
        content, part = open(path, "rb").read(), re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not part:
            seen.append((path, 200, len(content) * body)); return self.say(200, content, body, Accept_Ranges="bytes")
        first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
        seen.append((path, 206, (last + 1 - first) * body))
        self.say(206, content[first : last + 1], body, Content_Range=f"bytes {first}-{last}/{len(content)}")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
print(server.server_port, flush=True)
server.serve_forever()
"""


class Net:
    def __init__(self, folder, port):
        self.folder, self.address = folder, f"http://127.0.0.1:{port}"

    def seen(self):
        """Requests since the last call: path, status, bytes."""
        with urllib.request.urlopen(f"{self.address}/seen", timeout=10) as answer:
            return [tuple(request) for request in json.load(answer)]

    def is_busy_once(self):
        urllib.request.urlopen(f"{self.address}/busy", timeout=10).close()


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    with subprocess.Popen([sys.executable, "-c", SERVER], cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Net(folder, int(process.stdout.readline()))
        finally:
            process.kill()


@pytest.fixture(scope="module")
def pixels(net):
    pixels = np.random.default_rng(0).integers(1, 256, (700, 900, 3)).astype(np.uint8)
    profile = dict(driver="GTiff", height=700, width=900, tiled=True, blockxsize=128, blockysize=128, compress="zstd")
    profile |= dict(crs="EPSG:32633", transform=rasterio.Affine(2, 0, 9, 0, -2, 9))
    with rasterio.open(net.folder / "a.tif", "w", count=3, dtype="uint8", interleave="pixel", **profile) as target:
        target.write(np.moveaxis(pixels, -1, 0))
        target.build_overviews([4])
    with rasterio.open(net.folder / "label.tif", "w", count=1, dtype="uint8", **profile) as target:
        target.write(pixels[..., 0] % 2, 1)
    return pixels


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("scenes/a.tif", "scenes/a.tif"),
        ("https://x.org/a.tif?sig=1", "/vsicurl/https://x.org/a.tif?sig=1"),
        ("HTTP://x.org/a.tif", "/vsicurl/http://x.org/a.tif"),
        ("s3://bucket/k/a.tif", "/vsis3/bucket/k/a.tif"),
        ("gs://bucket/a.tif", "/vsigs/bucket/a.tif"),
        ("az://box/a.tif", "/vsiaz/box/a.tif"),
        ("/vsicurl/https://x.org/a.tif", "/vsicurl/https://x.org/a.tif"),
        ("/vsizip//vsis3/bucket/a.zip/a.tif", "/vsizip//vsis3/bucket/a.zip/a.tif"),
    ],
)
def test_addresses_become_paths_of_gdal(address, path):
    assert gdal_path(address) == path
    assert is_remote(address) == (address != path or address.startswith("/vsi"))


def test_local_addresses_are_files_and_unknown_ones_errors():
    assert gdal_path("file:///data/a.tif") == "/data/a.tif"
    assert not is_remote("file:///data/a.tif")
    assert not is_remote("/vsizip/a.zip/a.tif")
    with pytest.raises(RasterError, match=r"unknown kind of address hdfsx://.*Known: http://"):
        gdal_path("hdfsx://a/b.tif")


def test_what_the_user_set_wins(monkeypatch):
    assert gdal_settings("a.tif") == LOCAL
    assert gdal_settings("s3://b/a.tif") == REMOTE
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "9")
    with rasterio.Env(GDAL_NUM_THREADS="1"):
        assert REMOTE.keys() - gdal_settings("s3://b/a.tif") == {"GDAL_HTTP_MAX_RETRY", "GDAL_NUM_THREADS"}


def test_what_the_user_set_wins_over_what_a_reader_wants(monkeypatch):
    with gdal_env("a.tif", GDAL_NUM_THREADS="7"):
        assert rasterio.env.getenv()["GDAL_NUM_THREADS"] == "7"
        with gdal_env("b.tif"):
            assert rasterio.env.getenv()["GDAL_NUM_THREADS"] == "7"
    monkeypatch.setenv("GDAL_NUM_THREADS", "3")
    with gdal_env("a.tif", GDAL_NUM_THREADS="7"):
        assert "GDAL_NUM_THREADS" not in rasterio.env.getenv()


def test_a_local_file_keeps_its_mask_while_a_remote_one_is_open(net, pixels, tmp_path):
    path = tmp_path / "a.tif"
    profile = dict(
        driver="GTiff", height=4, width=4, count=1, dtype="uint8", transform=rasterio.Affine(2, 0, 9, 0, -2, 9)
    )
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "w", **profile) as target:
        target.write(np.ones((1, 4, 4), np.uint8))
        target.write_mask(np.eye(4) > 0)
    reader = SceneReader.open(path)
    with SceneReader.open(f"{net.address}/a.tif").session() as read:
        read(Window(0, 0, 4, 4))
        assert reader.read()[1].sum() == 4


def test_a_window_over_the_net_costs_its_blocks_and_nothing_else(net, pixels):
    net.seen()
    reader = SceneReader.open(f"{net.address}/a.tif?test=window")
    part, valid = reader.read(Window(256, 384, 256, 128))
    np.testing.assert_array_equal(part, pixels[256:512, 384:512])
    assert valid.all()
    requests = net.seen()
    assert {path for path, *_ in requests} == {"a.tif"}  # nothing is looked for beside it
    assert all(status in (200, 206) for _, status, _ in requests)
    blocks, header = 256 * 128 * 3, 65536
    assert sum(size for *_, size in requests) < 1.1 * blocks + header + 3 * 16384  # noise does not compress


def test_labels_are_read_over_the_net(net, pixels):
    reader = LabelReader.open(f"/vsicurl/{net.address}/label.tif", classes=2)
    np.testing.assert_array_equal(reader.read(Window(10, 20, 30, 40)), pixels[10:40, 20:60, 0] % 2)


def test_a_server_that_is_busy_is_asked_again(net, pixels):
    net.is_busy_once()
    part, _ = SceneReader.open(f"{net.address}/a.tif?test=busy").read(Window(0, 0, 5, 5))
    np.testing.assert_array_equal(part, pixels[:5, :5])


def test_what_is_not_there_is_named_with_its_address(net):
    with pytest.raises(RasterError, match=r"http://127.*/none\.tif: cannot be read over the network.*404.*Check the"):
        SceneReader.open(f"{net.address}/none.tif")
    refused = pytest.raises(RasterError, match=r"http://127\.0\.0\.1:9/a\.tif: cannot be read over the network")
    with refused, rasterio.Env(GDAL_HTTP_MAX_RETRY="0"):
        SceneReader.open("http://127.0.0.1:9/a.tif")
