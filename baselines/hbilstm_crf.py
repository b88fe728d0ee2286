"""HBiLSTM-CRF: a bidirectional LSTM over characters below the one over words, and a CRF."""

from collections import Counter
from collections.abc import Sequence

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import BatchEncoding, PreTrainedTokenizerBase
from transformers.configuration_utils import SubConfigSpec

from ..modeling_smcl import SMCLOutput
from .bilstm_crf import (
    LEAST_COUNT,
    BiLSTMCRFConfig,
    BiLSTMCRFForTokenClassification,
    BiLSTMModel,
    WordLSTM,
    WordLSTMConfig,
    WordProcessor,
    run_lstm,
)
from .word_vectors import WordVectors

PADDING, UNKNOWN = 0, 1


@strict
class CharacterLSTMConfig(WordLSTMConfig):
    """Sizes of a [`CharacterWordLSTM`]; see [`WordLSTMConfig`].

    Args:
        num_characters (`int`, *optional*, defaults to 2): Characters, padding and the unknown one included.
        character_embedding_size (`int`, *optional*, defaults to 25): Size of a character's embedding.
        character_hidden_size (`int`, *optional*, defaults to 50): Size of what the characters add to a word, both
            directions together.
    """

    model_type = "smcl-character-lstm"

    num_characters: int = 2
    character_embedding_size: int = 25
    character_hidden_size: int = 50

    def validate_character_sizes(self):
        """Check numbers; part of the strict validation on construction and saving."""
        if self.character_hidden_size < 2 or self.character_hidden_size % 2:
            raise ValueError(
                f"`character_hidden_size` must be even, a half for each direction, got {self.character_hidden_size}."
            )


@strict
class HBiLSTMCRFConfig(BiLSTMCRFConfig):
    """Configuration of an [`HBiLSTMCRFForTokenClassification`]; see [`BiLSTMCRFConfig`]."""

    model_type = "smcl-hbilstm-crf"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=CharacterLSTMConfig)}


