"""Pictures decoded and resized once, kept as one array of bytes on disk or in memory."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from everclip.digest import json_sha256, tensor_sha256
from everclip.errors import StorageError
from everclip.storage import remove_abandoned, replacing
from everclip.types import Batch, Draw, Indices, Prepare, Samples, TaskSequence

log = logging.getLogger("everclip")

FORMAT = 1  # to be raised when `read_image` gives other pixels than before
CHUNK = 32  # pictures that a thread decodes at a time
MEGABYTE = 1_000_000
PATIENCE = 30.0  # seconds between two messages of a long build
PROBES = ((97, 61), (40, 83), (600, 400))  # (width, height)

Pixels = NDArray[np.uint8]


class CachedImages(Samples):
    """A set whose pictures lie resized in an array; in all else it is its source.

    Args:
        source: the pictures.
        resize: what they were resized with; asked for any other, the source decodes.
        pixels: (M, 3, S, S) uint8.
        rows: (N,) where each picture of the source is in `pixels`.
    """

    def __init__(self, source: Samples, resize: Prepare, pixels: Pixels, rows: Indices) -> None:
        self._source, self._resize, self._pixels, self._rows = source, resize, pixels, rows
        self.labels, self.num_frames, self.files = source.labels, source.num_frames, source.files
        self.drawn = source.drawn

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        view = None if draw is None else draw.view
        other = (draw is not None and self.drawn) or (view is not None and not view.whole)
        if prepare != self._resize or other:
            return self._source.read(indices, prepare, draw)
        images = torch.from_numpy(self._pixels[self._rows[np.asarray(indices, dtype=np.int64)]])
        if draw is not None and view is not None:
            shown = [draw.showing(_as_it_is, i) for i in indices]
            images = torch.stack([show(image) for show, image in zip(shown, images, strict=True)])
        return self.batch(images, indices)

    def subset(self, indices: Sequence[int] | Indices) -> CachedImages:
        rows = self._rows[np.asarray(indices, dtype=np.int64)]
        return CachedImages(self._source.subset(indices), self._resize, self._pixels, rows)

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def version(self) -> str:
        return self._source.version()


def _as_it_is(prepared: Any) -> Tensor:
    """A picture that is prepared already."""
    picture: Tensor = prepared
    return picture


def cached(sequence: TaskSequence, resize: Prepare, folder: Path | None) -> TaskSequence:
    """The sequence with the pictures of its sessions, and of the tasks they are evaluated on, from a cache.

    Args:
        sequence: its fingerprint stays the same.
        resize: of the backbone.
        folder: where the arrays are kept for the next run; None: in memory, for this one.

    Raises:
        StorageError: no room or no permission in `folder`.
        DataError: a picture cannot be read.
    """
    evaluated = [sequence.tasks[index] for index in sequence.evaluated(len(sequence.sessions) - 1)]
    held_out = [sequence.held_out] if sequence.held_out else []
    trained = [samples for session in sequence.sessions for samples in session.samples().values()]
    sets = [*trained, *(task.samples for task in (*evaluated, *held_out))]
    ready = {id(images): kept for images, kept in zip(sets, cache_all(sets, resize, folder), strict=True)}
    return replace(
        sequence,
        sessions=tuple(session.map(lambda samples: ready[id(samples)]) for session in sequence.sessions),
        tasks=tuple(replace(task, samples=ready.get(id(task.samples), task.samples)) for task in sequence.tasks),
        held_out=replace(held_out[0], samples=ready[id(held_out[0].samples)]) if held_out else None,
    )


def cache_all(sets: Sequence[Samples], resize: Prepare, folder: Path | None) -> list[Samples]:
    """The sets from a cache; those that lie in memory at the right size already as they are. As `cached`."""
    transform = identity_of(resize)
    keys: list[str] = []
    arrays: dict[str, Pixels] = {}
    missing: dict[str, Samples] = {}
    for images in [samples.pictures for samples in sets]:
        keys.append("")
        if not _needs_work(images, resize):
            continue
        sample = images.read(_sampled(len(images)), resize).images.numpy()
        keys[-1] = key = _key(images, sample, transform)
        kept = None if folder is None else _open(folder / f"{key}.npy", sample, len(images))
        if kept is None:
            missing[key] = images
        else:
            arrays[key] = kept
    if missing:
        _announce(list(missing.values()), resize, folder)
    for key, images in missing.items():
        arrays[key] = _build(images, resize, folder and folder / f"{key}.npy")
    return [
        samples.with_pictures(CachedImages(samples.pictures, resize, arrays[key], np.arange(len(samples))))
        if key
        else samples
        for key, samples in zip(keys, sets, strict=True)
    ]


def known_as(images: Samples, resize: Prepare, transform: str) -> str:
    """Hex digest of pictures (at least one) as they are prepared; `transform` as `identity_of` gives it."""
    return _key(images, images.read(_sampled(len(images)), resize).images.numpy(), transform)


def identity_of(resize: Prepare) -> str:
    """Hex digest of what `resize` does to pictures of noise: wide, tall, large."""
    noise = np.random.Generator(np.random.PCG64(0))
    probes = (noise.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in PROBES)
    return json_sha256([tensor_sha256(resize(Image.fromarray(probe))) for probe in probes])


def _sampled(count: int) -> list[int]:
    """The pictures by which a set of `count` is known."""
    return [0, count // 2, count - 1]


def _needs_work(images: Samples, resize: Prepare) -> bool:
    """Whether the set resizes every picture: one in memory at the right size only looks at the first of a batch."""
    if not len(images):
        return False
    resized = 0

    def count(image: Image.Image) -> Tensor:
        nonlocal resized
        resized += 1
        return resize(image)

    images.read([0, 0], count)
    return resized > 1


def _key(images: Samples, sample: Pixels, transform: str) -> str:
    """Name of a set's array; Pillow's version is in it because another may decode other pixels.

    So are the pixels of some pictures: the files of two data sets may have the same names and sizes.
    """
    known_by = tensor_sha256(torch.from_numpy(sample))
    return json_sha256([FORMAT, PIL.__version__, transform, images.version(), known_by])


def _open(path: Path, sample: Pixels, count: int) -> Pixels | None:
    """The array of a set of `count` pictures, None if there is none or if it is damaged."""
    try:
        pixels: Pixels = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):  # not whole, or no array
        log.warning("%s is damaged and made anew", path)
        return None
    whole = pixels.shape == (count, *sample.shape[1:]) and pixels.dtype == np.uint8
    if not whole or not np.array_equal(pixels[_sampled(count)], sample):
        log.warning("%s holds other pictures and is made anew", path)
        return None
    return np.asarray(pixels)


def _announce(sets: Sequence[Samples], resize: Prepare, folder: Path | None) -> None:
    """Says how much will be kept and where.

    Raises:
        StorageError: the disk has less room.
    """
    shapes = [(len(images), *_shape(images, resize)) for images in sets]
    count = sum(math.prod(shape[:-3]) for shape in shapes)
    size = sum(math.prod(shape) for shape in shapes)
    place = "memory" if folder is None else str(folder)
    log.info("caching %d pictures of %d x %d, %.0f MB in %s", count, *shapes[0][-2:], size / MEGABYTE, place)
    if folder is None:
        return
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise StorageError(
            f"paths.cache: {folder} has {free / MEGABYTE:.0f} MB of room, but the cached pictures take "
            f"{size / MEGABYTE:.0f} MB; make room, choose another paths.cache, or use data.cache=off"
        )


def _shape(images: Samples, resize: Prepare) -> tuple[int, ...]:
    return tuple(images.read([0], resize).images.shape[1:])


def _build(images: Samples, resize: Prepare, path: Path | None) -> Pixels:
    """Decodes a set into an array: in memory, or in a file that is written aside and then renamed.

    The file is written, not mapped, so that a full disk is an error and not the end of the process.
    """
    shape = (len(images), *_shape(images, resize))
    if path is None:
        pixels = np.empty(shape, dtype=np.uint8)
        start = 0
        for chunk in _decoded(images, resize):
            pixels[start : start + len(chunk)] = chunk
            start += len(chunk)
        return pixels
    remove_abandoned(path.parent, path.name)
    with replacing(path) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in _decoded(images, resize):
            file.write(chunk.data)
    return np.asarray(np.load(path, mmap_mode="r"))


def _decoded(images: Samples, resize: Prepare) -> Iterator[Pixels]:
    """The pictures in order, some at a time, decoded by as many threads as there are cores to use."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    said = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(images), CHUNK * threads):
            stop = min(start + CHUNK * threads, len(images))
            chunks = [range(first, min(first + CHUNK, stop)) for first in range(start, stop, CHUNK)]
            yield from pool.map(lambda chunk: images.read(chunk, resize).images.contiguous().numpy(), chunks)
            if time.monotonic() - said > PATIENCE:
                log.info("%d of %d pictures cached", stop, len(images))
                said = time.monotonic()
