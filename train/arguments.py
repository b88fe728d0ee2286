"""Arguments of the command line: model, its switches, data and training."""

import datetime
import inspect
import re
import shlex
from argparse import SUPPRESS, ArgumentDefaultsHelpFormatter, ArgumentTypeError
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging

from ..baselines import SYSTEMS
from ..configuration_smcl import SMCLConfig
from ..dataset_scripts.command_line import OneLineErrors, did_you_mean, require
from ..dataset_scripts.schema import parse_json
from ..dataset_scripts.tag_schemes import SCHEMES

logger = logging.get_logger(__name__)


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


def _documented(config_class: type[SMCLConfig]) -> dict[str, str]:
    """Read what the docstring of a configuration says of each field."""
    text = inspect.getdoc(config_class).partition("Args:\n")[2]
    entries = re.finditer(r"^    (\w+) \(.*?\):\s+(.*?)(?=^    \w|^$|\Z)", text, re.DOTALL | re.MULTILINE)
    return {entry[1]: " ".join(entry[2].split()) for entry in entries}


def _switch(name: str) -> tuple[str, Any, Any]:
    """Describe the argument for a field of the systems' configurations, with its default in each system."""
    owners = {key: system.config_class for key, system in SYSTEMS.items() if name in system.config_class.switches}
    # SMCL's own description, or those of the systems.
    config_class = owners.get("smcl", next(iter(owners.values())))
    described = {"smcl": config_class} if "smcl" in owners else owners
    texts: dict[str, list[str]] = {}
    for key, owner in described.items():
        text = next(said[name] for said in map(_documented, owner.__mro__) if name in said).rstrip(".")
        texts.setdefault(text, []).append(key)
    help_text = ". ".join(f"With {', '.join(keys)}: {text}" if len(texts) > 1 else text for text, keys in texts.items())
    systems: dict[Any, list[str]] = {}
    for key, owner in owners.items():
        systems.setdefault(getattr(owner, name), []).append(key)
    usual = getattr(config_class, name)
    others = [f"{value} with {', '.join(keys)}" for value, keys in systems.items() if value != usual]
    of_whom = "" if "smcl" in owners else f" with {', '.join(systems[usual])}"
    default = "; ".join([f"{usual}{of_whom}", *others])
    metadata = {"help": f"{help_text} (default: {default}).".replace("%", "%%")}
    (annotation,) = (f.type for f in fields(config_class) if f.name == name)
    # The parser knows no value of two kinds: a number that may be an integer or not, and names or a truth value, which
    # `given` tells apart.
    kind = {int | float: float, bool | list[str]: list[str]}.get(annotation, annotation)
    return name, kind | None, field(default=None, metadata=metadata)


def _given(self) -> dict[str, Any]:
    """Return the fields that were given."""
    values = {f.name: getattr(self, f.name) for f in fields(self)}
    # Names of parts, or one word that is true or false.
    with suppress(ArgumentTypeError, TypeError):
        values["as_printed"] = string_to_bool(*values["as_printed"])
    return {name: value for name, value in values.items() if value is not None}


_CONFIG_CLASSES = (SMCLConfig, *(system.config_class for system in SYSTEMS.values()))
SwitchArguments = make_dataclass(
    "SwitchArguments",
    map(_switch, dict.fromkeys(name for config_class in _CONFIG_CLASSES for name in config_class.switches)),
    namespace={
        "__doc__": "Fields of the configuration; what is left out keeps its default, or what the saved model has.",
        "given": _given,
    },
)


@dataclass
class DataArguments:
    """What to read."""

    dataset: str | None = field(
        default=None, metadata={"help": "A folder written by a converter of smcl.dataset_scripts, or a Hub name."}
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Which configuration of --dataset or --input, if they hold several."}
    )
    columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of the columns in the data, as OURS=THEIRS: images=image tokens=words.",
            # Given twice, both count.
            "action": "extend",
        },
    )
    tag_scheme: str | None = field(
        default=None,
        metadata={"help": f"What the tags of --dataset are converted from, if not BIO2: {', '.join(SCHEMES)}."},
    )
    ignore_images: bool = field(default=False, metadata={"help": "Take all images away."})
    streaming: bool = field(
        default=False, metadata={"help": "Read posts of --dataset as they are needed, and never keep them all."}
    )
    shuffle_buffer: int = field(
        default=1000, metadata={"help": "Posts that --streaming holds to draw the next one of training from."}
    )
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
    output: str | None = field(
        default=None, metadata={"help": "File for the tagged posts: .jsonl, .parquet, or .conll (words and tags)."}
    )
    split: str | None = field(default=None, metadata={"help": "Split of --input; default: its only one, or 'test'."})
    on_bad_image: str = field(
        default="error", metadata={"help": "With an image of --input that can't be read: 'error', or 'skip' it."}
    )
    allow_private_urls: bool = field(
        default=False,
        metadata={
            "help": "Fetch images of --input from this machine and from private networks too, not public hosts alone."
        },
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Check data, model, memory and time of this run, and write nothing."}
    )


