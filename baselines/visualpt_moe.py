"""VisualPT-MoE: prompts of five experts, mixed anew for each text layer."""

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from ..images_smcl import load_image
from ..layers_smcl import ImageGuidance
from ..losses_smcl import BatchShare, as_it_is
from ..modeling_smcl import PostImages, SMCLModelOutput, SMCLOutput
from .bert import SoftmaxTaggingModel
from .checks import check_least, check_weights
from .context import ContextProcessor
from .hvpnet import GRID, HVPNeTConfig, LevelModel
from .image_system import prompt_projection, split_heads
from .ocsga import name_tokens
from .umgf import best_boxes, crop

# Places that each expert has in front of a text layer.
NUM_PLACES = 16
NUM_CROPS = 3
MAX_OBJECTS = 20
EXPERTS = ("image", "crops", "objects", "caption", "prefix")
# Standard deviation of what is added to the experts' scores while training.
NOISE = 1 / 16


@strict
class VisualPTMoEConfig(HVPNeTConfig):
    """Configuration of a [`VisualPTMoEForTokenClassification`]; see [`ImageSystemConfig`].

    Args:
        max_levels (`int`, *optional*, defaults to 4): As in [`HVPNeTConfig`].
        prompt_size (`int`, *optional*, defaults to 1024): Width between the two layers that make the prompts.
        balance_weight (`float`, *optional*, defaults to 0.0001): Weight of the loss that spreads use over the experts.
        constrain_bio (`bool`, *optional*, defaults to `False`): With `True`, the best legal sequence of BIO2 tags is
            found in place of each word's best tag.
    """

    model_type = "smcl-visualpt-moe"
    # Not `max_images`: the slots are the image and its crops.
    switches = ("constrain_bio", "dropout", "balance_weight")
    keys_to_ignore_at_inference = [*HVPNeTConfig.keys_to_ignore_at_inference, "balance_loss"]

    prompt_size: int = 1024
    balance_weight: int | float = 1e-4
    constrain_bio: bool = False

    def validate_balance(self):
        """Check numbers; part of the strict validation on construction and saving."""
        check_weights(self, "balance_weight")
        check_least(self, 1 + NUM_CROPS, "max_images")


@dataclass
class VisualPTMoEModelOutput(SMCLModelOutput):
    """Output of [`VisualPTMoEModel`].

    Args:
        expert_weights (`torch.FloatTensor` of shape `(batch_size, num_layers, 5)`, *optional*): How much each expert
            counts in each text layer, those of `EXPERTS`; `None` where the batch has no image.
    """

    expert_weights: torch.FloatTensor | None = None


@dataclass
class VisualPTMoEOutput(SMCLOutput):
    """Output of [`VisualPTMoEForTokenClassification`]: that of [`SMCLForTokenClassification`], and one loss more.

    Args:
        balance_loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`): Mean, over posts with an image, of
            the weights of each layer's first expert, summed over layers.
    """

    balance_loss: torch.FloatTensor | None = None


class VisualPTMoEProcessor(ContextProcessor):
    """A processor that reads a post's first image, up to three regions of it, its objects' names and its caption.

    The slots for images hold the whole image and the regions of the best scores, from 0.1 on. `object_ids` and
    `object_mask`, both `(batch_size, 16)`, are the first 16 tokens of the first 20 objects' names, `caption_ids` and
    `caption_mask` those of the best caption.

    Args:
        image_processor (`BaseImageProcessor`): Resizes and normalises images.
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        max_images (`int`, *optional*, defaults to 4): Largest number of images of a post, and of slots.
    """

    context_columns = ("regions", "objects", "captions")

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call may return, but for `labels`."""
        return [*super().model_input_names, "object_ids", "object_mask", "caption_ids", "caption_mask"]

    def views(self, images: list[Any], context: dict[str, Any]) -> list[Image.Image]:
        """Put the regions behind the whole image; see [`ContextProcessor.views`]."""
        image = load_image(images[0])
        return [image, *(crop(image, box) for box in best_boxes(context["regions"], NUM_CROPS))]

    def context_tensors(self, contexts: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Tokenize names and captions; see [`ContextProcessor.context_tensors`]."""
        texts = {
            "object": [[found["label"] for found in context["objects"][:MAX_OBJECTS]] for context in contexts],
            "caption": [context["captions"][:1] for context in contexts],
        }
        tensors = {}
        for kind, posts in texts.items():
            ids = torch.zeros(len(posts), NUM_PLACES, dtype=torch.long)
            mask = torch.zeros_like(ids, dtype=torch.bool)
            for row, names in enumerate(posts):
                tokens = [token for name in name_tokens(self.tokenizer, names) for token in name][:NUM_PLACES]
                ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
                mask[row, : len(tokens)] = True
            tensors |= {f"{kind}_ids": ids, f"{kind}_mask": mask}
        return tensors


