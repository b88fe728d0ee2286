"""Export of SMCL models to ONNX: the network up to the emissions; `onnx_tagger` does the rest in NumPy."""

import copy
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from ..configuration_smcl import SMCLConfig
from ..dataset_scripts.command_line import require
from ..modeling_smcl import SMCLForTokenClassification
from ..processing_smcl import SMCLProcessor

TOLERANCE = 1e-4


class SMCLEmissions(nn.Module):
    """The part of a model that is exported: posts to emissions, with only the real images encoded.

    Args:
        model ([`SMCLForTokenClassification`]): The model.
    """

    def __init__(self, model: SMCLForTokenClassification):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor,
        image_mask: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Return `"logits"`; the arguments are those of the model, which unlike here may leave images away."""
        real = image_mask.flatten()
        # Where no image is real, the first slot is encoded and not used: image encoders want at least one image.
        first = torch.arange(real.shape[0], device=real.device) == 0
        encoded = real | (first & ~real.any())
        vectors = self.model.smcl.encode_images(pixel_values.flatten(0, 1)[encoded])
        # Each real slot's place among the encoded ones; the model sets the vectors of the others to 0.
        places = (encoded.long().cumsum(0) - 1).clamp(min=0)
        image_embeds = vectors[places].unflatten(0, image_mask.shape)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            image_embeds=image_embeds,
            image_mask=image_mask,
            return_dict=True,
        )
        return {"logits": outputs.logits}


def export_onnx(
    model: SMCLForTokenClassification,
    folder: str | Path,
    processor: SMCLProcessor | None = None,
    quantize: bool = False,
) -> None:
    """Write a model as ONNX for any number of posts, tokens, and images up to `max_images`; see [`OnnxTagger`].

    The folder gets the graph up to the emissions (`model.onnx`, `model.onnx.data`), the CRF's parameters
    (`crf.safetensors`), the configuration (`config.json`), `onnx_tagger.py`, which runs all this without torch,
    and the processor. Before anything is written, the graph's emissions are compared with the model's on several
    numbers of posts, tokens and images.

    Args:
        model ([`SMCLForTokenClassification`]): The model. It is left as it is; the graph is that of evaluation mode in
            float32.
        folder (`str` or `Path`): Where to write; made if it does not exist.
        processor ([`SMCLProcessor`], *optional*): Saved beside the model. It tells the size of the images, which is
            the image encoder's own by default.
        quantize (`bool`, *optional*, defaults to `False`): Whether to store matrices as int8 and multiply them so
            (dynamic quantisation): smaller and faster, and not quite the same emissions. The transformer layers in
            front of the fusion stay as they are.

    Raises:
        ImportError: if onnx, onnxruntime or onnxscript is missing, or transformers is older than 5.23.
        ValueError: if the model reads columns of context, or the graph does not give its emissions to within 1e-4.
    """
    columns = getattr(model, "processor_class", SMCLProcessor).context_columns
    if columns:
        raise ValueError(
            f"A {type(model).__name__} can't be exported: it reads {', '.join(columns)}, which the exported "
            "graph has no inputs for. Expected a model of words and images."
        )
    require("`export_onnx`", "smcl[onnx]", "onnx", "onnxruntime", "onnxscript")
    try:
        # `ExportedModel` is what `export` returns since transformers 5.23.
        from transformers.exporters import ExportedModel, OnnxConfig, OnnxExporter  # noqa: F401

        exporter = OnnxExporter()
    except ImportError as error:
        raise ImportError(
            "`export_onnx` needs transformers 5.23 or later, which needs Python 3.11 or later: run `pip install "
            '"smcl[onnx]"` there.'
        ) from error

    emissions = SMCLEmissions(copy.deepcopy(model).cpu().float().eval())
    config = model.config
    size = _image_size(config, processor)
    samples = [_sample(config, size, counts, num_tokens) for counts, num_tokens in _sample_shapes(config.max_images)]
    settings = OnnxConfig(
        dynamic_shapes=_dynamic_shapes(config.max_images), prefer_deferred_runtime_asserts_over_guards=True
    )
    exported = exporter.export(emissions, dict(samples[0]), settings)
    delicate = _fusion_products(exported.program)
    _clean(exported.program)
    _check(exported, emissions.model, samples)
    if quantize:
        exported.components["model"].program = _quantize(exported.program, samples[0], delicate)
    exported.save_pretrained(folder)
    _save_companions(emissions.model, Path(folder), processor, quantize)


def _image_size(config: SMCLConfig, processor: SMCLProcessor | None) -> tuple[int, int, int]:
    """Return channels, height and width of an image as the graph takes it."""
    if processor is not None:
        from PIL import Image

        pixels = processor(words=[["a"]], images=[[Image.new("RGB", (64, 64))]])["pixel_values"]
        return tuple(pixels.shape[2:])
    size, channels = config.vision_config.image_size, config.vision_config.num_channels
    height, width = (size, size) if isinstance(size, int) else size
    return channels, height, width


def _sample_shapes(max_images: int) -> list[tuple[list[int], int]]:
    """Return numbers of images by post, and of tokens: first what is traced, where 1 would be taken as fixed."""
    some = min(2, max_images)
    return [([some, 0, 1], 7), ([max_images], 4), ([0], 5), ([1, 0], 9)]


def _sample(config: SMCLConfig, size: tuple[int, ...], image_counts: list[int], num_tokens: int) -> dict:
    """Make random inputs of posts with so many images each, the last with a padded token."""
    generator = torch.Generator().manual_seed(0)
    num_posts, num_images = len(image_counts), max(1, *image_counts)
    # The first ids may be padding, which some encoders take out of their positions.
    vocabulary = config.text_config.vocab_size
    input_ids = torch.randint(vocabulary // 2, vocabulary, (num_posts, num_tokens), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[-1, -1] = 0
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "pixel_values": torch.randn(num_posts, num_images, *size, generator=generator),
        "image_mask": torch.arange(num_images) < torch.tensor(image_counts)[:, None],
    }


def _dynamic_shapes(max_images: int) -> dict[str, dict[int, torch.export.Dim]]:
    """Say which dimensions of the graph's inputs may change."""
    posts, tokens = torch.export.Dim("batch_size"), torch.export.Dim.AUTO
    slots = {1: torch.export.Dim("num_images", max=max_images)} if max_images > 1 else {}
    return {
        "input_ids": {0: posts, 1: tokens},
        "attention_mask": {0: posts, 1: tokens},
        "pixel_values": {0: posts, **slots},
        "image_mask": {0: posts, **slots},
    }