# Arguments of `TrainingArguments` that can't be honoured: the only value that is taken, and why.
FIXED: dict[str, tuple[Any, str]] = {
    "average_tokens_across_devices": (True, "the loss is a mean over posts, not tokens, in any number of processes"),
    "batch_eval_metrics": (False, "entities are scored over all posts at once"),
    "dataloader_in_order": (True, "predictions are told apart by the order of the posts"),
    "eval_do_concat_batches": (True, "entities are scored over all posts at once"),
    "eval_use_gather_object": (False, "tags are gathered as tensors"),
    "include_for_metrics": ([], "entities are scored by their tags alone"),
    "label_names": (None, "the collator names them `labels`"),
    "label_smoothing_factor": (0.0, "a CRF scores whole sequences of tags and has no distribution to smooth"),
    "length_column_name": ("length", "the tokens themselves are counted"),
    "liger_kernel_config": (None, "there is no Liger kernel for these models"),
    "logging_nan_inf_filter": (False, "it would hide a loss that is not finite"),
    "parallelism_config": (None, "a model is shared out by FSDP or DeepSpeed only; see docs/scale.md"),
    "prediction_loss_only": (False, "scores need the predicted tags"),
    "remove_unused_columns": (False, "the collator needs columns that the model does not read"),
    "use_cache": (False, "these models generate nothing"),
    "use_liger_kernel": (False, "there is no Liger kernel for these models"),
}
# Arguments that must be finite, and the least that they may be: transformers takes any number, and would divide by 0,
# climb in place of descending, or stop in the middle.
LEAST = {
    "learning_rate": 0,
    "head_learning_rate": 0,
    "vision_learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "num_train_epochs": 0,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "early_stopping_patience": 1,
    "eval_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
    "seed": 0,
    "data_seed": 0,
    "adam_epsilon": 0,
}
LARGEST_SEED = 2**32 - 1
# Trackers whose package, or what brings it, is called otherwise or has their name.
TRACKERS = {"tensorboard": "smcl[track]"} | {
    name: name for name in ("clearml", "codecarbon", "comet_ml", "dvclive", "mlflow", "swanlab", "trackio", "wandb")
}
SAMPLING_STRATEGIES = ("random", "sequential", "group_by_length")


