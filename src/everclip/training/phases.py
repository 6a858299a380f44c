"""One phase of optimisation as a LightningModule, and the state from which it goes on at any step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol, Self

import lightning as L
import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from everclip.data.augment import Augmentation, RandomView
from everclip.data.loading import SeededBatches
from everclip.errors import ContractError, NotFiniteError
from everclip.methods.base import Method
from everclip.training.schedules import Schedule
from everclip.types import Batch, ParameterGroup, Phase, Session, View

MakeOptimizer = Callable[..., Optimizer]


@dataclass(frozen=True)
class Budget:
    """Length of a phase unless it says otherwise: passes, pictures per step, and a cap on steps (None: no cap)."""

    epochs: int
    batch_size: int
    max_steps: int | None = None
    gradient_clip: float | None = None


@dataclass(frozen=True)
class Length:
    """How long a phase lasts: passes, pictures per step, steps of a whole pass, steps in all."""

    epochs: int
    batch_size: int
    steps_per_epoch: int
    steps: int


@dataclass(frozen=True)
class Training:
    """How phases are optimised unless they say otherwise.

    Attributes:
        base: budget of session 0.
        later: budget of the other sessions.
        make_optimizer: from `parameter_groups` (and `lr=`) to an optimiser.
        schedule: of the learning rate.
        log_every: steps between logged losses.
        augmentation: of training pictures.
        views: different ones of each picture, which passes show in turn; None: another in every pass.
    """

    base: Budget
    later: Budget
    make_optimizer: MakeOptimizer
    schedule: Schedule
    log_every: int = 10
    augmentation: Augmentation = "none"
    views: int | None = None

    def view(self, size: int) -> View | None:
        """How pictures of the side `size` look in training; None: as in evaluation."""
        return None if self.augmentation == "none" else RandomView(self.augmentation, size)

    def budget(self, session: Session) -> Budget:
        """Length of a session's phases."""
        return self.base if session.is_base else self.later

    def repeats(self, session: Session) -> float:
        """How often a labelled picture of a session comes."""
        length = self.length(session)
        return min(length.epochs, length.steps * length.batch_size / max(len(session.train), 1))

    def length(self, session: Session, phase: Phase | None = None) -> Length:
        """How long a phase of a session lasts; None: one that says nothing of it."""
        budget, phase = self.budget(session), phase or Phase()
        samples = session.train if phase.data is None else phase.data
        epochs = budget.epochs if phase.epochs is None else phase.epochs
        batch_size = phase.batch_size or budget.batch_size
        steps_per_epoch = phase.draws.steps if phase.draws else math.ceil(len(samples) / batch_size)
        steps = epochs * steps_per_epoch
        return Length(epochs, batch_size, steps_per_epoch, min(steps, budget.max_steps or steps))


@dataclass(frozen=True)
class PhaseState:
    """Where a phase stands between two steps; parameters and buffers are the method's own business.

    Attributes:
        step: steps taken in this phase.
        tensors: of the optimiser, `<index of the parameter>/<name>`.
        facts: JSON-like: the optimiser's settings and numbers, the gradient scaler's.
    """

    step: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class Wish(IntEnum):
    """What is wished for after a step; of several wishes, the greatest counts."""

    NONE = 0
    SAVE = 1
    STOP = 2


class Watcher(Protocol):
    """What follows the steps of a phase."""

    @property
    def wish(self) -> Wish:
        """What this process wishes for; read in every step, all processes then do it after the same one."""

    def start(self, steps: int, steps_per_epoch: int) -> None:
        """Before the first step."""

    def ready(self) -> None:
        """Right before the first step, when everything around it is set up."""

    def after_step(self, losses: dict[str, float], lr: float, state: Callable[[], PhaseState], wish: Wish) -> None:
        """After every optimiser step.

        Args:
            losses: by name, means over the global batch.
            lr: the step's learning rate.
            state: gives what the phase needs to go on from here.
            wish: of all processes; to stop means to raise.
        """


