#!/usr/bin/env python
"""Train, evaluate and apply SMCL, or a system to compare it with, on a data set of posts with images.

    python run_ner_multiimage.py --dataset DATA --text_model TEXT --vision_model VISION \
        --output_dir OUT --do_train --do_eval --do_predict
    python run_ner_multiimage.py --system bert-crf --dataset DATA --text_model TEXT --output_dir OUT --do_train
    python run_ner_multiimage.py --dataset DATA --model OUT --output_dir PREDICTIONS --do_predict
    python run_ner_multiimage.py --model OUT --do_predict --input posts.jsonl --output tagged.jsonl
    python run_ner_multiimage.py arguments.yaml

`--help` lists all arguments, those of `transformers.TrainingArguments` among them. Writes `all_results.json`,
`predictions.jsonl` and, after training, the model with its processor and code into the output folder, and `run.json`,
which tells how it was made. `--push_to_hub` uploads the model at the end, as `smcl.publish` does. With `--input`, posts
without gold tags are tagged, and only `--output` is written. With `--dry_run`, data, model, memory and time are checked
in a minute, and nothing is written.
"""

import json
import sys
import tempfile
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetNotFoundError
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoProcessor,
    EarlyStoppingCallback,
    HfArgumentParser,
    set_seed,
)
from transformers.utils import logging

from smcl import MultiImageNERPipeline, SMCLProcessor
from smcl.baselines import SYSTEMS, check_switches, needed_encoders, processor_class, reads_images, system_name
from smcl.modeling_smcl import SMCLTaggingModel
from smcl.predict.predict_file import predict_file
from smcl.publish.run_record import RunRecord
from smcl.publish.upload import claim_for_training, publish
from smcl.train.calibration import calibrate
from smcl.train.dry_run import dry_run
from smcl.train.image_cache import CachedImages, ImageFeatures, ImagePixels
from smcl.train.prediction_cards import add_prediction_figures
from smcl.train.trainer import (
    SMCLDataCollator,
    SMCLTrainer,
    SMCLTrainingArguments,
    build_compute_metrics,
    checkpoint_faults,
    entity_metrics,
    last_complete_checkpoint,
    word_tags,
)

logger = logging.get_logger("smcl")


@dataclass
class ModelArguments:
    """Which model to start from."""

    model: str | None = field(default=None, metadata={"help": "A saved model: folder or Hub name."})
    system: str | None = field(
        default=None,
        metadata={"help": f"Kind of a new model: {', '.join(SYSTEMS)} (smcl). A saved model is what it is."},
    )
    text_model: str | None = field(default=None, metadata={"help": "Text encoder of a new model: folder or Hub name."})
    vision_model: str | None = field(default=None, metadata={"help": "Image encoder of a new model, likewise."})
    word_vectors: str | None = field(
        default=None, metadata={"help": "Vectors in GloVe's text format for a new bilstm-crf or hbilstm-crf."}
    )
    freeze_vision: bool = field(
        default=False, metadata={"help": "Leave the image encoder as it is and encode each image only once."}
    )
    calibrate: bool = field(
        default=False, metadata={"help": "Fit the temperature of confidences on the validation split and save it."}
    )


