"""From arguments to what a run works with: posts, model, processor and trainer."""

from dataclasses import dataclass, replace

from datasets import Dataset, DatasetDict, IterableDataset
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoProcessor,
    EarlyStoppingCallback,
    PretrainedConfig,
    set_seed,
)
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from ..baselines import (
    SYSTEMS,
    check_columns,
    check_switches,
    context_columns,
    empty_context,
    needed_encoders,
    processor_class,
    reads_images,
    reads_pixels,
    system_name,
)
from ..dataset_scripts.columns import parse_columns
from ..dataset_scripts.gate import PostsDict
from ..modeling_smcl import SMCLTaggingModel
from ..predict.loading import load_processor, load_weights, naming_configuration
from ..processing_smcl import SMCLProcessor
from .arguments import Arguments, DataArguments, ModelArguments, SMCLTrainingArguments, require_trackers
from .collator import SMCLDataCollator
from .data import label_names, list_lengths, load_posts, refuse_posts
from .image_cache import CachedImages, ImageFeatures, ImagePixels
from .learning_rates import check_vision_rate
from .metrics import SCORES
from .prediction_cards import add_prediction_figures
from .trainer import SMCLTrainer, build_compute_metrics, forget_temperature

logger = logging.get_logger(__name__)


@dataclass
class Run:
    """What a run works with; see [`prepare`].

    Args:
        arguments ([`Arguments`]): All that was asked for.
        posts (`DatasetDict` or `IterableDatasetDict`): The splits that it uses, without images where these are not
            read.
        model ([`SMCLTaggingModel`]): The model.
        processor ([`SMCLProcessor`]): Its processor.
    """

    arguments: Arguments
    posts: PostsDict
    model: SMCLTaggingModel
    processor: SMCLProcessor

    @property
    def labels(self) -> list[str]:
        """The names of the tags, by id."""
        return label_names(self.posts)

    def load_model(self, **switches) -> SMCLTaggingModel:
        """Load or build the model anew, as a run starts with it.

        Args:
            **switches: Fields of its configuration, over those of the arguments.
        """
        given = self.arguments.switches.given() | switches
        return load_model(self.arguments.model, given, self.labels, self.posts.get("train"))[0]

    def build_trainer(
        self,
        posts: PostsDict | None = None,
        training: SMCLTrainingArguments | None = None,
        image_cache: str | None = None,
    ) -> SMCLTrainer:
        """Build the trainer; read or encode the images of training and validation first, if they are kept.

        Args:
            posts (`DatasetDict`, *optional*): Other posts than all.
            training ([`SMCLTrainingArguments`], *optional*): Other training arguments than the run's.
            image_cache (`str`, *optional*): Another folder to keep images in.

        Returns:
            [`SMCLTrainer`].

        Raises:
            ValueError: if an image can't be used; names the post.
            OSError: if images can't be kept.
        """
        posts = self.posts if posts is None else posts
        training = self.arguments.training if training is None else training
        data = self.arguments.data if image_cache is None else replace(self.arguments.data, image_cache=image_cache)
        shown, features = posts.get("validation"), None
        evaluates = training.do_train and training.eval_strategy != IntervalStrategy.NO
        # A stream passes by: its images are encoded as they come.
        keeps_images = reads_pixels(type(self.model)) and not data.streaming
        keeps_images = keeps_images and (self.arguments.model.freeze_vision or data.cache_images)
        if training.do_train and keeps_images and "images" in posts["train"].column_names:
            # One process reads and computes; the others of this machine then find all on disk.
            with training.main_process_first(desc="reading images"):
                features = self._open_cache(data, training)
                quiet = bool(training.disable_tqdm)
                kept = [split for split in ("train", "validation") if split in posts]
                posts = {split: features.replace_images(posts[split], quiet) for split in kept}
        if not training.do_train:
            # The defaults evaluate and save after each epoch, which transformers refuses without data for it.
            training.eval_strategy = training.save_strategy = "no"
        train_posts = posts["train"] if training.do_train else None
        if isinstance(train_posts, IterableDataset) and training.train_sampling_strategy == "random":
            seed = training.seed if training.data_seed is None else training.data_seed
            train_posts = train_posts.shuffle(seed, buffer_size=data.shuffle_buffer)
        trainer = SMCLTrainer(
            model=self.model,
            args=training,
            data_collator=SMCLDataCollator(self.processor, features, data.max_length, data.on_extra_images),
            train_dataset=train_posts,
            eval_dataset=posts.get("validation"),
            processing_class=self.processor,
            compute_metrics=build_compute_metrics(self.labels),
            callbacks=[EarlyStoppingCallback(training.early_stopping_patience)] if evaluates else [],
        )
        if shown is not None:
            add_prediction_figures(trainer, shown, data.on_extra_images)
        return trainer

    def _open_cache(self, data: DataArguments, training: SMCLTrainingArguments) -> CachedImages:
        """Open the cache of image features, or of resized images where the image encoder is trained."""
        settings = {"folder": data.image_cache, "on_extra_images": data.on_extra_images}
        if self.arguments.model.freeze_vision:
            return ImageFeatures(self.model.to(training.device), self.processor, **settings)
        return ImagePixels(self.processor, **settings)


