"""Images of data sets kept on disk: as features of a frozen image encoder, or as resized pixels.

Every different image is read and computed once, for all runs that ask for the same: [`ImageStore`] finds it by the
content of its file. Whoever runs out of room may delete the folder at any time.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import PIL.Image
import torch
import transformers
from datasets import Dataset
from huggingface_hub.constants import HF_ASSETS_CACHE
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tqdm.auto import tqdm
from transformers.utils import logging

from ..configuration_smcl import SMCLConfig
from ..dataset_scripts.fingerprints import image_digest
from ..dataset_scripts.gate import prepare_posts
from ..images_smcl import load_image
from ..modeling_smcl import SMCLTaggingModel
from ..processing_smcl import SMCLProcessor

logger = logging.get_logger(__name__)

DEFAULT_FOLDER = Path(HF_ASSETS_CACHE, "smcl", "images")
# To be raised when the same settings come to mean other values.
FORMAT = 1
# A file is written when so many values are there, so that a killed run loses little and memory stays bounded.
MAX_FILE_IMAGES, MAX_FILE_BYTES = 1024, 2**26
# What says nothing about the values that an image encoder computes.
NOT_COMPUTED = ("_name_or_path", "architectures", "dtype", "transformers_version")


class ImageStore:
    """One value for each different image, in files that are read by memory mapping.

    Any number of runs may read and write it at once: a file is written under a name of its own and then put into place,
    and is never changed. Files that are damaged are removed.

    Args:
        folder (`Path`): A folder for values of one kind; made if need be.
        about (`dict`): What the values are, written beside them for people to read.

    Raises:
        OSError: if the folder can't be read or written to.
    """

    def __init__(self, folder: Path, about: dict[str, Any]):
        self.folder = folder
        self.about = about
        self._values: list[torch.Tensor] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        self._put("about.json", lambda path: path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8"))
        for path in sorted(folder.glob("*.safetensors")):
            self._open(path)

    def __reduce__(self):
        # Worker processes map the files themselves.
        return ImageStore, (self.folder, self.about)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._places

    def __getitem__(self, digest: bytes) -> torch.Tensor:
        file, row = self._places[digest]
        return self._values[file][row]

    def add(self, digests: list[bytes], values: torch.Tensor) -> None:
        """Keep the values of images.

        Args:
            digests (`list[bytes]`): Those of the images.
            values (`torch.Tensor` of shape `(num_images, ...)`): Their values.

        Raises:
            OSError: if they can't be written.
        """
        # Runs that do the same work write the same file.
        name = f"{hashlib.sha256(b''.join(digests)).hexdigest()[:32]}.safetensors"
        rows = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(len(digests), -1)
        # `save_file` would let nobody else read the file.
        data = save({"digests": rows, "values": values.contiguous()})
        self._put(name, lambda path: path.write_bytes(data))
        self._open(self.folder / name)

    def _put(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file in one step: whole, or not at all."""
        unfinished = self.folder / f".{name}.{uuid.uuid4().hex}.unfinished"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write(unfinished)
            with open(unfinished, "rb+") as file:
                os.fsync(file.fileno())
            unfinished.replace(self.folder / name)
        except OSError as error:
            raise OSError(
                f"Keeping images in {self.folder} failed: {error}. Make room there, or choose another folder by "
                "`--image_cache`."
            ) from error
        finally:
            with suppress(OSError):
                unfinished.unlink()

    def _open(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                digests, values = file.get_tensor("digests"), file.get_tensor("values")
        except SafetensorError as error:
            logger.warning(f"{path} is damaged and was removed, its images are read again: {error}")
            path.unlink(missing_ok=True)
            return
        for row, digest in enumerate(digests.numpy()):
            self._places.setdefault(digest.tobytes(), (len(self._values), row))
        self._values.append(values)


class CachedImages:
    """Images of data sets, replaced by rows of an [`ImageStore`]; subclasses say what is kept of an image.

    Args:
        processor ([`SMCLProcessor`]): The processor.
        about (`dict`): All that the values depend on, besides the images.
        folder (`str` or `Path`, *optional*): Where stores lie, by default `smcl/images` in Hugging Face's cache of
            assets.
        on_extra_images (`str`, *optional*, defaults to `"error"`): See [`SMCLProcessor`].
        batch_size (`int`, *optional*, defaults to 64): Images computed at once.
        num_images_read (`int`, *optional*): How many images of a post are kept, from the first on; by default all.

    Raises:
        OSError: if the folder can't be read or written to.
    """

    # Settings of the processor for the pixels that values are computed from.
    images_kwargs: dict[str, Any] = {}

    def __init__(
        self,
        processor: SMCLProcessor,
        about: dict[str, Any],
        folder: str | Path | None = None,
        on_extra_images: str = "error",
        batch_size: int = 64,
        num_images_read: int | None = None,
    ):
        about = {"format": FORMAT, "kind": type(self).__name__, **about, **_preprocessing(processor)}
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
        self.store = ImageStore(Path(folder or DEFAULT_FOLDER) / key, about)
        self.processor = processor
        self.on_extra_images = on_extra_images
        self.batch_size = batch_size
        self.num_images_read = num_images_read
        self.digests: list[bytes] = []
        self._rows: dict[bytes, int] = {}

    def compute(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Compute what is kept of images.

        Args:
            pixel_values (`torch.Tensor` of shape `(num_images, 3, height, width)`): Pixels as the processor gives them
                with `images_kwargs`.

        Returns:
            `torch.Tensor` of shape `(num_images, ...)`, on the CPU.
        """
        raise NotImplementedError

    def model_inputs(self, values: torch.Tensor, image_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Make inputs of the model from what was kept.

        Args:
            values (`torch.Tensor` of shape `(num_real_images, ...)`): Those of the real images, in order.
            image_mask (`torch.BoolTensor` of shape `(batch_size, num_images)`): `True` marks a real image.

        Returns:
            `dict[str, torch.Tensor]`.
        """
        raise NotImplementedError

    def replace_images(self, dataset: Dataset, disable_tqdm: bool = False) -> Dataset:
        """Read and compute those images of a data set that are not kept yet.

        Args:
            dataset (`Dataset`): Examples with an `images` column.
            disable_tqdm (`bool`, *optional*, defaults to `False`): Show no progress.

        Returns:
            `Dataset`: the same examples with `image_rows`, which `gather` takes, in place of `images`.

        Raises:
            ValueError: if an image can't be used; names the post.
            OSError: if values can't be written.
        """
        context = [name for name in self.processor.context_columns if name in dataset.column_names]
        tagged = "ner_tags" in dataset.column_names
        dataset = prepare_posts(dataset, where="the data set", needs_tags=tagged, context=context)
        pending: dict[bytes, torch.Tensor] = {}
        image_rows, computed, digests = [], [], []
        posts = dataset.select_columns(["id", "images", *context])
        for post in tqdm(posts, desc="Images", unit="post", disable=disable_tqdm):
            try:
                images = self.processor.post_views(post, self.on_extra_images)
                image_rows.append([self._row(image, pending) for image in images[: self.num_images_read]])
            except ValueError as error:
                raise ValueError(f"Post with the id {post.get('id')!r}: {error}") from error
            self._compute(pending, digests, computed)
        self._compute(pending, digests, computed, is_last=True)
        return dataset.remove_columns("images").add_column("image_rows", image_rows)

    def _row(self, image: Any, pending: dict[bytes, torch.Tensor]) -> int:
        """Return an image's row; the pixels of one that is not kept yet are added to `pending`."""
        digest = image_digest(image)
        if digest not in self._rows:
            if digest not in self.store:
                # At once, so that only one image at a time is held in full size.
                pending[digest] = _pixel_values(self.processor, load_image(image), **self.images_kwargs)
            self._rows[digest] = len(self.digests)
            self.digests.append(digest)
        return self._rows[digest]

    def _compute(
        self,
        pending: dict[bytes, torch.Tensor],
        digests: list[bytes],
        computed: list[torch.Tensor],
        is_last: bool = False,
    ) -> None:
        """Compute full batches of pending images, at last all, and write their values when there are enough."""
        while len(pending) >= self.batch_size or (pending and is_last):
            batch = list(pending)[: self.batch_size]
            computed.append(self.compute(torch.stack([pending.pop(digest) for digest in batch])))
            digests += batch
            size = sum(values.nbytes for values in computed)
            if len(digests) >= MAX_FILE_IMAGES or size >= MAX_FILE_BYTES:
                self._write(digests, computed)
        if digests and is_last:
            self._write(digests, computed)

    def _write(self, digests: list[bytes], computed: list[torch.Tensor]) -> None:
        self.store.add(digests, torch.cat(computed))
        digests.clear()
        computed.clear()

    def gather(self, image_rows: list[list[int]]) -> dict[str, torch.Tensor]:
        """Return a batch's images as inputs of the model.

        Args:
            image_rows (`list[list[int]]`): Those of each post, from `replace_images`.

        Returns:
            `dict[str, torch.Tensor]` with `image_mask (batch_size, num_images)` and the images; empty if there is none.
        """
        num_images = max(map(len, image_rows))
        if num_images == 0:
            return {}
        image_mask = torch.tensor([[slot < len(rows) for slot in range(num_images)] for rows in image_rows])
        values = torch.stack([self.store[self.digests[row]] for rows in image_rows for row in rows])
        return {**self.model_inputs(values, image_mask), "image_mask": image_mask}


class ImageFeatures(CachedImages):
    """Features of images from a frozen image encoder: what the model's `encode_images` gives.

    They are kept in the model's dtype, a vector for each image or more: a model that reads the patches of ViT-base
    needs 0.6 MB for each image in float32. The store is found by the encoder's weights and settings, how images are
    prepared for it, the kind of device and the versions of torch, transformers and PIL.

    Args:
        model ([`SMCLTaggingModel`]): The model whose image encoder is frozen.
        processor ([`SMCLProcessor`]): Its processor.
        folder (`str` or `Path`, *optional*): As of [`CachedImages`].
        on_extra_images (`str`, *optional*, defaults to `"error"`): See [`SMCLProcessor`].
        batch_size (`int`, *optional*, defaults to 64): Images encoded at once.

    Raises:
        OSError: if the folder can't be read or written to.
    """

    def __init__(
        self,
        model: SMCLTaggingModel,
        processor: SMCLProcessor,
        folder: str | Path | None = None,
        on_extra_images: str = "error",
        batch_size: int = 64,
    ):
        self.model = model
        num_images_read = model.base_model.num_images_read
        super().__init__(processor, _encoder(model), folder, on_extra_images, batch_size, num_images_read)

    def __getstate__(self):
        # Worker processes only gather.
        return {**self.__dict__, "model": None}

    @torch.inference_mode()
    def compute(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images."""
        base = self.model.base_model
        was_training = base.vision_model.training
        base.vision_model.eval()
        # Always as many at once: the number may change the last bits, and then which images were kept before would.
        blank = pixel_values.new_zeros(self.batch_size - len(pixel_values), *pixel_values.shape[1:])
        full = torch.cat([pixel_values, blank])
        features = base.encode_images_in_groups(full.to(self.model.device, self.model.dtype))[: len(pixel_values)].cpu()
        base.vision_model.train(was_training)
        return features

    def model_inputs(self, values: torch.Tensor, image_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return `image_embeds (batch_size, num_images, ...)`."""
        embeds = values.new_zeros(*image_mask.shape, *values.shape[1:])
        embeds[image_mask] = values
        return {"image_embeds": embeds}


class ImagePixels(CachedImages):
    """Resized pixels of images, for runs that train the image encoder and read each image many times.

    They are kept in 8 bits, 0.15 MB for each image of 224 x 224, and give the same `pixel_values` bit for bit.

    Args:
        processor ([`SMCLProcessor`]): The processor.
        folder (`str` or `Path`, *optional*): As of [`CachedImages`].
        on_extra_images (`str`, *optional*, defaults to `"error"`): See [`SMCLProcessor`].

    Raises:
        ValueError: if the image processor does not scale and normalise 8-bit pixels last.
        OSError: if the folder can't be read or written to.
    """

    images_kwargs = {"do_rescale": False, "do_normalize": False}

    def __init__(self, processor: SMCLProcessor, folder: str | Path | None = None, on_extra_images: str = "error"):
        super().__init__(processor, {}, folder, on_extra_images)
        noise = PIL.Image.effect_noise((150, 100), 100)
        pixels = _pixel_values(processor, noise, **self.images_kwargs)[None]
        expected = _pixel_values(processor, noise)[None]
        if pixels.dtype != torch.uint8 or not torch.equal(self._normalise(pixels), expected):
            raise ValueError(
                f"`--cache_images` keeps 8-bit pixels, which {type(processor.image_processor).__name__} does not scale "
                "and normalise as its last steps, as expected. Leave it out."
            )

    def compute(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the pixels as they are."""
        return pixel_values

    def _normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        settings = {"do_resize": False, "do_center_crop": False, "do_pad": False, "return_tensors": "pt"}
        image_processor = self.processor.image_processor
        return image_processor(list(pixels), input_data_format="channels_first", **settings)["pixel_values"]

    def model_inputs(self, values: torch.Tensor, image_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return `pixel_values (batch_size, num_images, 3, height, width)`."""
        normalised = self._normalise(values)
        pixel_values = normalised.new_zeros(*image_mask.shape, *normalised.shape[1:])
        pixel_values[image_mask] = normalised
        return {"pixel_values": pixel_values}


def _pixel_values(processor: SMCLProcessor, image: PIL.Image.Image, **images_kwargs: Any) -> torch.Tensor:
    """Return the pixels `(3, height, width)` of an image as it is, whatever a system makes of a post's images."""
    inputs = SMCLProcessor.__call__(processor, words=[[]], images=[[image]], **images_kwargs)
    return inputs["pixel_values"][0, 0]


def _encoder(model: SMCLTaggingModel) -> dict[str, Any]:
    """Tell all that the features of an image depend on, besides how it is prepared."""
    base, config = model.base_model, model.config
    weights = hashlib.sha256()
    for name, tensor in sorted(base.vision_model.state_dict().items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy())
    settings = {name: value for name, value in config.vision_config.to_dict().items() if name not in NOT_COMPUTED}
    # A system's own fields may decide which features it takes.
    own = {field.name for field in fields(config)} - {field.name for field in fields(SMCLConfig)}
    return {
        "features": type(base).encode_images.__qualname__,
        "system": {name: getattr(config, name) for name in sorted(own)},
        "weights": weights.hexdigest(),
        "vision_config": json.loads(json.dumps(settings, default=str)),
        "attention": config.vision_config._attn_implementation,
        "dtype": str(model.dtype),
        "device": model.device.type,
        "torch": torch.__version__,
    }


def _preprocessing(processor: SMCLProcessor) -> dict[str, Any]:
    """Tell all that an image's pixels depend on, besides the image."""
    image_processor = processor.image_processor
    return {
        "image_processor": type(image_processor).__name__,
        "preprocessing": json.loads(json.dumps(image_processor.to_dict(), default=str)),
        "transformers": transformers.__version__,
        "PIL": PIL.__version__,
    }


__all__ = ["CachedImages", "ImageFeatures", "ImagePixels", "ImageStore"]
