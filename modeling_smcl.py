"""PyTorch SMCL model: multi-image multimodal named-entity recognition."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple, logging

from .configuration_smcl import VISION_BACKBONES, SMCLConfig, backbone_config, without_pooler
from .crf_smcl import CRFTaggingMixin, LinearChainCRF, check_mask, require
from .layers_smcl import (
    TEXT_ATTENTIONS,
    ImageGuidance,
    SMCLConcatenation,
    SMCLImageGuidance,
    SMCLImageRelations,
    SMCLModalityEncoders,
    SMCLSymmetricFusion,
    check_text_backbone,
    check_text_encoder,
    guide_attention,
)
from .losses_smcl import BatchShare, real_image_indices, regularisers

logger = logging.get_logger(__name__)

# Ends of the names of those fields of configurations whose change takes effect at once.
READ_AT_EACH_STEP = ("_weight", "temperature", "cmd_order", "constrain_bio")
# On a CPU without gradients: of a base-size encoder, a layer then needs 20 MB at most.
IMAGES_AT_ONCE = 8
# So does transformers' own pipeline, which can't be replaced where it is given a model.
WITHOUT_WORDS = (
    "Scores are asked for without `word_mask`, images and labels. transformers' own token-classification pipeline does "
    "so: it reads no images, and labels each token by itself, without the CRF. For the entities of posts with images, "
    "use `MultiImageNERPipeline(model, processor)`, or `pipeline(model=FOLDER, trust_remote_code=True)`."
)
ADDED_MASK = (
    "`attention_mask` must be 1 at real tokens and 0 at padding, got numbers below 0, such as are added to scores."
)


@dataclass
class SMCLModelOutput(ModelOutput):
    """Output of [`SMCLModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`):
            The tokens as the head reads them: in SMCL the text encoder's states plus the paper's Hyper, `as_printed`
            Hyper alone.
        text_shared, text_specific (`torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`, *optional*):
            Aligned and refined text, U_t^a and U_t^r (Eq. 6-9); `None` where the encoder is switched off.
        image_shared, image_specific (`torch.FloatTensor` of shape `(batch_size, num_images, hidden_size)`,
            *optional*): Likewise for images; also `None` without images.
        fusion_attentions (`tuple` of two `torch.FloatTensor`, *optional*, with `output_attentions=True`):
            Weights of images over tokens `(batch_size, num_images, num_tokens)` (mu, Eq. 14) and of tokens over
            images `(batch_size, num_tokens, num_images)`.
        hidden_states (`tuple` of `torch.FloatTensor`, *optional*, with `output_hidden_states=True`):
            The text encoder's embeddings and layer outputs, each `(batch_size, num_tokens, hidden_size)`.
        attentions (`tuple` of `torch.FloatTensor`, *optional*, with `output_attentions=True`):
            The text encoder's weights over [images; tokens] by layer, each
            `(batch_size, num_heads, num_tokens, num_images + num_tokens)`.
    """

    last_hidden_state: torch.FloatTensor | None = None
    text_shared: torch.FloatTensor | None = None
    text_specific: torch.FloatTensor | None = None
    image_shared: torch.FloatTensor | None = None
    image_specific: torch.FloatTensor | None = None
    fusion_attentions: tuple[torch.FloatTensor, ...] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class SMCLOutput(ModelOutput):
    """Output of [`SMCLForTokenClassification`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`):
            task + alpha * similarity + beta * difference (Eq. 18).
        logits (`torch.FloatTensor` of shape `(batch_size, num_tokens, num_labels)`): Emission scores of the CRF.
        task_loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`):
            Mean over posts of the CRF's negative log-likelihood (Eq. 23).
        similarity_loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`): CMD_K (Eq. 20).
        difference_loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`): Soft orthogonality (Eq. 22).
        contrastive_loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`): InfoNCE, 0 by default.
        fusion_attentions, hidden_states, attentions: See [`SMCLModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    task_loss: torch.FloatTensor | None = None
    similarity_loss: torch.FloatTensor | None = None
    difference_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    fusion_attentions: tuple[torch.FloatTensor, ...] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class PostImages(NamedTuple):
    """The images of posts, as the layers behind the image encoder read them.

    Attributes:
        states (`torch.FloatTensor` of shape `(batch_size, num_images, ...)`): The images, 0 at padding.
        mask (`torch.BoolTensor` of shape `(batch_size, num_images)`): `True` marks a real image.
        weights (`torch.FloatTensor`, *optional*): What a system weighed while it related them.
    """

    states: torch.Tensor
    mask: torch.Tensor
    weights: torch.Tensor | None = None


