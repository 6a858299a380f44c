"""CPE-CLIP's steps in the official code's form (naive) and in ours, side by side, a process per case.

    python scripts/bench_cpe_clip.py [--device cuda] [--official CHECKOUT] [--threads 1]

ViT-B/16 with random weights and random pictures. Naive (`method.exact_naive=true`): all seen classes pass the text
tower in every step, padded to the longest name; masks and attention weights are materialised; one projected copy of the
prompts per picture. A step is forward pass, backward pass, balance factor and SGD. Subjects take turns; times are
medians. `CPU s` is the time spent on processors, which other load disturbs less than the clock (with --threads 1).
Memory is the peak of a step above what the models hold: of the GPU's allocator, or of the process's resident set.
The last columns are ratios to the first subject: naive / ours in time, ours / naive in FLOPs and memory.
`--official` times neuraptic/cpe-clip the same way (needs transformers 4.26, with which that code was written).
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from side_by_side import Action, in_turns, peak_memory
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from everclip.backbones.base import Backbone
from everclip.backbones.open_clip import END_OF_TEXT, OpenClip
from everclip.data.datasets.base import split_lines
from everclip.data.drawing import shapes
from everclip.methods.cpe_clip import CpeClip
from everclip.types import Batch, ClassSet, Session

log = logging.getLogger("bench_cpe_clip")
EVAL_BATCH = 64  # the official code's


@dataclass(frozen=True)
class Case:
    """A step in a session, or an evaluation pass over `pictures` if `new` is 0."""

    title: str
    seen: int
    new: int
    pictures: int


def cases(eval_images: int) -> list[Case]:
    """What is measured."""
    return [
        Case("base session, 60 classes, batch 4", 60, 60, 4),
        Case("base session, 60 classes, batch 32", 60, 60, 32),
        Case("last CIFAR100 session, 100 classes, batch 4", 100, 5, 4),
        Case("last CUB200 session, 200 classes, batch 4", 200, 10, 4),
        Case(f"evaluation, 200 classes, {eval_images} pictures", 200, 0, eval_images),
    ]


def class_names(count: int) -> tuple[str, ...]:
    """Names about as long as the benchmark's: CUB's published later hundred, twice, where there are 200."""
    if count <= 100:
        return shapes.all_class_names()[:count]
    lines = [line for number in range(2, 12) for line in split_lines("cub200", f"session_{number}.txt")]
    folders = dict.fromkeys(line.split("/")[-2] for line in lines)
    return tuple(folder.partition(".")[2].replace("_", " ") for folder in folders) * 2


class Everclip:
    """Our method, in either form."""

    def __init__(self, backbone: Backbone, naive: bool) -> None:
        torch.manual_seed(0)
        self.naive, self.backbone = naive, backbone
        self.method = CpeClip(backbone, exact_naive=naive).to(backbone.device)

    def action(self, case: Case, images: Tensor) -> Action:
        """One measured call."""
        names = class_names(case.seen)
        seen = ClassSet(tuple(range(case.seen)), names)
        new = seen.select(range(case.seen - case.new, case.seen))
        labels = (case.seen - max(case.new, 1) + torch.arange(len(images)) % max(case.new, 1)).to(images.device)
        method, batch = self.method, Batch(images, labels, torch.arange(len(images)))

        @torch.no_grad()
        def evaluate() -> None:
            self.backbone.naive = self.naive
            classify = (lambda part: method.logits(part, seen)) if self.naive else method.classifier(seen)
            for part in images.split(EVAL_BATCH):
                classify(part)

        if not case.new:
            return evaluate
        session = Session(int(case.new < case.seen), "session", new, seen, None)  # type: ignore[arg-type]  # no pictures
        method.begin_session(session, None)  # type: ignore[arg-type]  # extracts nothing
        trained = [p for p in method.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.001, momentum=0.9, weight_decay=1e-5)

        def step() -> None:
            self.backbone.naive = self.naive
            optimizer.zero_grad()
            method.loss(batch)["cross_entropy"].backward()
            method.before_step()
            optimizer.step()

        return step


class Official:
    """The official model with random weights, driven as `CLIPPE` drives it."""

    def __init__(self, checkout: str, backbone: Backbone) -> None:
        sys.path.insert(0, checkout)
        from transformers import CLIPConfig, CLIPModel

        vision = {"hidden_size": 768, "patch_size": 16, "num_attention_heads": 12, "intermediate_size": 3072}
        config = CLIPConfig(vision_config=vision)
        CLIPModel.from_pretrained = classmethod(lambda cls, name: cls(config))
        from CoLeLib.models import CLIPParameterEfficient

        self.backbone = backbone
        self.model: Any = CLIPParameterEfficient(2, 12, "replace", "accumulate").to(backbone.device)

    def action(self, case: Case, images: Tensor) -> Action:
        """One measured call."""
        device, old = str(images.device), case.seen - case.new
        tokens = self.backbone.tokenize([f"{name}." for name in class_names(case.seen)]).to(device)
        ends, positions = tokens.argmax(dim=1, keepdim=True), torch.arange(tokens.shape[1], device=device)
        mask = (positions <= ends).long()
        tokens = tokens.masked_fill(mask == 0, END_OF_TEXT)
        labels = (old + torch.arange(len(images)) % max(case.new, 1)).to(device)

        @torch.no_grad()
        def evaluate() -> None:
            for part in images.split(EVAL_BATCH):
                self.model(part, tokens, mask, device)

        if not case.new:
            return evaluate
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.001, momentum=0.9, weight_decay=1e-5)

        def step() -> None:
            logits = self.model(images, tokens, mask, device)
            logits[:, :old] = -9999
            F.cross_entropy(logits, labels).backward()
            if old:
                for parameter in trained:
                    parameter.grad *= case.new / case.seen
            optimizer.step()
            optimizer.zero_grad()

        return step


def measure(subjects: dict[str, Any], case: Case, repeats: int, autocast: Any, *, memory_too: bool) -> None:
    """Prints one line per subject."""
    device: torch.device = next(iter(subjects.values())).backbone.device
    images = torch.randn(case.pictures, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)
    actions = {name: subject.action(case, images) for name, subject in subjects.items()}
    flops, memory = {}, {}
    with autocast:
        for name, action in actions.items():  # warms up, too
            with FlopCounterMode(display=False) as counter:
                action()
            flops[name] = counter.get_total_flops()
        for name, action in actions.items():
            memory[name] = peak_memory(action, device.type) if memory_too else math.nan
        times = in_turns(actions, repeats)
    log.info("%s\n| subject | s | CPU s | GFLOP | MB | TFLOP/s | speed | CPU | FLOP | memory |", case.title)
    reference: list[float] = []
    for name in actions:
        wall, cpu = (statistics.median(column) for column in zip(*times[name], strict=True))
        row = [wall, cpu, flops[name] / 1e9, memory[name]]
        reference = reference or row
        ratios = [reference[0] / wall, reference[1] / cpu, row[2] / reference[2], row[3] / reference[3]]
        values = [f"{value:.3f}" for value in (*row, row[2] / wall / 1e3)] + [f"{ratio:.2f}" for ratio in ratios]
        log.info("| %s | %s |", name, " | ".join(values))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--official", metavar="DIR", help="a checkout of neuraptic/cpe-clip")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--eval-images", type=int, help="default: 256 on a GPU, 64 elsewhere")
    parser.add_argument("--no-memory", action="store_true", help="leave out the pass that measures it")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these cases, counted from 0")
    options = parser.parse_args()
    if options.only is None:  # a process for each: memory that an earlier case has freed would hide the peak
        for number in range(5):
            subprocess.run([sys.executable, *sys.argv, "--only", str(number)], check=True)
        return
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    log.setLevel(logging.INFO)
    torch.set_num_threads(options.threads)

    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random").to(options.device)
    subjects: dict[str, Any] = {"naive": Everclip(backbone, True), "ours": Everclip(backbone, False)}
    if options.official:
        subjects["official"] = Official(options.official, backbone)
    eval_images = options.eval_images or (256 if options.device == "cuda" else 64)
    log.info("%s, %s, %d threads", options.device, options.precision, options.threads)
    autocast = torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16")
    for number in options.only:
        case = cases(eval_images)[number]
        measure(subjects, case, options.repeats, autocast, memory_too=not options.no_memory)


if __name__ == "__main__":
    main()