def _check_metric(name: str | None, labels: list[str]) -> None:
    """Refuse a `metric_for_best_model` that an evaluation does not give, before an epoch of work."""
    types = [label.removeprefix("B-") for label in labels if label.startswith("B-")]
    known = ["loss", *SCORES, *(f"{entity_type}_{score}" for entity_type in types for score in SCORES)]
    if str(name).removeprefix("eval_") not in known:
        raise ValueError(f"`--metric_for_best_model` must be one of {', '.join(known)}, got {name!r}.")


def prepare(arguments: Arguments, splits: list[str]) -> Run:
    """Load the posts of a run, check them, and load or build its model.

    Args:
        arguments ([`Arguments`]): Those of the command line; `data.dataset` must be given.
        splits (`list[str]`): Splits that the run uses.

    Returns:
        [`Run`].

    Raises:
        ImportError: if a tracker that the run reports to is missing.
        ValueError: if the arguments, the data and the model do not fit together.
    """
    require_trackers(arguments.training.report_to)
    data, switches = arguments.data, arguments.switches.given()
    system, config = find_system(arguments.model), saved_config(arguments.model)
    if data.streaming:
        _check_streaming(arguments, system)
    columns = () if data.ignore_images else context_columns(system)
    posts = load_posts(
        data.dataset,
        splits,
        parse_columns(data.columns),
        data.streaming,
        system_name(system),
        context=columns,
        config_name=data.dataset_config_name,
        tag_scheme=data.tag_scheme,
        reads_images=reads_images(system),
        ignore_images=data.ignore_images,
        labels=None if config is None else label_list(config),
    )
    if data.ignore_images and context_columns(system):
        posts = type(posts)({name: empty_context(part, context_columns(system)) for name, part in posts.items()})
    check_columns(columns, posts, system_name(system), data.dataset)
    training = arguments.training
    if training.do_train and training.eval_strategy != IntervalStrategy.NO:
        _check_metric(training.metric_for_best_model, label_names(posts))
    set_seed(training.seed)
    model, processor = load_model(arguments.model, switches, label_names(posts), posts.get("train"))
    if training.do_train:
        check_vision_rate(model, training)
        forget_temperature(model)
    if reads_pixels(type(model)) and data.on_extra_images == "error" and not data.streaming:
        _check_image_counts(posts, processor.max_images)
    return Run(arguments, posts, model, processor)


def _check_image_counts(posts: DatasetDict, most: int) -> None:
    """Refuse posts of any split that have more images than the model takes, before an epoch of work."""
    for split, part in posts.items():
        if "images" in part.column_names:
            rows = [row for row, count in enumerate(list_lengths(part, "images")) if count > most]
            refuse_posts(split, part, rows, f"have more than {most} images: see `--on_extra_images`")


def _check_streaming(arguments: Arguments, system: type[SMCLTaggingModel]) -> None:
    """Refuse what a stream of posts can't do; a `ValueError` names it."""
    data, training = arguments.data, arguments.training
    is_new = arguments.model.model is None
    cures = {
        "`--cache_images`, which reads all images first: leave it out": data.cache_images,
        "`--calibrate`, which looks at all posts again and again: calibrate in another run, without it": (
            arguments.model.calibrate
        ),
        "`--train_sampling_strategy group_by_length`, which sorts all posts: leave it out": (
            training.do_train and training.train_sampling_strategy == "group_by_length"
        ),
        f"{training.world_size} processes: start one": training.world_size > 1,
        f"a new {system_name(system)}, which takes its words from all posts: give another `--system`, or a saved "
        "model by `--model`": is_new and not needed_encoders(system),
        "`--do_train` alone, since nobody knows the length of a stream: give `--max_steps`": training.do_train
        and training.max_steps <= 0,
    }
    for what, is_asked in cures.items():
        if is_asked:
            raise ValueError(f"`--streaming` can't go with {what}.")
    if data.shuffle_buffer < 1:
        raise ValueError(f"`--shuffle_buffer` must be at least 1 post, got {data.shuffle_buffer}.")


