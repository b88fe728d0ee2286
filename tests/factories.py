"""Tiny random models and inputs."""

import numpy as np
import torch
from PIL import Image
from transformers import BertConfig, ViTConfig

from smcl import MultiImageNERPipeline, SMCLConfig, SMCLForTokenClassification

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-MISC", "I-MISC"]
TEXT_SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
VISION_SIZE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
PIXELS = {"image_size": 16, "patch_size": 8}


def noise(size: tuple[int, int], spread: float = 60, seed: int = 0) -> Image.Image:
    """A grey image of noise around 128, the same in every run: Pillow's own noise takes no seed."""
    values = np.random.default_rng(seed).normal(128, spread, size[::-1])
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def make_config(**kwargs) -> SMCLConfig:
    """A tiny SMCL configuration; the two encoders have different widths on purpose."""
    text = BertConfig(vocab_size=100, max_position_embeddings=64, **TEXT_SIZE)
    vision = ViTConfig(**PIXELS, **VISION_SIZE)
    defaults = {"text_config": text, "vision_config": vision, "id2label": dict(enumerate(LABELS))}
    return SMCLConfig(**(defaults | kwargs))


def make_model(seed: int = 0, **kwargs) -> SMCLForTokenClassification:
    """A tiny random model in evaluation mode whose weights are large enough for every part to matter."""
    torch.manual_seed(seed)
    model = SMCLForTokenClassification(make_config(**kwargs)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.dim() == 2:
                parameter.mul_(8)
    return model


def make_inputs(seed: int = 0, image_counts=(3, 1, 0), lengths=(9, 6, 8), labels: bool = False) -> dict:
    """Random inputs of posts with so many images and tokens each."""
    generator = torch.Generator().manual_seed(seed)
    batch_size, num_tokens, num_images = len(lengths), max(lengths), max(image_counts)
    attention_mask = torch.arange(num_tokens) < torch.tensor(lengths)[:, None]
    inputs = {
        "input_ids": torch.randint(5, 100, (batch_size, num_tokens), generator=generator) * attention_mask,
        "attention_mask": attention_mask.long(),
    }
    if num_images:
        inputs["pixel_values"] = torch.randn(batch_size, num_images, 3, 16, 16, generator=generator)
        inputs["image_mask"] = torch.arange(num_images) < torch.tensor(image_counts)[:, None]
    # Words start at every second token after [CLS] and end before [SEP].
    starts = (torch.arange(num_tokens) % 2 == 1) & (torch.arange(num_tokens) < torch.tensor(lengths)[:, None] - 1)
    inputs["word_mask"] = starts
    if labels:
        tags = torch.randint(0, len(LABELS), starts.shape, generator=generator)
        inputs["labels"] = tags.masked_fill(~starts, -100)
    return inputs


def make_pipeline(processor) -> MultiImageNERPipeline:
    """A tiny random model that finds entities in most posts."""
    model = make_model(seed=2)
    with torch.no_grad():
        model.classifier.weight.mul_(8)
        model.classifier.bias[0] = -6
        model.classifier.bias[2::2] = -4
    return MultiImageNERPipeline(model, processor)
