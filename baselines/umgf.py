"""UMGF: words and grounded regions as the nodes of one graph, whose edges are gates."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from PIL import Image
from torch import nn

from ..images_smcl import load_image
from ..layers_smcl import SMCLAttention
from ..modeling_smcl import PostImages, SMCLImageTextModel, SMCLModelOutput, SMCLTaggingModel
from .checks import check_least
from .context import ContextProcessor
from .image_system import ImageSystemConfig, split_heads

# As published: one region for each of four entity types.
NUM_REGIONS = 4
NUM_HEADS = 8
# A query whose best box has a lower score has found nothing.
LEAST_SCORE = 0.1
# Pixels; smaller boxes are widened.
LEAST_SIDE = 8


@strict
class UMGFConfig(ImageSystemConfig):
    """Configuration of a [`UMGFForTokenClassification`]; see [`ImageSystemConfig`].

    Args:
        graph_size (`int`, *optional*, defaults to 512): Width of the nodes, a multiple of 8.
        num_graph_layers (`int`, *optional*, defaults to 6): Layers of the graph.
    """

    model_type = "smcl-umgf"
    # Not `max_images`: a post always has four regions.
    switches = ("constrain_bio", "dropout", "graph_size", "num_graph_layers")

    use_image_guidance: bool = False
    graph_size: int = 512
    num_graph_layers: int = 6

    def validate_graph(self):
        """Check numbers; part of the strict validation on construction and saving."""
        check_least(self, 1, "num_graph_layers")
        if self.graph_size < NUM_HEADS or self.graph_size % NUM_HEADS:
            raise ValueError(f"`graph_size` must be a multiple of {NUM_HEADS}, got {self.graph_size}.")
        check_least(self, NUM_REGIONS, "max_images")


def crop(image: Image.Image, box: list[float]) -> Image.Image:
    """Cut a box out of an image, widened to sides of `LEAST_SIDE` pixels as far as the image has them.

    Args:
        image (`PIL.Image.Image`): The image, upright.
        box (`list[float]`): (left, top, right, bottom) as fractions of its width and height.

    Returns:
        `PIL.Image.Image`.
    """
    edges = []
    for low, high, length in ((box[0], box[2], image.width), (box[1], box[3], image.height)):
        side = min(max(round((high - low) * length), LEAST_SIDE), length)
        start = round((low + high) / 2 * length - side / 2)
        start = min(max(start, 0), length - side)
        edges.append((start, start + side))
    (left, right), (top, bottom) = edges
    return image.crop((left, top, right, bottom))


class RegionProcessor(ContextProcessor):
    """A processor that reads four regions of a post's first image in place of its images.

    These are the boxes of the column `regions`, whose score is at least 0.1, the best first, and as often as there are
    fewer than four, the whole image.

    Args:
        image_processor (`BaseImageProcessor`): Resizes and normalises images.
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        max_images (`int`, *optional*, defaults to 4): Largest number of images of a post, and of regions.
    """

    context_columns = ("regions",)

    def views(self, images: list[Any], context: dict[str, Any]) -> list[Image.Image]:
        """Cut out the regions; see [`ContextProcessor.views`]."""
        image = load_image(images[0])
        crops = [crop(image, box) for box in best_boxes(context["regions"], NUM_REGIONS)]
        return crops + [image] * (NUM_REGIONS - len(crops))


def best_boxes(regions: list[dict[str, Any]], most: int) -> list[list[float]]:
    """Choose the boxes of an image's regions.

    Args:
        regions (`list[dict]`): What the column `regions` says of an image.
        most (`int`): Most boxes.

    Returns:
        `list[list[float]]`: those of the best scores, from 0.1 on.
    """
    found = [region for region in regions if region["score"] >= LEAST_SCORE]
    return [region["box"] for region in sorted(found, key=lambda region: -region["score"])[:most]]


def feed_forward(size: int, dropout: float) -> nn.Sequential:
    """Build the two layers behind each node, half as wide inside, as released."""
    return nn.Sequential(
        nn.Linear(size, size // 2), nn.ReLU(), nn.Dropout(dropout), nn.Linear(size // 2, size), nn.Dropout(dropout)
    )


class RegionAttention(nn.Module):
    """Multi-head attention of regions over each other, whose values are the regions themselves."""

    def __init__(self, size: int):
        super().__init__()
        self.query, self.key = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, regions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Map `(batch_size, num_regions, size)` to the same shape; rows without a region hold anything."""
        query, key, value = (split_heads(x, NUM_HEADS) for x in (self.query(regions), self.key(regions), regions))
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
        return (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)


