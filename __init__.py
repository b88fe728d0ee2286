"""SMCL: multi-image multimodal named-entity recognition."""

from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification, AutoProcessor

from .configuration_smcl import SMCLConfig
from .modeling_smcl import SMCLForTokenClassification, SMCLModel, SMCLModelOutput, SMCLOutput
from .processing_smcl import SMCLProcessor

AutoConfig.register("smcl", SMCLConfig)
AutoModel.register(SMCLConfig, SMCLModel)
AutoModelForTokenClassification.register(SMCLConfig, SMCLForTokenClassification)
AutoProcessor.register(SMCLConfig, SMCLProcessor)

# So that saving copies the code, and a folder loads without this package.
SMCLConfig.register_for_auto_class()
SMCLModel.register_for_auto_class("AutoModel")
SMCLForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
SMCLProcessor.register_for_auto_class("AutoProcessor")

__all__ = [
    "SMCLConfig",
    "SMCLForTokenClassification",
    "SMCLModel",
    "SMCLModelOutput",
    "SMCLOutput",
    "SMCLProcessor",
]
