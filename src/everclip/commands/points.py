"""Losses of a stored model: on test tasks, and on fixed training pictures, which may be derived."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.commands.line import layer_of
from everclip.errors import ConfigError
from everclip.losses.sharpness import Loss, average_sharpness, worst_sharpness
from everclip.methods.base import Method
from everclip.training.engine import Engine
from everclip.training.evaluation import Evaluated
from everclip.types import NO_CLASS, ClassSet, TaskSequence

BATCH = 128
RADIUS = {"average": 0.1, "worst": 1e-3}  # of the grids for vision transformers in arXiv 2302.07011


def choose(sequence: TaskSequence, session: int, count: int, seed: int) -> list[tuple[int, list[int]]]:
    """Session and positions of training pictures up to a session, drawn without regard to sessions.

    Raises:
        ConfigError: the sequence has no class labels.
    """
    trained = sequence.sessions[: session + 1]
    places = [(s.index, p) for s in trained for p, label in enumerate(s.train.labels.tolist()) if label != NO_CLASS]
    if not places:
        raise ConfigError(f"{sequence.name} has no class labels to measure losses by; --points 0 leaves them out")
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    chosen: dict[int, list[int]] = {}
    for index in order:
        chosen.setdefault(places[index][0], []).append(places[index][1])
    return list(chosen.items())


def losses_on_points(
    method: Method, sequence: TaskSequence, session: int, count: int, *, seed: int = 0, normalize: bool = False
) -> list[Loss]:
    """Cross-entropies among all classes seen, one per batch of training pictures.

    Args:
        method: on its device.
        sequence: of the pictures.
        session: up to which.
        count: pictures; 0: no losses.
        seed: of their choice.
        normalize: of logits of mean 0 and length 1, as otherwise the scale of the logits matters most.
    """
    backbone, classes = method.backbone, ClassSet.union(sequence.seen(session))
    if not count:
        return []
    chosen = choose(sequence, session, count, seed)
    read = [sequence.sessions[index].train.read(positions, backbone.resize) for index, positions in chosen]
    images = torch.cat([batch.images for batch in read]).split(BATCH)
    labels = torch.cat([batch.labels for batch in read]).split(BATCH)
    return [partial(_loss, method, *batch, classes, normalize) for batch in zip(images, labels, strict=True)]


def _loss(method: Method, images: Tensor, labels: Tensor, classes: ClassSet, normalize: bool) -> Tensor:
    device = method.backbone.device
    logits = method.logits(method.backbone.normalize(images.to(device)), classes)
    if normalize:
        logits = F.normalize(logits - logits.mean(dim=-1, keepdim=True), dim=-1)
    return F.cross_entropy(logits, classes.columns(labels.to(device)))


def task_losses(
    engine: Engine, method: Method, sequence: TaskSequence, tasks: Sequence[int], session: int
) -> dict[int, float]:
    """The loss on each of the tasks, by task index, where its evaluator has one."""
    passes, model, seen = engine.passes(method), Evaluated(method), sequence.seen(session)
    with torch.no_grad(), engine.inference():
        pairs = ((task, sequence.tasks[task]) for task in tasks)
        losses = {index: task.evaluator.loss(model, task, passes, seen) for index, task in pairs}
    return {index: loss for index, loss in losses.items() if loss is not None}


def sharpness_of(
    method: Method, losses: Sequence[Loss], kind: str, radius: float | None, steps: int
) -> tuple[float | None, dict[str, float]]:
    """Sharpness over all weights, and of each layer where its weights alone are moved; nothing without losses.

    Args:
        method: whose weights are moved and put back.
        losses: of it.
        kind: `average`, over as many draws as `steps`, or `worst`, after as many.
        radius: None: the kind's own in `RADIUS`.
        steps: per batch.
    """
    if not losses:
        return None, {}
    layers: dict[str, list[Tensor]] = {}
    for name, weight in method.named_parameters():
        layers.setdefault(layer_of(name), []).append(weight)
    rho = RADIUS[kind] if radius is None else radius

    def measure(weights: Sequence[Tensor]) -> float:
        if kind == "average":
            return average_sharpness(losses, weights, rho, steps, seed=0)
        with derived(weights):
            return worst_sharpness(losses, weights, rho, steps)

    return measure(list(method.parameters())), {layer: measure(weights) for layer, weights in layers.items()}


@contextmanager
def derived(weights: Sequence[Tensor]) -> Iterator[None]:
    """Lets frozen weights require gradients for a while."""
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
