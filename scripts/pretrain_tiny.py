"""Remakes the weights of `backbone=tiny` from a seed: `python scripts/pretrain_tiny.py` (15-30 minutes on 2 cores).

Contrastive learning of pictures and captions of the 380 attribute combinations that no embedded sequence contains, in
the rendering style "cards". Captions name two or three of a picture's attributes, so a caption may fit several pictures
of a batch: the target of each row is uniform over all that fit.
"""

from __future__ import annotations

import argparse
import logging
import platform
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbones import embedded
from everclip.backbones.open_clip import OpenClip
from everclip.data.drawing import shapes

MODEL = "everclip-tiny"
TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "{}.", "a {}.", "this is a {}.", "a drawing of a {}.")
IMAGES_PER_CLASS = 120
log = logging.getLogger("pretrain_tiny")


def make_images(names: tuple[str, ...], seed: int) -> Tensor:
    """(classes, IMAGES_PER_CLASS, 3, 32, 32) uint8 in the style "cards"."""
    style = shapes.STYLES["cards"]
    pictures = [shapes.render(name, IMAGES_PER_CLASS, seed=seed, split=0, style=style) for name in names]
    return torch.from_numpy(np.stack(pictures)).permute(0, 1, 4, 2, 3)


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Moves the batch by up to 2 pixels with replicated borders."""
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
    row, column = torch.randint(0, 5, (2,), generator=generator).tolist()
    return padded[..., row : row + shapes.SIZE, column : column + shapes.SIZE]


def make_caption(name: str, generator: torch.Generator) -> tuple[str, tuple[str | None, ...]]:
    """A random caption and the attributes it names (None for one left out)."""
    attributes: list[str | None] = list(name.split())
    if torch.rand((), generator=generator) < 0.3:
        attributes[int(torch.randint(0, 2, (), generator=generator))] = None
    template = TEMPLATES[int(torch.randint(0, len(TEMPLATES), (), generator=generator))]
    return template.format(" ".join(word for word in attributes if word)), tuple(attributes)


def fits(captions: list[tuple[str | None, ...]], names: list[str]) -> Tensor:
    """(captions, pictures) 1 where every attribute of the caption is the picture's."""
    rows = [[all(a in (None, b) for a, b in zip(c, n.split(), strict=True)) for n in names] for c in captions]
    return torch.tensor(rows, dtype=torch.float32)


def main() -> None:
    """Trains and writes the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch-size", type=int, default=192)
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    start = time.monotonic()

    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    names = shapes.all_class_names()[shapes.PRETRAINING_CLASSES]
    images = make_images(names, options.seed)
    backbone = OpenClip(model=MODEL, weights="random").requires_grad_(True)
    with torch.no_grad():
        embedding = backbone.model.token_embedding.weight
        embedding.copy_(embedded.initial_embedding(*embedding.shape))
    decayed = [p for p in backbone.parameters() if p.ndim >= 2 and p is not embedding]
    others = [p for p in backbone.parameters() if p.ndim < 2 or p is embedding]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.steps, pct_start=0.05)

    used = {0}
    for step in range(options.steps):
        classes = torch.randint(0, len(names), (options.batch_size,), generator=generator)
        picks = torch.randint(0, IMAGES_PER_CLASS, (options.batch_size,), generator=generator)
        batch_names = [names[i] for i in classes]
        captions = [make_caption(name, generator) for name in batch_names]
        tokens = backbone.tokenize([caption for caption, _ in captions])
        used.update(tokens.unique().tolist())
        image_features = backbone.encode_image(backbone.normalize(shift(images[classes, picks], generator)))
        text_features = backbone.encode_text(tokens)
        target = fits([attributes for _, attributes in captions], batch_names)
        logits = backbone.logit_scale.clamp(max=100) * text_features @ image_features.T
        loss = F.cross_entropy(logits, target / target.sum(1, keepdim=True)) / 2
        loss = loss + F.cross_entropy(logits.T, (target / target.sum(0, keepdim=True)).T) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 100 == 0 or step == options.steps - 1:
            log.info("step %d of %d, loss %.3f, %.0f s", step, options.steps, loss.item(), time.monotonic() - start)

    made_by = {
        "script": "scripts/pretrain_tiny.py",
        "options": " ".join(f"{key}={value}" for key, value in sorted(vars(options).items())),
        "shapes_version": str(shapes.VERSION),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "seconds": f"{time.monotonic() - start:.0f}",
    }
    embedded.save_weights(MODEL, backbone.model.state_dict(), torch.tensor(sorted(used)), made_by)
    size = Path(embedded.weights_path(MODEL)).stat().st_size
    log.info("%s: %.2f MB, made in %s s", embedded.weights_path(MODEL).name, size / 1e6, made_by["seconds"])


if __name__ == "__main__":
    main()
