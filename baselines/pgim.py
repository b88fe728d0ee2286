"""PGIM: what a language model says about the post, behind the post."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedTokenizerBase

from .bert_crf import BertCRFConfig, BertCRFForTokenClassification
from .context import AppendingProcessor, ContextTextModel


@strict
class PGIMConfig(BertCRFConfig):
    """Configuration of a [`PGIMForTokenClassification`]; see [`TextOnlyConfig`]."""

    model_type = "smcl-pgim"


class PGIMProcessor(AppendingProcessor):
    """A processor that appends to a post what a language model said about it.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        max_context_tokens (`int`, *optional*, defaults to 256): Most tokens to append, separators among them. The
            released answers have 93 to 105 pieces in the mean and 211 at most.
    """

    context_columns = ("knowledge",)

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_context_tokens: int = 256, **kwargs):
        super().__init__(tokenizer, max_context_tokens, **kwargs)

    def context_text(self, context: dict[str, Any]) -> list[str]:
        """Return the words of the answer; see [`AppendingProcessor.context_text`]."""
        return context["knowledge"].split()


class PGIMForTokenClassification(BertCRFForTokenClassification):
    """PGIM: prompting a language model with the post and the caption of its image. It reads the answer, no pixels.

    Li, Li, Pan, Sun, Wang, Zhang and Pan, "Prompting ChatGPT in MNER: Enhanced Multimodal Named Entity Recognition with
    Auxiliary Refined Knowledge", Findings of EMNLP 2023, https://aclanthology.org/2023.findings-emnlp.184. A
    [`BertCRFForTokenClassification`] that reads the answer behind the post. The column `knowledge` holds the answer.

    What differs: the CRF runs over the words of the post, where the released code has it run over the answer's tokens
    as well, in training, decoding and scores; the language model is the one that made the column; the published figures
    are of XLM-RoBERTa large. Whether a language model knew the posts or their tags can't be told from its answers.

    Args:
        config ([`PGIMConfig`]): The configuration; its `id2label` names the tags.
    """

    config_class = PGIMConfig
    base_class = ContextTextModel
    processor_class = PGIMProcessor


__all__ = ["PGIMConfig", "PGIMForTokenClassification", "PGIMProcessor"]
