"""Features of images from a frozen image encoder, each computed once."""

import copy
import hashlib
from typing import Any

import torch
from datasets import Dataset, Image, List
from tqdm.auto import tqdm

from .encoders_smcl import image_mask_like
from .images_smcl import load_image
from .modeling_smcl import SMCLForTokenClassification
from .processing_smcl import SMCLProcessor


def keep_images_encoded(dataset: Any) -> Any:
    """Have a data set give the files of its images, for the processor to decode.

    `datasets` would decode images of any size, and does not say which post has one that it can't decode.

    Args:
        dataset (`Dataset`): A data set; without a column `images` of images, or of another kind, it stays as it is.

    Returns:
        `Dataset`: the same posts, with `{"bytes": ..., "path": ...}` in place of decoded images.
    """
    if not isinstance(dataset, Dataset) or dataset.features.get("images") != List(Image()):
        return dataset
    dataset = copy.deepcopy(dataset)
    dataset.info.features["images"] = List(Image(decode=False))
    return dataset


class ImageFeatures:
    """Features of images from a frozen image encoder, computed once for each different image.

    They are what the model's `encode_images` gives, a vector for each image or more, and are kept in memory in the
    model's dtype: a model that reads the patches of ViT-base needs 0.6 MB for each image in float32.

    Args:
        model ([`SMCLForTokenClassification`]): The model whose image encoder is frozen.
        processor ([`SMCLProcessor`]): Its processor.
        on_extra_images (`str`, *optional*, defaults to `"error"`): See [`SMCLProcessor`].
        batch_size (`int`, *optional*, defaults to 64): Images encoded at once.
    """

    def __init__(
        self,
        model: SMCLForTokenClassification,
        processor: SMCLProcessor,
        on_extra_images: str = "error",
        batch_size: int = 64,
    ):
        self.model = model
        self.processor = processor
        self.on_extra_images = on_extra_images
        self.batch_size = batch_size
        self.rows: dict[str, int] = {}
        self.vectors: torch.Tensor | None = None

    def replace_images(self, dataset: Dataset) -> Dataset:
        """Encode a data set's images.

        Args:
            dataset (`Dataset`): Examples with an `images` column.

        Returns:
            `Dataset`: the same examples with `image_rows`, indices into `vectors`, in place of `images`.
        """
        names = [name for name in ("id", "images") if name in dataset.column_names]
        pending, image_rows = [], []
        vectors = [] if self.vectors is None else [self.vectors]
        for post in tqdm(keep_images_encoded(dataset.select_columns(names)), desc="Encoding images", unit="post"):
            try:
                images = self.processor.limit_images([post["images"]], self.on_extra_images)[0]
                images = images[: self.model.base_model.num_images_read]
                image_rows.append([self._row(image, pending) for image in images])
            except ValueError as error:
                raise ValueError(f"Post with the id {post.get('id')!r}: {error}") from error
            if len(pending) >= self.batch_size:
                vectors.append(self._encode(pending))
                pending = []
        if pending:
            vectors.append(self._encode(pending))
        self.vectors = torch.cat(vectors) if vectors else None
        return dataset.remove_columns("images").add_column("image_rows", image_rows)

    def _row(self, image: Any, pending: list[torch.Tensor]) -> int:
        """Return the index of an image's vector; the pixels of an image not seen before are added to `pending`."""
        known = isinstance(image, dict) and image["bytes"]
        key = hashlib.sha256(image["bytes"]).hexdigest() if known else str(image)
        if key not in self.rows:
            # At once, so that only one image at a time is held in full size.
            pending.append(self.processor(words=[[]], images=[[load_image(image)]])["pixel_values"][0, 0])
            self.rows[key] = len(self.rows)
        return self.rows[key]

    @torch.inference_mode()
    def _encode(self, images: list[torch.Tensor]) -> torch.Tensor:
        """Encode the pixels of images to `(num_images, ...)` on the CPU."""
        pixel_values = torch.stack(images)
        base = self.model.base_model
        was_training = base.vision_model.training
        base.vision_model.eval()
        vectors = base.encode_images(pixel_values.to(self.model.device, self.model.dtype)).cpu()
        base.vision_model.train(was_training)
        return vectors

    def gather(self, image_rows: list[list[int]]) -> dict[str, torch.Tensor]:
        """Return `image_embeds (batch_size, num_images, ...)` and `image_mask`; nothing if no image."""
        num_images = max(map(len, image_rows))
        if num_images == 0:
            return {}
        padded = torch.tensor([rows + [-1] * (num_images - len(rows)) for rows in image_rows])
        image_mask = padded >= 0
        features = self.vectors[padded.clamp(min=0)]
        return {"image_embeds": features * image_mask_like(features, image_mask), "image_mask": image_mask}


__all__ = ["ImageFeatures", "keep_images_encoded"]
