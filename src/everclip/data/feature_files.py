"""Features of pictures kept on disk for later runs: a folder of one file per set, of bounded size."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from everclip.digest import tensor_sha256
from everclip.errors import StorageError
from everclip.storage import remove_abandoned, write_bytes

log = logging.getLogger("everclip")

GIGABYTE = 1_000_000_000


class FeatureFiles:
    """Features by the key of what they follow from; the files used longest ago go when there are too many.

    Runs may share the folder: a file is renamed into its place when it is whole, and one that is gone or damaged is
    only made anew.

    Args:
        folder: made when the first features are kept.
        limit: bytes that the files may take together.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit

    def load(self, key: str, count: int) -> Tensor | None:
        """Features (count, D) that are kept; None where there are none, or where the file is damaged."""
        path = self._folder / f"{key}.safetensors"
        try:
            with safe_open(path, "pt") as file:
                features, digest = file.get_tensor("features"), (file.metadata() or {}).get("sha256")
            if len(features) != count or tensor_sha256(features) != digest:
                raise SafetensorError("other content than when it was written")
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            log.warning("%s is damaged and made anew: %s", path, error)
            return None
        with suppress(OSError):  # of another user
            os.utime(path)
        return features

    def keep(self, key: str, features: Tensor) -> None:
        """Writes features (N, D), if they are finite and there is room; a cache stops no run."""
        size = features.nbytes
        if size > self._limit or not bool(features.isfinite().all()):
            return
        if not self._folder.is_dir():
            log.info("keeping image features in %s, up to %.1f GB", self._folder, self._limit / GIGABYTE)
        content = save({"features": features.contiguous()}, {"sha256": tensor_sha256(features)})
        try:
            self._make_room(len(content))
            write_bytes(self._folder / f"{key}.safetensors", content)
        except StorageError as error:
            log.warning("image features are not kept: %s", error)

    def _make_room(self, size: int) -> None:
        """Deletes what killed runs have left, and the files used longest ago until one of `size` bytes fits."""
        remove_abandoned(self._folder)
        files = []
        for path in self._folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):  # another run makes room too
                files.append((path.stat().st_mtime, path.stat().st_size, path))
        used = sum(taken for _, taken, _ in files)
        for _, taken, path in sorted(files):
            if used + size <= self._limit:
                return
            with suppress(OSError):
                path.unlink(missing_ok=True)
                used -= taken
