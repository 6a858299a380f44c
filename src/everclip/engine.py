"""Runs phases, feature passes and forward passes on the right device, in the right precision, on every process."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import lightning as L
import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from everclip.data.loading import OrderedBatches, SeededBatches, make_loader
from everclip.errors import ConfigError, NotFiniteError
from everclip.methods.base import Method
from everclip.schedules import Schedule
from everclip.types import Batch, ImageSet, Phase, Session

MakeOptimizer = Callable[..., Optimizer]


@dataclass(frozen=True)
class Budget:
    """Length of a phase unless it says otherwise: passes, pictures per step, and a cap on steps (None: no cap)."""

    epochs: int
    batch_size: int
    max_steps: int | None = None
    gradient_clip: float | None = None


@dataclass(frozen=True)
class Training:
    """How phases are optimised unless they say otherwise.

    Attributes:
        base: budget of session 0.
        later: budget of the other sessions.
        make_optimizer: from parameters (and `lr=`) to an optimiser.
        schedule: of the learning rate.
        log_every: steps between logged losses.
    """

    base: Budget
    later: Budget
    make_optimizer: MakeOptimizer
    schedule: Schedule
    log_every: int = 10


class Watcher(Protocol):
    """What follows the steps of a phase."""

    def start(self, steps: int, steps_per_epoch: int) -> None:
        """Before the first step."""

    def after_step(self, losses: dict[str, Tensor], lr: float) -> None:
        """After every optimiser step, with its named losses and learning rate."""


class PhaseModule(L.LightningModule):
    """The only LightningModule: turns a method and a phase into optimiser steps."""

    def __init__(
        self,
        method: Method,
        phase: Phase,
        where: str,
        training: Training,
        batches: SeededBatches,
        lengths: dict[str, int],
        watcher: Watcher,
    ) -> None:
        super().__init__()
        self.method = method
        self.phase = phase
        self._where = where
        self._training = training
        self._batches = batches
        self._lengths = lengths
        self._watcher = watcher
        self._losses: dict[str, Tensor] = {}

    def parameters_to_train(self) -> list[nn.Parameter]:
        """What the optimiser gets."""
        chosen = self.phase.parameters
        return [p for p in (self.method.parameters() if chosen is None else chosen) if p.requires_grad]

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        prepared = replace(batch, images=self.method.backbone.normalize(batch.images))
        losses = (self.phase.loss or self.method.loss)(prepared)
        self._losses = {name: loss.detach() for name, loss in losses.items()}
        return torch.stack(list(losses.values())).sum() * self._batches.weight(batch_index)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self._check_finite(optimizer)
        self.method.before_step()

    def _check_finite(self, optimizer: Optimizer) -> None:
        """Stops before the optimiser moves if a loss or a gradient is not finite (one synchronisation per step).

        A gradient scaler (fp16) expects infinite gradients now and then and skips such steps itself.
        """
        values = list(self._losses.values())
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            gradients = [p.grad for p in self.parameters_to_train() if p.grad is not None]
            values += torch._foreach_norm(gradients)
        if not bool(torch.stack([value.float() for value in values]).isfinite().all()):
            losses = ", ".join(f"{name} {float(loss):.4g}" for name, loss in self._losses.items())
            raise NotFiniteError(
                f"a loss or gradient is not finite in {self._where}, step {self.trainer.global_step}: {losses}, "
                f"lr {optimizer.param_groups[0]['lr']:.3g}; lower optimizer.lr or use trainer.precision=32-true"
            )

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        self.method.after_step()
        self._watcher.after_step(self._losses, self._lr)

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        self._lr = self.trainer.optimizers[0].param_groups[0]["lr"]

    def configure_optimizers(self) -> Any:
        changed = {} if self.phase.lr is None else {"lr": self.phase.lr}
        optimizer = self._training.make_optimizer(self.parameters_to_train(), **changed)
        schedule = self._training.schedule
        length = self._lengths[schedule.interval]
        scheduler = LambdaLR(optimizer, lambda position: schedule.factor(position, length))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": schedule.interval}}


class Engine:
    """Device, precision and processes of a run.

    Args:
        accelerator: `auto`, `cpu`, `gpu`, as in Lightning.
        devices: how many (or which) per node.
        num_nodes: machines.
        strategy: as in Lightning.
        precision: as in Lightning, or `auto`: bfloat16 mixed precision on a GPU that has it, float32 elsewhere.
        num_workers: loader processes.
        eval_batch_size: pictures per forward pass without gradients.
        seed: of the order of batches.

    Raises:
        ConfigError: a device that this machine does not have.
    """

    def __init__(
        self,
        *,
        accelerator: str = "auto",
        devices: Any = 1,
        num_nodes: int = 1,
        strategy: str = "auto",
        precision: str = "auto",
        num_workers: int = 0,
        eval_batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        if precision == "auto":
            on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
            precision = "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
        self.precision = precision
        self._settings: dict[str, Any] = {
            "accelerator": accelerator,
            "devices": devices,
            "num_nodes": num_nodes,
            "strategy": strategy,
            "precision": precision,
        }
        try:
            self._fabric = Fabric(**self._settings)
            self._fabric.launch()
        except (RuntimeError, ValueError, TypeError, MisconfigurationException) as error:
            raise ConfigError(f"trainer.accelerator={accelerator} trainer.devices={devices}: {error}") from error
        self.device = self._fabric.device
        self.rank = self._fabric.global_rank
        self.world_size = self._fabric.world_size
        if isinstance(devices, int) and devices > 0 and self.world_size != devices * num_nodes:
            raise ConfigError(f"{devices} devices on {num_nodes} nodes were asked for, {self.world_size} processes run")
        self._num_workers = num_workers
        self._eval_batch_size = eval_batch_size
        self._seed = seed

    def fit(
        self, method: Method, session: Session, phase: Phase, number: int, training: Training, watcher: Watcher
    ) -> None:
        """Optimises phase `number` of a session with a fresh Trainer."""
        budget = training.base if session.is_base else training.later
        images = session.train if phase.data is None else phase.data
        epochs = budget.epochs if phase.epochs is None else phase.epochs
        batch_size = phase.batch_size or budget.batch_size
        steps_per_epoch = math.ceil(len(images) / batch_size)
        steps = min(epochs * steps_per_epoch, budget.max_steps or epochs * steps_per_epoch)
        if steps == 0:
            return
        batches = SeededBatches(
            len(images), batch_size, (self._seed, session.index, number), self.rank, self.world_size
        )
        loader = make_loader(images, method.backbone.resize, batches, self._num_workers)
        where = f"session {session.index}, phase {phase.name}"
        lengths = {"step": steps, "epoch": epochs}
        module = PhaseModule(method, phase, where, training, batches, lengths, watcher)
        watcher.start(steps, steps_per_epoch)
        method.train()
        trainer = self._trainer(epochs, steps, budget.gradient_clip, method.all_parameters_used)
        with warnings.catch_warnings():
            # Lightning 2.6 with torch 2.15 warns about its own code.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            # Intended: small pictures need no workers, and a frozen tower stays in evaluation mode.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode.*")
            trainer.fit(module, loader)
        method.to(self.device)  # Lightning leaves the module on the CPU
        method.eval()

    def _trainer(self, epochs: int, steps: int, gradient_clip: float | None, all_used: bool) -> L.Trainer:
        settings = dict(self._settings)
        if self.world_size > 1 and settings["strategy"] in ("auto", "ddp") and not all_used:
            settings["strategy"] = "ddp_find_unused_parameters_true"
        return L.Trainer(
            **settings,
            max_epochs=epochs,
            max_steps=steps,
            gradient_clip_val=gradient_clip,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )

    def batches(self, images: ImageSet, method: Method) -> Iterable[Batch]:
        """This process's share of all pictures, in order, on the device and normalised."""
        sampler = OrderedBatches(len(images), self._eval_batch_size, self.rank, self.world_size)
        for batch in make_loader(images, method.backbone.resize, sampler, self._num_workers):
            moved = batch.to(self.device)
            yield replace(moved, images=method.backbone.normalize(moved.images))

    def inference(self) -> Any:
        """Context of a forward pass in the run's precision."""
        return self._fabric.autocast()

    def extractor(self, method: Method) -> Callable[[ImageSet, Callable[[Tensor], Tensor]], tuple[Tensor, Tensor]]:
        """The feature pass handed to a method's hooks, see `everclip.methods.base.Extract`."""

        def extract(images: ImageSet, encode: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
            features, labels, indices = [], [], []
            with torch.no_grad(), self.inference():
                for batch in self.batches(images, method):
                    features.append(encode(batch.images).float())
                    labels.append(batch.labels)
                    indices.append(batch.indices)
            if not features:  # more processes than pictures
                first = method.backbone.normalize(images.images([0], method.backbone.resize).to(self.device))
                with torch.no_grad(), self.inference():
                    features.append(encode(first).float()[:0])
                none = torch.empty(0, dtype=torch.long, device=self.device)
                labels, indices = [none], [none]
            order = self.gather(torch.cat(indices)).argsort()
            return self.gather(torch.cat(features))[order], self.gather(torch.cat(labels))[order]

        return extract

    def gather(self, rows: Tensor) -> Tensor:
        """The rows (N_r, ...) of all processes one after the other, on every process; shares may differ in length."""
        if self.world_size == 1:
            return rows
        sizes = torch.as_tensor(self._fabric.all_gather(torch.tensor(len(rows), device=self.device))).tolist()
        padded = torch.cat([rows, rows.new_zeros(max(sizes) - len(rows), *rows.shape[1:])])
        shares = self._fabric.all_gather(padded)
        return torch.cat([share[:size] for share, size in zip(shares, sizes, strict=True)])

    def barrier(self) -> None:
        """Waits for all processes."""
        self._fabric.barrier()