@dataclass
class SMCLTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the paper's settings as defaults, and what else [`SMCLTrainer`] reads.

    Arguments that could not be honoured are refused by name: those of `FIXED`, and what splits batches anew.

    Raises:
        ValueError: if an argument has a value that can't be honoured.
    """

    learning_rate: float = field(default=3e-5, metadata={"help": "Learning rate of the two encoders."})
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of all layers outside the two encoders; as theirs by default."}
    )
    vision_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the image encoder; as that of the text encoder by default."}
    )
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Posts per device and training step."})
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Posts per device and evaluation step."})
    num_train_epochs: float = field(default=50, metadata={"help": "Most epochs to train."})
    gather_losses: bool = field(
        default=True,
        metadata={"help": "With several processes, whether losses that look at a batch see the posts of all of them."},
    )
    early_stopping_patience: int = field(
        default=5, metadata={"help": "Evaluations without a better validation F1 before training stops."}
    )
    eval_strategy: IntervalStrategy | str = field(default="epoch", metadata={"help": "When to evaluate."})
    save_strategy: SaveStrategy | str = field(default="epoch", metadata={"help": "When to save a checkpoint."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept besides the best one."})
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Whether to end with the best weights; without evaluation, the last stay."}
    )
    metric_for_best_model: str | None = field(default="f1", metadata={"help": "Validation metric that decides."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Whether a resumed run goes on counting evaluations for early stopping."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Train into an --output_dir that holds a trained model, and replace it."}
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": SUPPRESS})
    remove_unused_columns: bool = field(default=False, metadata={"help": SUPPRESS})

    def __post_init__(self):
        for name, (value, reason) in FIXED.items():
            if getattr(self, name, value) != value:
                raise ValueError(f"`--{name}` can only be {value!r}, got {getattr(self, name)!r}: {reason}.")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise ValueError(f"`--{name}` must be a finite number of at least {least}, got {value!r}.")
        for name in ("eval_steps", "save_steps", "logging_steps"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"`--{name}` must be a number of steps above 0, got {getattr(self, name)!r}.")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`--{name}` must be at least 0 and below 1, got {getattr(self, name)!r}.")
        if self.optim_args and not all("=" in part for part in self.optim_args.split(",")):
            raise ValueError(f"`--optim_args` must be name=value pairs with commas between, got {self.optim_args!r}.")
        for name in ("seed", "data_seed"):
            if (getattr(self, name) or 0) > LARGEST_SEED:
                raise ValueError(f"`--{name}` must be at most {LARGEST_SEED}, got {getattr(self, name)}.")
        if self.output_dir is not None and not str(self.output_dir).strip():
            raise ValueError("`--output_dir` must be a folder, got an empty name.")
        if self.train_sampling_strategy not in SAMPLING_STRATEGIES:
            raise ValueError(
                f"`--train_sampling_strategy` must be one of {', '.join(SAMPLING_STRATEGIES)}, got "
                f"{self.train_sampling_strategy!r}."
            )
        if str(getattr(self.eval_strategy, "value", self.eval_strategy)) == "no":
            # There is no best model then; the last one is kept.
            self.load_best_model_at_end = False
        # transformers switches `do_eval` on with any `eval_strategy`; here it stays what it was set to.
        do_eval = self.do_eval
        try:
            super().__post_init__()
        except TypeError as error:
            # Of what is given as JSON, transformers hands the names on as they come.
            raise ValueError(f"An argument of JSON, such as `--accelerator_config`, can't be used: {error}.") from error
        if not isinstance(self.lr_scheduler_kwargs or {}, dict):
            raise ValueError(
                f"`--lr_scheduler_kwargs` must be an object of JSON, such as '{{\"num_cycles\": 2}}', got "
                f"{self.lr_scheduler_kwargs!r}."
            )
        self.do_eval = do_eval
        splitting = self.accelerator_config
        if splitting.split_batches or splitting.dispatch_batches or not splitting.even_batches:
            raise ValueError(
                "`--accelerator_config` can't have `split_batches`, `dispatch_batches` or `even_batches: false`: each "
                "process reads whole posts of its own, so that losses see the same batches in any number of them."
            )
        if self.n_gpu > 1:
            # Trainer would share out the tensors of a batch by their first dimension, and lose what looks at all posts.
            logger.warning(f"1 of {self.n_gpu} GPUs is used. For all of them, start with `accelerate launch`.")
            self._n_gpu = 1


def require_trackers(report_to: str | list[str] | None) -> None:
    """Refuse trackers that are not installed, before data is read for them.

    Args:
        report_to (`str` or `list[str]`, *optional*): As in `TrainingArguments`.

    Raises:
        ImportError: if one is missing.
    """
    for name in [report_to] if isinstance(report_to, str) else report_to or ():
        if name in TRACKERS and name not in get_available_reporting_integrations():
            require(f"`--report_to {name}`", TRACKERS[name], name)


class Arguments(NamedTuple):
    """All arguments of a run.

    Args:
        model ([`ModelArguments`]): Which model to start from.
        switches ([`SwitchArguments`]): Fields of its configuration to set.
        data ([`DataArguments`]): What to read.
        training ([`SMCLTrainingArguments`]): How to train, evaluate and predict.
    """

    model: ModelArguments
    switches: SwitchArguments
    data: DataArguments
    training: SMCLTrainingArguments


_CLASSES = (ModelArguments, SwitchArguments, DataArguments, SMCLTrainingArguments)
# The names of all arguments, for commands that hand them on.
RUN_ARGUMENTS = tuple(f.name for one in _CLASSES for f in fields(one))

# What `--help` shows first, room by room; the rest of `TrainingArguments` follows.
_OUTPUT = ("output_dir", "overwrite_output_dir", "output", "dry_run", "push_to_hub", "hub_model_id")
_STAGES = ("do_train", "do_eval", "do_predict", "calibrate", "resume_from_checkpoint", "seed")
_OWN_TRAINING = [name for name in SMCLTrainingArguments.__annotations__ if name not in _OUTPUT]
_ROOMS: dict[str, Sequence[str]] = {
    "model": [f.name for f in fields(ModelArguments) if f.name not in _STAGES],
    "model: fields of its configuration": [f.name for f in fields(SwitchArguments)],
    "data": [f.name for f in fields(DataArguments) if f.name not in _OUTPUT],
    "training": [*_STAGES, *_OWN_TRAINING],
    "output": _OUTPUT,
}
_REST = "transformers.TrainingArguments"
_USAGE = """run_ner_multiimage.py --dataset DATA --text_model TEXT --vision_model VISION --output_dir OUT --do_train ...
       run_ner_multiimage.py --dataset DATA --model OUT --output_dir PREDICTIONS --do_predict
       run_ner_multiimage.py --model OUT --do_predict --input posts.jsonl --output tagged.jsonl
       run_ner_multiimage.py arguments.yaml"""


class _HelpFormatter(ArgumentDefaultsHelpFormatter):
    """Tells the defaults of arguments that have one."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class _Parser(OneLineErrors, HfArgumentParser):
    """The parser of a run. Names with hyphens and `--no_NAME` are understood too, but shown nowhere."""

    def __init__(self, **options: Any):
        super().__init__(_CLASSES, formatter_class=_HelpFormatter, usage=_USAGE, **options)
        for action in self._actions:
            action.option_strings = [text for text in action.option_strings if "-" not in text.strip("-")]
            if action.option_strings[-1].startswith("--no_"):
                action.help = SUPPRESS

    def format_help(self) -> str:
        """Write the help room by room."""
        shown = {action.dest: action for action in self._actions if action.help is not SUPPRESS}
        rest = [name for name in shown if name != "help" and not any(name in names for names in _ROOMS.values())]
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, ())
        formatter.add_arguments([shown["help"]])
        for title, names in (_ROOMS | {_REST: rest}).items():
            formatter.start_section(title)
            formatter.add_arguments([shown[name] for name in names if name in shown])
            formatter.end_section()
        return formatter.format_help()


