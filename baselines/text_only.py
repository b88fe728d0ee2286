"""What the systems that read text alone share: configuration, model below the head, and processor."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import can_return_tuple

from ..configuration_smcl import SMCLConfig, without_pooler
from ..layers_smcl import check_text_encoder
from ..modeling_smcl import SMCLModelOutput, SMCLPreTrainedModel
from ..processing_smcl import SMCLProcessor, check_tokenizer, load_tokenizer


@strict
class TextOnlyConfig(SMCLConfig):
    """Configuration of a system that reads text alone.

    Of the fields of [`SMCLConfig`], `text_config`, `constrain_bio`, `temperature`, `dropout`, `initializer_range` and
    the labels have a meaning; the others stay as they are here. There is no `vision_config`.
    """

    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}
    switches = ("constrain_bio", "dropout")

    use_image_guidance: bool = False
    use_alignment: bool = False
    use_refinement: bool = False
    use_fusion: bool = False
    similarity_weight: int | float = 0
    difference_weight: int | float = 0


class TextOnlyModel(SMCLPreTrainedModel):
    """A text encoder as it stands.

    Args:
        config ([`TextOnlyConfig`]): The configuration.

    Raises:
        ValueError: if the text encoder is of a kind that does not work; names those that do.
    """

    config_class = TextOnlyConfig
    input_modalities = ("text",)

    def __init__(self, config: TextOnlyConfig):
        super().__init__(config)
        self.text_model = AutoModel.from_config(config.text_config, **without_pooler(config.text_config))
        check_text_encoder(
            self.text_model, lambda ids, mask: self.text_model(ids, mask.long(), return_dict=True).last_hidden_state
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the text encoder's word embeddings."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the text encoder's word embeddings."""
        self.text_model.set_input_embeddings(value)

    def fuse(self, text_states: torch.Tensor, text_mask: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:
        """Join the encoded text with what else is known of a post, by default not at all.

        Args:
            text_states (`torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`): Encoded text.
            text_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`): `True` marks a real token.
            **context: Those of `context_inputs` that were given.

        Returns:
            `torch.FloatTensor`: what the head reads, of the same shape.
        """
        return text_states

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
        """Represent the tokens of posts.

        Args:
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` of shape `(batch_size, num_tokens)`): BERT's.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, num_tokens, embedding_size)`, *optional*):
                Word embeddings in place of `input_ids`.
            pixel_values, image_mask, image_embeds, image_indices: Ignored.
            output_attentions, output_hidden_states (`bool`, *optional*): What to return of the text encoder.
            **context: Those of `context_inputs`, handed to `fuse`.

        Returns:
            [`SMCLModelOutput`].

        Raises:
            TypeError: if there is no such input.
            ValueError: if the inputs do not fit together, or posts are longer than the text encoder has positions for.
        """
        text_mask = self._text_mask(input_ids, inputs_embeds, attention_mask)
        self._check_context(context, text_mask.shape[0])
        optional = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        flags = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        optional |= {name: getattr(self.config, name) if flag is None else flag for name, flag in flags.items()}
        outputs = self.text_model(input_ids, attention_mask, inputs_embeds=inputs_embeds, return_dict=True, **optional)
        return SMCLModelOutput(
            last_hidden_state=self.fuse(outputs.last_hidden_state, text_mask, **context),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class TextProcessor(SMCLProcessor):
    """Turn the words of posts into the inputs of a model that reads text alone; their images are left unread.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.

    Raises:
        ValueError: if the tokenizer is a slow one or does not know its special tokens.
    """

    # Its code does not travel with a saved folder.
    _auto_class = None

    def __init__(self, tokenizer: PreTrainedTokenizerBase, **kwargs):
        # Not that of SMCLProcessor, which has an image processor besides.
        ProcessorMixin.__init__(self, tokenizer, **kwargs)
        check_tokenizer(tokenizer)

    @classmethod
    def from_text_vision_pretrained(
        cls, text_model_name_or_path: str, vision_model_name_or_path: str | None = None, max_images: int = 4
    ) -> "TextProcessor":
        """Take the tokenizer of a text encoder; the other arguments, of systems that read images, are left unread."""
        return cls(load_tokenizer(text_model_name_or_path))

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call may return, but for `labels`."""
        return [*self.tokenizer.model_input_names, "word_mask"]

    def limit_images(self, images: list[list[Any] | None], on_extra_images: str = "error") -> list[list[Any]]:
        """Take all images away, however many there are."""
        return [[] for _ in images]


__all__ = ["TextOnlyConfig", "TextOnlyModel", "TextProcessor"]