@dataclass
class SwitchArguments:
    """Fields of the configuration; what is left out keeps its default, or what the saved model has."""

    max_images: int | None = field(default=None, metadata={"help": "Largest number of images of a post (4)."})
    num_image_layers: int | None = field(default=None, metadata={"help": "Layers relating images to each other (1)."})
    num_fusion_layers: int | None = field(default=None, metadata={"help": "Layers in front of the fusion (1)."})
    guidance_filter: str | None = field(default=None, metadata={"help": "'none', 'score' or 'probability' (none)."})
    image_weighting: str | None = field(default=None, metadata={"help": "'uniform' or 'relevance' (uniform)."})
    cmd_order: int | None = field(default=None, metadata={"help": "Highest moment of the similarity loss, K (3)."})
    similarity_weight: float | None = field(default=None, metadata={"help": "Weight of the similarity loss (0.3)."})
    difference_weight: float | None = field(default=None, metadata={"help": "Weight of the difference loss (0.2)."})
    contrastive_weight: float | None = field(default=None, metadata={"help": "Weight of the InfoNCE loss (0)."})
    use_image_guidance: bool | None = field(default=None, metadata={"help": "Images guide the text encoder (true)."})
    use_alignment: bool | None = field(default=None, metadata={"help": "The alignment encoder (true)."})
    use_refinement: bool | None = field(default=None, metadata={"help": "The refinement encoders (true)."})
    use_fusion: bool | None = field(default=None, metadata={"help": "Symmetric fusion, not concatenation (true)."})
    constrain_bio: bool | None = field(default=None, metadata={"help": "Forbid illegal BIO2 when decoding (true)."})
    dropout: float | None = field(default=None, metadata={"help": "Dropout outside the two encoders (0.1)."})

    def given(self) -> dict:
        """Return the fields that were given."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass
class DataArguments:
    """What to read."""

    dataset: str | None = field(
        default=None, metadata={"help": "A folder written by a converter of smcl.dataset_scripts, or a Hub name."}
    )
    ignore_images: bool = field(default=False, metadata={"help": "Take all images away."})
    cache_images: bool = field(
        default=False, metadata={"help": "Keep resized images on disk and read each only once; for many epochs."}
    )
    image_cache: str | None = field(
        default=None,
        metadata={"help": "Folder of what --freeze_vision and --cache_images keep; default: in Hugging Face's cache."},
    )
    max_length: int | None = field(default=None, metadata={"help": "Most tokens of a post; default: the tokenizer's."})
    on_extra_images: str = field(
        default="error", metadata={"help": "With more than max_images images: 'error', or 'first' to keep the first."}
    )
    input: str | None = field(
        default=None,
        metadata={"help": "Posts to tag with --do_predict: .jsonl or .parquet file, folder of Parquet or Hub name."},
    )
    output: str | None = field(default=None, metadata={"help": "File for the tagged posts: .jsonl or .parquet."})
    split: str | None = field(default=None, metadata={"help": "Split of --input; default: its only one, or 'test'."})
    on_bad_image: str = field(
        default="error", metadata={"help": "With an image of --input that can't be read: 'error', or 'skip' it."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Check data, model, memory and time of this run, and write nothing."}
    )


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, SwitchArguments, DataArguments, SMCLTrainingArguments]:
    """Parse the command line, or one YAML or JSON file in its place."""
    parser = HfArgumentParser((ModelArguments, SwitchArguments, DataArguments, SMCLTrainingArguments))
    if len(argv) == 1 and argv[0].endswith((".yaml", ".yml")):
        return parser.parse_yaml_file(argv[0])
    if len(argv) == 1 and argv[0].endswith(".json"):
        return parser.parse_json_file(argv[0])
    return parser.parse_args_into_dataclasses(argv)


def check_output(folder: str) -> None:
    """Make the output folder, before hours of work that could not be saved there."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"`--output_dir {folder}` is no folder that can be written to: {error}") from error


def checkpoint_to_resume(arguments: SMCLTrainingArguments) -> str | None:
    """Read `resume_from_checkpoint`.

    Args:
        arguments (`SMCLTrainingArguments`): With a checkpoint, or `"true"` for the last complete one of `output_dir`.

    Returns:
        `str`, *optional*: the checkpoint; none if training starts from the beginning.

    Raises:
        ValueError: if the checkpoint named is incomplete.
    """
    # A command line gives strings, a YAML or JSON file may give booleans.
    given = str(arguments.resume_from_checkpoint)
    if given.lower() in ("none", "false"):
        return None
    if given.lower() == "true":
        last = last_complete_checkpoint(arguments.output_dir)
        start = "from the beginning: no complete checkpoint is there yet" if last is None else f"from {last}"
        logger.warning(f"Training in {arguments.output_dir} starts {start}.")
        return last
    if faults := checkpoint_faults(given):
        raise ValueError(
            f"`--resume_from_checkpoint {given}` is no complete checkpoint: missing or cut off: {', '.join(faults)}. "
            "Give `true` for the last complete checkpoint of the output folder."
        )
    return given


def load_posts(name: str, splits: list[str]) -> DatasetDict:
    """Load a data set and check what is needed of it.

    Args:
        name (`str`): Folder or Hub name.
        splits (`list[str]`): Splits that will be used.

    Returns:
        `DatasetDict` with those splits.

    Raises:
        ValueError: if the data set, a split or a column is missing, or a split is empty; names it.
    """
    dataset = DatasetDict({split: load_split(name, split) for split in splits})
    for split, columns in dataset.column_names.items():
        missing = {"id", "tokens", "ner_tags"} - set(columns)
        if missing:
            raise ValueError(
                f"Split {split!r} of the data set {name} lacks the columns {sorted(missing)}; it has {columns}. The "
                "data schema stands in the README."
            )
    return dataset


