#!/usr/bin/env python
"""Train, evaluate and apply SMCL, or a system to compare it with, on a data set of posts with images.

    python run_ner_multiimage.py --dataset DATA --text_model TEXT --vision_model VISION \
        --output_dir OUT --do_train --do_eval --do_predict
    python run_ner_multiimage.py --system bert-crf --dataset DATA --text_model TEXT --output_dir OUT --do_train
    python run_ner_multiimage.py --dataset DATA --model OUT --output_dir PREDICTIONS --do_predict
    python run_ner_multiimage.py --model OUT --do_predict --input posts.jsonl --output tagged.jsonl
    python run_ner_multiimage.py arguments.yaml

`--help` lists all arguments, room by room, then those of `transformers.TrainingArguments`. Writes `all_results.json`,
`predictions.jsonl` and, after training, the model with its processor and code into the output folder, and `run.json`,
which tells how it was made. `--push_to_hub` uploads the model at the end, as `smcl.publish` does. With `--input`, posts
without gold tags are tagged, and only `--output` is written. With `--dry_run`, data, model, memory and time are checked
in a minute, and nothing is written. Training into the folder of a trained model asks for `--overwrite_output_dir`.
"""

import json
import os
import sys
from pathlib import Path

from datasets import Dataset, DatasetDict, IterableDataset
from transformers import AutoProcessor
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from smcl import MultiImageNERPipeline
from smcl.baselines import reads_images
from smcl.dataset_scripts.command_line import MENDABLE, describe
from smcl.dataset_scripts.files import check_writable, is_same_folder
from smcl.predict.inputs import Columns, open_input
from smcl.predict.loading import load_processor
from smcl.predict.part_files import check_output
from smcl.predict.predict_file import predict_file
from smcl.publish.run_record import RunRecord
from smcl.publish.upload import claim_for_training, publish
from smcl.train.arguments import Arguments, SMCLTrainingArguments, parse_arguments
from smcl.train.build import find_system, load_saved_model, prepare
from smcl.train.calibration import calibrate
from smcl.train.checkpoints import check_overwrites, checkpoint_to_resume, clear_earlier_run, has_weights
from smcl.train.data import cut_stream, name_tags
from smcl.train.dry_run import dry_run
from smcl.train.metrics import entity_metrics, judged
from smcl.train.trainer import SMCLTrainer, word_tags

logger = logging.get_logger("smcl")

# Posts of a stream that are held, with their images, to be predicted.
STREAMED_POSTS = 256


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the command line.

    Args:
        argv (`list[str]`, *optional*): Arguments, by default those of the process.

    Returns:
        `dict`: the scores of the test split, empty without `--do_predict`; with `--input`, counts of posts; with
        `--dry_run`, what [`dry_run`] measured.

    Raises:
        ValueError: if the arguments, the data and the model do not fit together.
    """
    argv = sys.argv[1:] if argv is None else argv
    record, arguments = RunRecord(argv), parse_arguments(argv)
    training, calibrates = arguments.training, arguments.model.calibrate
    if arguments.data.input is not None:
        return predict_input(arguments)
    if arguments.data.dataset is None:
        raise ValueError("Expected `--dataset`, or `--input` and `--output` with `--do_predict` to tag other posts.")
    splits = needed_splits(training, calibrates)
    check_start(arguments)
    check_writable(training.output_dir, "--output_dir")
    checkpoint = checkpoint_to_resume(training)
    check_overwrites(training, checkpoint, arguments.model.model if calibrates and not training.do_train else None)
    run = prepare(arguments, splits)
    if arguments.data.dry_run:
        return dry_run(run)
    upload = claim_for_training(training, run.model.config.model_type, training.do_train or calibrates)
    trainer = run.build_trainer()
    replaces = training.overwrite_output_dir and (training.do_train or calibrates)
    if replaces and trainer.is_world_process_zero():
        clear_earlier_run(training.output_dir)
    if not (training.do_train or calibrates) and trainer.is_world_process_zero():
        forget_other_scores(training.output_dir, arguments.model.model)
    if training.do_train:
        train(trainer, checkpoint)
    if calibrates:
        fit_temperature(trainer, run.posts)
    if training.do_eval:
        metrics = trainer.evaluate(run.posts["validation"])
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    scores = {}
    if training.do_predict:
        path = Path(training.output_dir) / "predictions.jsonl"
        scores = predict(trainer, run.posts["test"], run.labels, path)
        metrics = {f"test_{name}": score for name, score in scores.items()}
        trainer.log_metrics("test", metrics)
        trainer.save_metrics("test", metrics)
    if trainer.is_world_process_zero():
        record.write(arguments.model, arguments.data, training, run.posts, checkpoint)
        if upload is not None:
            logger.warning(f"Published: {publish(training.output_dir, **upload)}")
    return scores


def needed_splits(arguments: SMCLTrainingArguments, calibrates: bool) -> list[str]:
    """Name the splits that a run reads; a `ValueError` says so if it would do nothing."""
    evaluates = arguments.eval_strategy != IntervalStrategy.NO or arguments.eval_on_start
    needed = {
        "train": arguments.do_train,
        "validation": (arguments.do_train and evaluates) or arguments.do_eval or calibrates,
        "test": arguments.do_predict,
    }
    splits = [split for split, is_needed in needed.items() if is_needed]
    if not splits:
        raise ValueError(
            "Nothing to do: give at least one of `--do_train`, `--do_eval`, `--do_predict` and `--calibrate`."
        )
    return splits


def check_start(arguments: Arguments) -> None:
    """Refuse to score a model that nobody trained, or to write another model's scores beside one.

    Args:
        arguments ([`Arguments`]): All of the run.

    Raises:
        ValueError: says which argument is missing or wrong.
    """
    training, model = arguments.training, arguments.model.model
    if training.do_train or arguments.data.dry_run:
        return
    if str(training.resume_from_checkpoint).lower() not in ("none", "false"):
        raise ValueError("`--resume_from_checkpoint` goes on with training: give `--do_train`, or leave it out.")
    if model is None:
        raise ValueError(
            "Without `--do_train`, expected `--model`, a trained model: a new one of `--text_model` and others has "
            "learnt nothing that could be scored."
        )
    folder = Path(training.output_dir)
    if has_weights(folder) and not arguments.model.calibrate and not is_same_folder(model, folder):
        raise ValueError(
            f"`--output_dir {folder}` holds a model, and `--model {model}` is another one, whose scores would stand in "
            "place of its own. Choose another folder."
        )


def forget_other_scores(folder: str, model: str) -> None:
    """Begin the collected scores of an output folder anew, unless they are of the model that lies there."""
    if not is_same_folder(model, folder):
        Path(folder, "all_results.json").unlink(missing_ok=True)


def predict_input(arguments: Arguments) -> dict[str, int]:
    """Tag the posts of `--input`, which need no gold tags; see `predict_file`.

    Args:
        arguments ([`Arguments`]): All of the run.

    Returns:
        `dict`: numbers of `posts`, `errors` and `skipped_images`; empty in all processes but the first.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    model, switches, data, training = arguments
    if data.dry_run:
        raise ValueError("`--dry_run` checks runs on a `--dataset`: leave it out with `--input`.")
    others = training.do_train, training.do_eval, model.calibrate
    if not training.do_predict or any(others):
        raise ValueError("`--input` goes with `--do_predict` alone: train, evaluate and calibrate in another run.")
    if model.model is None or data.output is None:
        raise ValueError("With `--input`, expected `--model` (a saved model) and `--output` (a file).")
    if data.dataset is not None or data.max_length is not None:
        raise ValueError("With `--input`, leave out `--dataset`, and `--max_length`: long posts are read to their end.")
    # Before the model is loaded, which takes longer.
    check_output(data.output, training.world_size)
    images = reads_images(find_system(model)) and not data.ignore_images
    open_input(data.input, data.split, Columns.parse(data.columns, images), data.dataset_config_name)
    processor = load_processor(AutoProcessor, model.model)
    return predict_file(
        MultiImageNERPipeline(load_saved_model(model, switches.given()), processor, device=training.device),
        data.input,
        data.output,
        split=data.split,
        config_name=data.dataset_config_name,
        batch_size=training.per_device_eval_batch_size,
        disable_tqdm=bool(training.disable_tqdm),
        columns=data.columns,
        ignore_images=data.ignore_images,
        on_bad_image=data.on_bad_image,
        on_extra_images=data.on_extra_images,
        allow_private_urls=data.allow_private_urls,
    )


