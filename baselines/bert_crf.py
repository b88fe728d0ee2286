"""BERT-CRF: a text encoder and a CRF."""

from huggingface_hub.dataclasses import strict

from ..modeling_smcl import SMCLTaggingModel
from .text_only import TextOnlyConfig, TextOnlyModel, TextProcessor


@strict
class BertCRFConfig(TextOnlyConfig):
    """Configuration of a [`BertCRFForTokenClassification`]; see [`TextOnlyConfig`]."""

    model_type = "smcl-bert-crf"


class BertCRFForTokenClassification(SMCLTaggingModel):
    """BERT-CRF, the paper's strongest system without images: a pretrained text encoder below a CRF.

    The encoder is that of Devlin, Chang, Lee and Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for
    Language Understanding", NAACL 2019, https://aclanthology.org/N19-1423, or any other; the CRF over words is SMCL's
    own. It is SMCL without all that has to do with images.

    Args:
        config ([`BertCRFConfig`]): The configuration; its `id2label` names the tags.
    """

    config_class = BertCRFConfig
    base_class = TextOnlyModel
    processor_class = TextProcessor
    input_modalities = ("text",)


__all__ = ["BertCRFConfig", "BertCRFForTokenClassification"]
