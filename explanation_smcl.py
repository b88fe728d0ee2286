"""What each image did for each entity of a post: attentions, and posteriors without the image or parts of it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from .images_smcl import load_image

# Variants of a post that an explanation computes at once.
BATCH_SIZE = 16
# How many words around an entity can still sway its posterior: emissions beyond them are taken as they were.
NEAR_WORDS = 16


@dataclass
class ImageEvidence:
    """What one image did for one entity.

    Attributes:
        fusion_attention (`float`, *optional*): Share of this image in the fusion's attention of the entity's words to
            images, averaged over the words; `None` without the symmetric fusion.
        guidance_attention (`float`, *optional*): Attention of the entity's words to this image inside the text encoder,
            averaged over words, heads and layers; `None` without image guidance.
        score_without (`float`, *optional*): The entity's posterior when the image is taken out of the post; `None`, as
            what follows, if nothing was taken away.
        label_without (`str`, *optional*): What is then most probable of these very words: a type, or `"O"` for no
            entity of exactly these words.
        label_score_without (`float`, *optional*): The posterior of that.
        patch_effects (`np.ndarray` of shape `(grid, grid)`, *optional*): How much the log-odds of the entity fall when
            one patch of the image is painted in the normalisation's mean colour; negative where they rise.
    """

    fusion_attention: float | None
    guidance_attention: float | None
    score_without: float | None
    label_without: str | None
    label_score_without: float | None
    patch_effects: np.ndarray | None = None


@dataclass
class EntityExplanation:
    """An entity and what each image did for it.

    Attributes:
        entity (`dict`): The entity, as the pipeline returns it.
        score_without_images (`float`, *optional*): Its posterior when all images are taken out of the post.
        label_without_images (`str`, *optional*): What is then most probable of its words, as in [`ImageEvidence`].
        label_score_without_images (`float`, *optional*): The posterior of that.
        images (`list[ImageEvidence]`): What each image did.
    """

    entity: dict[str, Any]
    score_without_images: float | None
    label_without_images: str | None
    label_score_without_images: float | None
    images: list[ImageEvidence]


@dataclass
class Explanation:
    """What the images of a post did for its entities.

    Attributes:
        words (`list[str]`): The words of the post.
        images (`list[PIL.Image.Image]`): Its images as the model sees them, scaled and cropped.
        entities (`list[EntityExplanation]`): Its entities, whatever the pipeline's threshold.
        fusion_attention (`np.ndarray` of shape `(num_words, num_images)`, *optional*): Attention of each word over the
            images in the fusion (the mirror of Eq. 14); `None` without images or without the symmetric fusion.
        guidance_attention (`np.ndarray` of shape `(num_words, num_images)`, *optional*): Attention of each word to each
            image inside the text encoder (Eq. 4), averaged over heads and layers; `None` without images or guidance.
        skipped_images (`list[str]`): Why images were left out.
        types (`list[str]`): The types of entities that the model knows, in the order of its labels.
    """

    words: list[str]
    images: list[Image.Image]
    entities: list[EntityExplanation]
    fusion_attention: np.ndarray | None
    guidance_attention: np.ndarray | None
    skipped_images: list[str]
    types: list[str]


@torch.no_grad()
def explain_post(pipe, post: dict, patch_grid: int = 0, without: bool = True, **settings) -> Explanation:
    """Explain the entities of a post by taking its images, and patches of them, away.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        post (`dict`): A post, as in a call of the pipeline.
        patch_grid (`int`, *optional*, defaults to 0): As in [`~MultiImageNERPipeline.explain`].
        without (`bool`, *optional*, defaults to `True`): Likewise.
        **settings: All of a call of the pipeline that is about images, with the same defaults.

    Returns:
        [`Explanation`].

    Raises:
        ValueError: if the post, `patch_grid` or a setting can't be used, or the model reads no images.
    """
    settings = pipe._read_settings(settings)
    if pipe.processor.context_columns:
        return _explain_context(pipe, post, patch_grid, without, settings)
    if getattr(pipe.model.config, "vision_config", None) is None:
        raise ValueError(
            f"`explain` tells what images do, but a {type(pipe.model).__name__} reads none. Expected a model that does."
        )
    about, windows = pipe.read_post(post, **settings)
    pixels = windows[0]["inputs"].get("pixel_values")
    pixels = torch.empty(0) if pixels is None else pixels[0]
    most = min(pixels.shape[-2:]) if len(pixels) else math.inf
    if not isinstance(patch_grid, int) or not 0 <= patch_grid <= most:
        raise ValueError(
            f"`patch_grid` must be a whole number from 0 to the pixels of a side, {most}, got {patch_grid!r}."
        )
    vectors = _encode(pipe.model, pixels)
    numbers = range(len(vectors))
    batches = [_text_inputs(pipe, [window]) | _image_inputs([vectors]) for window in windows]
    parts, fusion, guidance = _attend(pipe, windows, batches, len(vectors))
    if without or patch_grid:
        # With attentions, other kernels compute: what is compared must come from the same.
        parts = [_score_window(pipe, window, [vectors])[0] for window in windows]
    emissions = [torch.cat(parts)]
    found = pipe.entities(about, emissions[0], pipe.decode(emissions[0]))
    known = _far_from_entities(parts, found)
    if without:
        variants = [vectors[:0], *(vectors[[n for n in numbers if n != gone]] for gone in numbers)]
        emissions += _score(pipe, windows, variants, known)
    has_patches = patch_grid > 0 and found and len(pixels)
    effects = _patch_effects(pipe, windows, vectors, pixels, found, patch_grid, known) if has_patches else None
    seen = [_to_image(pixel_values, pipe.processor.image_processor) for pixel_values in pixels]
    return _explanation(pipe, about, found, seen, emissions, fusion, guidance, effects)


def _explanation(
    pipe, about, found: list[dict], seen: list, emissions: list, fusion=None, guidance=None, effects=None
) -> Explanation:
    """Build an explanation of emissions with all images and, if they are, without any, and without each in turn."""
    changed = [_without(pipe, scores, found) for scores in emissions[1:]]
    changed = changed or [[(None, None, None)] * len(found)] * (1 + len(seen))
    explained = [
        EntityExplanation(
            entity,
            *changed[0][row],
            [
                ImageEvidence(
                    _mean_over_words(fusion, entity, image),
                    _mean_over_words(guidance, entity, image),
                    *changed[1 + image][row],
                    None if effects is None else effects[image][row],
                )
                for image in range(len(seen))
            ],
        )
        for row, entity in enumerate(found)
    ]
    return Explanation(about.words, seen, explained, fusion, guidance, about.skipped_images, pipe.crf.types)


def _explain_context(pipe, post: dict, patch_grid: int, without: bool, settings: dict[str, str]) -> Explanation:
    """Explain a post whose first image is read with what is said of it: that is taken away with the image.

    The second image is then the first; where nothing is known of it, there is none.
    """
    if patch_grid:
        raise ValueError(f"`patch_grid` must be 0 for a {type(pipe.model).__name__}, which reads context of images.")
    post = pipe._to_post(post)
    about, windows = pipe.read_post(post, **settings)
    kept, _ = pipe._read_images(post, **settings)
    allowed = {name: value for name, value in settings.items() if name.startswith("allow_")}
    variants = [pipe.processor.with_image(post, None)]
    if len(kept) > 1:
        second = pipe.processor.with_image(post, [*kept][1])
        variants.append(second if pipe.processor.is_computed(second) else variants[0])
    variants = [windows, *(pipe.read_post(other, **allowed)[1] for other in variants)]
    scored = [_score_as_read(pipe, variant) for variant in variants]
    # With all, without any, without the first, and without each of the others.
    emissions = [*scored[:2], scored[-1], *scored[:1] * (len(kept) - 1)] if without else scored[:1]
    batches = [pipe.collate([window["inputs"]]) for window in windows]
    _, _, guidance = _attend(pipe, windows, batches, min(1, len(kept)))
    guidance = None if guidance is None else np.pad(guidance, ((0, 0), (0, len(kept) - 1)))
    found = pipe.entities(about, emissions[0], pipe.decode(emissions[0]))
    seen = [load_image(image, **allowed) for image in kept.values()]
    return _explanation(pipe, about, found, seen, emissions, guidance=guidance)


def _score_as_read(pipe, windows: list[dict]) -> torch.Tensor:
    """Return the emissions `(num_words, num_labels)` of a post."""
    scored = (pipe._forward({"window": {**window, "post": None}, "is_last": True})["window"] for window in windows)
    return torch.cat([window["emissions"] for window in scored])


def _encode(model, pixels: torch.Tensor) -> torch.Tensor:
    """Encode images `(num_images, 3, height, width)` to vectors `(num_images, vision_hidden_size)`."""
    if not len(pixels):
        return torch.zeros(0, model.config.vision_config.hidden_size, device=model.device, dtype=model.dtype)
    parts = pixels.split(BATCH_SIZE)
    return torch.cat([model.base_model.encode_images_in_groups(part.to(model.device, model.dtype)) for part in parts])


def _far_from_entities(parts: list[torch.Tensor], found: list[dict]) -> list[torch.Tensor | None]:
    """Keep the emissions of windows that hold no entity and no word near one; `None` for those that matter."""
    ends = np.cumsum([len(part) for part in parts])
    reach = [(entity["words"][0] - NEAR_WORDS, entity["words"][1] + NEAR_WORDS) for entity in found]
    return [
        None if any(first < end and last >= end - len(part) for first, last in reach) else part
        for part, end in zip(parts, ends, strict=True)
    ]


def _score(
    pipe, windows: list[dict], variants: list[torch.Tensor], known: list[torch.Tensor | None]
) -> list[torch.Tensor]:
    """Return the emissions `(num_words, num_labels)` of a post with each of several lists of image vectors.

    Windows whose emissions are known are not read again.
    """
    emissions = []
    for start in range(0, len(variants), BATCH_SIZE):
        batch = variants[start : start + BATCH_SIZE]
        pairs = zip(windows, known, strict=True)
        parts = [_score_window(pipe, w, batch) if part is None else [part] * len(batch) for w, part in pairs]
        emissions += [torch.cat(rows) for rows in zip(*parts, strict=True)]
    return emissions


def _score_window(pipe, window: dict, variants: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the emissions of the words that a window answers for, with each list of image vectors."""
    inputs = _text_inputs(pipe, [window] * len(variants)) | _image_inputs(variants)
    logits, word_mask = pipe.model(**inputs).logits.cpu(), inputs["word_mask"].cpu()
    return [row[mask][window["core"]] for row, mask in zip(logits, word_mask, strict=True)]


