"""Examples of a data set to a batch of model inputs."""

from typing import Any

import PIL.Image
import torch
from torch.nn.utils.rnn import pad_sequence

from ..dataset_scripts.context import IMAGE_COLUMNS
from ..processing_smcl import SMCLProcessor, as_list
from .image_cache import CachedImages


class SMCLDataCollator:
    """Turn examples in the schema (`tokens`, `ner_tags`, `images`) into a batch of model inputs.

    Args:
        processor ([`SMCLProcessor`]): The processor.
        features ([`CachedImages`], *optional*): For examples whose images it replaced.
        max_length (`int`, *optional*): Most tokens of a post.
        on_extra_images (`str`, *optional*, defaults to `"error"`): See [`SMCLProcessor`].
        return_cut_labels (`bool`, *optional*, defaults to `False`): Where words are cut off, add `cut_labels
            (batch_size, num_words)`, the tags of these, padded with -100. No model takes them: they are for scores.
    """

    def __init__(
        self,
        processor: SMCLProcessor,
        features: CachedImages | None = None,
        max_length: int | None = None,
        on_extra_images: str = "error",
        return_cut_labels: bool = False,
    ):
        self.processor = processor
        self.features = features
        self.max_length = max_length
        self.on_extra_images = on_extra_images
        self.return_cut_labels = return_cut_labels

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate `examples`; those without `images`, with none or with `None` are posts without images.

        Where examples have `images` but none has an image, there is a slot of padding all the same: processes that
        share a model must all use the same layers, and a step's moments must not depend on how posts are shared.
        """
        names = dict.fromkeys(name for example in examples for name in example)
        columns = {name: [example.get(name) for example in examples] for name in names}
        images, image_rows = columns.get("images"), columns.get("image_rows")
        if images is not None:
            images = [as_list(post) for post in images]
        is_blank = not any(images or image_rows or [])
        if is_blank:
            images = images and [[PIL.Image.new("RGB", (32, 32))], *images[1:]]
            image_rows = image_rows and [[0] if self.features.digests else [], *image_rows[1:]]
        context = {name: columns.get(name) for name in self.processor.context_columns}
        if is_blank and images:
            # Nothing is found in the blank image.
            aligned = [name for name in IMAGE_COLUMNS if context.get(name)]
            context |= {name: [[[]], *context[name][1:]] for name in aligned}
        try:
            batch = self.processor(
                words=columns["tokens"],
                images=images,
                labels=columns.get("ner_tags"),
                max_length=self.max_length,
                on_extra_images=self.on_extra_images,
                **({"context": context} if context else {}),
            )
        except ValueError as error:
            ids = columns.get("id", [None] * len(examples))
            raise ValueError(f"{error} The batch holds the posts with the ids {ids}.") from error
        if image_rows is not None:
            batch.update(self.features.gather(image_rows))
        if is_blank and "image_mask" in batch:
            batch["image_mask"] = torch.zeros_like(batch["image_mask"])
        if self.return_cut_labels and "labels" in batch:
            counts = batch["word_mask"].sum(dim=1).tolist()
            rests = [torch.tensor(tags[n:]) for tags, n in zip(columns["ner_tags"], counts, strict=True)]
            if any(map(len, rests)):
                batch["cut_labels"] = pad_sequence(rests, True, -100).long()
        return dict(batch)


__all__ = ["SMCLDataCollator"]
