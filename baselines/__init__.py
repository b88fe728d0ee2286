"""The systems of the paper's Table 2, by the names that `run_ner_multiimage.py --system` takes.

Importing this registers them with transformers, so that `AutoModelForTokenClassification` and `AutoProcessor` load
their folders. Their code does not travel with a folder.

A system is a subclass of [`SMCLTaggingModel`] with a configuration class of its own, a subclass of [`SMCLConfig`]. That
names as `switches` those fields that a run may set; they become arguments of the command line, with the help that its
docstring has for them. The system may have a `processor_class`, by default [`SMCLProcessor`].
"""

from importlib import import_module

from transformers import AutoConfig, AutoModelForTokenClassification, AutoProcessor

from ..modeling_smcl import SMCLForTokenClassification, SMCLTaggingModel
from ..processing_smcl import SMCLProcessor
from .context import check_columns, check_names, empty_context, how_to_make


def _system(name: str) -> type[SMCLTaggingModel]:
    """Return the `...ForTokenClassification` of the module that has the name of the system."""
    module = import_module(f".{name.replace('-', '_')}", __name__)
    return next(getattr(module, public) for public in module.__all__ if public.endswith("ForTokenClassification"))


# In the order of Table 2. A system is a line here and a file of that name.
_NAMES = (
    "bilstm-crf",
    "hbilstm-crf",
    "bert",
    "bert-crf",
    "umt",
    "ocsga",
    "umgf",
    "maf",
    "ita",
    "hvpnet",
    "visualpt-moe",
    "pgim",
    "umt-mi",
    "tpm-mi",
)
SYSTEMS: dict[str, type[SMCLTaggingModel]] = {name: _system(name) for name in _NAMES}
SYSTEMS["smcl"] = SMCLForTokenClassification


def processor_class(system: type[SMCLTaggingModel]) -> type[SMCLProcessor]:
    """Return the class of a system's processor."""
    return getattr(system, "processor_class", SMCLProcessor)


def needed_encoders(system: type[SMCLTaggingModel]) -> tuple[str, ...]:
    """Tell which pretrained encoders a system is built from: `"text"`, `"vision"`, both or none."""
    specs = system.config_class.sub_configs_defaults
    names = [name.removesuffix("_config") for name, spec in specs.items() if spec.config_class is AutoConfig]
    return tuple(names)


def reads_pixels(system: type[SMCLTaggingModel]) -> bool:
    """Tell whether a system has an image encoder."""
    return "vision_config" in system.config_class.sub_configs_defaults


def context_columns(system: type[SMCLTaggingModel]) -> tuple[str, ...]:
    """Return the columns of a data set that a system reads besides words, images and tags."""
    return processor_class(system).context_columns


def reads_images(system: type[SMCLTaggingModel]) -> bool:
    """Tell whether images change what a system predicts: their pixels, or what was made of them before."""
    return reads_pixels(system) or bool(context_columns(system))


def system_name(system: type[SMCLTaggingModel]) -> str:
    """Return the name of a system."""
    return next(name for name, other in SYSTEMS.items() if other is system)


def check_switches(system: type[SMCLTaggingModel], switches: dict) -> None:
    """Refuse switches that a system does not have.

    Args:
        system (`type[SMCLTaggingModel]`): The system.
        switches (`dict`): Fields of its configuration to set.

    Raises:
        ValueError: if it lacks some; names them.
    """
    unknown = [name for name in switches if name not in system.config_class.switches]
    if unknown:
        names = ", ".join(f"`--{name}`" for name in unknown)
        raise ValueError(f"The system {system_name(system)!r} has no {names}: leave that out.")


for _system in SYSTEMS.values():
    if _system is not SMCLForTokenClassification:
        # SMCL's own was registered to have its code travel, and subclasses inherit that.
        _system.config_class._auto_class = None
        AutoConfig.register(_system.config_class.model_type, _system.config_class)
        AutoModelForTokenClassification.register(_system.config_class, _system)
        AutoProcessor.register(_system.config_class, processor_class(_system))

__all__ = [
    "SYSTEMS",
    "check_columns",
    "check_names",
    "check_switches",
    "context_columns",
    "empty_context",
    "how_to_make",
    "needed_encoders",
    "processor_class",
    "reads_images",
    "reads_pixels",
    "system_name",
]
