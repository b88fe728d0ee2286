"""Training of SMCL and of the systems to compare it with."""

import copy
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard
from accelerate.utils import send_to_device
from datasets import concatenate_datasets
from safetensors import SafetensorError
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler
from transformers import (
    AutoConfig,
    AutoProcessor,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainerState,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput
from transformers.utils import CONFIG_NAME, PROCESSOR_NAME, logging

from ..baselines import reads_images
from ..crf_smcl import entity_types
from ..dataset_scripts.gate import prepare_posts
from ..losses_smcl import BatchShare, real_image_indices
from .arguments import SMCLTrainingArguments
from .checkpoints import checkpoint_faults, last_complete_checkpoint, sharding_of
from .collator import SMCLDataCollator
from .data import name_tags
from .learning_rates import rates_of_parts, refuse_rates_of_parts, split_groups
from .metrics import SCORES, entity_metrics
from .run_settings import SETTINGS_NAME, changed_settings, describe_posts, run_settings
from .samplers import LengthSampler, SharedBatchSampler, token_counts

logger = logging.get_logger(__name__)

RESTART = "Remove that checkpoint and go on from an earlier one, or start from it as a saved model (`--model`)."


class SMCLTrainer(Trainer):
    """A `Trainer` that logs each part of the loss, evaluates decoded tags and restores every tensor.

    It resumes from complete checkpoints only, and stops with a `FloatingPointError` before weights that are not finite
    are saved. Several processes train as one would that has the whole batches. With [`SMCLDataCollator`], all posts
    pass the gate of [`~gate.prepare_posts`]: columns, tags and labels must fit the model. What another collator reads
    is its own business.

    Args:
        *args: As those of `Trainer`; `args` are [`SMCLTrainingArguments`].
        **kwargs: Likewise.

    Raises:
        ValueError: if `args` are others, the model is one of peft, posts can't be read, scores are for labels that the
            model lacks, FSDP is to save parts of a model, which could not be loaded again, or `optimizers` come with
            learning rates of parts.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.optimizer is not None:
            refuse_rates_of_parts(self.args)
        if not isinstance(self.args, SMCLTrainingArguments):
            raise ValueError(
                f"`args` must be SMCLTrainingArguments, got {type(self.args).__name__}: they are transformers' "
                "TrainingArguments, with a learning rate of the new layers and others besides."
            )
        if hasattr(self.model, "get_base_model"):
            raise ValueError(
                f"`model` must be a whole model, as its checkpoints hold, got a {type(self.model).__name__} of peft. "
                "Train adapters by transformers' `Trainer`, or merge them: `model.merge_and_unload()`."
            )
        if self.is_fsdp_enabled and "FULL" not in str(self.accelerator.state.fsdp_plugin.state_dict_type):
            raise ValueError(
                "Expected `fsdp_state_dict_type: FULL_STATE_DICT` in accelerate's configuration: other kinds save no "
                "whole model. examples/accelerate/fsdp2.yaml has it."
            )
        self._forget_losses()
        self._name_scores()
        self.train_dataset = self._prepare_posts(self.train_dataset, "`train_dataset`")
        self.eval_dataset = self._prepare_posts(self.eval_dataset, "`eval_dataset`")

    @property
    def _labels(self) -> list[str]:
        """The names of the model's tags, by id."""
        config = self.accelerator.unwrap_model(self.model).config
        return [config.id2label[number] for number in range(config.num_labels)]

    def _name_scores(self) -> None:
        """Have tags scored by the model's names of them: the gate reads those of posts as the model's."""
        given = getattr(self.compute_metrics, "labels", None)
        if given is None:
            return
        if set(given) - set(self._labels):
            raise ValueError(
                f"`compute_metrics` was built for the labels {given}, but the model has {self._labels}. Build it by "
                "`build_compute_metrics` with the model's."
            )
        self.compute_metrics = build_compute_metrics(self._labels)

    def _prepare_posts(self, posts: Any, where: str, needs_tags: bool = True) -> Any:
        """Have the gate check posts, or a dictionary of them, and bring them into the schema of the collator."""
        if posts is None or isinstance(posts, str) or not isinstance(self.data_collator, SMCLDataCollator):
            return posts
        if isinstance(posts, dict):
            return {name: self._prepare_posts(part, f"{where}[{name!r}]", needs_tags) for name, part in posts.items()}
        model = self.accelerator.unwrap_model(self.model)
        options = {
            "where": where,
            "needs_tags": needs_tags or "ner_tags" in (getattr(posts, "column_names", None) or ()),
            "context": self.data_collator.processor.context_columns,
            "labels": self._labels,
        }
        if "image_rows" not in (getattr(posts, "column_names", None) or ()):
            return prepare_posts(posts, reads_images=reads_images(type(model)), **options)
        # Images that a cache has replaced.
        prepared, rows = prepare_posts(posts, reads_images=False, **options), posts.select_columns(["image_rows"])
        return concatenate_datasets([prepared, rows.with_format(None)], axis=1)

    def evaluate(self, eval_dataset=None, *args, **kwargs) -> dict[str, float]:
        """Evaluate; see `Trainer.evaluate`.

        Args:
            eval_dataset (`Dataset`, `IterableDataset`, `str` or `dict`, *optional*): Posts with gold tags.
            *args: As those of `Trainer.evaluate`.
            **kwargs: Likewise.

        Returns:
            `dict[str, float]`: the scores.

        Raises:
            ValueError: if posts can't be read.
        """
        return super().evaluate(self._prepare_posts(eval_dataset, "`eval_dataset`"), *args, **kwargs)

    def call_model_init(self, trial: Any = None) -> PreTrainedModel:
        """Make a model to train, as `model_init` does, at a temperature of 1."""
        model = super().call_model_init(trial)
        forget_temperature(model)
        return model

    def _forget_losses(self) -> None:
        self._part_names: list[str] = []
        self._part_sums, self._part_count = 0, 0
        self._latest_loss: torch.Tensor | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs) -> TrainOutput:
        """Train.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): Checkpoint to go on from; `True` is the last complete
                one in `output_dir`.
            *args: As those of `Trainer.train`.
            **kwargs: Likewise.

        Returns:
            `TrainOutput`.

        Raises:
            ValueError: if the checkpoint is incomplete, of another kind, or there is no complete one.
            FloatingPointError: if the loss or the weights are no longer finite.
            OSError: if a checkpoint can't be written.
        """
        self._forget_losses()
        if self.model is not None:
            # Else `model_init` makes one.
            forget_temperature(self.accelerator.unwrap_model(self.model))
        posts = {"training": self.train_dataset, "validation": self.eval_dataset}
        self._posts = {split: describe_posts(part) for split, part in posts.items()}
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"Expected a complete checkpoint in {self.args.output_dir}, found none.")
        if resume_from_checkpoint:
            if faults := checkpoint_faults(resume_from_checkpoint):
                raise ValueError(
                    f"Can't resume from {resume_from_checkpoint}: missing or cut off: {', '.join(faults)}."
                )
            saved, here = sharding_of(resume_from_checkpoint), self._sharding
            if saved != here:
                raise ValueError(
                    f"{resume_from_checkpoint} was written with {saved}, but this run has {here}. Go on as it was "
                    "begun, in any number of processes, or start from the checkpoint as a saved model (`--model`)."
                )
            self._check_same_run(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _load_callback_state(self) -> None:
        asked = self.args.early_stopping_patience
        super()._load_callback_state()
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                # That of the checkpoint was put in its place.
                callback.early_stopping_patience = asked
        # Trainer would look for the best checkpoint where the output folder was when the run was killed.
        best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
        if best.is_dir():
            self.state.best_model_checkpoint = str(best)

    def _check_same_run(self, folder: str) -> None:
        """Refuse to go on with another model, words, settings or posts than the checkpoint was made with."""
        changes = {}
        if Path(folder, CONFIG_NAME).is_file():
            saved, here = AutoConfig.from_pretrained(folder), self.accelerator.unwrap_model(self.model).config
            told = {"model_type": "`--system`", "id2label": "the labels"}
            told |= {name: f"`--{name}`" for name in here.switches}
            changes = {what: (getattr(saved, name, None), getattr(here, name)) for name, what in told.items()}
        if self.processing_class is not None and Path(folder, PROCESSOR_NAME).is_file():
            processors = AutoProcessor.from_pretrained(folder), self.processing_class
            vocabularies = [processor.tokenizer.get_vocab() for processor in processors]
            if vocabularies[0] != vocabularies[1]:
                changes["the tokenizer"] = "of other words", "its own"
        state = TrainerState.load_from_json(str(Path(folder) / TRAINER_STATE_NAME))
        name = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        best = [row[name] for row in state.log_history if row.get("step") == state.best_global_step and name in row]
        if state.best_metric is not None and state.best_metric not in best:
            changes["`--metric_for_best_model`"] = "another one", self.args.metric_for_best_model
        changes |= changed_settings(folder, run_settings(self.args, self.data_collator, self._posts))
        for what, (was, now) in changes.items():
            if was != now:
                raise ValueError(
                    f"{folder} was made with {what} {was!r}, and this run has {now!r}. Go on as it was begun, or start "
                    "from the checkpoint as a saved model (`--model`)."
                )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{checkpoint} was made by training other weights, or by another optimizer: {error}. Give "
                "`--freeze_vision`, `--head_learning_rate`, `--vision_learning_rate` and `--optim` as it was begun."
            ) from error
        except RuntimeError as error:
            raise ValueError(f"Optimizer or scheduler of {checkpoint} can't be read: {error}. {RESTART}") from error

    def _load_rng_state(self, checkpoint: str | None) -> None:
        try:
            super()._load_rng_state(checkpoint)
        except (RuntimeError, KeyError, TypeError) as error:
            raise ValueError(f"The state of chance of {checkpoint} can't be read: {error}. {RESTART}") from error

    @property
    def _sharding(self) -> str:
        """What writes and reads the checkpoints; see `sharding_of`."""
        return "DeepSpeed" if self.is_deepspeed_enabled else "FSDP" if self.is_fsdp_enabled else "whole models"

    @property
    def is_sharded(self) -> bool:
        """Whether processes share the parts of a model, whose checkpoints DeepSpeed or FSDP writes and reads."""
        return self._sharding != "whole models"

    def _run_epoch(self, *args, **kwargs) -> None:
        stoppers = [c for c in self.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
        if any(c.early_stopping_patience_counter >= c.early_stopping_patience for c in stoppers):
            # A run resumed after early stopping, which Trainer would train on.
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the combined loss (Eq. 18) and note its parts for the log.

        Over the processes that share a batch, the mean of what they return is the loss of the whole batch.
        """
        share, loss_kwargs = None, {}
        if model.training and self.args.world_size > 1:
            share = BatchShare(len(inputs["labels"]), self._train_batch_size, self.args.device)
            loss_kwargs = {"batch_share": share} if self.args.gather_losses else {}
        outputs = model(**inputs, **loss_kwargs, return_dict=True)
        if share is not None:
            outputs.loss = outputs.loss * share.weight
        if model.training:
            self._part_names = [name for name in outputs if name.endswith("_loss")]
            parts = torch.stack([outputs[name].detach().float() for name in self._part_names])
            parts = parts if share is None else parts * share.weight
            self._part_sums = self._part_sums + parts
            self._part_count += 1
            step = parts.new_full((1,), self.state.global_step + 1)
            latest = torch.cat([step, outputs.loss.detach().float()[None], parts])
            # The first loss that is not finite stays, on the device: reading it at each step would wait for the GPU.
            noted = latest if self._latest_loss is None else self._latest_loss
            self._latest_loss = torch.where(noted.isfinite().all(), latest, noted)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the loss, the means of its parts since the last time."""
        if "loss" in logs and self._part_count:
            means = self.accelerator.reduce(self._part_sums / self._part_count, "mean")
            logs.update(zip(self._part_names, means.tolist(), strict=True))
            self._part_sums, self._part_count = 0, 0
        super().log(logs, start_time)

    def _get_dataloader(self, dataset, *args, is_training=False, **kwargs):
        if isinstance(dataset, IterableDataset) and not is_training and self.args.world_size > 1:
            # accelerate would fill the last batch up with posts that then count twice.
            raise ValueError(
                f"Expected one process, or posts with a length, to evaluate or predict, got a stream and "
                f"{self.args.world_size} processes. Load these posts whole, or evaluate them in one process."
            )
        drop_last, collator = self.args.dataloader_drop_last, self.data_collator
        if isinstance(collator, SMCLDataCollator) and not is_training:
            # Scores are over all words, whatever the length cuts off.
            self.data_collator = copy.copy(collator)
            self.data_collator.return_cut_labels = True
        try:
            # transformers would leave out the last posts of an evaluation as well.
            self.args.dataloader_drop_last = drop_last and is_training
            loader = super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last, self.data_collator = drop_last, collator
        if isinstance(loader, DataLoaderShard):
            # Batches stay on the CPU until `_prepare_inputs`.
            loader.device = None
        return loader

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Tell the model where the real images are while their mask is on the CPU, then move a batch to the device.

        The collator does not: whatever dispatches or cuts batches does so along their first dimension, which these
        indices do not share.
        """
        if "pixel_values" in inputs and "image_mask" in inputs:
            indices = real_image_indices(inputs["image_mask"])
            indices = indices.pin_memory() if inputs["image_mask"].is_pinned() else indices
            inputs = {**inputs, "image_indices": indices}
        inputs = send_to_device(inputs, self.args.device, non_blocking=self.accelerator.non_blocking)
        return super()._prepare_inputs(inputs)

    def get_test_dataloader(self, test_dataset) -> DataLoader:
        """Build the loader of posts to predict, which need no gold tags."""
        return super().get_test_dataloader(self._prepare_posts(test_dataset, "`test_dataset`", needs_tags=False))

    def _init_training_state(self, max_steps, num_update_steps_per_epoch, *args) -> tuple[int, int]:
        passes, batches = super()._init_training_state(max_steps, num_update_steps_per_epoch, *args)
        if isinstance(self.train_dataset, IterableDataset) and self.state.epoch and not self.args.ignore_data_skip:
            # Trainer takes all steps for one pass over a stream, but notes where in which pass a checkpoint was saved.
            passes = int(self.state.epoch)
            in_pass = (self.state.epoch - passes) * max_steps * self.args.gradient_accumulation_steps
            batches = round(in_pass)
        return passes, batches

    def _get_train_sampler(self, train_dataset=None):
        if not self._groups_posts:
            return super()._get_train_sampler(train_dataset)
        posts = self.train_dataset if train_dataset is None else train_dataset
        counts = token_counts(posts, self.data_collator.processor)
        processes = self.args.world_size
        batch_size = self.args.train_batch_size * processes * self.args.gradient_accumulation_steps
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthSampler(counts, batch_size, seed)

    def _get_eval_sampler(self, eval_dataset):
        # transformers would group these as well, and give predictions in that order.
        return SequentialSampler(eval_dataset) if self._groups_posts else super()._get_eval_sampler(eval_dataset)

    @property
    def _groups_posts(self) -> bool:
        """Whether posts of about the same length are to share a batch of training."""
        grouped = self.args.train_sampling_strategy == "group_by_length"
        return grouped and isinstance(self.data_collator, SMCLDataCollator)

    def get_train_dataloader(self) -> DataLoader:
        """Build the loader; of several processes, each takes an even part of the batches that one process would have.

        Accelerate alone fills an epoch's last batch up with posts of its first, which then count twice.
        """
        loader = super().get_train_dataloader()
        shard = loader.batch_sampler
        if not isinstance(shard, BatchSamplerShard) or type(shard.batch_sampler) is not BatchSampler:
            return loader
        processes = self.accelerator.process_index, self.accelerator.num_processes
        sampler = SharedBatchSampler(shard.batch_sampler.sampler, loader.total_batch_size, shard.drop_last, *processes)
        if sampler.num_left_out:
            logger.warning(
                f"Each epoch leaves out its last {sampler.num_left_out} of {len(sampler.sampler)} posts: fewer than "
                f"the {processes[1]} processes."
            )
        settings = "num_workers collate_fn pin_memory timeout worker_init_fn multiprocessing_context generator".split()
        settings += ["prefetch_factor", "persistent_workers", "in_order"]
        settings = {name: getattr(loader, name) for name in settings}
        # As accelerate makes it, with another sampler of batches.
        return DataLoaderShard(
            loader.dataset,
            device=loader.device,
            rng_types=loader.rng_types,
            synchronized_generator=loader.synchronized_generator,
            batch_sampler=sampler,
            _non_blocking=loader._non_blocking,
            **settings,
        )

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self._check_losses()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _check_losses(self) -> None:
        """Stop if a loss since the start was not finite."""
        step, *losses = [0.0] if self._latest_loss is None else self._latest_loss.tolist()
        if not all(map(math.isfinite, losses)):
            names = ("loss", *self._part_names)
            named = ", ".join(f"{name} {loss:g}" for name, loss in zip(names, losses, strict=True))
            way = "start anew"
            if last_complete_checkpoint(self.args.output_dir) is not None:
                way = "resuming would come to the same step: start from that checkpoint as a saved model (`--model`)"
            raise FloatingPointError(
                f"The loss of step {step:.0f} is not finite ({named}), so training stopped. {self._last_good()} To "
                f"mend it, {way}, with a lower `learning_rate` and another `output_dir`, with `bf16` if it was `fp16`."
            )

    def _last_good(self) -> str:
        last = last_complete_checkpoint(self.args.output_dir)
        return "No complete checkpoint was saved." if last is None else f"The last complete checkpoint is {last}."

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model with its processor and code, unless its weights are not finite.

        Args:
            output_dir (`str`, *optional*): Folder, by default that of the training arguments.

        Raises:
            FloatingPointError: if a loss or a weight is not finite.
            OSError: if the folder can't be written to.
        """
        self._check_losses()
        if bad := [] if self.is_sharded else _not_finite(self.model):
            raise FloatingPointError(
                f"{len(bad)} weights are not finite, {bad[0]} first, so the model was not saved. {self._last_good()}"
            )
        if _internal_call:
            super().save_model(output_dir, _internal_call)
        else:
            with self._explained(output_dir or self.args.output_dir):
                super().save_model(output_dir)

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            # An earlier run's checkpoint, half overwritten, would look complete.
            shutil.rmtree(folder, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with self._explained(folder):
            super()._save_checkpoint(model, trial)
            if self.args.should_save and folder.is_dir():
                settings = run_settings(self.args, self.data_collator, self._posts)
                (folder / SETTINGS_NAME).write_text(json.dumps(settings, indent=1), encoding="utf-8")

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        kind = type(self.model)
        if self.is_fsdp_enabled:
            # Not every build of torch has it.
            from torch.distributed.fsdp import FSDPModule

            # FSDP2 puts a class of torch's in place of the model's, and its code would be saved in place of ours.
            self.model.__class__ = next(c for c in kind.__mro__ if not issubclass(c, FSDPModule))
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.model.__class__ = kind

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # The file that tells of a checkpoint's progress comes last, after those of all processes.
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _explained(self, folder: str | Path) -> Iterator[None]:
        """Turn what PyTorch, safetensors or the system say of a failed write into an error that helps."""
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            free = shutil.disk_usage(self.args.output_dir).free / 1e9
            raise OSError(
                f"Saving {folder} failed, with {free:.1f} GB free: {error}. {self._last_good()} Make room or mend the "
                "folder, then go on with `--resume_from_checkpoint true`."
            ) from error

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Evaluate one batch; keep decoded tags, with "O" for words cut off, and never the logits or hidden states."""
        cut = inputs.pop("cut_labels", None)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs, return_dict=True)
            tags = self.accelerator.unwrap_model(model).decode(outputs.logits, inputs["word_mask"])
        if prediction_loss_only:
            return outputs.loss, None, None
        labels = inputs.get("labels")
        if cut is not None and "O" in self._labels:
            cut = cut.to(tags.device)
            tags = torch.cat([tags, torch.where(cut == -100, cut, self._labels.index("O"))], dim=1)
            labels = torch.cat([labels, cut], dim=1)
        return outputs.loss, tags, labels

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Build the optimizer; parameters with a learning rate of their own get groups of their own.

        Raises:
            ValueError: if `vision_learning_rate` is given and the image encoder is frozen.
        """
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if created:
            split_groups(optimizer, rates_of_parts(self.accelerator.unwrap_model(self.model), self.args))
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """Build the schedule of learning rates; a `ValueError` says so if it needs settings that are not there."""
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        except TypeError as error:
            kind = getattr(self.args.lr_scheduler_type, "value", self.args.lr_scheduler_type)
            raise ValueError(
                f"`--lr_scheduler_type {kind}` needs other settings: {error}. Give them by `--lr_scheduler_kwargs`, as "
                "JSON."
            ) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        if self.is_sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._restore(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.is_sharded:
            super()._load_best_model()
        else:
            self._restore(self.state.best_model_checkpoint)

    def _restore(self, folder: str) -> None:
        """Load every tensor of a checkpoint; Trainer's own way would go on without those that it lacks."""
        model = self.accelerator.unwrap_model(self.model)
        saved, info = type(model).from_pretrained(folder, dtype=model.dtype, output_loading_info=True)
        if info["missing_keys"]:
            raise ValueError(f"The checkpoint {folder} lacks the weights {sorted(info['missing_keys'])}.")
        model.load_state_dict(saved.state_dict(), strict=True)


def forget_temperature(model: PreTrainedModel) -> None:
    """Set the temperature of a model that is to be trained to 1, and say so: it was fitted to other weights."""
    if model.config.temperature != 1:
        logger.warning(
            "The temperature of the model was fitted to weights that now change: it is 1 again; `--calibrate` fits one."
        )
        model.config.temperature = 1.0


def _not_finite(model: torch.nn.Module) -> list[str]:
    """Name the parameters with NaN or infinity, waiting for the GPU only once."""
    names, weights = zip(*model.named_parameters(), strict=True)
    finite = torch.stack([weight.isfinite().all().to(weights[0].device) for weight in weights]).tolist()
    return [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]


def word_tags(ids: np.ndarray, labels: list[str]) -> list[list[str]]:
    """Name the tags of each post.

    Args:
        ids (`np.ndarray` of shape `(num_posts, num_tokens)`): Tag ids at word starts, -100 elsewhere.
        labels (`list[str]`): Label names by id.

    Returns:
        `list[list[str]]`: the tags of words; of posts without gold tags, of those that were not cut off.
    """
    return [[labels[i] for i in row[row != -100]] for row in ids]


def build_compute_metrics(labels: list[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """Build Trainer's `compute_metrics`, which scores decoded tags by `entity_metrics`.

    Args:
        labels (`list[str]`): Label names by id.

    Returns:
        A function from `EvalPrediction` to scores, with these `labels`. [`SMCLTrainer`] names tags by its model's, of
        which these may be some or all in another order.
    """

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        # A word that nobody tagged is predicted all the same.
        pairs = zip(prediction.label_ids, prediction.predictions, strict=True)
        gold = [name_tags(row[tags != -100], labels) for row, tags in pairs]
        scores = entity_metrics(gold, word_tags(prediction.predictions, labels))
        # A type that stands nowhere has scores, too: it may be the one that decides which model is best.
        absent = {f"{kind}_{name}": 0.0 for kind in entity_types(labels) for name in (*SCORES, "support")}
        return absent | scores

    compute_metrics.labels = list(labels)
    return compute_metrics


__all__ = ["SMCLTrainer", "build_compute_metrics", "forget_temperature", "word_tags"]