class CharacterWordLSTM(WordLSTM):
    """A [`WordLSTM`] that also reads, of each word, what a bidirectional LSTM over its characters ends with.

    Args:
        config ([`CharacterLSTMConfig`]): The sizes.
        dropout (`float`): Dropout in front of the LSTM over words.
    """

    def __init__(self, config: CharacterLSTMConfig, dropout: float):
        super().__init__(config, dropout)
        size, hidden_size = config.character_embedding_size, config.character_hidden_size
        self.character_embeddings = nn.Embedding(config.num_characters, size)
        self.character_lstm = nn.LSTM(size, hidden_size // 2, batch_first=True, bidirectional=True)

    def input_size(self, config: CharacterLSTMConfig) -> int:
        """Return the size of what the LSTM reads of a word."""
        return config.embedding_size + config.character_hidden_size

    def embed(self, input_ids: torch.Tensor, character_ids: torch.Tensor) -> torch.Tensor:
        """Join the embedding of each word and the last states of both directions over its characters.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, num_tokens)`): Words.
            character_ids (`torch.LongTensor` of shape `(batch_size, num_tokens, num_characters)`): Characters, 0 after
                a word's last.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_tokens, input_size)`.
        """
        words = self.embeddings(input_ids)
        mask = character_ids != PADDING
        has_characters = mask.any(dim=-1)
        spelled = words.new_zeros(*has_characters.shape, 2 * self.character_lstm.hidden_size)
        if has_characters.any():
            embeds = self.character_embeddings(character_ids[has_characters])
            _, last = run_lstm(self.character_lstm, embeds, mask[has_characters])
            spelled = spelled.index_put((has_characters,), torch.cat([*last], dim=-1).to(spelled.dtype))
        return torch.cat([words, spelled], dim=-1)


class HBiLSTMModel(BiLSTMModel):
    """A bidirectional LSTM over words and their characters, without the CRF head.

    Args:
        config ([`HBiLSTMCRFConfig`]): The configuration.
    """

    config_class = HBiLSTMCRFConfig
    encoder_class = CharacterWordLSTM


class CharacterProcessor(WordProcessor):
    """A [`WordProcessor`] that also returns `character_ids (batch_size, num_tokens, max_characters)`.

    They are 0 after a word's last character, and for tokens that are no words. Of longer words, the first
    `max_characters` characters are read.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A word-level tokenizer that does not split words.
        characters (`str`, *optional*, defaults to `""`): The characters known, each once.
        max_characters (`int`, *optional*, defaults to 24): Most characters of a word.

    Raises:
        ValueError: if `max_characters` is not positive, or the tokenizer can't be used.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, characters: str = "", max_characters: int = 24, **kwargs):
        super().__init__(tokenizer, **kwargs)
        if max_characters < 1:
            raise ValueError(f"`max_characters` must be at least 1, got {max_characters}.")
        self.characters = characters
        self.max_characters = max_characters

    @classmethod
    def from_posts(cls, posts: Sequence[Sequence[str]], vectors: WordVectors | None = None) -> "CharacterProcessor":
        """Take the words as [`WordProcessor`] does, and as characters those that come twice or more in the posts."""
        counts = Counter(character for post in posts for word in post for character in word)
        characters = "".join(sorted(c for c, count in counts.items() if count >= LEAST_COUNT))
        return cls(super().from_posts(posts, vectors).tokenizer, characters)

    def text_sizes(self) -> dict[str, int]:
        """Return the sizes of a [`CharacterLSTMConfig`] that depend on the vocabularies."""
        return {**super().text_sizes(), "num_characters": UNKNOWN + 1 + len(self.characters)}

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call may return, but for `labels`."""
        return [*super().model_input_names, "character_ids"]

    def _tokenize(self, words: list[list[str]], **settings) -> tuple[BatchEncoding, list[dict[int, int]]]:
        encoding, positions = super()._tokenize(words, **settings)
        ids = {character: number for number, character in enumerate(self.characters, start=UNKNOWN + 1)}
        blank = [PADDING] * self.max_characters
        encoding["character_ids"] = [[blank] * len(tokens) for tokens in encoding["input_ids"]]
        for row, starts in enumerate(positions):
            for word, position in starts.items():
                spelled = [ids.get(character, UNKNOWN) for character in words[row][word][: self.max_characters]]
                encoding["character_ids"][row][position] = spelled + blank[len(spelled) :]
        return encoding, positions


class HBiLSTMCRFForTokenClassification(BiLSTMCRFForTokenClassification):
    """HBiLSTM-CRF: a [`BiLSTMCRFForTokenClassification`] with a bidirectional LSTM over the characters of each word.

    Lample, Ballesteros, Subramanian, Kawakami and Dyer, "Neural Architectures for Named Entity Recognition", NAACL
    2016, https://aclanthology.org/N16-1030. The LSTM over words reads each word's embedding and the last states of
    both directions over its characters. Here no layer stands between the LSTM and the tag scores; words that come once
    in training always count as unknown (theirs with probability 0.5); it is optimised as the other systems are. Of long
    words, the first 24 characters are read.

    Args:
        config ([`HBiLSTMCRFConfig`]): The configuration; its `id2label` names the tags.
    """

    config_class = HBiLSTMCRFConfig
    base_class = HBiLSTMModel
    processor_class = CharacterProcessor

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        character_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs,
    ) -> SMCLOutput:
        """Score the tags of every token; see [`SMCLTaggingModel.forward`] for the other arguments.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, num_tokens)`, *optional*): Words.
            character_ids (`torch.LongTensor` of shape `(batch_size, num_tokens, max_characters)`, *optional*):
                Characters, as a [`CharacterProcessor`] returns them; needed with `input_ids`.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, num_tokens, input_size)`, *optional*): Words and
                their characters as `embed` joins them, in place of both.
            labels (`torch.LongTensor` of shape `(batch_size, num_tokens)`, *optional*): Tag ids, -100 off word starts.
            **kwargs: The other arguments.

        Returns:
            [`SMCLOutput`].

        Raises:
            ValueError: if neither words with characters nor embeddings are given, or both, or they do not fit together.
        """
        if (input_ids is None) == (inputs_embeds is None) or (input_ids is None) != (character_ids is None):
            raise ValueError("Expected either `input_ids` and `character_ids`, or `inputs_embeds`.")
        if inputs_embeds is None:
            if character_ids.shape[:-1] != input_ids.shape:
                raise ValueError(
                    "`character_ids` must have the shape (batch_size, num_tokens, max_characters) of the words, "
                    f"{tuple(input_ids.shape)} and characters, got {tuple(character_ids.shape)}."
                )
            inputs_embeds = self.smcl.text_model.embed(input_ids, character_ids)
        return super().forward(inputs_embeds=inputs_embeds, labels=labels, **kwargs)


__all__ = [
    "CharacterLSTMConfig",
    "CharacterProcessor",
    "CharacterWordLSTM",
    "HBiLSTMCRFConfig",
    "HBiLSTMCRFForTokenClassification",
    "HBiLSTMModel",
]