class _FileParser(_Parser):
    """Reads values of a file as the command line does; what does not fit is a `ValueError`."""

    def error(self, message):
        raise ValueError(message)


def parse_arguments(argv: list[str]) -> Arguments:
    """Parse the command line, or one YAML or JSON file in its place.

    Args:
        argv (`list[str]`): Arguments, or the path of a file that ends in `.yaml`, `.yml` or `.json`.

    Returns:
        [`Arguments`].

    Raises:
        ValueError: if an argument is unknown, can't be honoured, or has a value of another type in a file.
    """
    if len(argv) == 1 and argv[0].endswith((".yaml", ".yml", ".json")):
        try:
            return Arguments(*_parse_file(Path(argv[0])))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ValueError(f"The arguments in {argv[0]} can't be read: {error}") from error
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        raise ValueError(f"{argv[0]} stands alone, as a file of arguments: write {argv[1]} and others into it.")
    return Arguments(*_Parser().parse_args_into_dataclasses(argv))


class _UniqueLoader(yaml.SafeLoader):
    """Reads YAML in which nothing is given twice: YAML itself would take the last."""

    def construct_mapping(self, node, deep=False):
        merged = "tag:yaml.org,2002:merge"
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != merged]
        if twice := [key for number, key in enumerate(keys) if key in keys[:number]]:
            raise ValueError(f"`{twice[0]}` is given twice. Leave one of the two out.")
        return super().construct_mapping(node, deep)


def _parse_file(path: Path) -> tuple[Any, ...]:
    """Read the arguments of a file; see `parse_arguments`."""
    text = path.read_text(encoding="utf-8-sig")
    given = parse_json(text) if path.suffix == ".json" else yaml.load(text, _UniqueLoader)
    if not isinstance(given, dict):
        raise ValueError(f"expected names with values, got {type(given).__name__}.")
    # As it is written: YAML would read `no` as a truth, `010` as 8, and some names as dates.
    written = given if path.suffix == ".json" else yaml.load(text, yaml.BaseLoader)
    parser, values = _FileParser(allow_abbrev=False), {}
    hints = {name: hint for one in _CLASSES for name, hint in get_type_hints(one).items()}
    for name, value in given.items():
        if name not in hints:
            raise ValueError(f"there is no argument `{name}`.{did_you_mean(str(name), hints, '`{}`')}")
        takes = {get_origin(kind) or kind for kind in (hints[name], *get_args(hints[name]))}
        if list in takes and isinstance(value, str | dict):
            # As the command line takes several values, or pairs that a file may write as names with values.
            value = written.get(name, value)
            items = [f"{key}={item}" for key, item in value.items()] if isinstance(value, dict) else shlex.split(value)
            values[name] = getattr(parser.parse_args([f"--{name}", *items]), name)
        elif isinstance(value, str | int | float | datetime.date):
            is_truth = isinstance(value, bool) and (bool in takes or name == "resume_from_checkpoint")
            text = value if is_truth else written.get(name, value)
            text = str(text).lower() if isinstance(text, bool) else str(text)
            values[name] = getattr(parser.parse_args([f"--{name}={text}"]), name)
        elif type(value) in takes:
            values[name] = value
        else:
            expected = getattr(hints[name], "__name__", str(hints[name]))
            raise ValueError(f"expected `{name}` to be of type {expected}, got {value!r}.")
    return parser.parse_dict(values)


__all__ = [
    "RUN_ARGUMENTS",
    "Arguments",
    "DataArguments",
    "ModelArguments",
    "SMCLTrainingArguments",
    "SwitchArguments",
    "parse_arguments",
    "require_trackers",
]
