"""The training loop: one process's part of a run, from the newest checkpoint to the export."""

from __future__ import annotations

import math
import signal
import time
from dataclasses import dataclass
from enum import IntEnum
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from drrho_clip import distributed
from drrho_clip.data.loader import Batch, BatchMaker, batches
from drrho_clip.errors import TrainingError
from drrho_clip.method.contrastive import Pair
from drrho_clip.method.objective import Objective, ObjectiveResult, SelectedContrastive
from drrho_clip.method.weights import SampleWeights
from drrho_clip.models import architecture_info, normalise
from drrho_clip.observe import get_logger, progress
from drrho_clip.storage.lease import KeptLease
from drrho_clip.training.accumulation import forward_backward
from drrho_clip.training.checkpoint import ByRows, Checkpoints
from drrho_clip.training.config import TrainConfig
from drrho_clip.training.heartbeat import LauncherWatch
from drrho_clip.training.history import History
from drrho_clip.training.initial import start_from
from drrho_clip.training.optimiser import make_optimiser, schedule, set_learning_rate
from drrho_clip.training.selection import choose
from drrho_clip.training.variances import Variances

LAST_SCRAPE_SECONDS = 60.0
"""How long a run that must stop stays, at most, until its last metrics have been read: four scrapes of the PodMonitor."""


class Towers(nn.Module):
    """Both towers as one module, so that DDP sees one forward: (images, tokens) -> unit-norm features, float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, tokens: Tensor) -> Pair:
        """images [b, 3, h, w] as `normalise` leaves them, tokens [b, context] -> ([b, d], [b, d])."""
        image, text = self.model.encode_image(images), self.model.encode_text(tokens)  # type: ignore[operator]
        return nn.functional.normalize(image.float(), dim=-1), nn.functional.normalize(text.float(), dim=-1)


@dataclass
class Interval:
    """What is summed between two logged steps."""

    steps: int = 0
    waited: float = 0.0
    started: float = 0.0
    skipped: int = 0


class Stop(IntEnum):
    """Why training ends before its last step; where ranks have different reasons, the larger one counts."""

    NO = 0
    SIGTERM = 1
    ABANDONED = 2  # the launcher was not heard of for its timeout


class Interrupted(Exception):
    """Training stopped early and its checkpoint is written: the process should end."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.name)
        self.stop = stop