class PhaseModule(L.LightningModule):
    """The only LightningModule: turns a method and a phase into optimiser steps.

    A phase is one Lightning epoch: passes over the data, schedules and places to go on from are functions of the step.

    Args:
        method: what is trained.
        phase: what to optimise.
        where: session and phase, for messages.
        training: optimiser, schedule, augmentation.
        batches: the stream of this process.
        schedule_length: positions of the schedule: steps, or epochs if it counts epochs.
        parts: micro-batches per step.
        watcher: follows the steps.
        resume: where to go on.
    """

    def __init__(
        self,
        method: Method,
        phase: Phase,
        where: str,
        *,
        training: Training,
        batches: SeededBatches,
        schedule_length: int,
        parts: int,
        watcher: Watcher,
        resume: PhaseState,
    ) -> None:
        super().__init__()
        self.method = method
        self.phase = phase
        self.step = resume.step
        self.moving = False  # the optimiser is at work: parameters may be half changed
        self._where = where
        self._training = training
        self._batches = batches
        self._schedule_length = schedule_length
        self._parts = parts
        self._watcher = watcher
        self._resume = resume
        self._trained: list[nn.Parameter] = []
        self._totals: dict[str, Tensor] = {}
        self._losses: dict[str, float] = {}
        self._wish = Wish.NONE

    def cpu(self) -> Self:
        """Stays where it is: Lightning would move it at the end, and nothing else asks."""
        return self

    def on_train_start(self) -> None:
        self._remember_lr()
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and "scaler" in self._resume.facts:
            scaler.load_state_dict(self._resume.facts["scaler"])

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        if batch_index == 0:
            self._watcher.ready()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        losses = (self.phase.loss or self.method.loss)(batch.with_images(self.method.backbone.normalize))
        total = added_up(losses, f"{type(self.method).__name__} in {self._where}")
        weight = self._batches.weight(batch_index)
        for name, loss in losses.items():
            share = loss.detach().float() * weight
            self._totals[name] = self._totals[name] + share if name in self._totals else share
        # Lightning divides by the number of micro-batches, the weight has done so already.
        return total * (weight * self._parts)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self._agree(optimizer)
        self.method.before_step()
        self.moving = True

    def _agree(self, optimizer: Optimizer) -> None:
        """Reads losses, finiteness and wishes from all processes at once: one synchronisation per step.

        A gradient scaler (fp16) expects infinite gradients now and then and skips such steps itself.

        Raises:
            NotFiniteError: on all processes, before the optimiser moves.
        """
        losses = torch.stack(list(self._totals.values()))
        own = self._watcher.wish
        wishes = losses.new_tensor([float(own >= Wish.SAVE), float(own >= Wish.STOP)])
        watched = [losses]
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            gradients = [p.grad for p in self._trained if p.grad is not None]
            watched.append(torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).sum(0, keepdim=True))
        told = torch.cat([*watched, wishes])
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(told)  # what is not finite on one process stays so in the sum
        *values, save, stop = told.tolist()
        bad = not all(map(math.isfinite, values))
        means = losses.tolist() if bad else [value / self.trainer.world_size for value in values[: len(losses)]]
        self._losses = dict(zip(self._totals, means, strict=True))
        self._totals, self._wish = {}, Wish((save > 0) + (stop > 0))
        if bad:
            shown = ", ".join(f"{name} {loss:.4g}" for name, loss in self._losses.items())
            raise NotFiniteError(
                f"a loss or gradient is not finite in {self._where}, step {self.step}: {shown}, "
                f"lr {optimizer.param_groups[0]['lr']:.3g}; lower optimizer.lr or use trainer.precision=32-true"
            )

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        if (batch_index + 1) % self._parts:
            return
        self.method.after_step()
        if self._batches.ends_pass(self.step):
            self.method.after_epoch()
        self.moving = False
        self.step += 1
        lr = self._lr
        self._remember_lr()
        self._watcher.after_step(self._losses, lr, self.state, self._wish)

    def _remember_lr(self) -> None:
        """Keeps the learning rate of the coming step: the schedule moves on before the step's end is told."""
        self._lr: float = self.trainer.optimizers[0].param_groups[0]["lr"]

    def state(self) -> PhaseState:
        """What the phase needs to go on from here."""
        content = self.trainer.optimizers[0].state_dict()
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, dict[str, Any]] = {}
        for index, entries in content["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"{index}/{name}"] = value
                else:
                    numbers.setdefault(str(index), {})[name] = value
        facts: dict[str, Any] = {"groups": content["param_groups"], "numbers": numbers}
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return PhaseState(self.step, tensors, facts | ({"scaler": scaler.state_dict()} if scaler is not None else {}))

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self.method.parameters() if self.phase.parameters is None else self.phase.parameters)
        self._trained = [parameter for group in groups for parameter in group["params"]]
        changed = {} if self.phase.lr is None else {"lr": self.phase.lr}
        optimizer = self._training.make_optimizer(groups, **changed)
        schedule, per_epoch = self._training.schedule, self._batches.steps_per_epoch
        unit = per_epoch if schedule.interval == "epoch" else 1
        scheduler = LambdaLR(optimizer, lambda step: schedule.factor(step // unit, self._schedule_length))
        if self._resume.step:
            _restore(optimizer, self._resume)
            scheduler.load_state_dict(scheduler.state_dict() | {"last_epoch": self.step, "_step_count": self.step + 1})
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def added_up(losses: Mapping[str, Tensor], who: str) -> Tensor:
    """The sum (scalar) of the named terms of a loss.

    Raises:
        ContractError: there is no term, one is no scalar, or none follows from what is trained.
    """
    for name, term in losses.items():
        if not isinstance(term, Tensor) or term.ndim:
            got = f"shape {tuple(term.shape)}" if isinstance(term, Tensor) else f"type {type(term).__name__}"
            raise ContractError(
                f"the loss {name} of {who} has {got}; a term is a tensor with one value and no dimension"
            )
    total = torch.stack(list(losses.values())).sum() if losses else torch.zeros(())
    if not total.requires_grad:
        raise ContractError(
            f"the loss of {who} ({', '.join(losses) or 'no term'}) follows from nothing that is trained"
        )
    return total


def parameter_groups(parameters: Iterable[nn.Parameter | ParameterGroup]) -> list[dict[str, Any]]:
    """What torch's optimisers get: parameters without a group together, then the groups, all without frozen ones."""
    parts = list(parameters)
    plain = ParameterGroup(tuple(part for part in parts if isinstance(part, nn.Parameter)))
    groups = []
    for group in (plain, *(part for part in parts if isinstance(part, ParameterGroup))):
        own = {"lr": group.lr, "weight_decay": group.weight_decay}
        trained = [parameter for parameter in group.parameters if parameter.requires_grad]
        groups.append({"params": trained} | {key: value for key, value in own.items() if value is not None})
    return [group for group in groups if group["params"]]


def _restore(optimizer: Optimizer, state: PhaseState) -> None:
    """Puts a saved state into a new optimiser of the same parameters."""
    entries: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in state.facts["numbers"].items()}
    for key, value in state.tensors.items():
        index, _, name = key.partition("/")
        entries.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": state.facts["groups"]})
