"""OCSGA: words that attend to the names of objects seen in the image."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..layers_smcl import SMCLAttention, SMCLFeedForward, SMCLTransformerLayer
from ..losses_smcl import masked_mean
from ..modeling_smcl import SMCLTaggingModel
from .context import ContextTextProcessor
from .text_only import TextOnlyConfig, TextOnlyModel

# As published: the names of so many objects are read, the best first.
MAX_OBJECTS = 4
# Longer names are cut.
MAX_NAME_TOKENS = 16


@strict
class OCSGAConfig(TextOnlyConfig):
    """Configuration of an [`OCSGAForTokenClassification`]; see [`TextOnlyConfig`]."""

    model_type = "smcl-ocsga"


def name_tokens(tokenizer: PreTrainedTokenizerBase, names: list[str]) -> list[list[int]]:
    """Tokenize names by themselves; one that has no token becomes the unknown token.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        names (`list[str]`): The names.

    Returns:
        `list[list[int]]`: ids of each name, without special tokens.
    """
    if not names:
        return []
    unknown = tokenizer.unk_token_id
    special = set(tokenizer.all_special_ids)
    encoded = tokenizer(names, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    ids = [[unknown if token in special else token for token in tokens] or [unknown] for tokens in encoded]
    return [[token for token in tokens if token is not None] for tokens in ids]


class OCSGAProcessor(ContextTextProcessor):
    """A processor that also returns the names of the first four objects of a post's first image.

    These are `object_ids (batch_size, 4, 16)`, -1 after a name's last token, and `object_mask (batch_size, 4)`, `True`
    where there is an object.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
    """

    context_columns = ("objects",)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call may return, but for `labels`."""
        return [*super().model_input_names, "object_ids", "object_mask"]

    def context_tensors(self, contexts: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Tokenize the names of objects; see [`ContextProcessor.context_tensors`]."""
        object_ids = torch.full((len(contexts), MAX_OBJECTS, MAX_NAME_TOKENS), -1)
        for row, context in enumerate(contexts):
            names = [found["label"] for found in context["objects"][:MAX_OBJECTS]]
            for slot, ids in enumerate(name_tokens(self.tokenizer, names)):
                ids = ids[:MAX_NAME_TOKENS]
                object_ids[row, slot, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        return {"object_ids": object_ids, "object_mask": (object_ids >= 0).any(dim=2)}


class OCSGAModel(TextOnlyModel):
    """A text encoder whose words attend to the names of objects, without the CRF head.

    Args:
        config ([`OCSGAConfig`]): The configuration.
    """

    config_class = OCSGAConfig
    context_inputs = ("object_ids", "object_mask")

    def __init__(self, config: OCSGAConfig):
        super().__init__(config)
        text = config.text_config
        settings = text.hidden_size, text.num_attention_heads, config.dropout
        self.word_layer = SMCLTransformerLayer(*settings)
        self.object_projection = nn.Linear(self.get_input_embeddings().embedding_dim, text.hidden_size)
        self.object_attention, self.word_attention = SMCLAttention(*settings), SMCLAttention(*settings)
        self.object_output, self.word_output = (nn.Linear(text.hidden_size, text.hidden_size) for _ in range(2))
        self.object_norm, self.attention_norm, self.feed_forward_norm, self.output_norm = (
            nn.LayerNorm(text.hidden_size) for _ in range(4)
        )
        self.feed_forward = SMCLFeedForward(text.hidden_size, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def embed_objects(self, object_ids: torch.Tensor) -> torch.Tensor:
        """Average the word embeddings of each name, which are not trained by it.

        Args:
            object_ids (`torch.LongTensor` of shape `(batch_size, num_objects, num_name_tokens)`): Tokens, -1 behind.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_objects, embedding_size)`, 0 for no name.
        """
        embeds = self.get_input_embeddings()(object_ids.clamp(min=0)).detach()
        return masked_mean(embeds, object_ids >= 0)

    def fuse(
        self,
        text_states: torch.Tensor,
        text_mask: torch.Tensor,
        object_ids: torch.Tensor | None = None,
        object_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Add to the words what they ask of the objects; see [`TextOnlyModel.fuse`].

        Args:
            text_states, text_mask: As there.
            object_ids (`torch.LongTensor` of shape `(batch_size, num_objects, num_name_tokens)`, *optional*): Tokens of
                the objects' names, -1 behind each.
            object_mask (`torch.BoolTensor` of shape `(batch_size, num_objects)`, *optional*): `True` = an object.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`.
        """
        if object_ids is None or object_mask is None:
            return self.output_norm(text_states)
        object_mask = object_mask.bool()
        objects = self.object_projection(self.embed_objects(object_ids))
        related, _ = self.object_attention(objects, objects, object_mask)
        objects = self.object_norm(objects + self.dropout(self.object_output(related)))
        # As released, nothing of the words but their question goes on from here: no residual.
        asked, _ = self.word_attention(self.word_layer(text_states, text_mask), objects, object_mask)
        answers = self.attention_norm(self.dropout(self.word_output(asked)))
        answers = self.feed_forward_norm(self.feed_forward(answers))
        has_object = object_mask.any(dim=1)[:, None, None]
        return self.output_norm(text_states + answers * has_object)


class OCSGAForTokenClassification(SMCLTaggingModel):
    """OCSGA: object names as embeddings, and dense co-attention. It reads the objects of the first image, no pixels.

    Wu, Zheng, Cai, Chen, Leung and Li, "Multimodal Representation with Embedded Visual Guiding Objects for Named Entity
    Recognition in Social Media Posts", ACM MM 2020, https://doi.org/10.1145/3394171.3413650. Up to four objects that a
    detector names, with repeats and the best first, are represented by the embeddings of their names, which stay as
    they are. Words that have attended to each other ask objects that have attended to each other, and the answers are
    added to the words.

    What differs: the pretrained text encoder and its word embeddings in place of LSTMs over words and characters and
    of GloVe vectors, as the paper's comparison has it; its number of heads in place of 2; layer norms in place of
    batch norms over tokens, whose statistics include padding and depend on the batch; a name of two words is one
    object, where the released code makes it two; the detector is whichever made the column `objects`. In a post
    without objects, words pass on alone, where the code averages padding.

    Args:
        config ([`OCSGAConfig`]): The configuration; its `id2label` names the tags.
    """

    config_class = OCSGAConfig
    base_class = OCSGAModel
    processor_class = OCSGAProcessor
    input_modalities = ("text",)


__all__ = ["OCSGAConfig", "OCSGAForTokenClassification", "OCSGAModel", "OCSGAProcessor", "name_tokens"]
