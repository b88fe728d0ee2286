"""The two encoders of an SMCL model: loading, initialisation, and images of posts to vectors."""

import inspect
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, logging

from .configuration_smcl import SMCLConfig
from .crf_smcl import LinearChainCRF
from .fusion_smcl import SMCLImageRelations
from .guidance_smcl import TEXT_ATTENTIONS, ImageGuidance, guide_attention

logger = logging.get_logger(__name__)

# On a CPU without gradients: of a base-size encoder, a layer then needs 20 MB at most.
IMAGES_AT_ONCE = 8

VISION_BACKBONES = ("clip_vision_model", "deit", "dinov2", "siglip_vision_model", "vit")


class SMCLPreTrainedModel(PreTrainedModel):
    """Initialisation and loading shared by the SMCL models."""

    config_class = SMCLConfig
    base_model_prefix = "smcl"
    main_input_name = "input_ids"
    input_modalities = ("text", "image")
    supports_gradient_checkpointing = True
    # The loss is a mean over posts: without this, Trainer would not divide it by the accumulation steps.
    accepts_loss_kwargs = False
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, SMCLImageRelations):
            # V leaves a layer norm with unit variance: positions at 0.02 would drown in it.
            init.normal_(module.position_embeddings, mean=0.0, std=1.0)
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
        configs = {key: _backbone_config(name, key) for key, name in names.items()}
        model = cls(cls.config_class(**configs, **config_kwargs))
        for key, name in names.items():
            # A configuration of its own: this temporary model needs no guided attention.
            config = _backbone_config(name, key)
            loaded = AutoModel.from_pretrained(name, config=config, dtype=torch.float32, **_without_pooler(config))
            target = model.base_model.text_model if key == "text_config" else model.base_model.vision_model
            target.load_state_dict(loaded.state_dict(), strict=True)
        return model.eval()


def _backbone_config(name: str, key: str) -> PreTrainedConfig:
    """Load a backbone's configuration; of a text-and-vision model, the part called `key`."""
    config = AutoConfig.from_pretrained(name)
    return getattr(config, key, config)


def _without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """Return the argument that leaves out a backbone's unused pooling layer, if its class has one."""
    parameters = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


