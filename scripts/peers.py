"""Other people's code for `bench_peers.py`, each as a step of its own training loop or as a whole run.

A checkout lies on `sys.path`; what it imports beside and does not need here is an empty stand-in, weights are random,
and everything is on the CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from side_by_side import Action, Endless, Stepped
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from everclip.data.drawing import shapes

SESSIONS, WAY = 3, 5
NAMES = shapes.all_class_names()[: SESSIONS * WAY]
TEXTS = 20  # that ZSCL's teacher reads
AS_TENSOR = [transforms.ToTensor(), transforms.Normalize((0.481, 0.458, 0.408), (0.269, 0.261, 0.276))]


@dataclass(frozen=True)
class Work:
    """What both sides do: pictures of `root/{train,test}/<class>/*`, `side` pixels wide, in batches."""

    root: Path
    side: int
    batch: int

    def draw(self, per_class: int) -> None:
        """Writes the pictures."""
        draws = np.random.default_rng(0)
        for part in ("train", "test"):
            for name in NAMES:
                (self.root / part / name).mkdir(parents=True)
                for number in range(per_class):
                    pixels = draws.integers(0, 256, (self.side, self.side, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(self.root / part / name / f"{number}.png")

    def loader(self, part: str, classes: range = range(len(NAMES)), *views: Any) -> DataLoader[Any]:
        """Batches of pictures and labels from 0, for peers without a reader of their own."""
        pictures = ImageFolder(
            str(self.root / part), transforms.Compose([*views, *AS_TENSOR]), target_transform=lambda y: y - classes[0]
        )
        rows = [row for row, label in enumerate(pictures.targets) if label in classes]
        return DataLoader(Subset(pictures, rows), self.batch)


def module(name: str) -> Any:
    """A module of a checkout."""
    return import_module(name)


def toolbox(name: str, work: Work, checkout: str) -> tuple[Any, Any, dict[str, Any]]:
    """Trainer, makers of its parts, and settings of a method of PILOT or C3Box."""
    timm, trainer = module("timm"), module("trainer")
    data_manager, factory = module("utils.data_manager"), module("utils.factory")

    plain, clip = timm.create_model, open_clip.create_model_and_transforms
    same = {"pretrained": False, "img_size": work.side}
    timm.create_model = lambda *parts, **options: plain(*parts, **(options | same))
    open_clip.create_model_and_transforms = lambda model, **_: clip(model, force_image_size=work.side)
    data = SimpleNamespace(use_path=True, train_trsf=[], test_trsf=[], common_trsf=AS_TENSOR)
    data.download_data, data.class_order = lambda: None, list(range(len(NAMES)))
    for part in ("train", "test"):
        paths, labels = zip(*ImageFolder(str(work.root / part)).samples, strict=True)
        setattr(data, f"{part}_data", np.array(paths))
        setattr(data, f"{part}_targets", np.array(labels))
    data_manager._get_idata = lambda *_: data
    cpu = [torch.device("cpu")]
    trainer._set_device = lambda args: args.update(device=cpu)
    args = json.loads(Path(checkout, "exps", f"{name}.json").read_text())
    args |= {"shuffle": False, "init_cls": WAY, "increment": WAY, "batch_size": work.batch, "seed": 0, "device": cpu}
    if name == "coda_prompt":  # adds to a leaf where nothing moves to a GPU
        tower = module("backbone.vit_coda_promtpt")
        tower.torch = SimpleNamespace(**(vars(torch) | {"zeros": lambda *size, **_: torch.zeros(*size)}))
    args |= {"tuned_epoch": 2 if name == "coda_prompt" else 1, "dataset": "flowers"}  # CODA's schedule needs two
    return trainer, SimpleNamespace(data=data_manager.DataManager, model=factory.get_model), args


def toolbox_steps(name: str, work: Work, checkout: str) -> Action:
    """Steps in PILOT's first session."""
    _, make, args = toolbox(name, work, checkout)
    manager = make.data("flowers", False, 0, WAY, WAY, args)
    learner = make.model(name, args | {"nb_classes": len(NAMES), "nb_tasks": SESSIONS})
    learner._cur_task, learner._known_classes, learner._total_classes = 0, 0, WAY
    shown = DataLoader(manager.get_dataset(np.arange(WAY), source="train", mode="train"), work.batch, shuffle=True)
    return Stepped(lambda pause: learner._train(Endless(shown, pause), None))