class SMCLPreTrainedModel(PreTrainedModel):
    """Initialisation and loading shared by the SMCL models."""

    config_class = SMCLConfig
    base_model_prefix = "smcl"
    main_input_name = "input_ids"
    input_modalities = ("text", "image")
    # Further inputs of `forward`: what a system's own processor says of images besides their pixels.
    context_inputs: tuple[str, ...] = ()
    supports_gradient_checkpointing = True
    # The loss is a mean over posts: without this, Trainer would not divide it by the accumulation steps.
    accepts_loss_kwargs = False
    _supports_sdpa = True

    def __init__(self, config: SMCLConfig, *inputs, **kwargs):
        # They may have been changed after it was made.
        config.check_fields()
        super().__init__(config, *inputs, **kwargs)
        built_by = [name for name in self.config.switches if not name.endswith(READ_AT_EACH_STEP)]
        self._built_by = copy.deepcopy({name: getattr(config, name) for name in built_by})

    def _check_built(self) -> None:
        """Refuse a configuration that was changed since, without effect: once saved, it would make another model."""
        if torch.compiler.is_compiling():
            return
        for name, was in self._built_by.items():
            if (now := getattr(self.config, name)) != was:
                raise ValueError(
                    f"`config.{name}` was changed from {was!r} to {now!r} after the model was built, on which it has "
                    "no effect. Set it in the configuration that a model is built from, or pass it to "
                    "`from_pretrained`."
                )

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, SMCLImageRelations):
            # V leaves a layer norm with unit variance: positions at 0.02 would drown in it.
            std = self.config.initializer_range if self.config.prints("positions") else 1.0
            init.normal_(module.position_embeddings, mean=0.0, std=std)
        elif isinstance(module, LinearChainCRF):
            for scores in (module.start_transitions, module.end_transitions, module.transitions):
                init.uniform_(scores, -0.1, 0.1)
            starts, transitions = module.constraints()
            init.copy_(module.legal_starts, starts)
            init.copy_(module.legal_transitions, transitions)

    def _set_gradient_checkpointing(self, enable: bool = True, gradient_checkpointing_func=checkpoint, **kwargs):
        settings = getattr(gradient_checkpointing_func, "keywords", {})
        if enable and settings.get("use_reentrant") and self.config.use_image_guidance:
            logger.warning_once(
                "`use_reentrant=True` gives no gradient to what layers get by keyword, as text layers get the images. "
                "Setting `use_reentrant=False`."
            )
            settings = {**settings, "use_reentrant": False}
            gradient_checkpointing_func = partial(gradient_checkpointing_func.func, **settings)
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)

    def save_pretrained(self, save_directory, **kwargs):
        """Save weights, configuration and, of classes that are registered for it, code; see transformers' own."""
        if self._auto_class is not None:
            # The pipeline needs this model, so it is imported late; that it is named here makes its code travel along.
            from .pipeline_smcl import CUSTOM_PIPELINES

            self.config.custom_pipelines = CUSTOM_PIPELINES
            # `register_for_auto_class` keeps one auto class for each model class; AutoModel must load any SMCL folder.
            auto_map = getattr(self.config, "auto_map", None) or {}
            self.config.auto_map = {**auto_map, "AutoModel": "modeling_smcl.SMCLModel"}
        super().save_pretrained(save_directory, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args, **kwargs):
        """Load weights, under the names of this model's modules or those that `save_pretrained` writes; see PyTorch's.

        transformers saves some encoders under names of old, and its `Trainer` loads checkpoints by this method: without
        a word, the encoder would stay as it is.
        """
        own = self.state_dict()
        if not state_dict.keys() <= own.keys():
            # Not part of transformers' interface, so that it is asked for only where it is needed.
            from transformers.core_model_loading import revert_weight_conversion

            saved = revert_weight_conversion(self, dict(own))
            names = {id(tensor): name for name, tensor in own.items()}
            names = {name: names[id(tensor)] for name, tensor in saved.items() if id(tensor) in names}
            state_dict = {names.get(name, name): tensor for name, tensor in state_dict.items()}
        return super().load_state_dict(state_dict, *args, **kwargs)

    @property
    def max_tokens(self) -> int | None:
        """Most tokens of a post that the text encoder has positions for; `None` where it needs none."""
        positions = self.base_model
        for name in ("text_model", "embeddings", "position_embeddings"):
            positions = getattr(positions, name, None)
        if not isinstance(positions, nn.Embedding):
            return None
        # Those encoders whose padding has a position start to count after it.
        return positions.num_embeddings - (0 if positions.padding_idx is None else positions.padding_idx + 1)

    def _check_num_tokens(self, num_tokens: int) -> None:
        if self.max_tokens is not None and num_tokens > self.max_tokens:
            raise ValueError(
                f"Posts have {num_tokens} tokens, but the text encoder has positions for {self.max_tokens}. Set the "
                f"tokenizer's `model_max_length` to {self.max_tokens}, or pass that as `max_length` to the processor."
            )

    def _text_mask(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Check the text arguments; return the bool mask `(batch_size, num_tokens)` of real tokens."""
        self._check_built()
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Expected exactly one of `input_ids` and `inputs_embeds`.")
        text = input_ids if inputs_embeds is None else inputs_embeds[..., 0]
        if text.ndim != 2:
            name, more = ("input_ids", "") if inputs_embeds is None else ("inputs_embeds", ", embedding_size")
            got = tuple((input_ids if inputs_embeds is None else inputs_embeds).shape)
            raise ValueError(f"`{name}` must have the shape (batch_size, num_tokens{more}), got {got}.")
        self._check_num_tokens(text.shape[1])
        if input_ids is not None:
            self._check_ids(input_ids)
        if attention_mask is None:
            return torch.ones_like(text, dtype=torch.bool)
        if attention_mask.shape != text.shape:
            raise ValueError(
                f"`attention_mask` must have the shape (batch_size, num_tokens) of the text, {tuple(text.shape)}, got "
                f"{tuple(attention_mask.shape)}."
            )
        if attention_mask.is_floating_point():
            require(attention_mask >= 0, ADDED_MASK)
        return attention_mask.bool()

    def _check_ids(self, input_ids: torch.Tensor) -> None:
        """Refuse ids that the word embeddings have no vector for; an accelerator would stop without a reason."""
        if input_ids.is_floating_point():
            raise ValueError(f"`input_ids` must be whole numbers, got {input_ids.dtype}: call `input_ids.long()`.")
        num_words = getattr(self.get_input_embeddings(), "num_embeddings", None)
        if num_words is None or input_ids.device.type != "cpu" or torch.compiler.is_compiling():
            return
        if (wrong := input_ids[(input_ids < 0) | (input_ids >= num_words)]).numel():
            raise IndexError(
                f"`input_ids` must be from 0 to {num_words - 1}, the tokens that the text encoder knows, got "
                f"{wrong[0].item()}. Use the model's own tokenizer; after `add_tokens`, call "
                "`model.resize_token_embeddings(len(tokenizer))`."
            )

    def _check_context(self, context: dict[str, torch.Tensor | None], num_posts: int) -> None:
        """Refuse inputs of `forward` that this model does not have, or that are of another number of posts."""
        if unknown := context.keys() - set(self.context_inputs):
            raise TypeError(f"{type(self).__name__} got the inputs {sorted(unknown)}, which it does not take.")
        for name, values in context.items():
            if values is not None and values.shape[0] != num_posts:
                raise ValueError(f"`{name}` must be of {num_posts} posts as the text, got {values.shape[0]}.")

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True

    @classmethod
    def from_text_vision_pretrained(
        cls, text_model_name_or_path: str, vision_model_name_or_path: str | None = None, **config_kwargs
    ) -> "SMCLPreTrainedModel":
        """Join a pretrained text encoder and a pretrained image encoder; what joins them is new and untrained.

        Args:
            text_model_name_or_path (`str`): Hub name or folder of a BERT-like encoder; the paper's is
                `google-bert/bert-base-uncased`.
            vision_model_name_or_path (`str`, *optional*): Hub name or folder of a ViT-like encoder; the paper's is
                `google/vit-base-patch16-224`. Of CLIP and SigLIP, the vision part is taken. Systems that read text
                alone leave it unread.
            **config_kwargs: Fields of the configuration, such as `id2label`.

        Returns:
            The model, in float32 and in evaluation mode.

        Raises:
            ValueError: if an encoder is missing, or of a kind that does not work; names those that do.
        """
        names = {"text_config": text_model_name_or_path, "vision_config": vision_model_name_or_path}
        names = {key: name for key, name in names.items() if key in cls.config_class.sub_configs_defaults}
        if None in names.values():
            raise ValueError(
                f"`vision_model_name_or_path` must name the image encoder of {cls.__name__}, such as "
                "'google/vit-base-patch16-224', got None."
            )
        configs = {key: backbone_config(name, key) for key, name in names.items()}
        # The configuration of an encoder that was saved in half precision would build that half of the model so.
        model = cls(cls.config_class(**configs, **config_kwargs)).float()
        for key, name in names.items():
            # A configuration of its own: this temporary model needs no guided attention.
            config = backbone_config(name, key)
            loaded = AutoModel.from_pretrained(name, config=config, dtype=torch.float32, **without_pooler(config))
            target = model.base_model.text_model if key == "text_config" else model.base_model.vision_model
            target.load_state_dict(loaded.state_dict(), strict=True)
        return model.eval()


def _check_image_indices(image_indices: torch.Tensor, image_mask: torch.Tensor) -> None:
    """Raise a `ValueError` unless `image_indices` are the `real_image_indices` of `image_mask`; both on the CPU."""
    expected = real_image_indices(image_mask)
    if not torch.equal(image_indices, expected):
        raise ValueError(
            f"`image_indices` must be the places of the {len(expected)} real images of the batch, "
            f"{expected.tolist()}, got {image_indices.tolist()}. Call `real_image_indices` anew where batches are cut."
        )


def _image_mask_like(features: torch.Tensor, image_mask: torch.Tensor) -> torch.Tensor:
    """Give a mask of images as many dimensions as their features `(batch_size, num_images, ...)` have."""
    return image_mask.reshape(*image_mask.shape, *[1] * (features.dim() - 2))


class SMCLImageTextModel(SMCLPreTrainedModel):
    """A text encoder and an image encoder, joined inside the text layers by `prompts` and above them by `fuse`.

    Subclasses say how by these hooks, and by `encode_images`, what they read of an image.

    Args:
        config ([`SMCLConfig`]): The configuration.

    Raises:
        ValueError: if the image encoder is of a kind that does not work; names those that do.
    """

    # How many images of a post are looked at, from the first on; `None` is all.
    num_images_read: int | None = None

    def __init__(self, config: SMCLConfig):
        super().__init__(config)
        text_config, vision_config = config.text_config, config.vision_config
        if vision_config.model_type not in VISION_BACKBONES or not getattr(vision_config, "vision_use_head", True):
            raise ValueError(
                f"`vision_config` of type {vision_config.model_type!r} gives no single vector for an image. Expected "
                f"one of {', '.join(VISION_BACKBONES)} (SigLIP with its pooling head)."
            )
        self.text_model = AutoModel.from_config(text_config, **without_pooler(text_config))
        self.has_guided_layers = guide_attention(self.text_model)
        if config.use_image_guidance:
            check_text_backbone(self.text_model)
        check_text_encoder(
            self.text_model, lambda ids, mask: self._encode_text(ids, mask, None, None).last_hidden_state
        )
        self.vision_model = AutoModel.from_config(vision_config, **without_pooler(vision_config))

    def train(self, mode: bool = True):
        """Set training or evaluation mode; an image encoder that is frozen stays as it is in evaluation."""
        super().train(mode)
        if not any(weight.requires_grad for weight in self.vision_model.parameters()):
            self.vision_model.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Return the text encoder's word embeddings."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the text encoder's word embeddings."""
        self.text_model.set_input_embeddings(value)

    def _check_attention(self) -> None:
        """Refuse attention of the text encoder that images can't guide, to which it may have been set since."""
        implementation = self.text_model.config._attn_implementation
        if implementation not in TEXT_ATTENTIONS:
            raise ValueError(
                f"The text encoder's attention implementation must be one of {', '.join(TEXT_ATTENTIONS)}, which "
                f"images can guide, got {implementation!r}. To set the image encoder's only, pass "
                "`attn_implementation={'vision_config': ...}`."
            )

    def _encode_text(
        self,
        input_ids: torch.Tensor | None,
        text_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        image_guidance: ImageGuidance | None = None,
        **flags: bool,
    ) -> ModelOutput:
        """Run the text encoder, with image keys and values if there are any."""
        # Not every encoder takes these arguments, not even as `None`.
        optional = {"token_type_ids": token_type_ids, "image_guidance": image_guidance}
        given = {name: value for name, value in optional.items() if value is not None}
        # Given per token, transformers looks whether anything is masked at all, and the host waits for the answer. Only
        # encoders with local attention must make the mask themselves.
        is_local = "sliding_attention" in (getattr(self.text_model.config, "layer_types", None) or ())
        attention_mask = text_mask if is_local else text_mask[:, None, None, :]
        if not self.has_guided_layers:
            # Those of other kinds may add a mask of four dimensions to their scores as it is.
            attention_mask = text_mask.long()
        return self.text_model(
            input_ids, attention_mask, inputs_embeds=inputs_embeds, return_dict=True, **given, **flags
        )

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images one by one, outside any post.

        Systems that need other features of an image override this; more dimensions than one for each image are fine.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, height, width)`): Normalised images.

        Returns:
            `torch.FloatTensor` of shape `(num_images, vision_hidden_size)`: [CLS] of the last layer after its final
            layer norm, or the vision model's own pooled vector where it has no [CLS] (Sec. 3.3.1).
        """
        outputs = self.vision_model(pixel_values=pixel_values, return_dict=True)
        pooled = outputs.pooler_output
        return outputs.last_hidden_state[:, 0] if pooled is None else pooled

    def encode_images_in_groups(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images as `encode_images` does, on a CPU without gradients a few at a time.

        What a layer computes of many images is so large that the C library gets the memory from the operating system
        each time: in groups, inference takes less time and memory. Processes that may share the parts of a model encode
        all at once, because all must use its layers equally often.
        """
        is_shared = torch.distributed.is_available() and torch.distributed.is_initialized()
        on_cpu = pixel_values.device.type == "cpu"
        if not on_cpu or torch.is_grad_enabled() or torch.compiler.is_compiling() or is_shared:
            return self.encode_images(pixel_values)
        return torch.cat([self.encode_images(group) for group in pixel_values.split(IMAGES_AT_ONCE)])

    def _encode_posts(
        self, pixel_values: torch.Tensor, image_mask: torch.Tensor, image_indices: torch.Tensor | None
    ) -> torch.Tensor:
        """Encode the images of posts to V `(batch_size, num_images, ...)`; only real ones pass through the encoder."""
        if image_indices is None and torch.compiler.is_compiling():
            # One static shape: the number of real images is data.
            states = self.encode_images(pixel_values.flatten(0, 1))
        else:
            image_indices = real_image_indices(image_mask) if image_indices is None else image_indices
            if image_indices.shape[0] == 0:
                # Image encoders want at least one image: a blank one tells the shape of the features.
                features = self.encode_images(pixel_values.new_zeros(1, *pixel_values.shape[2:]))[:0]
            else:
                features = self.encode_images_in_groups(pixel_values.flatten(0, 1).index_select(0, image_indices))
            # An image that the indices leave out is NaN, which training and decoding refuse: to compare, a host waits.
            slots = features.new_full((image_mask.numel(), *features.shape[1:]), torch.nan)
            states = slots.index_copy(0, image_indices, features)
        states = states.unflatten(0, image_mask.shape)
        return torch.where(_image_mask_like(states, image_mask), states, 0)

    def _image_inputs(
        self,
        pixel_values: torch.Tensor | None,
        image_embeds: torch.Tensor | None,
        image_mask: torch.Tensor | None,
        image_indices: torch.Tensor | None,
        num_posts: int,
    ) -> PostImages | None:
        """Check the image arguments; return V with its mask, or `None` where the batch has no image slot."""
        if pixel_values is not None and image_embeds is not None:
            raise ValueError("Got both `pixel_values` and `image_embeds`: pass images or their vectors, not both.")
        images = pixel_values if image_embeds is None else image_embeds
        if images is None:
            return None
        is_encoded = image_embeds is not None
        fits = images.ndim >= 3 if is_encoded else images.ndim == 5
        if not fits or images.shape[0] != num_posts:
            name, shape = ("image_embeds", "...") if is_encoded else ("pixel_values", "num_channels, height, width")
            raise ValueError(
                f"`{name}` must have the shape (batch_size, num_images, {shape}), of {num_posts} posts as the text, "
                f"got {tuple(images.shape)}."
            )
        if images.shape[1] == 0:
            return None
        if images.shape[1] > self.config.max_images:
            raise ValueError(
                f"Expected at most `config.max_images` = {self.config.max_images} images for each post, got "
                f"{images.shape[1]} slots: pass fewer, or raise `max_images` and train with it."
            )
        image_mask = images.new_ones(images.shape[:2]) if image_mask is None else image_mask
        if image_mask.shape != images.shape[:2]:
            raise ValueError(
                f"`image_mask` must have the shape (batch_size, num_images) of the images, {tuple(images.shape[:2])}, "
                f"got {tuple(image_mask.shape)}."
            )
        check_mask("image_mask", image_mask)
        image_mask = image_mask.bool()
        if image_indices is not None and image_mask.device.type == "cpu" and not torch.compiler.is_compiling():
            _check_image_indices(image_indices, image_mask)
        read = self.num_images_read
        if read is not None and read < images.shape[1]:
            # The indices count the slots that are left out, too.
            image_mask, images, image_indices = image_mask[:, :read], images[:, :read], None
        if image_embeds is None:
            return PostImages(self._encode_posts(images, image_mask, image_indices), image_mask)
        return PostImages(torch.where(_image_mask_like(images, image_mask), images.to(self.dtype), 0), image_mask)

    def relate_images(self, images: PostImages, text_mask: torch.Tensor, **text: torch.Tensor | None) -> PostImages:
        """Relate the images of a post to each other and its text before any layer reads them; by default not at all.

        Args:
            images ([`PostImages`]): What `encode_images` gives for each image.
            text_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`): `True` marks a real token.
            **text: `input_ids` and `inputs_embeds` of `forward`, and those of `context_inputs` that were given.
        """
        return images

    def prompts(self, images: PostImages, text_mask: torch.Tensor) -> ImageGuidance | None:
        """Turn what `relate_images` returned into keys and values of each text layer; by default into none.

        Only configurations with `use_image_guidance` may.
        """
        return None

    def fuse(
        self, text_states: torch.Tensor, text_mask: torch.Tensor, images: PostImages | None, output_attentions: bool
    ) -> SMCLModelOutput:
        """Join the encoded text with the images, by default not at all.

        Args:
            text_states (`torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`): H_t.
            text_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`): `True` marks a real token.
            images ([`PostImages`], *optional*): What `relate_images` returned; `None` where the batch has no image.
            output_attentions (`bool`): Whether to return attention weights.

        Returns:
            [`SMCLModelOutput`] or a subclass, with the `last_hidden_state` that the head reads.
        """
        return SMCLModelOutput(last_hidden_state=text_states)

    def weights_by_image(self, weights: torch.Tensor, num_images: int) -> torch.Tensor:
        """Give a text layer's attention weights one column for each image in front, by default as they are.

        Args:
            weights (`torch.FloatTensor` of shape `(batch_size, num_heads, num_tokens, num_keys)`): The weights.
            num_images (`int`): Images of the inputs, read or not.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_heads, num_tokens, num_images + num_tokens)`.
        """
        return weights

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_mask: torch.Tensor | None = None,
        image_embeds: torch.FloatTensor | None = None,
        image_indices: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **context: torch.Tensor,
    ) -> SMCLModelOutput:
        """Represent the tokens of posts in the light of their images.

        Args:
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` of shape `(batch_size, num_tokens)`): BERT's.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, num_tokens, embedding_size)`, *optional*):
                Word embeddings in place of `input_ids`.
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_images, 3, height, width)`, *optional*):
                Normalised images in post order; padding slots may hold anything.
            image_mask (`torch.BoolTensor` of shape `(batch_size, num_images)`, *optional*): `True` marks a real
                image; by default all are.
            image_embeds (`torch.FloatTensor` of shape `(batch_size, num_images, ...)`, *optional*): What
                `encode_images` gives for each image, in place of `pixel_values`.
            image_indices (`torch.LongTensor` of shape `(num_real_images,)`, *optional*): Where `image_mask` is `True`,
                as `real_image_indices` tells: spares an accelerator's host the wait for the number of images. Not for
                batches that are still to be cut: they count the slots of the whole batch.
            output_attentions, output_hidden_states (`bool`, *optional*): What to return of the text encoder.
            **context: Those of `context_inputs`, handed to `relate_images`.

        Returns:
            [`SMCLModelOutput`].

        Raises:
            TypeError: if there is no such input.
            ValueError: if the inputs do not fit together or the text encoder's attention was changed.
            IndexError: (as of every embedding) if the text encoder does not know a token.
        """
        self._check_attention()
        text_mask = self._text_mask(input_ids, inputs_embeds, attention_mask)
        self._check_context(context, text_mask.shape[0])
        images = self._image_inputs(pixel_values, image_embeds, image_mask, image_indices, text_mask.shape[0])
        guidance = None
        if images is not None:
            text = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
            images = self.relate_images(images, text_mask, **text, **context)
            guidance = self.prompts(images, text_mask)
        flags = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        flags = {name: getattr(self.config, name) if flag is None else flag for name, flag in flags.items()}
        text_outputs = self._encode_text(input_ids, text_mask, token_type_ids, inputs_embeds, guidance, **flags)
        outputs = self.fuse(text_outputs.last_hidden_state, text_mask, images, flags["output_attentions"])
        outputs.hidden_states, outputs.attentions = text_outputs.hidden_states, text_outputs.attentions
        if guidance is not None and outputs.attentions is not None:
            num_images = (pixel_values if image_embeds is None else image_embeds).shape[1]
            outputs.attentions = tuple(self.weights_by_image(weights, num_images) for weights in outputs.attentions)
        return outputs


class SMCLModel(SMCLImageTextModel):
    """Image-guided text encoder, alignment, refinement and symmetric fusion, without the CRF head.

    Not in the paper: the head reads H_t + Hyper, where Eq. 15 has Hyper alone. From few posts, the new layers between
    the text encoder and the CRF learn to name types worse than one linear layer on H_t does; with the sum they only
    have to learn what images add. With `as_printed`, it is the paper's; the configuration says what that changes.

    Args:
        config ([`SMCLConfig`]): The configuration.

    Raises:
        ValueError: if a backbone is of a kind that does not work; names those that do.
    """

    def __init__(self, config: SMCLConfig):
        super().__init__(config)
        self.image_relations = SMCLImageRelations(config)
        self.image_guidance = SMCLImageGuidance(config) if config.use_image_guidance else None
        self.encoders = SMCLModalityEncoders(config)
        self.fusion = SMCLSymmetricFusion(config) if config.use_fusion else SMCLConcatenation(config)
        self.post_init()

    def relate_images(self, images: PostImages, text_mask: torch.Tensor, **text: torch.Tensor | None) -> PostImages:
        """Give images their places in time and relate them to G; see [`SMCLImageTextModel.relate_images`]."""
        return PostImages(self.image_relations(images.states, images.mask), images.mask)

    def prompts(self, images: PostImages, text_mask: torch.Tensor) -> ImageGuidance | None:
        """Guide the text layers (Eq. 2-5); see [`SMCLImageTextModel.prompts`]."""
        if self.image_guidance is None:
            return None
        return self.image_guidance(images.states, images.mask, text_mask)

    def fuse(
        self, text_states: torch.Tensor, text_mask: torch.Tensor, images: PostImages | None, output_attentions: bool
    ) -> SMCLModelOutput:
        """Align, refine and fuse (Eq. 6-15); see [`SMCLImageTextModel.fuse`]."""
        text, seen = self.encoders(text_states, "text"), {}
        image_mask = image_states = None
        if images is not None:
            image_states, image_mask = self.encoders.project(images.states), images.mask
            seen = self.encoders(image_states, "image")
        hyper, fusion_attentions = self.fusion(
            text, text_mask, seen or None, image_mask, image_states, output_attentions
        )
        return SMCLModelOutput(
            # What BERT knows of a word need not pass through new layers; see the class.
            last_hidden_state=hyper if self.config.prints("head") else text_states + hyper,
            text_shared=text.get("shared"),
            text_specific=text.get("specific"),
            image_shared=seen.get("shared"),
            image_specific=seen.get("specific"),
            fusion_attentions=fusion_attentions,
        )


class SMCLTaggingModel(CRFTaggingMixin, SMCLPreTrainedModel):
    """A CRF over the words of a post, on top of any model that represents its tokens.

    Subclasses name that model, `base_class`, which takes the arguments of [`SMCLModel.forward`] and returns an
    [`SMCLModelOutput`].

    Args:
        config ([`SMCLConfig`]): The configuration; its `id2label` names the tags.
    """

    base_class: type[SMCLPreTrainedModel]
    output_class: type[SMCLOutput] = SMCLOutput

    def __init__(self, config: SMCLConfig):
        super().__init__(config)
        self.smcl = self.base_class(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.text_config.hidden_size, config.num_labels)
        self.crf = LinearChainCRF([config.id2label[i] for i in range(config.num_labels)], config.constrain_bio)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_mask: torch.Tensor | None = None,
        image_embeds: torch.FloatTensor | None = None,
        image_indices: torch.LongTensor | None = None,
        word_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        batch_share: BatchShare | None = None,
        **context: torch.Tensor,
    ) -> SMCLOutput:
        """Score the tags of every token, and with labels compute the loss.

        The arguments that do not stand here are those of [`SMCLModel.forward`].

        Args:
            word_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`, *optional*): Not used here; accepted so
                that a processor's output can be passed whole. [`~SMCLForTokenClassification.decode`] needs it. Without
                it, images and labels, a warning tells once what the caller misses.
            labels (`torch.LongTensor` of shape `(batch_size, num_tokens)`, *optional*): Tag ids at the words' first
                tokens, -100 elsewhere.
            batch_share ([`BatchShare`], *optional*): Where several processes share a batch: has the losses that look at
                all its posts look at those of all processes.
            **context: Those of the model below that its `context_inputs` name.

        Returns:
            [`SMCLOutput`].
        """
        self.follow_config()
        text = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        seen = {"pixel_values": pixel_values, "image_mask": image_mask, "image_embeds": image_embeds}
        flags = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        others = {"inputs_embeds": inputs_embeds, "image_indices": image_indices, **context}
        outputs = self.smcl(**text, **seen, **others, **flags, return_dict=True)
        logits = self.emissions(outputs)
        losses = {}
        images = pixel_values if image_embeds is None else image_embeds
        if all(given is None for given in (images, word_mask, labels)) and not torch.compiler.is_compiling():
            logger.warning_once(WITHOUT_WORDS)
        if labels is not None:
            text_mask = torch.ones_like(labels) if attention_mask is None else attention_mask
            if images is None or images.shape[1] == 0:
                image_mask = None
            elif image_mask is None:
                image_mask = images.new_ones(images.shape[:2])
            masks = text_mask.bool(), None if image_mask is None else image_mask.bool()
            losses = self._losses(outputs, logits, labels, *masks, batch_share)
        handed_on = ("fusion_attentions", "hidden_states", "attentions")
        return self.output_class(logits=logits, **losses, **{name: getattr(outputs, name) for name in handed_on})

    def _losses(
        self, outputs: SMCLModelOutput, logits: torch.Tensor, labels: torch.Tensor, text_mask: torch.Tensor, *others
    ) -> dict:
        """Return the loss, a weighted sum, and its parts; arguments as those of `further_losses`."""
        with torch.autocast(logits.device.type, enabled=False):
            self._check_tokens("labels", labels, logits)
            # Padding is no word, whatever its tag: many pad labels with 0.
            labels = labels.masked_fill(~text_mask, -100)
            task_loss = self.task_loss(logits, labels)
            losses = {"task_loss": task_loss, "loss": task_loss}
            further_losses = self.further_losses(outputs, labels, text_mask, *others)
            for name, (weight, loss) in further_losses.items():
                losses[name] = loss
                losses["loss"] = losses["loss"] + weight * loss
        return losses

    def emissions(self, outputs: SMCLModelOutput) -> torch.Tensor:
        """Score the tags of every token from what the model below returned.

        Args:
            outputs ([`SMCLModelOutput`]): What the model below the head returned.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_tokens, num_labels)`.
        """
        return self.classifier(self.dropout(outputs.last_hidden_state))

    def further_losses(
        self,
        outputs: SMCLModelOutput,
        labels: torch.Tensor,
        text_mask: torch.Tensor,
        image_mask: torch.Tensor | None,
        batch_share: BatchShare | None = None,
    ) -> dict[str, tuple[float, torch.Tensor]]:
        """Compute the other parts of the loss, none by default, in float32.

        Args:
            outputs ([`SMCLModelOutput`]): What the model below the head returned.
            labels (`torch.LongTensor` of shape `(batch_size, num_tokens)`): Tag ids, -100 off word starts.
            text_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`): `True` marks a real token.
            image_mask (`torch.BoolTensor` of shape `(batch_size, num_images)`, *optional*): `True` marks a real image.
            batch_share ([`BatchShare`], *optional*): Shows the posts of other processes.

        Returns:
            `dict` from names to weights and losses of shape `()`.
        """
        return {}


class SMCLForTokenClassification(SMCLTaggingModel):
    """SMCL with a CRF over the words of a post.

    Args:
        config ([`SMCLConfig`]): The configuration; its `id2label` names the tags.

    Example:
    ```python
    >>> from smcl import SMCLForTokenClassification, SMCLProcessor

    >>> processor = SMCLProcessor.from_pretrained("output")
    >>> model = SMCLForTokenClassification.from_pretrained("output")
    >>> inputs = processor(words=[["Joey", "and", "Niko", "rest"]], images=[[photo]], return_tensors="pt")
    >>> tags = model.decode(model(**inputs).logits, inputs["word_mask"])
    ```
    """

    base_class = SMCLModel

    def further_losses(
        self,
        outputs: SMCLModelOutput,
        labels: torch.Tensor,
        text_mask: torch.Tensor,
        image_mask: torch.Tensor | None,
        batch_share: BatchShare | None = None,
    ) -> dict[str, tuple[float, torch.Tensor]]:
        """Compute the similarity (Eq. 20), difference (Eq. 22) and contrastive losses; 0 where a part is missing."""
        if image_mask is None:
            # Other processes may have images, and all must take part in the same sums.
            image_mask = text_mask.new_zeros(len(text_mask), 1)
        masks = {"text": text_mask, "image": image_mask}
        shared, specific = (self._streams(outputs, kind, masks) for kind in ("shared", "specific"))
        config = self.config
        squash, divide = not config.prints("similarity"), not config.prints("difference")
        similarity, difference, contrastive = regularisers(
            shared, specific, masks, config.cmd_order, config.contrastive_weight > 0, batch_share, squash, divide
        )
        return {
            "similarity_loss": (self.config.similarity_weight, similarity),
            "difference_loss": (self.config.difference_weight, difference),
            "contrastive_loss": (self.config.contrastive_weight, contrastive),
        }

    def _streams(self, outputs: SMCLModelOutput, kind: str, masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the vectors of a kind in float32, by modality; none if that encoder is switched off."""
        if f"text_{kind}" not in outputs:
            return {}
        streams = {"text": outputs[f"text_{kind}"].float()}
        no_images = streams["text"].new_zeros(*masks["image"].shape, streams["text"].shape[-1])
        streams["image"] = outputs[f"image_{kind}"].float() if f"image_{kind}" in outputs else no_images
        return streams


__all__ = [
    "PostImages",
    "SMCLImageTextModel",
    "SMCLForTokenClassification",
    "SMCLModel",
    "SMCLModelOutput",
    "SMCLOutput",
    "SMCLPreTrainedModel",
    "SMCLTaggingModel",
]
