"""BERT: a text encoder that names the tag of each word by itself."""

import torch
from huggingface_hub.dataclasses import strict
from transformers import initialization as init

from ..configuration_smcl import SMCLConfig
from ..crf_smcl import LinearChainCRF
from ..modeling_smcl import SMCLTaggingModel
from .text_only import TextOnlyConfig, TextOnlyModel, TextProcessor

SCORES = ("start_transitions", "end_transitions", "transitions")


@strict
class BertSoftmaxConfig(TextOnlyConfig):
    """Configuration of a [`BertSoftmaxForTokenClassification`]; see [`TextOnlyConfig`].

    Args:
        constrain_bio (`bool`, *optional*, defaults to `False`): With `True`, the best legal sequence of BIO2 tags is
            found in place of each word's best tag.
    """

    model_type = "smcl-bert"

    constrain_bio: bool = False


class IndependentTags(LinearChainCRF):
    """A CRF whose transition scores are zero and can't be trained: a softmax over the tags of each word."""

    def __init__(self, labels: list[str], constrain_bio: bool = False):
        super().__init__(labels, constrain_bio)
        for name in SCORES:
            # Loading a folder would make frozen parameters trainable again; buffers stay what they are.
            zeros = torch.zeros_like(getattr(self, name))
            delattr(self, name)
            self.register_buffer(name, zeros)


class SoftmaxTaggingModel(SMCLTaggingModel):
    """A softmax over the tags of each word, in place of a CRF, on top of any model that represents its tokens.

    A softmax for each word is a CRF without transitions, and is computed as one: the loss is the cross-entropy of a
    post's words, summed over words and averaged over posts, and decoding takes each word's best tag, whatever its
    neighbours' are. So a sequence may break BIO2.

    Args:
        config ([`SMCLConfig`]): The configuration; its `id2label` names the tags.
    """

    def __init__(self, config: SMCLConfig):
        super().__init__(config)
        self.crf = IndependentTags(self.crf.labels, config.constrain_bio)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, IndependentTags):
            for name in SCORES:
                init.zeros_(getattr(module, name))


class BertSoftmaxForTokenClassification(SoftmaxTaggingModel):
    """BERT with a softmax over the tags of each word.

    Devlin, Chang, Lee and Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding", NAACL 2019, https://aclanthology.org/N19-1423, section 5.3: a word is tagged by its first token. The
    loss is averaged over posts, theirs over words.

    Args:
        config ([`BertSoftmaxConfig`]): The configuration; its `id2label` names the tags.
    """

    config_class = BertSoftmaxConfig
    base_class = TextOnlyModel
    processor_class = TextProcessor
    input_modalities = ("text",)


__all__ = [
    "BertSoftmaxConfig",
    "BertSoftmaxForTokenClassification",
    "IndependentTags",
    "SoftmaxTaggingModel",
]