def load_split(name: str, split: str) -> Dataset:
    """Load one split; a `ValueError` says what is wrong if it can't be."""
    try:
        return load_dataset(name, split=split)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise ValueError(
            f"`--dataset {name}` is neither a folder here nor a data set that can be reached on the Hub. Write one "
            "with `python -m smcl.dataset_scripts.mner_mi` or another converter."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"The data set {name} has no split {split!r} with at least one post, which this run needs: {error}"
        ) from error


def label_names(dataset: DatasetDict) -> list[str]:
    """Return the names of the tags, by id."""
    tags = next(iter(dataset.values())).features["ner_tags"].feature
    if not hasattr(tags, "names"):
        raise ValueError(f"The column `ner_tags` must hold class labels with names, got {tags}.")
    return tags.names


def load_model(
    arguments: ModelArguments, switches: dict, labels: list[str], train_posts: Dataset | None = None
) -> tuple[SMCLTaggingModel, SMCLProcessor]:
    """Load a saved model, or build a new one.

    Args:
        arguments (`ModelArguments`): Which one.
        switches (`dict`): Fields of its configuration to set.
        labels (`list[str]`): Label names of the data set, by id.
        train_posts (`Dataset`, *optional*): The training split; new systems without pretrained encoders know its words.

    Returns:
        The model and its processor.

    Raises:
        ValueError: if the arguments name no model, or one that does not fit the switches or the labels.
    """
    if arguments.model is None:
        return build_model(arguments, switches, labels, train_posts)
    if arguments.text_model is not None or arguments.vision_model is not None or arguments.word_vectors is not None:
        raise ValueError(
            "`--model` brings its own encoders: leave out `--text_model`, `--vision_model` and `--word_vectors`."
        )
    model = load_saved_model(arguments, switches)
    model_labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    if model_labels != labels:
        raise ValueError(f"The model {arguments.model} has the labels {model_labels}, but the data set has {labels}.")
    return model, AutoProcessor.from_pretrained(arguments.model)


def build_model(
    arguments: ModelArguments, switches: dict, labels: list[str], train_posts: Dataset | None = None
) -> tuple[SMCLTaggingModel, SMCLProcessor]:
    """Build a new model of `--system` from pretrained encoders, or from training posts; see `load_model`."""
    name = arguments.system or "smcl"
    if name not in SYSTEMS:
        raise ValueError(f"`--system` must be one of {', '.join(SYSTEMS)}, got {name!r}.")
    system = SYSTEMS[name]
    check_switches(system, switches)
    id2label, needed = dict(enumerate(labels)), needed_encoders(system)
    encoders = {"text": arguments.text_model, "vision": arguments.vision_model}
    if any(encoders[part] is None for part in needed):
        examples = {"text": "google-bert/bert-base-uncased", "vision": "google/vit-base-patch16-224"}
        names = " and ".join(f"`--{part}_model`" for part in needed)
        raise ValueError(
            f"Expected `--model` (a saved model), or {'both ' * (len(needed) > 1)}{names} of a new {name}, such as "
            f"`{' '.join(f'--{part}_model {examples[part]}' for part in needed)}`."
        )
    if unread := [f"`--{part}_model`" for part, given in encoders.items() if given is not None and part not in needed]:
        logger.warning(f"The system {name!r} has no use for {' and '.join(unread)}: that is left unread.")
    if needed:
        if arguments.word_vectors is not None:
            raise ValueError(f"The system {name!r} has no `--word_vectors`: leave that out.")
        model = system.from_text_vision_pretrained(*encoders.values(), id2label=id2label, **switches)
        max_images = model.config.max_images
        return model, processor_class(system).from_text_vision_pretrained(*encoders.values(), max_images=max_images)
    if train_posts is None:
        raise ValueError(f"A new {name} takes its words from the training split: expected `--do_train` or `--model`.")
    return system.from_posts(train_posts["tokens"], arguments.word_vectors, id2label=id2label, **switches)


def load_saved_model(arguments: ModelArguments, switches: dict) -> SMCLTaggingModel:
    """Load `--model`; a `ValueError` says so if it is of another system or its weights do not fit the switches."""
    name = arguments.model
    config = AutoConfig.from_pretrained(name)
    system = next((system for system in SYSTEMS.values() if system.config_class is type(config)), None)
    if system is None or arguments.system not in (None, system_name(system)):
        raise ValueError(
            f"Expected the model {name} to be saved by one of the systems {', '.join(SYSTEMS)}"
            f"{f', and by {arguments.system}' if arguments.system else ''}, got a model of type {config.model_type!r}."
        )
    check_switches(system, switches)
    model, info = AutoModelForTokenClassification.from_pretrained(name, output_loading_info=True, **switches)
    misfits = sorted({*info["missing_keys"], *info["unexpected_keys"]})
    if misfits:
        raise ValueError(
            f"The weights of {name} do not fit the switches {switches}: {', '.join(misfits[:5])} and "
            f"{max(0, len(misfits) - 5)} more are missing or left over. Switches that change parts need a new model."
        )
    return model


