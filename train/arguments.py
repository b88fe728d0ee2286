"""Arguments of the command line: model, its switches, data and training."""

from dataclasses import dataclass, field, fields
from typing import NamedTuple

from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging

from ..baselines import SYSTEMS

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


@dataclass
class SMCLTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the paper's settings as defaults, and what else [`SMCLTrainer`] reads."""

    learning_rate: float = field(default=3e-5, metadata={"help": "Learning rate of the two encoders."})
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of all layers outside the two encoders; as theirs by default."}
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
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Whether to end with the best weights."})
    metric_for_best_model: str | None = field(default="f1", metadata={"help": "Validation metric that decides."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Whether a resumed run goes on counting evaluations for early stopping."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave it off: it hides losses that are not finite, and waits for the GPU."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay off: the collator needs all."})

    def __post_init__(self):
        # transformers switches `do_eval` on with any `eval_strategy`; here it stays what it was set to.
        do_eval = self.do_eval
        super().__post_init__()
        self.do_eval = do_eval
        if self.n_gpu > 1:
            # Trainer would share out the tensors of a batch by their first dimension, and lose what looks at all posts.
            logger.warning(f"1 of {self.n_gpu} GPUs is used. For all of them, start with `accelerate launch`.")
            self._n_gpu = 1


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


def parse_arguments(argv: list[str]) -> Arguments:
    """Parse the command line, or one YAML or JSON file in its place."""
    parser = HfArgumentParser((ModelArguments, SwitchArguments, DataArguments, SMCLTrainingArguments))
    if len(argv) == 1 and argv[0].endswith((".yaml", ".yml")):
        return Arguments(*parser.parse_yaml_file(argv[0]))
    if len(argv) == 1 and argv[0].endswith(".json"):
        return Arguments(*parser.parse_json_file(argv[0]))
    return Arguments(*parser.parse_args_into_dataclasses(argv))


__all__ = [
    "Arguments",
    "DataArguments",
    "ModelArguments",
    "SMCLTrainingArguments",
    "SwitchArguments",
    "parse_arguments",
]