class EdgeGate(nn.Module):
    """A gate for each pair of a word and a region, `sigmoid(W [word ; region] + b)`, one number for each feature."""

    def __init__(self, size: int):
        super().__init__()
        self.word, self.region = nn.Linear(size, size), nn.Linear(size, size, bias=False)

    def forward(self, words: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """Return `(batch_size, num_tokens, num_regions, size)`: both products once, then one sum for each pair."""
        return (self.word(words)[:, :, None] + self.region(regions)[:, None]).sigmoid()


class UMGFLayer(nn.Module):
    """A layer of the graph.

    Args:
        size (`int`): Width of the nodes.
        dropout (`float`): Dropout.
        is_last (`bool`): Whether no layer follows that would read the regions.
    """

    def __init__(self, size: int, dropout: float, is_last: bool):
        super().__init__()
        self.word_attention, self.word_output = SMCLAttention(size, NUM_HEADS, dropout), nn.Linear(size, size)
        self.region_attention = RegionAttention(size)
        self.words_hear = EdgeGate(size)
        self.word_norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(3))
        self.word_feed_forward = feed_forward(size, dropout)
        self.region_norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(1 if is_last else 3))
        self.regions_hear = None if is_last else EdgeGate(size)
        self.region_feed_forward = None if is_last else feed_forward(size, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, words: torch.Tensor, word_mask: torch.Tensor, regions: torch.Tensor | None, region_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Let words and regions attend to their like, then hear each other.

        Args:
            words (`torch.FloatTensor` of shape `(batch_size, num_tokens, size)`): Words.
            word_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`): `True` marks a real token.
            regions (`torch.FloatTensor` of shape `(batch_size, num_regions, size)`, *optional*): Regions; `None` where
                the batch has no image.
            region_mask (`torch.BoolTensor` of shape `(batch_size, num_regions)`, *optional*): `True` = a region.

        Returns:
            Words and regions, of the same shapes.
        """
        attended, _ = self.word_attention(words, words, word_mask)
        words = self.word_norms[0](words + self.dropout(self.word_output(attended)))
        heard = torch.zeros_like(words)
        if regions is not None:
            regions = self.region_norms[0](regions + self.region_attention(regions, region_mask))
            heard = self.words_hear(words, regions) * (regions * region_mask[..., None])[:, None]
            heard = heard.sum(dim=2)
            if self.regions_hear is not None:
                told = (self.regions_hear(words, regions) * (words * word_mask[..., None])[:, :, None]).sum(dim=1)
                regions = self.region_norms[1](regions + told)
                regions = self.region_norms[2](regions + self.region_feed_forward(regions))
        words = self.word_norms[1](words + heard)
        return self.word_norms[2](words + self.word_feed_forward(words)), regions


class UMGFModel(SMCLImageTextModel):
    """A text encoder, and a graph of its words and four regions of an image, without the CRF head.

    Args:
        config ([`UMGFConfig`]): The configuration.

    Raises:
        ValueError: if the image encoder is of a kind that does not work; names those that do.
    """

    config_class = UMGFConfig
    # The slots hold what the processor's `views` made of the first image.
    num_images_read = NUM_REGIONS

    def __init__(self, config: UMGFConfig):
        super().__init__(config)
        size, num_layers = config.graph_size, config.num_graph_layers
        self.word_projection = nn.Linear(config.text_config.hidden_size, size)
        vision_size = config.vision_config.hidden_size
        self.region_projection = nn.Sequential(nn.Linear(vision_size, size), nn.ReLU(), nn.Linear(size, size))
        self.graph = nn.ModuleList(
            UMGFLayer(size, config.dropout, is_last=number == num_layers) for number in range(1, num_layers + 1)
        )
        self.post_init()

    def fuse(
        self, text_states: torch.Tensor, text_mask: torch.Tensor, images: PostImages | None, output_attentions: bool
    ) -> SMCLModelOutput:
        """Put behind each word its node in the graph; see [`SMCLImageTextModel.fuse`]."""
        words, regions, region_mask = self.word_projection(text_states), None, None
        if images is not None:
            regions, region_mask = self.region_projection(images.states), images.mask
        for layer in self.graph:
            words, regions = layer(words, text_mask, regions, region_mask)
        return SMCLModelOutput(last_hidden_state=torch.cat([text_states, words], dim=-1))


class UMGFForTokenClassification(SMCLTaggingModel):
    """UMGF: unified multimodal graph fusion. It reads four regions of the first image.

    Zhang, Wei, Li, Wu, Zhu and Zhou, "Multi-modal Graph Fusion for Named Entity Recognition with Targeted Visual
    Guidance", AAAI 2021, https://doi.org/10.1609/aaai.v35i16.17687. A detector that takes any words finds the best box
    for each of four entity types, a box for none is the whole image. In each layer, words attend to words and regions
    to regions; then each word hears all regions through gates, and each region all words. A word's states in the text
    encoder and in the graph are scored together.

    What differs: the image encoder's vector of each region, a ViT's [CLS], in place of a ResNet-152 with a layer of its
    own; the CRF's loss is averaged over posts; posts are shuffled; scores count each post by itself. Noun phrases,
    which the paper speaks of, are not in the released code, nor here. In a post without images, words hear nothing.

    For posts of 512 tokens, the gates of a layer take 512 * 4 * 512 numbers for each post, 4 MB in float32, twice while
    training, and as much again for what they are multiplied with.

    Args:
        config ([`UMGFConfig`]): The configuration; its `id2label` names the tags.
    """

    config_class = UMGFConfig
    base_class = UMGFModel
    processor_class = RegionProcessor

    def __init__(self, config: UMGFConfig):
        super().__init__(config)
        self.classifier = nn.Linear(config.text_config.hidden_size + config.graph_size, config.num_labels)
        self.post_init()


__all__ = [
    "RegionProcessor",
    "UMGFConfig",
    "UMGFForTokenClassification",
    "UMGFLayer",
    "UMGFModel",
    "best_boxes",
    "crop",
]
