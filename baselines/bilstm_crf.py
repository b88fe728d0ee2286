"""BiLSTM-CRF: word embeddings, a bidirectional LSTM and a CRF."""

from collections import Counter
from collections.abc import Sequence

import torch
from huggingface_hub.dataclasses import strict
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import BatchEncoding, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import can_return_tuple, logging

from ..crf_smcl import gather_words
from ..modeling_smcl import SMCLModelOutput, SMCLPreTrainedModel, SMCLTaggingModel
from ..processing_smcl import check_words
from .text_only import TextOnlyConfig, TextProcessor
from .word_vectors import WordVectors, read_word_vectors

logger = logging.get_logger(__name__)

# Words and characters that come less often in the training posts count as unknown, so that the unknown is trained.
LEAST_COUNT = 2


@strict
class WordLSTMConfig(PreTrainedConfig):
    """Sizes of a [`WordLSTM`].

    Args:
        vocab_size (`int`, *optional*, defaults to 4): Words, the four special tokens included.
        embedding_size (`int`, *optional*, defaults to 100): Size of a word's embedding.
        hidden_size (`int`, *optional*, defaults to 200): Size of a token's vector, both directions together.
        num_hidden_layers (`int`, *optional*, defaults to 1): LSTM layers.
    """

    model_type = "smcl-word-lstm"

    vocab_size: int = 4
    embedding_size: int = 100
    hidden_size: int = 200
    num_hidden_layers: int = 1

    def validate_sizes(self):
        """Check numbers; part of the strict validation on construction and saving."""
        if self.hidden_size < 2 or self.hidden_size % 2:
            raise ValueError(f"`hidden_size` must be even, a half for each direction, got {self.hidden_size}.")


@strict
class BiLSTMCRFConfig(TextOnlyConfig):
    """Configuration of a [`BiLSTMCRFForTokenClassification`]; see [`TextOnlyConfig`].

    Args:
        dropout (`float`, *optional*, defaults to 0.5): Dropout in front of the LSTM and in front of the classifier.
        initializer_range (`float`, *optional*, defaults to 0.1): Standard deviation of new embeddings.
    """

    model_type = "smcl-bilstm-crf"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=WordLSTMConfig)}

    dropout: int | float = 0.5
    initializer_range: int | float = 0.1


def run_lstm(lstm: nn.LSTM, states: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run an LSTM over the real steps of sequences only.

    Args:
        lstm (`nn.LSTM`): The LSTM, batch first.
        states (`torch.FloatTensor` of shape `(batch_size, num_steps, size)`): Its input; padding may hold anything.
        mask (`torch.BoolTensor` of shape `(batch_size, num_steps)`): `True` marks a real step, wherever it stands.

    Returns:
        The outputs `(batch_size, num_steps, hidden_size)`, 0 at padding, and the last states of each layer and
        direction, `(num_layers * num_directions, batch_size, hidden_size / num_directions)`.
    """
    steps, is_step, positions = gather_words(states, mask)
    # A sequence without a step gets one, whose output is dropped.
    lengths = is_step.sum(dim=1).clamp(min=1).cpu()
    packed, (last, _) = lstm(pack_padded_sequence(steps, lengths, batch_first=True, enforce_sorted=False))
    outputs, _ = pad_packed_sequence(packed, batch_first=True, total_length=states.shape[1])
    outputs = outputs.masked_fill(~is_step[..., None], 0)
    return torch.zeros_like(outputs).scatter(1, positions[..., None].expand_as(outputs), outputs), last


class WordLSTM(nn.Module):
    """Word embeddings below a bidirectional LSTM.

    Args:
        config ([`WordLSTMConfig`]): The sizes.
        dropout (`float`): Dropout in front of the LSTM.
    """

    def __init__(self, config: WordLSTMConfig, dropout: float):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(
            self.input_size(config),
            config.hidden_size // 2,
            config.num_hidden_layers,
            batch_first=True,
            bidirectional=True,
        )

    def input_size(self, config: WordLSTMConfig) -> int:
        """Return the size of what the LSTM reads of a word."""
        return config.embedding_size

    def forward(self, inputs_embeds: torch.Tensor, text_mask: torch.Tensor) -> torch.Tensor:
        """Turn `(batch_size, num_tokens, input_size)` into `(batch_size, num_tokens, hidden_size)`, 0 at padding."""
        return run_lstm(self.lstm, self.dropout(inputs_embeds), text_mask)[0]


class BiLSTMModel(SMCLPreTrainedModel):
    """A bidirectional LSTM over words, without the CRF head.

    Args:
        config ([`BiLSTMCRFConfig`]): The configuration.
    """

    config_class = BiLSTMCRFConfig
    input_modalities = ("text",)
    supports_gradient_checkpointing = False
    encoder_class: type[WordLSTM] = WordLSTM

    def __init__(self, config: BiLSTMCRFConfig):
        super().__init__(config)
        self.text_model = self.encoder_class(config.text_config, config.dropout)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.text_model.embeddings

    def set_input_embeddings(self, value: nn.Module):
        """Replace the word embeddings."""
        self.text_model.embeddings = value

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
    ) -> SMCLModelOutput:
        """Represent the tokens of posts.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, num_tokens)`, *optional*): Words.
            attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*): 1 marks a real token.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, num_tokens, input_size)`, *optional*): What the
                LSTM reads, in place of `input_ids`.
            token_type_ids, pixel_values, image_mask, image_embeds, image_indices, output_attentions,
                output_hidden_states: Ignored.

        Returns:
            [`SMCLModelOutput`] with `last_hidden_state`.

        Raises:
            ValueError: if the inputs do not fit together.
        """
        text_mask = self._text_mask(input_ids, inputs_embeds, attention_mask)
        embeds = self.text_model.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        return SMCLModelOutput(last_hidden_state=self.text_model(embeds, text_mask))


class WordProcessor(TextProcessor):
    """A [`TextProcessor`] for which each word is one token.

    A word that the vocabulary lacks is looked up in lower case, and else unknown. Raw text is split into words at
    spaces and punctuation.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A word-level tokenizer that does not split words.
    """

    @classmethod
    def from_posts(cls, posts: Sequence[Sequence[str]], vectors: WordVectors | None = None) -> "WordProcessor":
        """Take the vocabulary from training posts, and from word vectors.

        Args:
            posts (`Sequence[Sequence[str]]`): Words of each training post; those that come twice or more are known.
            vectors ([`WordVectors`], *optional*): Vectors, whose words are all known.

        Returns:
            The processor.
        """
        counts = Counter(word for post in posts for word in post)
        known = sorted(word for word, count in counts.items() if count >= LEAST_COUNT)
        return cls(make_tokenizer([*known, *(vectors.rows if vectors else ())]))

    def text_sizes(self) -> dict[str, int]:
        """Return the sizes of a [`WordLSTMConfig`] that depend on the vocabulary."""
        return {"vocab_size": len(self.tokenizer)}

    def split_words(self, text: str) -> tuple[list[str], list[tuple[int, int]]]:
        """Split a raw post into words at spaces and punctuation; see [`SMCLProcessor.split_words`]."""
        check_words([[text]])
        offsets = [span for _, span in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)]
        return [text[start:end] for start, end in offsets], offsets

    def _tokenize(self, words: list[list[str]], **settings) -> tuple[BatchEncoding, list[dict[int, int]]]:
        return super()._tokenize([[self._known_form(word) for word in post] for post in words], **settings)

    def _known_form(self, word: str) -> str:
        is_known = self.tokenizer.convert_tokens_to_ids(word) != self.tokenizer.unk_token_id
        return word if is_known else word.lower()


def make_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Build a tokenizer that gives each word one token, with marks around a post.

    Args:
        words (`Sequence[str]`): The words; they may repeat.

    Returns:
        `PreTrainedTokenizerFast`.
    """
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*special.values(), *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