class LearnedPrefix(nn.Module):
    """What the expert without an input starts from."""

    def __init__(self, size: int):
        super().__init__()
        self.embeddings = nn.Parameter(torch.empty(NUM_PLACES, size))


class VisualPTMoEModel(LevelModel):
    """A text encoder whose layers take a mixture of five experts' prompts, without a head.

    Args:
        config ([`VisualPTMoEConfig`]): The configuration.

    Raises:
        ValueError: if an encoder is of a kind that does not work; names those that do.
    """

    config_class = VisualPTMoEConfig
    context_inputs = ("object_ids", "object_mask", "caption_ids", "caption_mask")
    # The slots hold what the processor's `views` made of the first image.
    num_images_read = 1 + NUM_CROPS

    def __init__(self, config: VisualPTMoEConfig):
        super().__init__(config)
        text = config.text_config
        seen, named = len(self.levels) * config.vision_config.hidden_size, self.get_input_embeddings().embedding_dim
        sizes = {"image": seen, "crops": seen, "objects": named, "caption": named, "prefix": text.hidden_size}
        out_features = 2 * text.num_hidden_layers * text.hidden_size
        self.prefix = LearnedPrefix(text.hidden_size)
        self.projections = nn.ModuleDict(
            {expert: prompt_projection(sizes[expert], config.prompt_size, out_features) for expert in EXPERTS}
        )
        self.gates = nn.ModuleList(
            nn.Linear(NUM_PLACES * text.hidden_size, len(EXPERTS)) for _ in range(text.num_hidden_layers)
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LearnedPrefix):
            init.normal_(module.embeddings, mean=0.0, std=1.0)

    def expert_inputs(
        self, images: PostImages, context: dict[str, torch.Tensor]
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Line up what each expert reads.

        Args:
            images ([`PostImages`]): Levels of the image and its crops `(batch_size, num_slots, num_levels, 4,
                vision_hidden_size)`.
            context (`dict[str, torch.Tensor]`): Those of `context_inputs` that were given.

        Returns:
            `dict`: for each expert its input `(batch_size, num_places, size)`, at most 16 places, and their mask.
        """
        # shape: (batch_size, num_slots, 4, num_levels * vision_hidden_size)
        states = images.states.transpose(2, 3).flatten(3)
        mask = images.mask[..., None].expand(-1, -1, GRID**2)
        inputs = {"image": (states[:, 0], mask[:, 0]), "crops": (states[:, 1:].flatten(1, 2), mask[:, 1:].flatten(1))}
        nothing = images.mask.new_zeros(len(states), 0)
        for expert, kind in (("objects", "object"), ("caption", "caption")):
            ids, is_token = (context.get(f"{kind}_{name}", nothing) for name in ("ids", "mask"))
            # As word embeddings, which prompts do not train.
            inputs[expert] = self.get_input_embeddings()(ids.long()).detach(), is_token.bool()
        prefix = self.prefix.embeddings.expand(len(states), -1, -1)
        inputs["prefix"] = prefix, prefix.new_ones(prefix.shape[:2], dtype=torch.bool)
        return inputs

    def expert_prompts(self, images: PostImages, context: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Project what each expert reads to keys and values.

        Args:
            images ([`PostImages`]): As in `expert_inputs`.
            context (`dict[str, torch.Tensor]`): As there.

        Returns:
            Keys and values `(batch_size, 5, 16, num_layers, 2, hidden_size)`, 0 at empty places, and the mask of places
            `(batch_size, 5, 16)`. Posts without an image have none.
        """
        text, has_image = self.config.text_config, images.mask.any(dim=1, keepdim=True)
        prompts, masks = [], []
        for expert, (x, mask) in self.expert_inputs(images, context).items():
            num_empty = NUM_PLACES - mask.shape[1]
            mask = F.pad(mask & has_image, (0, num_empty))
            x = F.pad(self.projections[expert](x), (0, 0, 0, num_empty))
            prompts.append(torch.where(mask[..., None], x, torch.zeros_like(x)))
            masks.append(mask)
        shape = text.num_hidden_layers, 2, text.hidden_size
        return torch.stack(prompts, dim=1).unflatten(-1, shape), torch.stack(masks, dim=1)

    def expert_weights(self, prompts: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Weigh the experts for each text layer; while training, by scores with some noise.

        Args:
            prompts (`torch.FloatTensor` of shape `(batch_size, 5, 16, num_layers, 2, hidden_size)`): Keys and values.
            mask (`torch.BoolTensor` of shape `(batch_size, 5, 16)`): `True` marks a place that is filled.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_layers, 5)`: weights that sum to 1 over experts, 0 for those
            that have nothing to say. Without a meaning for posts without an image.
        """
        # shape: (num_layers, batch_size, 16 * hidden_size)
        joined = prompts.sum(dim=(1, 4)).permute(2, 0, 1, 3).flatten(2)
        scores = torch.stack([gate(x) for gate, x in zip(self.gates, joined, strict=True)], dim=1)
        if self.training:
            scores = scores + NOISE * torch.randn_like(scores)
        is_absent = ~mask.any(dim=2)[:, None]
        return scores.masked_fill(is_absent, torch.finfo(scores.dtype).min).softmax(dim=-1)

    def relate_images(self, images: PostImages, text_mask: torch.Tensor, **text: torch.Tensor | None) -> PostImages:
        """Mix the experts' keys and values; see [`SMCLImageTextModel.relate_images`].

        Returns:
            [`PostImages`]: the mixture `(batch_size, 16, num_layers, 2, hidden_size)`, its places' mask `(batch_size,
            16)`, and as weights those of the experts.
        """
        prompts, mask = self.expert_prompts(images, text)
        weights = self.expert_weights(prompts, mask)
        mixed = torch.einsum("ble,beplcd->bplcd", weights, prompts)
        return PostImages(mixed, mask.any(dim=1), weights)

    def prompts(self, images: PostImages, text_mask: torch.Tensor) -> ImageGuidance:
        """Hand the mixture to the text layers; see [`SMCLImageTextModel.prompts`]."""
        num_heads = self.config.text_config.num_attention_heads
        keys, values = (
            tuple(split_heads(layer, num_heads) for layer in part.unbind(dim=2)) for part in images.states.unbind(dim=3)
        )
        return ImageGuidance(keys, values, images.mask, text_mask, "none")

    def fuse(
        self, text_states: torch.Tensor, text_mask: torch.Tensor, images: PostImages | None, output_attentions: bool
    ) -> VisualPTMoEModelOutput:
        """Leave the text as it is; see [`SMCLImageTextModel.fuse`]."""
        weights = None if images is None else images.weights
        return VisualPTMoEModelOutput(last_hidden_state=text_states, expert_weights=weights)

    def weights_by_image(self, weights: torch.Tensor, num_images: int) -> torch.Tensor:
        """Sum the weights of all places into the image's column; those of its crops get weights of 0."""
        first = weights[..., :NUM_PLACES].sum(dim=-1, keepdim=True)
        crops = first.new_zeros(*first.shape[:-1], num_images - 1)
        return torch.cat([first, crops, weights[..., NUM_PLACES:]], dim=-1)


class VisualPTMoEForTokenClassification(SoftmaxTaggingModel):
    """VisualPT-MoE: visual prompt tuning with a mixture of experts. It reads the first image and its regions.

    Xu, Huang, Du, Wang, Song, Xiao and Lin, "A Unified Visual Prompt Tuning Framework with Mixture-of-Experts for
    Multimodal Information Extraction", DASFAA 2023, https://doi.org/10.1007/978-3-031-30675-4_40. The image, its
    regions, the names of its objects, its caption and a learned prefix each become keys and values of 16 places; for
    each text layer a gate of its own mixes the five, and the mixture stands in front of the layer's keys and values. A
    loss keeps the gates from using one expert alone. As released, there is a softmax over the tags of each word and no
    CRF.

    What differs: layers of a ViT, normalised, in place of the four blocks of a ResNet-50; places that hold nothing are
    masked, and an expert that has nothing to say of a post is left out of its mixture, where the code lets zeros,
    padding and a made-up caption take part; gates fit the text encoder's size; detectors and captioner are those that
    made the columns, and so is the threshold of objects. As in the code, the gates see the prompts alone, not the text.
    Posts without images have no prompts.

    Args:
        config ([`VisualPTMoEConfig`]): The configuration; its `id2label` names the tags.
    """

    config_class = VisualPTMoEConfig
    base_class = VisualPTMoEModel
    output_class = VisualPTMoEOutput
    processor_class = VisualPTMoEProcessor

    def further_losses(
        self,
        outputs: VisualPTMoEModelOutput,
        labels: torch.Tensor,
        text_mask: torch.Tensor,
        image_mask: torch.Tensor | None,
        batch_share: BatchShare | None = None,
    ) -> dict[str, tuple[float, torch.Tensor]]:
        """Compute the loss that spreads use over the experts; see [`SMCLTaggingModel.further_losses`]."""
        largest = counts = labels.new_zeros(len(labels), dtype=torch.float32)
        if outputs.expert_weights is not None:
            counts = image_mask.any(dim=1).float()
            largest = outputs.expert_weights.float().amax(dim=-1).sum(dim=1) * counts
        total = as_it_is if batch_share is None else batch_share.sum
        balance = total(largest.sum()) / total(counts.sum()).clamp(min=1)
        return {"balance_loss": (self.config.balance_weight, balance)}


__all__ = [
    "EXPERTS",
    "VisualPTMoEConfig",
    "VisualPTMoEForTokenClassification",
    "VisualPTMoEModel",
    "VisualPTMoEModelOutput",
    "VisualPTMoEOutput",
    "VisualPTMoEProcessor",
]
