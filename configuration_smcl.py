"""SMCL model configuration."""

import copy
import inspect
from dataclasses import fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import MODEL_MAPPING, AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

# Text encoders that images can guide, as `check_text_backbone` finds them, and image encoders that give a vector.
TEXT_BACKBONES = (
    "bert",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "eurobert",
    "modernbert",
    "roberta",
    "xlm-roberta",
)
VISION_BACKBONES = ("clip_vision_model", "deit", "dinov2", "siglip_vision_model", "vit")
# Where SMCL differs from the paper, and `as_printed` can take it back; docs/architecture.md says why and by how much.
PRINTED_PARTS = ("head", "threshold", "union", "images", "order", "positions", "similarity", "difference")


class _OnePipeline(dict):
    """The names of one and the same pipeline: transformers chooses it by itself only where it counts a single one."""

    def __len__(self) -> int:
        return min(1, super().__len__())


@strict
class SMCLConfig(PreTrainedConfig):
    r"""Configuration of an [`SMCLModel`]: two backbone configurations and what joins them.

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*, defaults to BERT-base):
            Configuration of the text encoder.
        vision_config (`PreTrainedConfig` or `dict`, *optional*, defaults to ViT-base):
            Configuration of the image encoder.
        max_images (`int`, *optional*, defaults to 4):
            Largest number of images of a post, the paper's m.
        num_image_layers (`int`, *optional*, defaults to 1):
            Transformer layers that relate the images of a post to each other (Sec. 3.3.3).
        num_fusion_layers (`int`, *optional*, defaults to 1):
            Transformer layers in front of the cross-modal attention (Eq. 10-11).
        as_printed (`bool` or `list[str]`, *optional*, defaults to `False`):
            The paper to the letter, where SMCL is better off otherwise: all of it, or the parts named. `head` reads
            Hyper alone (Eq. 15-16), `threshold` drops image keys by their softmax weights (after Eq. 4), `union`
            leaves P_t as the sigmoid gives it (Eq. 12), `images` has the fusion read P_i alone, without G (Eq. 13),
            `order` lets a token attend to images regardless of what other tokens attend to (Eq. 13), `positions` are
            drawn as small as other weights, `similarity` compares raw ReLU outputs (Eq. 20), `difference` is not
            divided by the squared batch size (Eq. 21). One departure stays, which the CRF needs: Eq. 13-15 end in a
            vector for each image, so tokens attend to those images in turn, with residuals. On how to scale the rows of
            Eq. 21 the paper is silent: they are centred and of length 1, as in the works that it cites.
        guidance_filter (`str`, *optional*, defaults to `"auto"`):
            Which image keys a token may attend to in the text encoder (the threshold after Eq. 4): `"none"` keeps all,
            which scored best; `"score"` keeps those whose scaled score reaches the post's mean score,
            `"probability"` is the literal reading on softmax weights. `"auto"` is `"none"`, or `"probability"` where
            the threshold is `as_printed`.
        cmd_order (`int`, *optional*, defaults to 3):
            Highest central moment compared by the similarity loss, K in Eq. 19.
        similarity_weight (`float`, *optional*, defaults to 0.3): Weight alpha of the similarity loss (Eq. 18).
        difference_weight (`float`, *optional*, defaults to 0.2): Weight beta of the difference loss (Eq. 18).
        contrastive_weight (`float`, *optional*, defaults to 0):
            Weight of an InfoNCE loss between pooled shared text and image vectors. Beyond the paper, off by default.
        use_image_guidance (`bool`, *optional*, defaults to `True`): Image keys and values inside the text encoder.
        use_alignment (`bool`, *optional*, defaults to `True`): The alignment encoder and the similarity loss.
        use_refinement (`bool`, *optional*, defaults to `True`): The refinement encoders and the difference loss.
        use_fusion (`bool`, *optional*, defaults to `True`):
            The symmetric fusion; `False` concatenates both modalities in front of one transformer layer.
        constrain_bio (`bool`, *optional*, defaults to `True`):
            Whether decoding forbids illegal BIO2 transitions, such as `O` to `I-PER`.
        temperature (`float`, *optional*, defaults to 1):
            Divides the CRF's scores where probabilities are computed, so that these mean what they say. Fitted on
            validation data by `run_ner_multiimage.py --calibrate`. Does not change the tags.
        dropout (`float`, *optional*, defaults to 0.1): Dropout of the layers outside the two backbones.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of new weight matrices. Temporal positions are drawn from N(0, 1) instead, unless they
            are drawn `as_printed`.

    Raises:
        StrictDataclassError: (of huggingface_hub, as with every configuration of transformers) if a field has the wrong
            type, a number is out of range, the labels do not form one list, a switch lacks the part it needs, or
            another one contradicts `as_printed`.

    Example:
    ```python
    >>> from smcl import SMCLConfig, SMCLForTokenClassification

    >>> config = SMCLConfig(id2label={0: "O", 1: "B-PER", 2: "I-PER"})
    >>> model = SMCLForTokenClassification(config)
    ```
    """

    model_type = "smcl"
    # What `Trainer` need not collect of a model's outputs, so that predictions are the logits alone.
    keys_to_ignore_at_inference = [
        "task_loss",
        "similarity_loss",
        "difference_loss",
        "contrastive_loss",
        "fusion_attentions",
        "hidden_states",
        "attentions",
    ]
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
    }

    # Those fields that a run may set by argument, with the help that stands above.
    switches = (
        "max_images",
        "num_image_layers",
        "num_fusion_layers",
        "as_printed",
        "guidance_filter",
        "cmd_order",
        "similarity_weight",
        "difference_weight",
        "contrastive_weight",
        "use_image_guidance",
        "use_alignment",
        "use_refinement",
        "use_fusion",
        "constrain_bio",
        "dropout",
    )

    text_config: PreTrainedConfig | dict | None = None
    vision_config: PreTrainedConfig | dict | None = None
    max_images: int = 4
    num_image_layers: int = 1
    num_fusion_layers: int = 1
    as_printed: bool | list[str] = False
    guidance_filter: Literal["auto", "none", "score", "probability"] = "auto"
    cmd_order: int = 3
    similarity_weight: int | float = 0.3
    difference_weight: int | float = 0.2
    contrastive_weight: int | float = 0
    use_image_guidance: bool = True
    use_alignment: bool = True
    use_refinement: bool = True
    use_fusion: bool = True
    constrain_bio: bool = True
    temperature: int | float = 1.0
    dropout: int | float = 0.1
    initializer_range: int | float = 0.02

    def __post_init__(self, **kwargs):
        for name in ("id2label", "label2id"):
            labels = getattr(self, name)
            if not isinstance(labels, dict | None):
                raise ValueError(f"`{name}` must be a dict, got {labels!r}. Make it by `dict(enumerate(labels))`.")
        if self.id2label is not None and self.label2id is None:
            self.label2id = {label: int(index) for index, label in self.id2label.items()}
        elif self.id2label is None and self.label2id is not None:
            self.id2label = {int(index): label for label, index in self.label2id.items()}
        num_labels = kwargs.get("num_labels")
        if None not in (num_labels, self.id2label) and num_labels != len(self.id2label):
            raise ValueError(
                f"`num_labels` is {num_labels}, but there are {len(self.id2label)} labels: leave `num_labels` out."
            )
        # transformers writes into the parts: those of a model that is at work are not to change.
        for name in self.sub_configs:
            setattr(self, name, copy.deepcopy(getattr(self, name)))
        super().__post_init__(**kwargs)
        if hasattr(self, "custom_pipelines"):
            self.custom_pipelines = _OnePipeline(self.custom_pipelines)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Build a configuration from a dictionary and changes to it, checked as on construction; see transformers' own.

        Changed `id2label` or `label2id` take the place of both, and so does another `num_labels`.
        """
        # transformers joins changed parts with what they were, and knows more values of `dtype`.
        own = {field.name for field in fields(cls)} - cls.sub_configs.keys() - {"dtype"}
        changes = {name: kwargs.pop(name) for name in own & kwargs.keys()}
        named = {"id2label", "label2id"} & changes.keys()
        if named or kwargs.get("num_labels") not in (None, len(config_dict.get("id2label") or ())):
            config_dict = {name: value for name, value in config_dict.items() if name not in ("id2label", "label2id")}
        return super().from_dict(config_dict | changes, **kwargs)

    def prints(self, part: str) -> bool:
        """Tell whether a part of the model, one of `PRINTED_PARTS`, is as the paper prints it."""
        return part in self.as_printed if isinstance(self.as_printed, list) else self.as_printed

    @property
    def image_key_filter(self) -> str:
        """The `guidance_filter`, with what `"auto"` stands for."""
        automatic = "probability" if self.prints("threshold") else "none"
        return automatic if self.guidance_filter == "auto" else self.guidance_filter

    def check_fields(self):
        """Check the fields that transformers does not know, as on construction; `validate` also asks what saving needs.

        Raises:
            ValueError: if one has a value that it can't have; names it.
        """
        for name in dir(self):
            if name.startswith("validate_") and not hasattr(PreTrainedConfig, name):
                getattr(self, name)()

    @property
    def labels_of_no_entity(self) -> list[str]:
        """The labels that are no tags of BIO2, in order of their numbers."""
        return [label for label in self.id2label.values() if label != "O" and label[:2] not in ("B-", "I-")]

    def validate_ranges(self):
        """Check numbers; part of the strict validation on construction and saving."""
        for name, least in (("max_images", 1), ("num_image_layers", 0), ("num_fusion_layers", 1), ("cmd_order", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        for name in ("similarity_weight", "difference_weight", "contrastive_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(
                    f"`{name}` must not be negative and be finite, got {getattr(self, name)}; 0 switches the loss off."
                )
        if not 0 < self.temperature < float("inf"):
            raise ValueError(
                f"`temperature` must be positive and finite, got {self.temperature}; 1 leaves scores alone."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1), got {self.dropout}.")
        if not 0 <= self.initializer_range < float("inf"):
            raise ValueError(
                "`initializer_range` is a standard deviation: it must not be negative and be finite, got "
                f"{self.initializer_range}."
            )

    def validate_switches(self):
        """Check that what is asked for has the parts it needs."""
        if self.contrastive_weight > 0 and not self.use_alignment:
            raise ValueError(
                "`contrastive_weight` compares the shared vectors of the alignment encoder, which "
                "`use_alignment=False` removes: set `contrastive_weight=0` or `use_alignment=True`."
            )

    def validate_as_printed(self):
        """Check that the parts exist, and that no other switch takes back what is asked for."""
        named = self.as_printed if isinstance(self.as_printed, list) else []
        if unknown := [part for part in named if part not in PRINTED_PARTS]:
            raise ValueError(
                f"`as_printed` must be True, False or a list of {', '.join(PRINTED_PARTS)}, got {unknown[0]!r}."
            )
        contradictions = {
            f"`guidance_filter={self.guidance_filter!r}`, where the printed threshold is 'probability'": (
                self.prints("threshold") and self.image_key_filter != "probability"
            ),
            f"`contrastive_weight={self.contrastive_weight}`, a loss that the paper does not have": (
                self.as_printed is True and self.contrastive_weight > 0
            ),
        }
        for what, is_asked in contradictions.items():
            if is_asked:
                raise ValueError(f"`as_printed={self.as_printed}` can't go with {what}: leave one of the two out.")

    def validate_labels(self):
        """Check that `id2label` and `label2id` are inverse to each other and number the labels from 0."""
        labels = {int(index): label for index, label in (self.id2label or {}).items()}
        if wrong := [label for label in labels.values() if not isinstance(label, str)]:
            raise ValueError(f"`id2label` must map numbers to names, got the name {wrong[0]!r}. Write names as texts.")
        inverse = {label: int(index) for label, index in (self.label2id or {}).items()}
        is_list = sorted(labels) == list(range(len(labels))) and len(set(labels.values())) == len(labels)
        if not is_list or inverse != {label: i for i, label in labels.items()}:
            raise ValueError(
                "`id2label` and `label2id` must be inverse to each other and number the labels 0, 1, 2, ..., got "
                f"{labels} and {inverse}. Leave `label2id` out to have it derived."
            )
        unreachable = {label for label in inverse if label.startswith("I-") and f"B-{label[2:]}" not in inverse}
        if self.constrain_bio and unreachable:
            raise ValueError(
                f"`id2label` has {sorted(unreachable)} without the `B-` labels that BIO2 starts them by: add those, or "
                "set `constrain_bio=False`."
            )
        # Names alone, such as LABEL_0, stand in for tags that are not known yet.
        other = sorted(self.labels_of_no_entity)
        if other and len(other) < len(inverse.keys() - {"O"}):
            raise ValueError(
                f"`id2label` has {other} among labels of BIO2, of which no entity would be made. Convert the tags, as "
                "`--tag_scheme` of run_ner_multiimage.py and of the converters does."
            )


def backbone_config(name: str, key: str) -> PreTrainedConfig:
    """Load a backbone's configuration; of a text-and-vision model, the part called `key`."""
    config = AutoConfig.from_pretrained(name)
    return getattr(config, key, config)


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """Return the argument that leaves out a backbone's unused pooling layer, if its class has one."""
    parameters = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


__all__ = ["PRINTED_PARTS", "TEXT_BACKBONES", "VISION_BACKBONES", "SMCLConfig", "backbone_config", "without_pooler"]
