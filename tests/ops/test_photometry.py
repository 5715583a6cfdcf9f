import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holojax.ops.photometry import distort, white_noise

NOTHING = (0.0, 1.0, 1.0, 0.0, 1.0)

distorted = jax.jit(distort)


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 256, (3, 2, 4, 5, 3)).astype(np.float32)
    drawn[0, 0, 0] = 90  # grey has no hue
    drawn[0, 0, 1, :, 1] = drawn[0, 0, 1, :, 0]  # two largest
    return drawn


def by_the_book(rgb, shift, before, color, turn, after):
    """Distort one pixel in float64, with Python's own conversion."""

    def cut(values):
        return np.clip(values, 0, 255)

    rgb = cut(cut(rgb + shift) * before)
    hue, saturation, value = colorsys.rgb_to_hsv(*(rgb / 255))
    rgb = 255 * np.array(colorsys.hsv_to_rgb((hue + turn / 360) % 1, min(saturation * color, 1), value))
    return cut(rgb * after)


def test_steps_that_change_nothing_leave_every_bit(pixels):
    np.testing.assert_array_equal(distorted(pixels, jnp.asarray([NOTHING] * 3)), pixels)


def test_each_scene_is_distorted_by_its_own_steps(pixels):
    steps = [(20.0, 1.3, 1.4, 30.0, 1.0), (-25.0, 1.0, 0.6, -36.0, 0.7), (0.0, 1.0, 1.0, 17.0, 1.0)]
    wanted = [[by_the_book(rgb, *step) for rgb in scene.reshape(-1, 3).astype(float)]
              for scene, step in zip(pixels, steps, strict=True)]  # fmt: skip
    found = distorted(pixels, jnp.asarray(steps))
    np.testing.assert_allclose(found, np.reshape(wanted, pixels.shape), atol=2e-3)


def noise_of(region, grain, size=(64, 48), bands=2):
    rows = np.arange(region[0], region[0] + size[0])[None]
    cols = np.arange(region[1], region[1] + size[1])[None]
    return np.asarray(white_noise(jnp.asarray(grain, jnp.uint32), jnp.asarray(rows), jnp.asarray(cols), bands))


def test_noise_belongs_to_places_and_not_to_regions():
    whole = noise_of((0, 0), [7])
    part = noise_of((20, 30), [7], (10, 12))
    np.testing.assert_allclose(part[0, 0], whole[0, 0, 20:30, 30:42], atol=1e-6)


def test_noise_is_normal_and_white():
    noise = noise_of((0, 0), [1, 2, 2**32 - 1], (128, 128), 3)[:, 0]
    assert abs(noise.mean()) < 0.01
    assert abs(noise.var() - 1) < 0.02
    assert abs((noise**4).mean() - 3) < 0.1
    for other in (np.roll(noise, 1, axis) for axis in range(4)):  # scenes, rows, columns, bands
        assert abs((noise * other).mean()) < 0.01
    assert np.isfinite(noise).all()
