"""Prediction: files and data sets of posts, Ray, ONNX, and figures of what the images did."""

import errno
import os
from typing import Any

import torch
from transformers import PreTrainedConfig

from ..configuration_smcl import SMCLConfig
from ..dataset_scripts.command_line import check_device
from ..dataset_scripts.fingerprints import is_hub_name
from ..modeling_smcl import SMCLForTokenClassification
from ..pipeline_smcl import MultiImageNERPipeline
from ..processing_smcl import SMCLProcessor
from .loading import load_processor, load_weights


def load_pipeline(
    name: str | os.PathLike, dtype: str | torch.dtype | None = None, **kwargs: Any
) -> MultiImageNERPipeline:
    """Load a saved SMCL with the classes of this package; code that lies beside its weights is not run.

    Args:
        name (`str` or `os.PathLike`): A folder or a name on the Hub.
        dtype (`str` or `torch.dtype`, *optional*): The numbers to compute in, by default those that it was saved in;
            `"auto"`: the fastest that cost no F1 on this processor, as of [`MultiImageNERPipeline`].
        **kwargs: Those of [`MultiImageNERPipeline`], such as `device`; by default the GPU if there is one.

    Returns:
        [`MultiImageNERPipeline`].

    Raises:
        OSError: if there is no model of that name.
        ValueError: if it is not an SMCL, is damaged or lacks weights, or there is no such device.

    Example:
    ```python
    >>> ner = load_pipeline("demo/model")
    >>> ner({"text": "i will never forget Verona", "images": ["building.png"]})
    ```
    """
    device = kwargs.get("device")
    # transformers also takes numbers of GPUs.
    if isinstance(device, str | torch.device):
        check_device(device, f"`device` {str(device)!r}")
    if not os.path.exists(name) and not is_hub_name(str(name)):
        raise FileNotFoundError(errno.ENOENT, "there is no such folder, and it is no name on the Hub", str(name))
    config, _ = PreTrainedConfig.get_config_dict(name)
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type != SMCLConfig.model_type:
        raise ValueError(
            f"Expected {name} to be a saved SMCL, got a model of type {model_type!r}. Build the pipeline "
            "of another system by `MultiImageNERPipeline(model, processor)`."
        )
    model = load_weights(SMCLForTokenClassification, name, dtype=dtype or "auto")
    return MultiImageNERPipeline(model, load_processor(SMCLProcessor, name), dtype=dtype, **kwargs)


__all__ = ["load_pipeline"]