def toolbox_run(name: str, work: Work, checkout: str) -> Action:
    """A whole run of PILOT or C3Box."""
    trainer, _, args = toolbox(name, work, checkout)
    return lambda: trainer._train(dict(args))


def er(work: Work, checkout: str) -> Action:
    """Mammoth's steps on ten classes, five of them in the buffer."""
    sys.modules["datasets"] = MagicMock()  # would fetch weights
    models = module("models.er")

    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip = open_clip.create_model("ViT-B-16", force_image_size=work.side)
            self.texts = open_clip.tokenize([f"a photo of a {name}." for name in NAMES[: 2 * WAY]])

        def forward(self, images: Tensor) -> Tensor:
            shown, texts, scale = self.clip(images, self.texts)
            return scale * shown @ texts.T

    args = argparse.Namespace(optimizer="adamw", lr=1e-5, optim_wd=0.0, label_perc=1, buffer_size=2000)
    args.minibatch_size = work.batch
    facts = MagicMock(N_CLASSES=2 * WAY, N_TASKS=2, N_CLASSES_PER_TASK=WAY)
    model = models.Er(Towers(), F.cross_entropy, args, None, facts)
    for images, labels in work.loader("train", range(WAY)):
        model.buffer.add_data(examples=images, labels=labels)

    def loop(pause: Action) -> None:
        for images, labels in Endless(work.loader("train", range(WAY, 2 * WAY)), pause):
            model.observe(images, labels + WAY, images)

    return Stepped(loop)


def openai_clip(model: Any, side: int) -> Any:
    """OpenAI's model as several peers bring it."""
    return model.CLIP(512, side, 12, 768, 16, 77, 49408, 512, 8, 12).float().eval()