def _text_inputs(pipe, windows: list[dict]) -> dict[str, torch.Tensor]:
    texts = [
        {name: x for name, x in window["inputs"].items() if name not in ("pixel_values", "image_mask")}
        for window in windows
    ]
    return pipe.collate(texts)


def _image_inputs(variants: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    image_embeds = pad_sequence(variants, batch_first=True)
    counts = torch.tensor([len(vectors) for vectors in variants])
    image_mask = torch.arange(image_embeds.shape[1]) < counts[:, None]
    return {"image_embeds": image_embeds, "image_mask": image_mask.to(image_embeds.device)}


def _attend(
    pipe, windows: list[dict], batches: list[dict], num_images: int
) -> tuple[list[torch.Tensor], np.ndarray | None, np.ndarray | None]:
    """Return emissions by window, and the fusion's and guidance's attention of words over images, one row a word."""
    parts, fusion, guidance = [], [], []
    for window, inputs in zip(windows, batches, strict=True):
        outputs, word_mask = pipe.model(**inputs, output_attentions=num_images > 0), inputs["word_mask"][0]
        parts.append(outputs.logits[0][word_mask][window["core"]].cpu())
        if not num_images:
            continue
        if outputs.fusion_attentions is not None:
            fusion.append(outputs.fusion_attentions[1][0][word_mask][window["core"]])
        if pipe.model.config.use_image_guidance:
            # shape: (num_tokens, num_images)
            weights = torch.stack(outputs.attentions)[..., :num_images].mean(dim=(0, 1, 2))
            guidance.append(weights[word_mask][window["core"]])
    return parts, *(torch.cat(rows).float().cpu().numpy() if rows else None for rows in (fusion, guidance))


def _patch_effects(
    pipe, windows: list[dict], vectors: torch.Tensor, pixels: torch.Tensor, found: list[dict], grid: int, known: list
) -> list[np.ndarray]:
    """Return for each image `(num_entities, grid, grid)`: what each entity's log-odds lose without each patch."""
    log_odds = _log_odds([entity["score"] for entity in found])
    rows, columns = (patch_edges(side, grid) for side in pixels.shape[-2:])
    effects = []
    for image, original in enumerate(pixels):
        painted = original.repeat(grid * grid, 1, 1, 1)
        for patch, pixel_values in enumerate(painted):
            row, column = divmod(patch, grid)
            # 0 is the mean colour of the normalisation.
            pixel_values[:, rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = 0
        variants = [
            torch.cat([vectors[:image], vector[None], vectors[image + 1 :]]) for vector in _encode(pipe.model, painted)
        ]
        without = _log_odds(
            [_posteriors(pipe, emissions, found) for emissions in _score(pipe, windows, variants, known)]
        )
        effects.append((log_odds - without).T.reshape(len(found), grid, grid))
    return effects


def patch_edges(side: int, grid: int) -> list[int]:
    """Return the `grid + 1` pixels between which the patches of an image's side lie."""
    return torch.linspace(0, side, grid + 1).round().int().tolist()


def _log_odds(probabilities: list) -> np.ndarray:
    """Return log(p / (1 - p)), kept finite."""
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return np.log(p) - np.log1p(-p)


def _posteriors(pipe, emissions: torch.Tensor, entities: list[dict]) -> list[float]:
    """Return the posteriors of entities, whatever the best tags are."""
    return pipe.posteriors(emissions, [(*entity["words"], entity["entity_group"]) for entity in entities])


def _without(pipe, emissions: torch.Tensor, found: list[dict]) -> list[tuple[float, str, float]]:
    """Return each entity's posterior, the most probable type of its words, `"O"` for none, and the posterior of that.

    All at once: each call goes through all words of the post.
    """
    types = pipe.crf.types
    scores = _posteriors(pipe, emissions, [{**entity, "entity_group": name} for entity in found for name in types])
    changed = []
    for row, entity in enumerate(found):
        own = scores[row * len(types) : (row + 1) * len(types)]
        best = max([*zip(types, own, strict=True), ("O", 1 - sum(own))], key=lambda pair: pair[1])
        changed.append((own[types.index(entity["entity_group"])], *best))
    return changed


def _mean_over_words(attention: np.ndarray | None, entity: dict, image: int) -> float | None:
    first, last = entity["words"]
    return None if attention is None else float(attention[first : last + 1, image].mean())


def _to_image(pixel_values: torch.Tensor, image_processor) -> Image.Image:
    """Undo the normalisation of `(3, height, width)` pixel values."""
    if image_processor.do_normalize:
        mean, std = (torch.tensor(getattr(image_processor, f"image_{name}"))[:, None, None] for name in ("mean", "std"))
        pixel_values = pixel_values.float() * std + mean
    values = (pixel_values * 255).round().clamp(0, 255).byte()
    return Image.fromarray(values.permute(1, 2, 0).numpy())


__all__ = ["EntityExplanation", "Explanation", "ImageEvidence", "explain_post", "patch_edges"]