def saved_config(arguments: ModelArguments) -> PretrainedConfig | None:
    """Load the configuration of `--model`; none of a new model. A `ValueError` says so if there is no such model."""
    if arguments.model is None:
        return None
    try:
        with naming_configuration(arguments.model):
            return AutoConfig.from_pretrained(arguments.model)
    except OSError as error:
        raise ValueError(
            f"`--model {arguments.model}` is neither a folder with a saved model nor a model that can be reached on "
            f"the Hub: {error}"
        ) from error


def label_list(config: PretrainedConfig) -> list[str]:
    """Return the names of a model's tags, by id."""
    return [config.id2label[number] for number in range(config.num_labels)]


def find_system(arguments: ModelArguments) -> type[SMCLTaggingModel]:
    """Find the system of a saved or a new model.

    Args:
        arguments ([`ModelArguments`]): Which one.

    Returns:
        `type[SMCLTaggingModel]`: its class.

    Raises:
        ValueError: if there is no such system or model, or the saved model is of another.
    """
    name = arguments.system
    if name not in (None, *SYSTEMS):
        raise ValueError(f"`--system` must be one of {', '.join(SYSTEMS)}, got {name!r}.")
    if arguments.model is None:
        return SYSTEMS[name or "smcl"]
    if arguments.text_model is not None or arguments.vision_model is not None or arguments.word_vectors is not None:
        raise ValueError(
            "`--model` brings its own encoders: leave out `--text_model`, `--vision_model` and `--word_vectors`."
        )
    config = saved_config(arguments)
    system = next((system for system in SYSTEMS.values() if system.config_class is type(config)), None)
    if system is None or name not in (None, system_name(system)):
        raise ValueError(
            f"Expected the model {arguments.model} to be saved by one of the systems {', '.join(SYSTEMS)}"
            f"{f', and by {name}' if name else ''}, got a model of type {config.model_type!r}."
        )
    return system


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
    load = _build_model if arguments.model is None else _load_model
    try:
        model, processor = load(arguments, switches, labels, train_posts)
        # Over a saved configuration, transformers sets fields without a look at the others.
        model.config.validate()
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__)) from error
    if arguments.freeze_vision and reads_pixels(type(model)):
        model.base_model.vision_model.requires_grad_(False)
    return model, processor


def _load_model(
    arguments: ModelArguments, switches: dict, labels: list[str], train_posts: Dataset | None
) -> tuple[SMCLTaggingModel, SMCLProcessor]:
    """Load `--model` and its processor; see `load_model`."""
    model = load_saved_model(arguments, switches)
    if (model_labels := label_list(model.config)) != labels:
        raise ValueError(f"The model {arguments.model} has the labels {model_labels}, but the data set has {labels}.")
    return model, load_processor(AutoProcessor, arguments.model)


def _build_model(
    arguments: ModelArguments, switches: dict, labels: list[str], train_posts: Dataset | None
) -> tuple[SMCLTaggingModel, SMCLProcessor]:
    """Build a new model of `--system` from pretrained encoders, or from training posts; see `load_model`."""
    system = find_system(arguments)
    name = system_name(system)
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
        names = " and ".join(f"`--{part}_model {encoders[part]}`" for part in needed)
        try:
            model = system.from_text_vision_pretrained(*encoders.values(), id2label=id2label, **switches)
        except OSError as error:
            raise ValueError(f"{names} can't be loaded: {error}") from error
        max_images = model.config.max_images
        try:
            processor = processor_class(system).from_text_vision_pretrained(*encoders.values(), max_images=max_images)
        except (OSError, ValueError) as error:
            raise ValueError(f"Tokenizer or image processor of {names} can't be loaded: {error}") from error
        limit = model.max_tokens
        if limit is not None and processor.tokenizer.model_max_length > limit:
            logger.warning(f"The tokenizer has no limit that the text encoder keeps: posts are cut at {limit} tokens.")
            processor.tokenizer.model_max_length = limit
        return model, processor
    if train_posts is None:
        raise ValueError(f"A new {name} takes its words from the training split: expected `--do_train` or `--model`.")
    return system.from_posts(train_posts["tokens"], arguments.word_vectors, id2label=id2label, **switches)


def load_saved_model(arguments: ModelArguments, switches: dict) -> SMCLTaggingModel:
    """Load `--model`; a `ValueError` says so if it is of another system or its weights do not fit the switches."""
    check_switches(find_system(arguments), switches)
    return load_weights(AutoModelForTokenClassification, arguments.model, switches)


__all__ = ["Run", "find_system", "load_model", "load_saved_model", "prepare"]
