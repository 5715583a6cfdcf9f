"""CT volumes in NIfTI files become slices that can be read by window."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from holojax.data.files import write_geotiff, write_once
from holojax.errors import LabelError, RasterError

TEST = (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)
"""Volumes of TransUNet's test set; the other eighteen train."""
MADE = "slices"

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
_HEADER = 348


def make_slices(folder: Path) -> Path:
    """Write every slice to `folder/slices/{train,test}/{image,label}/NNNN_SSS.tif`; return `slices`.

    Made once; volumes that came or went since are an error that says so.

    Raises:
        RasterError: a volume lacks its label, or is damaged. LabelError: a label has another shape.
    """
    volumes = _volumes(folder)
    listing = "\n".join(f"{path.name} {path.stat().st_size}" for pair in volumes.values() for path in pair)
    parameters = dict(
        kind="synapse", volumes=len(volumes), files=hashlib.sha256(listing.encode()).hexdigest(), test=list(TEST)
    )

    def fill(root: Path) -> None:
        for number, (image, label) in volumes.items():
            pixels, classes = read_nifti(image), read_nifti(label)
            if pixels.shape != classes.shape:
                raise LabelError(
                    f"{label}: expected the shape {pixels.shape} of its image {image}, found {classes.shape}."
                )
            split = root / ("test" if number in TEST else "train")
            for part in ("image", "label"):
                (split / part).mkdir(parents=True, exist_ok=True)
            for index in range(pixels.shape[2]):
                name = f"{number:04d}_{index:03d}.tif"
                write_geotiff(split / "image" / name, np.ascontiguousarray(pixels[:, :, index].T))
                raw = np.ascontiguousarray(classes[:, :, index].T)
                write_geotiff(split / "label" / name, raw.astype(np.uint8) if raw.dtype.kind == "f" else raw)

    return write_once(folder / MADE, parameters, fill)


def read_nifti(path: str | os.PathLike[str]) -> Shaped[np.ndarray, "x y z"]:
    """Read a volume from a NIfTI-1 file, plain or gzipped: `[x y z]` as stored, scaled where the header says so.

    Source: the NIfTI-1 standard, nifti1.h.

    Raises:
        RasterError: the file is missing, cut short, no NIfTI-1 file, or of a type that is not read.
    """
    name = os.fspath(path)
    try:
        with (gzip.open if name.endswith(".gz") else open)(name, "rb") as file:
            raw = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise RasterError(f"{name}: expected a NIfTI file, cannot read it ({error}). Copy it again.") from error
    order = next((order for order in "<>" if raw[:4] == np.array(_HEADER, f"{order}i4").tobytes()), None)
    if order is None or raw[344:347] not in (b"n+1", b"ni1"):
        raise RasterError(f"{name}: expected a NIfTI-1 file, found something else. Copy it again.")
    dims = np.frombuffer(raw, f"{order}i2", 8, 40)
    kind = int(np.frombuffer(raw, f"{order}i2", 1, 70)[0])
    offset, slope, shift = (float(np.frombuffer(raw, f"{order}f4", 1, at)[0]) for at in (108, 112, 116))
    shape = tuple(int(size) for size in dims[1 : 1 + min(dims[0], 3)])
    if len(shape) != 3 or kind not in _TYPES or any(size != 1 for size in dims[4 : 1 + dims[0]]):
        raise RasterError(f"{name}: expected three axes of one of the types {sorted(_TYPES)}, found {dims.tolist()} of "
                          f"type {kind}.")  # fmt: skip
    dtype, count = np.dtype(order + _TYPES[kind]), int(np.prod(shape))
    if len(raw) < int(offset) + count * dtype.itemsize:
        raise RasterError(f"{name}: expected {count} values, the file is cut short. Copy it again.")
    volume = np.frombuffer(raw, dtype, count, int(offset)).reshape(shape, order="F").astype(dtype.newbyteorder("="))
    if slope not in (0.0, 1.0) or (slope == 1.0 and shift != 0.0):
        return (volume * np.float32(slope) + np.float32(shift)).astype(np.float32)
    return volume


def _volumes(folder: Path) -> dict[int, tuple[Path, Path]]:
    """Return image and label of every volume by its number."""
    parts = []
    for part in ("img", "label"):
        found = {}
        for path in sorted((folder / part).glob(f"{part}*.nii*")):
            number = re.fullmatch(rf"{part}(\d+)\.nii(?:\.gz)?", path.name)
            if number is not None:
                found[int(number[1])] = path
        parts.append(found)
    images, labels = parts
    alone = [f"{images[number]} has no label" for number in sorted(images.keys() - labels.keys())]
    alone += [f"{labels[number]} has no image" for number in sorted(labels.keys() - images.keys())]
    if alone or not images:
        listed = "; ".join(alone) or "no img/imgNNNN.nii.gz here"
        raise RasterError(f"{folder}: volumes are missing: {listed}.")
    return {number: (images[number], labels[number]) for number in sorted(images)}