def build_cache(
    model: SMCLTaggingModel, processor: SMCLProcessor, freeze_vision: bool, arguments: DataArguments
) -> CachedImages:
    """Open the cache of image features, or of resized images where the image encoder is trained."""
    settings = {"folder": arguments.image_cache, "on_extra_images": arguments.on_extra_images}
    return ImageFeatures(model, processor, **settings) if freeze_vision else ImagePixels(processor, **settings)


def build_trainer(
    model: SMCLTaggingModel,
    processor: SMCLProcessor,
    dataset: DatasetDict,
    labels: list[str],
    freeze_vision: bool,
    data_arguments: DataArguments,
    arguments: SMCLTrainingArguments,
) -> SMCLTrainer:
    """Build the trainer; read or encode the images of the training and validation splits first, if they are kept."""
    features, shown = None, dataset.get("validation")
    if arguments.do_train and reads_images(type(model)):
        if freeze_vision:
            model.base_model.vision_model.requires_grad_(False)
        if "images" in dataset["train"].column_names and (freeze_vision or data_arguments.cache_images):
            # One process reads and computes; the others of this machine then find all on disk.
            with arguments.main_process_first(desc="reading images"):
                features = build_cache(model.to(arguments.device), processor, freeze_vision, data_arguments)
                quiet = bool(arguments.disable_tqdm)
                dataset = {split: features.replace_images(dataset[split], quiet) for split in ("train", "validation")}
    callbacks = []
    if arguments.do_train:
        callbacks.append(EarlyStoppingCallback(arguments.early_stopping_patience))
    else:
        # The defaults evaluate and save after each epoch, which transformers refuses without data for it.
        arguments.eval_strategy = arguments.save_strategy = "no"
    trainer = SMCLTrainer(
        model=model,
        args=arguments,
        data_collator=SMCLDataCollator(processor, features, data_arguments.max_length, data_arguments.on_extra_images),
        train_dataset=dataset["train"] if arguments.do_train else None,
        eval_dataset=dataset.get("validation"),
        processing_class=processor,
        compute_metrics=build_compute_metrics(labels),
        callbacks=callbacks,
    )
    if shown is not None:
        add_prediction_figures(trainer, shown, data_arguments.on_extra_images)
    return trainer


def train(trainer: SMCLTrainer, checkpoint: str | None) -> None:
    """Train, save the best model with its processor, and note the results."""
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    metrics = result.metrics | {"train_samples": len(trainer.train_dataset)}
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)


def fit_temperature(trainer: SMCLTrainer, dataset: DatasetDict) -> None:
    """Calibrate the model, save it again, and note how well its confidences fit."""
    metrics = calibrate(trainer, {split: posts for split, posts in dataset.items() if split != "train"})
    trainer.save_model()
    trainer.log_metrics("calibration", metrics)
    trainer.save_metrics("calibration", metrics)


def predict(trainer: SMCLTrainer, posts: Dataset, labels: list[str], path: Path) -> dict[str, float]:
    """Tag posts, write one JSON line for each, and score them.

    Args:
        trainer (`SMCLTrainer`): Holds the model.
        posts (`Dataset`): Posts with gold tags.
        labels (`list[str]`): Label names by id.
        path (`Path`): File to write: id, tokens, gold and predicted tags; `"O"` for words cut off by the length.

    Returns:
        `dict`: scores over all words, cut off or not.
    """
    predicted = word_tags(trainer.predict(posts, metric_key_prefix="test").predictions, labels)
    records = []
    texts = posts.select_columns(["id", "tokens", "ner_tags"])
    for post, tags in zip(texts, predicted, strict=True):
        tags = tags + ["O"] * (len(post["tokens"]) - len(tags))
        gold = [labels[tag] for tag in post["ner_tags"]]
        records.append({"id": post["id"], "tokens": post["tokens"], "gold": gold, "predicted": tags})
    if trainer.is_world_process_zero():
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        path.write_text("".join(lines), encoding="utf-8")
    return entity_metrics([record["gold"] for record in records], [record["predicted"] for record in records])