class Trainer:
    """Trains `model` with `objective`; the same on one process and on many, from step 0 and from a checkpoint."""

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        objective: Objective,
        make: BatchMaker,
        history: History,
        checkpoints: Checkpoints,
        watch: LauncherWatch | None = None,
        owner: KeptLease | None = None,
    ) -> None:
        self.config, self.make, self.history, self.checkpoints = config, make, history, checkpoints
        self.device = distributed.local_device()
        self.model, self.objective = model.to(self.device), objective.to(self.device)
        info = architecture_info(config.architecture)
        self.mean, self.std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (info.mean, info.std))
        self.by_rows: dict[str, ByRows] = dict(objective.by_rows())
        self.weights = None
        if config.record_weights == "yes":
            weights = SampleWeights(make.reader.manifest.total, home=config.u_home, folder=config.u_path)
            self.weights = weights.to(self.device)
            self.by_rows["weights"] = weights.rows
        for name in ("logit_scale", "logit_bias"):  # the objective owns the temperature
            if isinstance(parameter := getattr(model, name, None), nn.Parameter):
                parameter.requires_grad_(False)
        self.optimiser = make_optimiser(model, objective, config)
        self.parts: dict[str, nn.Module | torch.optim.Optimizer] = {
            "model": model,
            "optimiser": self.optimiser,
            "objective": objective,
        }
        self.step, self.skipped, self.seconds = 0, 0, 0.0
        self.variances = Variances(config.steps)
        self.watch = watch or LauncherWatch(history.store, config.run, timeout=0)
        self.owner, self.saving_since = owner, 0.0
        self.sigterm = False

    def run(self) -> None:
        """Train to the last step, with checkpoints. TrainingError: the loss is not finite. Interrupted: see Stop."""
        self._resume()
        self.watch.training(distributed.rank())
        towers: nn.Module = Towers(self.model)
        if distributed.world_size() > 1:
            towers = DistributedDataParallel(towers, device_ids=[self.device.index] if self.device.type == "cuda" else None)
        towers.train()
        previous = signal.signal(signal.SIGTERM, self._on_sigterm)
        try:
            self._loop(towers)
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _loop(self, towers: nn.Module) -> None:
        config = self.config
        interval = Interval(started=time.monotonic())
        waiting = time.monotonic()
        source = batches(self.make, self.step, config.steps, workers=config.workers)
        if distributed.rank() == 0:
            source = progress(source, what=f"train {config.run}", total=config.steps, unit="step", done=self.step)
        for batch in source:
            interval.waited += time.monotonic() - waiting
            batch = batch.to(self.device)
            if isinstance(self.objective, SelectedContrastive):
                batch = self._choose(self.objective, batch)
            features, result, norm = self._train_step(towers, batch)
            self.step += 1
            interval.steps += 1
            interval.skipped += int((~batch.valid).sum())
            if self.weights is not None:
                self.weights.record(batch.index, result.weights, result.losses, batch.valid)
            last = self.step == config.steps
            reason, uploading = distributed.largest((self._stop(), self.checkpoints.uploading), self.device)
            stop = Stop(reason)
            if self.checkpoints.started and not uploading:
                self._finish_checkpoint()
            saving = last or stop or self.step % config.checkpoint_steps == 0
            if saving or self.step % config.log_steps == 0:
                self._log(interval, batch, features, result, norm)
                interval = Interval(started=time.monotonic())
            if saving:
                self._save(wait=last or bool(stop))
            if stop and not last:
                raise Interrupted(stop)
            waiting = time.monotonic()

    def _train_step(self, towers: nn.Module, batch: Batch) -> tuple[Pair, ObjectiveResult, Tensor]:
        config = self.config
        factor = schedule(self.step, steps=config.steps, warmup=config.warmup_steps)
        set_learning_rate(self.optimiser.param_groups, factor)
        reference = None if batch.reference is None else (batch.reference[:, 0], batch.reference[:, 1])
        epoch = self.make.order.epoch_of(self.step)

        def loss_of(features: Pair) -> ObjectiveResult:
            result: ObjectiveResult = self.objective(features, reference, batch.index, batch.valid, epoch)
            return result

        features, result = forward_backward(towers, batch.images, batch.tokens, self._forward, loss_of, config.accumulate)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_clip or math.inf)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.objective.clamp()
        return features, result, norm

    def _choose(self, objective: SelectedContrastive, batch: Batch) -> Batch:
        config = self.config
        sizes = {"size": config.batch_size, "seed": config.seed, "step": self.step}
        return choose(objective, self.make, batch, Towers(self.model), self._forward, **sizes)

    def _forward(self, towers: nn.Module, images: Tensor, tokens: Tensor) -> Pair:
        half = self.config.precision == "bf16" or (self.config.precision == "auto" and self.device.type == "cuda")
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            features: Pair = towers(normalise(images, self.mean, self.std), tokens)
        return features

    def _log(self, interval: Interval, batch: Batch, features: Pair, result: ObjectiveResult, norm: Tensor) -> None:
        """Record this step on rank 0; every rank takes part, since variances are over the global batch."""
        variances = self.variances.measure(self.step, features, batch)
        skipped = distributed.sum_over_ranks(torch.tensor(float(interval.skipped), device=self.device))
        seconds = time.monotonic() - interval.started
        self.seconds += seconds
        self.skipped += int(skipped)
        waited, memory = self._of_ranks(interval.waited / interval.steps)
        record: dict[str, float] = {
            "step": self.step,
            "epoch": self.make.order.epoch_of(self.step - 1),
            "loss": float(result.value),
            **{f"loss_part.{name}": float(value) for name, value in result.parts.items()},
            **variances,
            "samples_total": self.step * self.config.batch_size,
            "samples_per_second": interval.steps * self.config.batch_size / seconds,
            "step_seconds": seconds / interval.steps,
            "data_wait_seconds": waited,
            "temperature": self.objective.temperature.item(),
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            "grad_norm": float(norm),
            "weight_effective_size.image": float(result.effective_size[0]),
            "weight_effective_size.text": float(result.effective_size[1]),
            "samples_skipped_total.decode": self.skipped,
        }
        gamma = self.objective.gamma(self.make.order.epoch_of(self.step - 1))
        if gamma is not None:
            record["gamma"] = gamma
        if self.device.type == "cuda":
            record["device_memory_bytes"] = memory
        finite = math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"])
        if distributed.rank() == 0:
            self.history.add(record if finite else {"step": self.step, "nonfinite_steps_total": 1})
        if not finite:
            self._stop_on_nonfinite()

    def _of_ranks(self, waited: float) -> tuple[float, float]:
        """Show each rank's wait for data (seconds a step) and peak memory (bytes), a node's by its first process; the largest."""
        memory = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0
        own = torch.tensor([[waited, memory]], dtype=torch.float64, device=self.device)
        values = distributed.gather(own).tolist()
        for rank in distributed.node_ranks():
            shown = {f"rank_data_wait_seconds.{rank}": values[rank][0], f"rank_device_memory_bytes.{rank}": values[rank][1]}
            self.history.metrics.update(shown)
        return max(value[0] for value in values), max(value[1] for value in values)

    def _stop_on_nonfinite(self) -> None:
        self._finish_checkpoint()
        if distributed.rank() == 0:
            self.history.flush()
            # Whoever alerts on it learns of it from here alone; the other ranks wait, or their end would end this one.
            self.history.metrics.await_scrape(LAST_SCRAPE_SECONDS)
        distributed.barrier()
        good = next(iter(self.checkpoints.steps()), None)
        saved = (
            self.history.store.uri_of(f"runs/{self.config.run}/checkpoints") + f"/step-{good:08d}"
            if good
            else "none was written yet"
        )
        raise TrainingError(
            f"The loss or its gradient is not finite at step {self.step}",
            where=f"run {self.config.run}; last good checkpoint: {saved}",
            fix="Lower learning_rate, raise warmup_steps or temperature, or set gradient_clip, under a new run name.",
        )

    def _save(self, *, wait: bool) -> None:
        """Start a checkpoint, which is finished beside the training, or at once where no step follows it."""
        self._finish_checkpoint()
        self.saving_since = time.monotonic()
        if distributed.rank() == 0:
            self.history.flush()
        state: dict[str, Any] = {"seconds": self.seconds, "skipped": self.skipped, "variances": self.variances.state()}
        self.checkpoints.start(self.step, self.parts, state, self.by_rows)
        if distributed.rank() == 0:
            self.history.metrics.update({"checkpoint_stall_seconds": time.monotonic() - self.saving_since})
        if wait:
            self._finish_checkpoint()
        distributed.barrier()

    def _finish_checkpoint(self) -> None:
        if self.owner is not None:
            self.owner.check()
        step = self.checkpoints.finish()
        if step and distributed.rank() == 0:
            self.history.metrics.update({"checkpoint_step": step, "checkpoint_seconds": time.monotonic() - self.saving_since})

    def _resume(self) -> None:
        self.step, state = self.checkpoints.restore(self.parts, self.by_rows)
        if not self.step and self.config.initial:
            start_from(self.config.initial_run, self.checkpoints.store, self.model, self.objective, self.make.reader.manifest)
        distributed.barrier()  # processes of a node may share rows: none goes on while another still sets them
        self.seconds, self.skipped = state.get("seconds", 0.0), state.get("skipped", 0)
        self.variances.restore(state.get("variances", {}), self.device)
        if self.step:
            get_logger().info("resumed", step=self.step, steps=self.config.steps)
        if distributed.rank() == 0:
            self.history.resume(self.step)
            self.history.metrics.update({"steps": self.config.steps})

    def _stop(self) -> Stop:
        if self.watch.lost:
            return Stop.ABANDONED
        return Stop.SIGTERM if self.sigterm else Stop.NO

    def _on_sigterm(self, _signal: int, _frame: FrameType | None) -> None:
        self.sigterm = True