class SMCLEncoders(SMCLPreTrainedModel):
    """A text encoder that images may guide, and an image encoder.

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
        self.text_model = AutoModel.from_config(text_config, **_without_pooler(text_config))
        guide_attention(self.text_model)
        self.vision_model = AutoModel.from_config(vision_config, **_without_pooler(vision_config))

    def get_input_embeddings(self) -> nn.Module:
        """Return the text encoder's word embeddings."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the text encoder's word embeddings."""
        self.text_model.set_input_embeddings(value)

    def _text_mask(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Check the text arguments; return the bool mask `(batch_size, num_tokens)` of real tokens."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Expected exactly one of `input_ids` and `inputs_embeds`.")
        implementation = self.text_model.config._attn_implementation
        if implementation not in TEXT_ATTENTIONS:
            raise ValueError(
                f"The text encoder's attention implementation must be one of {', '.join(TEXT_ATTENTIONS)}, which "
                f"images can guide, got {implementation!r}. To set the image encoder's only, pass "
                "`attn_implementation={'vision_config': ...}`."
            )
        text = input_ids if inputs_embeds is None else inputs_embeds[..., 0]
        positions = getattr(getattr(self.text_model, "embeddings", None), "position_embeddings", None)
        if isinstance(positions, nn.Embedding):
            # Those encoders whose padding has a position start to count after it.
            most = positions.num_embeddings - (0 if positions.padding_idx is None else positions.padding_idx + 1)
            if text.shape[1] > most:
                raise ValueError(
                    f"Posts have {text.shape[1]} tokens, but the text encoder has positions for {most}. Set the "
                    f"tokenizer's `model_max_length` to {most}, or pass that as `max_length` to the processor."
                )
        return torch.ones_like(text, dtype=torch.bool) if attention_mask is None else attention_mask.bool()

    def _flag(self, name: str, value: bool | None) -> bool:
        """Return an output flag, by default the configuration's."""
        return getattr(self.config, name) if value is None else value

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
        return self.text_model(input_ids, attention_mask, inputs_embeds=inputs_embeds, **given, **flags)

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images one by one, outside any post.

        Systems that need other features of an image override this; more dimensions than one for each image are fine.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, height, width)`): Normalised images.

        Returns:
            `torch.FloatTensor` of shape `(num_images, vision_hidden_size)`: [CLS] of the last layer after its final
            layer norm, or the vision model's own pooled vector where it has no [CLS] (Sec. 3.3.1).
        """
        outputs = self.vision_model(pixel_values=pixel_values)
        pooled = outputs.pooler_output
        return outputs.last_hidden_state[:, 0] if pooled is None else pooled

    def encode_images_in_groups(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images as `encode_images` does, on a CPU without gradients a few at a time.

        What a layer computes of many images is so large that the C library gets the memory from the operating system
        each time. In groups, inference takes less time and no more memory the more images there are. Processes that
        may share the parts of a model encode all at once, because all must use its layers equally often.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, height, width)`): Normalised images, at least 1.

        Returns:
            `torch.FloatTensor` of shape `(num_images, ...)`.
        """
        is_shared = torch.distributed.is_available() and torch.distributed.is_initialized()
        on_cpu = pixel_values.device.type == "cpu"
        if not on_cpu or torch.is_grad_enabled() or torch.compiler.is_compiling() or is_shared:
            return self.encode_images(pixel_values)
        return torch.cat([self.encode_images(group) for group in pixel_values.split(IMAGES_AT_ONCE)])

    def _encode_posts(
        self, pixel_values: torch.Tensor, image_mask: torch.Tensor, image_indices: torch.Tensor | None
    ) -> torch.Tensor:
        """Encode the images of posts; only real ones pass through the image encoder.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_images, 3, height, width)`): Normalised
                images; padding slots may hold anything.
            image_mask (`torch.BoolTensor` of shape `(batch_size, num_images)`): `True` marks a real image.
            image_indices (`torch.LongTensor` of shape `(num_real_images,)`, *optional*): Where they are, as
                `real_image_indices` tells, which by default is called here.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_images, ...)`: V, what `encode_images` gives for each image,
            0 at padding.
        """
        if image_indices is None and torch.compiler.is_compiling():
            # One static shape: the number of real images is data.
            features = self.encode_images(pixel_values.flatten(0, 1)).unflatten(0, image_mask.shape)
            return torch.where(image_mask_like(features, image_mask), features, torch.zeros_like(features))
        if image_indices is None:
            image_indices = real_image_indices(image_mask)
        if image_indices.shape[0] == 0:
            # Image encoders want at least one image: a blank one tells the shape of the features.
            features = self.encode_images(pixel_values.new_zeros(1, *pixel_values.shape[2:]))[:0]
        else:
            features = self.encode_images_in_groups(pixel_values.flatten(0, 1).index_select(0, image_indices))
        slots = features.new_zeros(image_mask.numel(), *features.shape[1:])
        return slots.index_copy(0, image_indices, features).unflatten(0, image_mask.shape)

    def _image_inputs(
        self,
        pixel_values: torch.Tensor | None,
        image_embeds: torch.Tensor | None,
        image_mask: torch.Tensor | None,
        image_indices: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Check the image arguments; return V and its mask, or two `None` where the batch has no image slot."""
        if pixel_values is not None and image_embeds is not None:
            raise ValueError("Got both `pixel_values` and `image_embeds`: pass images or their vectors, not both.")
        images = pixel_values if image_embeds is None else image_embeds
        if images is None or images.shape[1] == 0:
            return None, None
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
        read = self.num_images_read
        if read is not None and read < images.shape[1]:
            # The indices count the slots that are left out, too.
            image_mask, images, image_indices = image_mask[:, :read], images[:, :read], None
        image_mask = image_mask.bool()
        if image_embeds is None:
            return self._encode_posts(images, image_mask, image_indices), image_mask
        return torch.where(image_mask_like(images, image_mask), images.to(self.dtype), 0), image_mask


def real_image_indices(image_mask: torch.Tensor) -> torch.Tensor:
    """Tell where the real images are; on an accelerator, the host waits for their number.

    Args:
        image_mask (`torch.Tensor` of shape `(batch_size, num_images)`): `True` or 1 marks a real image.

    Returns:
        `torch.LongTensor` of shape `(num_real_images,)`: their places among all slots, post by post.
    """
    return image_mask.flatten().nonzero().squeeze(1)


def image_mask_like(features: torch.Tensor, image_mask: torch.Tensor) -> torch.Tensor:
    """Give a mask of images as many dimensions as their features `(batch_size, num_images, ...)` have."""
    return image_mask.reshape(*image_mask.shape, *[1] * (features.dim() - 2))


__all__ = ["VISION_BACKBONES", "SMCLEncoders", "SMCLPreTrainedModel", "image_mask_like", "real_image_indices"]