class BiLSTMCRFForTokenClassification(SMCLTaggingModel):
    """BiLSTM-CRF: word embeddings, a bidirectional LSTM over the words of a post, and a CRF.

    Huang, Xu and Yu, "Bidirectional LSTM-CRF Models for Sequence Tagging", 2015, https://arxiv.org/abs/1508.01991.
    Here without their spelling and context features; optimised as the other systems are, with dropout around the LSTM.
    Rare words share the embedding of unknown words. Embeddings are learned, from the start or from given word vectors.
    The LSTM also reads a mark in front of a post and one after it.

    Args:
        config ([`BiLSTMCRFConfig`]): The configuration; its `id2label` names the tags.
    """

    config_class = BiLSTMCRFConfig
    base_class = BiLSTMModel
    processor_class = WordProcessor
    input_modalities = ("text",)
    supports_gradient_checkpointing = False

    @classmethod
    def from_posts(
        cls, posts: Sequence[Sequence[str]], word_vectors: str | None = None, **config_kwargs
    ) -> tuple["BiLSTMCRFForTokenClassification", WordProcessor]:
        """Build an untrained model for the words of training posts.

        Args:
            posts (`Sequence[Sequence[str]]`): Words of each training post.
            word_vectors (`str`, *optional*): A file of word vectors in GloVe's text format to start from; they set the
                size of the embeddings. All of its words become known, so the model grows with the file.
            **config_kwargs: Fields of the configuration, such as `id2label`.

        Returns:
            The model, in evaluation mode, and its processor.

        Raises:
            ValueError: if the file of word vectors can't be used.
        """
        vectors = None if word_vectors is None else read_word_vectors(word_vectors)
        processor = cls.processor_class.from_posts(posts, vectors)
        sizes = processor.text_sizes()
        if vectors is not None:
            sizes["embedding_size"] = vectors.vectors.shape[1]
        text_config = cls.config_class.sub_configs_defaults["text_config"].config_class(**sizes)
        model = cls(cls.config_class(text_config=text_config, **config_kwargs))
        if vectors is not None:
            _start_from(model.get_input_embeddings().weight, processor, vectors)
            words = {word for post in posts for word in post}
            exact = len(words & vectors.rows.keys())
            found = sum(vectors.row(word) is not None for word in words)
            logger.warning(
                f"{word_vectors} has vectors of {len(vectors.rows)} words, among them {found} of the {len(words)} "
                f"different words of the training posts, {found - exact} of these only in lower case. "
                f"{vectors.num_repeated} lines of words that had come before were left out."
            )
        return model.eval(), processor


@torch.no_grad()
def _start_from(weight: torch.Tensor, processor: WordProcessor, vectors: WordVectors) -> None:
    """Copy vectors to the embeddings `weight` of the words that have one."""
    pairs = [(index, vectors.row(word)) for word, index in processor.tokenizer.get_vocab().items()]
    found = torch.tensor([pair for pair in pairs if pair[1] is not None])
    weight[found[:, 0]] = vectors.vectors[found[:, 1]]


__all__ = [
    "BiLSTMCRFConfig",
    "BiLSTMCRFForTokenClassification",
    "BiLSTMModel",
    "WordLSTM",
    "WordLSTMConfig",
    "WordProcessor",
    "make_tokenizer",
    "run_lstm",
]