def train(trainer: SMCLTrainer, checkpoint: str | None) -> None:
    """Train, save the best model with its processor, and note the results."""
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    # A stream has no length.
    known = isinstance(trainer.train_dataset, Dataset)
    metrics = result.metrics | ({"train_samples": len(trainer.train_dataset)} if known else {})
    if checkpoint is not None:
        # What is measured since then is divided by the steps of the whole run.
        unknown = [name for name in metrics if name == "train_loss" or name.endswith("_per_second")]
        metrics = {name: value for name, value in metrics.items() if name not in unknown}
        logger.warning(f"Of a run that was resumed, {', '.join(sorted(unknown))} are not known and left out.")
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)


def fit_temperature(trainer: SMCLTrainer, dataset: DatasetDict) -> None:
    """Calibrate the model, save it again, and note how well its confidences fit."""
    metrics = calibrate(trainer, {split: posts for split, posts in dataset.items() if split != "train"})
    trainer.save_model()
    trainer.log_metrics("calibration", metrics)
    trainer.save_metrics("calibration", metrics)


def predict(trainer: SMCLTrainer, posts: Dataset | IterableDataset, labels: list[str], path: Path) -> dict[str, float]:
    """Tag posts, write one JSON line for each, and score them.

    Args:
        trainer (`SMCLTrainer`): Holds the model.
        posts (`Dataset` or `IterableDataset`): Posts with gold tags; of a stream, few are held at a time.
        labels (`list[str]`): Label names by id.
        path (`Path`): File to write: id, tokens, gold and predicted tags; `"O"` for words cut off by the length. A word
            that nobody tagged has neither tag, but `null` in both places, and a predicted entity with one is left out.

    Returns:
        `dict`: scores over all words, cut off or not.
    """
    gold, found = [], []
    with open(path if trainer.is_world_process_zero() else os.devnull, "w", encoding="utf-8") as file:
        for part in [posts] if isinstance(posts, Dataset) else cut_stream(posts, STREAMED_POSTS):
            predicted = word_tags(trainer.predict(part, metric_key_prefix="test").predictions, labels)
            for post, tags in zip(part.select_columns(["id", "tokens", "ner_tags"]), predicted, strict=True):
                gold.append(name_tags(post["ner_tags"], labels))
                tags = tags + ["O"] * (len(post["tokens"]) - len(tags))
                found.append(tags)
                shown = [wanted and tag for tag, wanted in zip(judged(gold[-1], tags)[1], gold[-1], strict=True)]
                record = {"id": post["id"], "tokens": post["tokens"], "gold": gold[-1], "predicted": shown}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return entity_metrics(gold, found)


if __name__ == "__main__":
    try:
        main()
    except MENDABLE as error:
        sys.exit(f"run_ner_multiimage.py: {describe(error)}")
