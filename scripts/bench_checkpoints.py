"""Sizes of session checkpoints on a ViT-B/16 with random weights, and the seconds to write and read them."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

import torch

from everclip.backbones.open_clip import OpenClip
from everclip.methods.base import Method
from everclip.methods.cpe_clip import CpeClip
from everclip.methods.finetune import Finetune
from everclip.methods.ncm import Ncm
from everclip.training.checkpoint import Adapted, load_session, save_session
from everclip.types import ClassSet

log = logging.getLogger("bench")
CLASSES = ClassSet(tuple(range(100)), tuple(f"class {i}" for i in range(100)))


def adapted(method: Method) -> dict[str, torch.Tensor]:
    """What a session would have changed."""
    before = Adapted(method)
    if isinstance(method, Ncm):
        method.means.append(CLASSES, torch.randn(100, 512))
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.add_(1e-3)
    return before.tensors()


def main() -> None:
    """Prints one line per method: median of three."""
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    log.setLevel(logging.INFO)
    log.info("%-10s %12s %9s %9s", "method", "MB", "write s", "read s")
    with tempfile.TemporaryDirectory() as folder:
        for kind in (CpeClip, Finetune, Ncm):
            tensors = adapted(kind(OpenClip(model="ViT-B-16-quickgelu", weights="random")))
            path, written, read = Path(folder, "session_00.safetensors"), list[float](), list[float]()
            for _ in range(3):
                start = time.perf_counter()
                save_session(path, tensors, {"session": 0})
                middle = time.perf_counter()
                load_session(path)
                written.append(middle - start)
                read.append(time.perf_counter() - middle)
            size = path.stat().st_size / 1e6
            log.info("%-10s %12.3f %9.3f %9.3f", kind.__name__, size, sorted(written)[1], sorted(read)[1])


if __name__ == "__main__":
    main()
