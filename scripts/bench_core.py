"""What the core saves, side by side in one process: `python scripts/bench_core.py [--model ViT-B-16-quickgelu]`.

Text: features of class names by open_clip's own 77-token `encode_text`, and by our forward cropped to the longest name.
Evaluation: logits of batches with the text features computed for every batch, and once.
"""

from __future__ import annotations

import argparse
import logging

import torch
from side_by_side import seconds
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.data.drawing import shapes
from everclip.methods.zero_shot import ZeroShot
from everclip.types import ClassSet

log = logging.getLogger("bench_core")


def main() -> None:
    """Prints the times and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-16-quickgelu")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    log.setLevel(logging.INFO)

    backbone = OpenClip(model=options.model, weights="random")
    method = ZeroShot(backbone)
    method.frozen_texts = False  # what is timed is the pass, which would be remembered
    names = shapes.all_class_names()[: options.classes]
    classes = ClassSet(tuple(range(len(names))), names)
    prompts = classes.prompts(classes.templates[0])
    size = backbone.image_size
    images = torch.randn(options.batch_size, 3, size, size)

    @torch.no_grad()
    def whole() -> Tensor:
        return backbone.model.encode_text(backbone.tokenizer(prompts), normalize=True)

    @torch.no_grad()
    def cropped() -> Tensor:
        return method.encode_text(prompts)

    @torch.no_grad()
    def every_batch() -> None:
        for _ in range(options.batches):
            method.logits(images, classes)

    @torch.no_grad()
    def once() -> None:
        classify = method.classifier(classes)
        for _ in range(options.batches):
            classify(images)

    difference = float((whole() - cropped()).abs().max())
    log.info("%s, %d classes, %d threads", options.model, len(names), torch.get_num_threads())
    for title, slow, fast in (
        ("text, 77 tokens / cropped", whole, cropped),
        ("text per batch / once", every_batch, once),
    ):
        before, after = seconds(slow, options.repeats), seconds(fast, options.repeats)
        log.info("%-28s %7.3f s / %7.3f s = %5.1f x", title, before, after, before / after)
    log.info("largest difference of text features: %.1e", difference)


if __name__ == "__main__":
    main()
