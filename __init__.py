"""SMCL: multi-image multimodal named-entity recognition."""

from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification

from .configuration_smcl import SMCLConfig
from .modeling_smcl import SMCLForTokenClassification, SMCLModel, SMCLModelOutput, SMCLOutput

AutoConfig.register("smcl", SMCLConfig)
AutoModel.register(SMCLConfig, SMCLModel)
AutoModelForTokenClassification.register(SMCLConfig, SMCLForTokenClassification)

__all__ = ["SMCLConfig", "SMCLForTokenClassification", "SMCLModel", "SMCLModelOutput", "SMCLOutput"]