def _fusion_products(program) -> list[str]:
    """Name the matrix products of the transformer layers in front of the fusion.

    Their inputs range so widely that int8 moves the emissions ten times as far as in all other layers together.
    """
    products = [node for node in program.graph if node.op_type == "MatMul"]
    scope = "pkg.torch.onnx.name_scopes"
    return [node.name for node in products if "smcl.fusion.layer" in node.metadata_props.get(scope, "")]


def _clean(program) -> None:
    """Fold transposed weights, which are not quantised otherwise, and take out traces of the exporting machine."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from onnxscript.optimizer import fold_constants

    fold_constants(program, should_fold=lambda node: True if node.op_type == "Transpose" else None)
    ClearMetadataAndDocStringPass()(program)


@torch.no_grad()
def _check(exported, model: SMCLForTokenClassification, samples: list[dict[str, torch.Tensor]]) -> None:
    """Compare the graph's emissions with the model's; padded tokens are nobody's business."""
    for sample in samples:
        real = sample["attention_mask"].bool()
        difference = (exported(**sample)["logits"] - model(**sample, return_dict=True).logits)[real].abs().max().item()
        if not difference <= TOLERANCE:
            kinds = f"{model.config.text_config.model_type} and {model.config.vision_config.model_type}"
            raise ValueError(
                f"The exported graph of this model ({kinds}) gives other emissions than the model: expected at most "
                f"{TOLERANCE} between them, got {difference} for `image_mask` {sample['image_mask'].tolist()} and "
                f"{real.shape[1]} tokens. Nothing was written. Use the PyTorch model, or another version of "
                "transformers, torch or onnxscript."
            )


def _quantize(program, sample: dict[str, torch.Tensor], excluded: list[str]):
    """Return the graph with int8 matrices, a scale for each column, and int8 embeddings, but for the excluded nodes."""
    from transformers.exporters import ExportFormat, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

    settings = OnnxRuntimeDynamicConfig(
        op_types_to_quantize=["MatMul", "Gather"], per_channel=True, nodes_to_exclude=excluded
    )
    return OnnxRuntimeQuantizer(settings).quantize(program, sample, ExportFormat.ONNX)


def _save_companions(
    model: SMCLForTokenClassification, folder: Path, processor: SMCLProcessor | None, quantized: bool
) -> None:
    """Write what `OnnxTagger` needs besides the graph."""
    crf = {name: parameter.detach().contiguous() for name, parameter in model.crf.named_parameters()}
    save_file(crf, folder / "crf.safetensors")
    config = json.loads(model.config.to_json_string(use_diff=False))
    # These point to code that does not come along, and to where things lie on this machine.
    for name in ("auto_map", "custom_pipelines"):
        config.pop(name, None)
    for part in (config, config["text_config"], config["vision_config"]):
        part.pop("_name_or_path", None)
    config |= {"quantized": quantized, "max_tokens": model.smcl.max_tokens}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("onnx_tagger.py"), folder / "onnx_tagger.py")
    if processor is not None:
        processor.save_pretrained(folder)


__all__ = ["SMCLEmissions", "export_onnx"]
