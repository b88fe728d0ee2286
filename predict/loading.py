"""Loading saved models and processors: whole, or with an error that names the folder and what is wrong there."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedModel, ProcessorMixin

COPY_ANEW = "Copy or download it anew; in a clone by git, `git lfs pull` brings the files themselves."


def load_weights(
    loader: Any, name: str | os.PathLike, switches: Mapping[str, Any] | None = None, **settings: Any
) -> PreTrainedModel:
    """Load a saved model, if all weights of its configuration are there and no others.

    Args:
        loader (`type`): A class with `from_pretrained`.
        name (`str` or `os.PathLike`): A folder or a name on the Hub.
        switches (`Mapping[str, Any]`, *optional*): Fields of its configuration to set.
        **settings: Those of `from_pretrained`.

    Returns:
        `PreTrainedModel`: the model.

    Raises:
        OSError: if there is none.
        ValueError: if a file is damaged, or weights are missing, left over or of other shapes: transformers would fill
            in random ones, and tell of it in the log alone.
    """
    what, fix = "its configuration", "Save or copy the model anew."
    if switches:
        what, fix = f"the switches {switches}", "Switches that change parts need a new model."
    try:
        with naming_configuration(name):
            model, info = loader.from_pretrained(name, output_loading_info=True, **(switches or {}), **settings)
    except SafetensorError as error:
        raise ValueError(f"The weights of {name} are cut or damaged: {error}. {COPY_ANEW}") from error
    except RuntimeError as error:
        raise ValueError(f"The weights of {name} do not fit {what}: {error}. {fix}") from error
    misfits = sorted({*info["missing_keys"], *info["unexpected_keys"]})
    if misfits:
        raise ValueError(
            f"The weights of {name} do not fit {what}: {', '.join(misfits[:5])} and {max(0, len(misfits) - 5)} more "
            f"are missing or left over. {fix}"
        )
    return model


@contextmanager
def naming_configuration(name: str | os.PathLike) -> Iterator[None]:
    """Turn what is said of the fields of a configuration, which is no `ValueError`, into one that names the folder."""
    try:
        yield
    except StrictDataclassError as error:
        raise ValueError(f"The configuration of {name} can't be used: {error.__cause__}") from error


def load_processor(loader: Any, name: str | os.PathLike) -> ProcessorMixin:
    """Load the processor of a saved model.

    Args:
        loader (`type`): A class with `from_pretrained`.
        name (`str` or `os.PathLike`): A folder or a name on the Hub.

    Returns:
        `ProcessorMixin`: the processor.

    Raises:
        OSError: if there is none.
        ValueError: if one of its files is damaged.
    """
    try:
        return loader.from_pretrained(name)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"The processor of {name} (tokenizer*.json, processor_config.json) can't be loaded: "
            f"{type(error).__name__}: {error} {COPY_ANEW}"
        ) from error


__all__ = ["load_processor", "load_weights", "naming_configuration"]