def coop(work: Work, checkout: str) -> Action:
    """CoOp's steps, as its trainer takes them."""
    sys.modules.update({f"dassl{part}": MagicMock() for part in ("", ".engine", ".metrics", ".utils", ".optim")})
    model, trainer = module("clip.model"), module("trainers.coop")

    options = SimpleNamespace(N_CTX=16, CTX_INIT="", CSC=False, CLASS_TOKEN_POSITION="end")
    config = SimpleNamespace(TRAINER=SimpleNamespace(COOP=options), INPUT=SimpleNamespace(SIZE=[work.side]))
    learner = trainer.CustomCLIP(config, NAMES[:WAY], openai_clip(model, work.side))
    for name, parameter in learner.named_parameters():
        parameter.requires_grad_("prompt_learner" in name)
    optimizer = torch.optim.SGD(learner.prompt_learner.parameters(), 0.002, momentum=0.9, weight_decay=5e-4)

    def loop(pause: Action) -> None:
        for images, labels in Endless(work.loader("train", range(WAY)), pause):
            loss = F.cross_entropy(learner(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return Stepped(loop)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Percent; Tip-Adapter's own does not run with NumPy 2.4."""
    return 100 * logits.topk(1).indices[:, 0].eq(labels).sum().item() / len(labels)


def tip(form: str, work: Work, checkout: str) -> Action:
    """Tip-Adapter's whole run on one session, or steps of its trained form."""
    sys.modules.update({name: MagicMock() for name in ("datasets", "datasets.utils")})
    official, model = module("main"), module("clip.model")

    official.cls_acc = module("utils").cls_acc = accuracy
    config = {
        "init_beta": 1.0, "init_alpha": 1.17, "search_hp": True, "search_scale": [7, 3], "search_step": [200, 20],
        "augment_epoch": 10, "lr": 1e-3, "train_epoch": 100_000, "shots": 0, "cache_dir": str(work.root),
        "load_cache": False, "load_pre_feat": False,
    }  # fmt: skip
    views = transforms.RandomResizedCrop(work.side, (0.5, 1.0), interpolation=transforms.InterpolationMode.BICUBIC)

    def prepare(classes: range) -> tuple[Any, ...]:
        clip = openai_clip(model, work.side)
        texts = official.clip_classifier(NAMES[: len(classes)], ["a photo of a {}."], clip)
        cache = official.build_cache_model(config, clip, work.loader("train", classes, views))
        shown = official.pre_load_features(config, "test", clip, work.loader("test", classes))
        return clip, [config, *cache, *shown, *shown, texts]

    def steps(pause: Action) -> None:
        clip, given = prepare(range(WAY))
        official.run_tip_adapter_F(*given, clip, Endless(work.loader("train", range(WAY)), pause))

    if form == "steps":
        return Stepped(steps)
    return lambda: official.run_tip_adapter(*prepare(range(len(NAMES)))[1])


def zscl(work: Work, checkout: str) -> Action:
    """ZSCL's steps on several domains, with its pictures as reference too."""
    sys.modules.update({f"src.{part}": MagicMock() for part in ("datasets", "datasets.common", "templates")})
    clip, model = module("clip.clip"), module("clip.model")
    finetune = module("src.models.finetune")

    clip.load = lambda *_, **options: (openai_clip(model, work.side), None, None)
    settings = {
        "train_mode": "whole", "lr": 1e-5, "ls": 0.2, "iterations": 100_000, "method": "ZSCL", "image_loss": True,
        "text_loss": True, "we": True, "avg_freq": 100, "l2": 1, "train_dataset": "Given", "ref_dataset": "Others",
        "loss_interval": 1, "batch_size": work.batch, "T": 2.0, "warmup_length": 100, "wd": 0.0, "beta2": 0.999,
    }  # fmt: skip
    args = MagicMock(**settings)
    off = (
        "load", "we_wise", "wise_merge", "moving_avg", "template", "epochs", "eval_every_epoch", "eval_interval",
        "ref_model", "ref_wise", "text_datasets", "ref_sentences", "feature_mse", "weight_adjust", "save",
        "ablation_loss_2",
    )  # fmt: skip
    for name in off:
        setattr(args, name, None)

    def loop(pause: Action) -> None:
        def given(batches: Any, names: tuple[str, ...]) -> Any:
            return lambda *_, **__: SimpleNamespace(
                train_loader=batches, classnames=names, template="a photo of a {}.".format
            )

        own = Endless(work.loader("train", range(WAY)), pause)
        finetune.datasets.Given = given(own, NAMES[:WAY])
        finetune.datasets.Others = given(work.loader("train"), shapes.all_class_names()[:TEXTS])
        finetune.finetune(args)

    return Stepped(loop)


# What there is of each.
PEERS: dict[str, dict[str, Callable[[Work, str], Action]]] = {
    "pilot": {
        "L2P, step": partial(toolbox_steps, "l2p"),
        "CODA-Prompt, step": partial(toolbox_steps, "coda_prompt"),
        "L2P, run": partial(toolbox_run, "l2p"),
        "CODA-Prompt, run": partial(toolbox_run, "coda_prompt"),
        "SimpleCIL, run": partial(toolbox_run, "simplecil"),
    },
    "c3box": {"SimpleCIL, run": partial(toolbox_run, "simplecil"), "zero-shot, run": partial(toolbox_run, "zs_clip")},
    "mammoth": {"ER, step": er},
    "coop": {"CoOp, step": coop},
    "tip": {"Tip-Adapter-F, step": partial(tip, "steps"), "Tip-Adapter, run": partial(tip, "run")},
    "zscl": {"ZSCL, step": zscl},
}