def predict_input(
    model_arguments: ModelArguments,
    switches: SwitchArguments,
    data_arguments: DataArguments,
    arguments: SMCLTrainingArguments,
) -> dict[str, int]:
    """Tag the posts of `--input`, which need no gold tags; see `predict_file`.

    Returns:
        `dict`: numbers of `posts`, `errors` and `skipped_images`; empty in all processes but the first.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    if data_arguments.dry_run:
        raise ValueError("`--dry_run` checks runs on a `--dataset`: leave it out with `--input`.")
    if not arguments.do_predict or arguments.do_train or arguments.do_eval or model_arguments.calibrate:
        raise ValueError("`--input` goes with `--do_predict` alone: train, evaluate and calibrate in another run.")
    if model_arguments.model is None or data_arguments.output is None:
        raise ValueError("With `--input`, expected `--model` (a saved model) and `--output` (.jsonl or .parquet).")
    if data_arguments.dataset is not None or data_arguments.max_length is not None:
        raise ValueError("With `--input`, leave out `--dataset`, and `--max_length`: long posts are read to their end.")
    model = load_saved_model(model_arguments, switches.given())
    processor = AutoProcessor.from_pretrained(model_arguments.model)
    return predict_file(
        MultiImageNERPipeline(model, processor, device=arguments.device),
        data_arguments.input,
        data_arguments.output,
        split=data_arguments.split,
        batch_size=arguments.per_device_eval_batch_size,
        disable_tqdm=bool(arguments.disable_tqdm),
        ignore_images=data_arguments.ignore_images,
        on_bad_image=data_arguments.on_bad_image,
        on_extra_images=data_arguments.on_extra_images,
    )


def needed_splits(arguments: SMCLTrainingArguments, calibrates: bool) -> list[str]:
    """Name the splits that a run reads; a `ValueError` says so if it would do nothing."""
    needed = {
        "train": arguments.do_train,
        "validation": arguments.do_train or arguments.do_eval or calibrates,
        "test": arguments.do_predict,
    }
    splits = [split for split, is_needed in needed.items() if is_needed]
    if not splits:
        raise ValueError(
            "Nothing to do: give at least one of `--do_train`, `--do_eval`, `--do_predict` and `--calibrate`."
        )
    return splits


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
    model_arguments, switches, data_arguments, training_arguments = arguments
    if data_arguments.input is not None:
        return predict_input(*arguments)
    if data_arguments.dataset is None:
        raise ValueError("Expected `--dataset`, or `--input` and `--output` with `--do_predict` to tag other posts.")
    splits = needed_splits(training_arguments, model_arguments.calibrate)
    if not data_arguments.dry_run:
        check_output(training_arguments.output_dir)
    checkpoint = checkpoint_to_resume(training_arguments)
    dataset = load_posts(data_arguments.dataset, splits)
    labels = label_names(dataset)
    set_seed(training_arguments.seed)
    model, processor = load_model(model_arguments, switches.given(), labels, dataset.get("train"))
    if data_arguments.ignore_images or not reads_images(type(model)):
        columns = {name for names in dataset.column_names.values() for name in names}
        dataset = dataset.remove_columns("images") if "images" in columns else dataset

    def build(posts: DatasetDict, image_cache: str | None, settings: SMCLTrainingArguments) -> SMCLTrainer:
        reading = replace(data_arguments, image_cache=image_cache)
        return build_trainer(model, processor, posts, labels, model_arguments.freeze_vision, reading, settings)

    if data_arguments.dry_run:
        return dry_run(build, dataset, training_arguments, data_arguments.on_extra_images)
    saves_model = training_arguments.do_train or model_arguments.calibrate
    upload = claim_for_training(training_arguments, model.config.model_type, saves_model)
    trainer = build(dataset, data_arguments.image_cache, training_arguments)
    if training_arguments.do_train:
        train(trainer, checkpoint)
    if model_arguments.calibrate:
        fit_temperature(trainer, dataset)
    if training_arguments.do_eval:
        metrics = trainer.evaluate(dataset["validation"])
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    scores = {}
    if training_arguments.do_predict:
        path = Path(training_arguments.output_dir) / "predictions.jsonl"
        scores = predict(trainer, dataset["test"], labels, path)
        metrics = {f"test_{name}": score for name, score in scores.items()}
        trainer.log_metrics("test", metrics)
        trainer.save_metrics("test", metrics)
    if trainer.is_world_process_zero():
        record.write(model_arguments, data_arguments, training_arguments, dataset, checkpoint)
        if upload is not None:
            logger.warning(f"Published: {publish(training_arguments.output_dir, **upload)}")
    return scores


if __name__ == "__main__":
    main()
