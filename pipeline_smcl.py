"""The inference pipeline of SMCL: posts in, entities with confidences out, and what each image did for them."""

import copy
import hashlib
import itertools
import math
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers.pipelines.base import ChunkPipeline
from transformers.utils import logging

from .crf_smcl import OFFLOADED, LinearChainCRF, find_entities
from .images_smcl import load_image, take_images
from .processing_smcl import SMCLProcessor, as_list

logger = logging.get_logger(__name__)

TASK = "multi-image-ner"
# Under all names, so that asking for "ner" does not bring the stock pipeline, which sees no image.
CUSTOM_PIPELINES = {
    task: {"impl": "pipeline_smcl.MultiImageNERPipeline", "pt": ["AutoModelForTokenClassification"]}
    for task in (TASK, "token-classification", "ner")
}
# Columns of a data set that hold images under another name.
IMAGE_NAME = re.compile(
    "(.*_)?(images?|imgs?|pics?|pictures?|photos?)_?(paths?|files?|names?|urls?|bytes|list)?", re.IGNORECASE
)
IMAGE_TYPES = (str, bytes, dict, list, tuple)
# Variants of a post that an explanation computes at once.
BATCH_SIZE = 16
# How many words around an entity can still sway its posterior: emissions beyond them are taken as they were.
NEAR_WORDS = 16
# What images come to is kept so far, for photographs that many posts share: 10,000 vectors of ViT-base.
KEPT_BYTES = 32_000_000
# The smallest hidden size of text encoders for which bfloat16 was measured to pay on a CPU that multiplies it by tiles.
BFLOAT16_HIDDEN_SIZE = 384
CHOICES = {
    "on_bad_image": ("error", "skip"),
    "on_extra_images": ("error", "first"),
    "on_error": ("raise", "return"),
    **dict.fromkeys(("allow_paths", "allow_urls", "allow_private_urls"), (False, True)),
}


@dataclass
class Post:
    """What the pipeline knows of a post besides tensors.

    Attributes:
        text (`str`): The text; words that came as a list are joined by spaces.
        words (`list[str]`): Its words.
        offsets (`list[tuple[int, int]]`): First and last + 1 character of each word in `text`.
        skipped_images (`list[str]`): For each image left out, why.
        error (`str`, *optional*): Why the post can't be processed.
    """

    text: str = ""
    words: list[str] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)
    skipped_images: list[str] = field(default_factory=list)
    error: str | None = None


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


class ImageVectors:
    """Encode images, each content once as long as there is room for what it came to; the oldest use is forgotten first.

    What was kept is forgotten when the weights of the model change, and does not go into a copy.

    Args:
        max_bytes (`int`, *optional*, defaults to `KEPT_BYTES`): Room for vectors.
    """

    def __init__(self, max_bytes: int = KEPT_BYTES):
        self.max_bytes = max_bytes
        self.weights: list = []
        # One tensor for all, by rows: thousands of small ones among those of a batch would leave the heap in pieces.
        self.pool: torch.Tensor | None = None
        self.rows: OrderedDict[bytes, int] = OrderedDict()
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return type(self), (self.max_bytes,)

    def __call__(self, model, images: dict[bytes, torch.Tensor]) -> dict[bytes, torch.Tensor]:
        """Return the vector of each image `(3, height, width)`, by its key."""
        weights = _weights(model.vision_model)
        with self.lock:
            if weights != self.weights:
                self.rows.clear()
                self.weights, self.pool = weights, None
            # Copies, as another thread may need the room.
            found = {key: self.pool[self.rows[key]].clone() for key in images if key in self.rows}
        new = [key for key in images if key not in found]
        if new:
            pixels = torch.stack([images[key] for key in new])
            found |= zip(new, _encode(model, pixels).unbind(), strict=True)
        with self.lock:
            if weights == self.weights:
                for key, vector in found.items():
                    self._keep(key, vector)
        return found

    def _keep(self, key: bytes, vector: torch.Tensor) -> None:
        num_rows = self.max_bytes // vector.nbytes
        if num_rows == 0:
            return
        if key not in self.rows:
            if self.pool is None:
                # One of inference mode could not be written to outside of it.
                with torch.inference_mode(False):
                    self.pool = torch.empty(num_rows, *vector.shape, dtype=vector.dtype, device=vector.device)
            is_full = len(self.rows) == num_rows
            row = self.rows.popitem(last=False)[1] if is_full else len(self.rows)
            self.pool[row] = vector
            self.rows[key] = row
        self.rows.move_to_end(key)


class MultiImageNERPipeline(ChunkPipeline):
    """Find the named entities of posts with images.

    An image that comes again, in a post or in later ones, is encoded once.

    Args:
        model ([`SMCLForTokenClassification`]): The model.
        processor ([`SMCLProcessor`]): Its processor.
        dtype (`torch.dtype` or `str`, *optional*): What `transformers.pipeline` loaded the model in. With `"auto"`, its
            default, posts are computed in bfloat16 where that is several times as fast, on CPUs with AMX from a hidden
            size of 384: by a copy of the model, which stays as it is. Any other value: in the model's own.
        **kwargs: Those of any pipeline (`device`, `batch_size`, ...) and of a call, as new defaults.

    Raises:
        ValueError: if the processor is missing or an argument has an unknown value.

    Example:
    ```python
    >>> from transformers import pipeline

    >>> ner = pipeline(model="demo/model", trust_remote_code=True)
    >>> ner({"text": "i will never forget Verona", "images": ["building.png"]})
    [{'entity_group': 'LOC', 'word': 'Verona', 'start': 20, 'end': 26, 'score': 0.998, 'words': (4, 4)}]
    ```
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __init__(self, model, processor: SMCLProcessor | None = None, dtype: str | torch.dtype | None = None, **kwargs):
        if processor is None:
            raise ValueError(
                "`processor` must be the model's SMCLProcessor, got None: pass "
                "`processor=AutoProcessor.from_pretrained(...)` along with a model that is already loaded."
            )
        _check_labels(model.config.labels_of_no_entity)
        if any(weights.is_meta for weights in model.parameters()):
            raise ValueError(OFFLOADED)
        super().__init__(model=_without_peft(model), processor=processor, **kwargs)
        self.model.eval()
        self.crf_copy, self.crfs_weights = None, []
        self.image_vectors = ImageVectors()
        self.is_fast, self.twin, self.twins_weights = dtype == "auto" and _gains_by_bfloat16(self.model), None, []

    @property
    def crf(self) -> LinearChainCRF:
        """The model's CRF on the CPU, where one post at a time is decoded fastest."""
        crf = self.model.crf
        if crf.transitions.device.type == "cpu":
            return crf
        weights = _weights(crf)
        if weights != self.crfs_weights:
            self.crf_copy, self.crfs_weights = copy.deepcopy(crf).cpu(), weights
        return self.crf_copy

    def __call__(self, posts: Mapping | str | Iterable[Mapping | str], **kwargs) -> list | Iterator:
        """Tag posts.

        Args:
            posts (`Mapping`, `str`, or an iterable of these): A post, a list, or a generator or data set of posts, each
                `{"text": ..., "images": [...]}`, or a string for a post without images. The text is a string, split
                into words as the tokenizer does, or a list of words; however long, all of it is read. Images are
                paths, URLs, data URIs, PIL images or the bytes of image files, in post order; a post may have none, and
                one alone may stand as `image`. Of records of a data set, `tokens` is taken as the text (if it is empty,
                `text`), and other columns are passed over.
            batch_size (`int`, *optional*, defaults to 1): Posts (windows of long posts) that are computed at once.
            threshold (`float`, *optional*, defaults to 0): Leave out entities of a lower score.
            return_tags (`bool`, *optional*, defaults to `False`): Return for each post a `dict` of `entities`, `words`,
                `tags` (the BIO2 tag of each word, whatever the threshold) and `skipped_images` (why each was left out).
            on_bad_image (`str`, *optional*, defaults to `"error"`): With an image that can't be read: `"error"`, or
                `"skip"` to warn and go on without it.
            on_extra_images (`str`, *optional*, defaults to `"error"`): With more images than the model takes:
                `"error"`, or `"first"` to use the first ones.
            on_error (`str`, *optional*, defaults to `"raise"`): With a post that can't be processed: `"raise"`, or
                `"return"` to give `{"error": message}` in its place.
            allow_paths, allow_urls (`bool`, *optional*, default to `True`): Whether images may be paths, and URLs. Give
                `False` to a pipeline that strangers reach; see SECURITY.md.
            allow_private_urls (`bool`, *optional*, defaults to `False`): Whether URLs may lead to this machine or into
                a private network.

        Returns:
            A list for a list, an iterator for a generator; for each post its entities in order:

            - `entity_group` (`str`): The type.
            - `word`, `start`, `end`: The text, and its first and last + 1 character: `text[start:end] == word`. Of a
              list of words, the text is `" ".join(words)`.
            - `score` (`float`): The probability under the CRF, at the configuration's temperature, that exactly these
              words are an entity of this type.
            - `words` (`tuple[int, int]`): First and last word.

        Raises:
            ValueError: if a post or an argument can't be used; names it.
        """
        posts = _row_to_dict(posts)
        if isinstance(posts, Mapping | str):
            return super().__call__(posts, **kwargs)
        if not isinstance(posts, Iterable) and hasattr(posts, "__getitem__") and hasattr(posts, "__len__"):
            # A data set of PyTorch; so is `KeyDataset` of transformers.
            posts = map(posts.__getitem__, range(len(posts)))
        is_table = hasattr(posts, "to_dict") and hasattr(posts, "columns")
        if is_table or isinstance(posts, bytes | bytearray) or not isinstance(posts, Iterable):
            fix = " Give its rows, by `.to_dict('records')`." if is_table else ""
            raise ValueError(
                f"Expected a post {{'text': ..., 'images': [...]}} or an iterable of posts, got {type(posts).__name__}."
                f"{fix}"
            )
        if isinstance(posts, list | tuple):
            # transformers looks at the first element of a list without asking whether there is one.
            return super().__call__(list(posts), **kwargs) if posts else []
        return super().__call__((post for post in posts), **kwargs)

    def _sanitize_parameters(self, threshold=None, return_tags=None, **kwargs) -> tuple[dict, dict, dict]:
        for name, value in kwargs.items():
            if name not in CHOICES:
                raise ValueError(
                    f"Got the argument {name!r}, which this pipeline does not take. It takes "
                    f"{', '.join(('threshold', 'return_tags', *CHOICES))}."
                )
            if value not in CHOICES[name]:
                raise ValueError(f"`{name}` must be one of {', '.join(map(repr, CHOICES[name]))}, got {value!r}.")
        is_number = isinstance(threshold, Real) and not isinstance(threshold, bool)
        if threshold is not None and not (is_number and 0 <= threshold <= 1):
            raise ValueError(f"`threshold` must be a probability from 0 to 1, got {threshold!r}.")
        if return_tags not in (None, False, True):
            raise ValueError(f"`return_tags` must be True or False, got {return_tags!r}.")
        postprocess = {"threshold": threshold, "return_tags": return_tags}
        return kwargs, {}, {name: value for name, value in postprocess.items() if value is not None}

    def preprocess(self, post: dict, on_error: str = "raise", **settings) -> Iterator[dict[str, Any]]:
        """Turn a post into windows of tensors; see [`~MultiImageNERPipeline.__call__`]."""
        try:
            about, windows = self.read_post(post, **settings)
        except ValueError as error:
            if on_error == "raise":
                raise
            # An empty post takes the place in its batch.
            empty = {"text": []}
            empty = self.processor.with_image(empty, None) if self.processor.context_columns else empty
            about, windows = self.read_post(empty)
            about.error = str(error)
        for row, window in enumerate(windows):
            yield {"window": {**window, "post": about}, "is_last": row == len(windows) - 1}

    def read_post(self, post: dict, **settings) -> tuple[Post, list[dict[str, Any]]]:
        """Check and read a post.

        Args:
            post (`dict` or `str`): A post, as in a call.
            **settings: `on_bad_image`, `on_extra_images`, `allow_paths`, `allow_urls` and `allow_private_urls`, as in a
                call and with the same defaults.

        Returns:
            What is known of the post, and its windows: each with `inputs` (the processor's tensors, a batch of one),
            `core`, the slice of its words that no other window answers for, and `keys`, that tell images apart.

        Raises:
            ValueError: if the post can't be used; names it.
        """
        columns = self.processor.context_columns
        post = self._to_post(post)
        try:
            about = Post(*self.processor.read_text(post["text"]))
            images = self._read_images(post, about, **settings)
            given, num_appended = {"images": [list(images.values())]}, 0
            if columns:
                # Systems with context read the first image alone.
                first = self.processor.with_image(post, next(iter(images), None if post["images"] else 0))
                given = {"images": [given["images"][0][:1]], "context": {name: [first[name]] for name in columns}}
                (num_appended,) = self.processor.count_context(self.processor.read_contexts(num_posts=1, **given))
            windows, pixels, keys = [], {}, None
            max_length = self.model.max_tokens
            for start, stop, core in self.processor.split_long(about.words, num_appended, max_length):
                # As in training, a `max_length` that the tokenizer was saved with cuts nothing.
                inputs = dict(self.processor(words=[about.words[start:stop]], max_length=None, **given)) | pixels
                keys = [_content_key(image) for image in inputs.get("pixel_values", [[]])[0]] if keys is None else keys
                windows.append({"inputs": inputs, "core": core, "keys": keys})
                if not columns:
                    # Images are read once, for all windows.
                    given = {}
                    pixels = {name: inputs[name] for name in ("pixel_values", "image_mask") if name in inputs}
        except ValueError as error:
            message = str(error).replace("Post 0 of the batch", f"The post {ascii(post['text'])[:60]}")
            raise ValueError(message) from error
        return about, windows

    def _to_post(self, post: Any) -> dict[str, Any]:
        """Bring a post, in any form that a call takes, into one form."""
        columns = self.processor.context_columns
        return _to_post(post, bool(columns) or getattr(self.model.config, "vision_config", None) is not None, columns)

    def _read_images(
        self, post: dict, about: Post, on_bad_image: str = "error", on_extra_images: str = "error", **allowed: bool
    ) -> dict[int, Any]:
        """Return the images of a post that are read, by their number; note in `about` those that are left out."""
        images = post.get("images")
        images = [] if images is None else images if isinstance(images, list | tuple) else [images]
        if not hasattr(self.processor, "image_processor") and self.processor.context_columns:
            return dict(enumerate(images))
        images = self.processor.limit_images([images], on_extra_images)[0]
        # A processor of another model may let more pass: here the post is known, in `forward` no more.
        most = self.model.config.max_images
        if len(images) > most and on_extra_images == "error":
            raise ValueError(
                f"Post 0 of the batch has {len(images)} images, but the model's `max_images` is {most}, and the "
                f"processor's {self.processor.max_images}: drop some, or pass `on_extra_images='first'` to keep the "
                "first ones."
            )
        images = images[:most]
        good, about.skipped_images = take_images(images, on_bad_image == "skip", **allowed)
        if about.skipped_images:
            logger.warning(f"{len(about.skipped_images)} images were left out. {' '.join(about.skipped_images)}")
        return good

    def collate(self, windows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Pad the inputs of windows, each a batch of one, to one batch.

        Args:
            windows (`list[dict]`): The processor's tensors of each window.

        Returns:
            `dict`: the model's inputs on its device, floats in its dtype.
        """
        tokenizer = self.processor.tokenizer
        batch = {
            name: pad_sequence(
                [window[name][0] for window in windows],
                batch_first=True,
                padding_value=tokenizer.pad_token_id if name == "input_ids" else 0,
            )
            for name in windows[0]
            if name not in ("pixel_values", "image_mask")
        }
        for name in ("pixel_values", "image_mask"):
            found = [window[name][0] for window in windows if name in window]
            if found:
                none = found[0].new_zeros(0, *found[0].shape[1:])
                images = [window[name][0] if name in window else none for window in windows]
                batch[name] = pad_sequence(images, batch_first=True)
        dtype = torch.bfloat16 if self._has_twin() else self.model.dtype
        batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
        return {name: x.to(dtype) if x.is_floating_point() else x for name, x in batch.items()}

    def _has_twin(self) -> bool:
        return self.is_fast and not _is_compiled(self.model)

    def computing_model(self):
        """Return the model that computes posts: `model`, or its copy in bfloat16, copied anew when weights change."""
        if not self._has_twin():
            return self.model
        weights = _weights(self.model)
        if self.twin is None or weights != self.twins_weights:
            tensors = itertools.chain(self.model.parameters(), self.model.buffers())
            cast = {id(x): _in_bfloat16(x) for x in tensors if x.is_floating_point()}
            self.twin, self.twins_weights = copy.deepcopy(self.model, cast), weights
            # Tensors of a new copy may lie where those of an earlier one lay, and would pass for them.
            self.image_vectors = ImageVectors(self.image_vectors.max_bytes)
        return self.twin

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        """Score the words of one window, or of a list of windows."""
        windows = model_inputs["window"]
        is_batch = isinstance(windows, list)
        windows = windows if is_batch else [windows]
        with _evaluating(self.model):
            model = self.computing_model()
            # A compiled model encodes images itself, by compiled code.
            by_itself = _is_compiled(self.model) or not any(window["keys"] for window in windows)
            inputs = [window["inputs"] for window in windows]
            batch = self.collate(inputs) if by_itself else self._encode_once(model, windows)
            logits, word_mask = model(**batch, return_dict=True).logits.float().cpu(), batch["word_mask"].cpu()
        scored = [
            {"emissions": row[mask][window["core"]], "post": window["post"]}
            for window, row, mask in zip(windows, logits, word_mask, strict=True)
        ]
        return {"window": scored if is_batch else scored[0], "is_last": model_inputs["is_last"]}

    def _encode_once(self, model, windows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the model's inputs for windows, with what the model reads of each image in place of the images."""
        base, of_windows = model.base_model, []
        read = base.num_images_read
        for window in windows:
            names = ("pixel_values", "image_mask") if window["keys"] else ()
            slots = zip(window["keys"][:read], *(window["inputs"][name][0, :read] for name in names), strict=True)
            of_windows.append([(key, pixels) for key, pixels, is_real in slots if is_real])
        vectors = self.image_vectors(base, dict(image for images in of_windows for image in images))
        none = next(iter(vectors.values()))[None][:0]
        stacked = [torch.stack([vectors[key] for key, _ in images]) if images else none for images in of_windows]
        return _text_inputs(self, windows) | _image_inputs(stacked)

    def postprocess(
        self, windows: list[dict[str, Any]], threshold: float = 0.0, return_tags: bool = False
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """Decode the words of a post; see [`~MultiImageNERPipeline.__call__`]."""
        scored = [window["window"] for window in windows]
        post, emissions = scored[0]["post"], torch.cat([window["emissions"] for window in scored])
        if post.error is not None:
            return {"error": post.error}
        tags = self.decode(emissions)
        entities = [entity for entity in self.entities(post, emissions, tags) if entity["score"] >= threshold]
        if not return_tags:
            return entities
        return {"entities": entities, "words": post.words, "tags": tags, "skipped_images": post.skipped_images}

    def decode(self, emissions: torch.Tensor) -> list[str]:
        """Find the best tags of a post's words.

        Args:
            emissions (`torch.FloatTensor` of shape `(num_words, num_labels)`): Emission scores.

        Returns:
            `list[str]`: a BIO2 tag for each word.

        Raises:
            ValueError: if the scores are not finite.
        """
        if not emissions.isfinite().all():
            raise ValueError("The model gives scores that are not finite: check the weights that were loaded.")
        if not len(emissions):
            return []
        crf, mask = self.crf, torch.ones(1, len(emissions), dtype=torch.bool)
        return [crf.labels[tag] for tag in crf.decode(emissions[None], mask)[0].tolist()]

    def entities(self, post: Post, emissions: torch.Tensor, tags: list[str]) -> list[dict[str, Any]]:
        """Describe the entities of a tagged post.

        Args:
            post (`Post`): The post.
            emissions (`torch.FloatTensor` of shape `(num_words, num_labels)`): Emission scores.
            tags (`list[str]`): A BIO2 tag for each word.

        Returns:
            `list[dict]`: as of a call, with `threshold` 0.
        """
        spans = find_entities(tags)
        scores = self.posteriors(emissions, spans)
        found = []
        for (first, last, name), score in zip(spans, scores, strict=True):
            start, end = post.offsets[first][0], post.offsets[last][1]
            place = {"word": post.text[start:end], "start": start, "end": end}
            found.append({"entity_group": name, **place, "score": score, "words": (first, last)})
        return found

    def posteriors(self, emissions: torch.Tensor, spans: list[tuple[int, int, str]]) -> list[float]:
        """Compute the probabilities of entities, whatever the best tags are.

        Args:
            emissions (`torch.FloatTensor` of shape `(num_words, num_labels)`): Emission scores of a post.
            spans (`list[tuple[int, int, str]]`): First word, last word and type of each entity.

        Returns:
            `list[float]`: as `score` of a call.
        """
        # In float64, for what is almost certain: 1 - score still has its digits.
        return self.crf.entity_posteriors(emissions.double(), spans, self.model.config.temperature).tolist()

    def explain(self, post: dict, patch_grid: int = 0, without: bool = True, **settings) -> Explanation:
        """Tell what each image did for each entity of a post.

        Of a long post, windows without an entity near them are read with all images only.

        Args:
            post (`dict`): A post, as in a call.
            patch_grid (`int`, *optional*, defaults to 0): With g > 0, also measure each of g x g patches of each image.
            without (`bool`, *optional*, defaults to `True`): Whether to take images away. `False` gives entities and
                attentions alone, in about twice the time of a call.
            **settings: All of a call that is about images.

        Returns:
            [`Explanation`].

        Raises:
            ValueError: if the post, `patch_grid` or a setting can't be used, or the model reads no images.
        """
        with _evaluating(self.model):
            return _explain(self, post, patch_grid, without, settings)

    def save_pretrained(self, save_directory: str, **kwargs) -> None:
        """Save model, processor and code into one folder that `pipeline(model=...)` loads.

        Args:
            save_directory (`str`): The folder.
            **kwargs: Those of transformers' `save_pretrained`.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


def _to_post(post: Any, reads_images: bool = True, columns: tuple[str, ...] = ()) -> dict[str, Any]:
    """Bring a post, in any form that a call takes, into the form `{"text": ..., "images": ...}` with its context."""
    if isinstance(post, str):
        return {"text": post, "images": None}
    post = _row_to_dict(post)
    post = dict(post) if isinstance(post, Mapping) else post
    context = {name: post[name] for name in columns if name in post} if isinstance(post, dict) else {}
    if isinstance(post, dict) and post.get("tokens") is not None:
        post = _to_text(post, reads_images)
    if (
        not isinstance(post, dict)
        or "text" not in post
        or post.keys() - {"text", "tokens", "images", "image", *columns}
    ):
        found = sorted(map(str, post)) if isinstance(post, dict) else type(post).__name__
        raise ValueError(
            f"Expected a post with the keys {', '.join(map(repr, ('text', *columns)))} and, if it has images, 'images' "
            f"(or 'image' for one), a string, or a record with 'tokens', got {found}."
        )
    image, images = _plain_images(post.get("image")), _plain_images(post.get("images"))
    if image is not None and (images is not None or isinstance(image, list | tuple)):
        raise ValueError("Expected one image as 'image', or a list of them as 'images', got a list or both.")
    images = images if image is None else [image]
    is_list = images is None or isinstance(images, list | tuple)
    return {"text": post["text"], "images": images if is_list else [images], **context}


def _row_to_dict(post: Any) -> Any:
    """Return a row of pandas as the mapping that it is not by itself; anything else as it is, a column of texts too."""
    is_row = hasattr(post, "to_dict") and getattr(post, "ndim", 0) == 1 and ("text" in post or "tokens" in post)
    return post.to_dict() if is_row else post


def _plain_images(images: Any) -> Any:
    """Return an array of images, as tables of pandas hold them, as a list, and pandas' missing value as `None`."""
    if isinstance(images, float) and math.isnan(images):
        return None
    return as_list(images) if getattr(images, "ndim", 0) == 1 else images


def _holds_images(value: Any) -> bool:
    """Tell whether what stands under a name of images may be some, and not their number, say."""
    value = _plain_images(value)
    if isinstance(value, IMAGE_TYPES):
        return bool(value)
    return isinstance(value, Image.Image | os.PathLike) or getattr(value, "ndim", 0) > 1


def _to_text(record: dict[str, Any], reads_images: bool) -> dict[str, Any]:
    """Take the words of a record of a data set, or its text where it has no words, and its images."""
    words, text = record["tokens"], record.get("text")
    words = words.tolist() if hasattr(words, "tolist") else words
    if not isinstance(words, list | tuple):
        raise ValueError(f"`tokens` must be a list of words, got {ascii(words)[:80]}. Call a sentence `text`.")
    images = {name: record[name] for name in ("image", "images") if _plain_images(record.get(name)) is not None}
    others = [key for key, value in record.items() if IMAGE_NAME.fullmatch(str(key)) and _holds_images(value)]
    if reads_images and not images and others:
        raise ValueError(f"Expected images as 'images', or one as 'image', got {others} beside 'tokens': rename it.")
    text = text.tolist() if hasattr(text, "tolist") else text
    return {"text": text if not words and text else words} | images


@torch.no_grad()
def _explain(
    pipe: MultiImageNERPipeline, post: dict, patch_grid: int, without: bool, settings: dict[str, Any]
) -> Explanation:
    """Explain the entities of a post by taking its images, and patches of them, away; see the pipeline's `explain`."""
    settings = _read_settings(pipe, settings)
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
    if not isinstance(patch_grid, int) or isinstance(patch_grid, bool) or not 0 <= patch_grid <= most:
        size = f", {most}" if len(pixels) else ""
        raise ValueError(
            f"`patch_grid` must be a whole number from 0 to the pixels of a side{size}, got {patch_grid!r}."
        )
    vectors = _encode(pipe.computing_model().base_model, pixels)
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
    pipe, about: Post, found: list[dict], seen: list, emissions: list, fusion=None, guidance=None, effects=None
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
    kept = pipe._read_images(post, Post(), **settings)
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


def _read_settings(pipe, settings: dict[str, Any]) -> dict[str, Any]:
    """Return how to read a post: what the pipeline was built with, but for what is asked for here."""
    known = [name for name in CHOICES if name != "on_error"]
    if settings.keys() - set(known):
        raise ValueError(f"Expected {', '.join(known)} as settings of an explanation, got {sorted(settings)}.")
    checked, _, _ = pipe._sanitize_parameters(**settings)
    return {name: value for name, value in (pipe._preprocess_params | checked).items() if name in known}


def _content_key(pixels: torch.Tensor) -> bytes:
    """Return what tells an image from others: a hash of its pixel values, as the model reads them."""
    return hashlib.blake2b(pixels.contiguous().numpy(), digest_size=16).digest()


def _check_labels(other: list[str]) -> None:
    """Refuse a model that has labels of which no entity can be made."""
    if other:
        raise ValueError(
            f"The model has the labels {other[:5]}, of which no entity can be made. Expected BIO2, such as 'B-PER' and "
            "'I-PER': give the labels that it was trained with as `id2label`."
        )


def _without_peft(model):
    """Return the model in which adapters of peft are, as they are switched; any other model as it is."""
    if not hasattr(model, "get_base_model"):
        return model
    if any(config.is_prompt_learning for config in model.peft_config.values()):
        raise ValueError("Prompts of peft can't be put in front of posts. Expected adapters such as LoRA's.")
    return model.get_base_model()


def _gains_by_bfloat16(model) -> bool:
    """Tell whether a model on a CPU takes less than a third of the time in bfloat16, at the same F1.

    docs/performance.md has the figures. CPUs without AMX gain less or lose, and so do small models.
    """
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    is_large = model.config.text_config.hidden_size >= BFLOAT16_HIDDEN_SIZE
    gains = model.device.type == "cpu" and model.dtype == torch.float32 and has_tiles and is_large
    if gains:
        logger.warning_once(
            "Posts are computed in bfloat16, which this CPU multiplies several times as fast; scores move in their "
            "third digit. `dtype=torch.float32` computes in full."
        )
    return gains


def _in_bfloat16(tensor: torch.Tensor) -> torch.Tensor:
    cast = tensor.detach().bfloat16()
    return torch.nn.Parameter(cast, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else cast


def _is_compiled(model) -> bool:
    return hasattr(model, "_orig_mod")


def _weights(model) -> list:
    """Return what changes when weights do, or adapters of peft are switched.

    PyTorch counts no changes through `.data`, nor those of inference mode: there, one value of each tensor stands for
    all.
    """
    weights = list(model.parameters())
    counted = [(x.data_ptr(), 0 if x.is_inference() else x._version) for x in weights]
    with torch.no_grad():
        values = torch.cat([x.reshape(-1)[x.numel() // 2 :][:1].float() for x in weights]).tolist() if weights else []
    switches = ("_disable_adapters", "_active_adapter")
    adapters = [str([m.__dict__.get(name) for name in switches]) for m in model.modules() if switches[0] in m.__dict__]
    return [counted, values, adapters]


@contextmanager
def _evaluating(model) -> Iterator[None]:
    """Have a model in evaluation mode for a while, as a training run between whose steps it predicts may not be."""
    in_training = [module for module in model.modules() if module.training]
    for module in in_training:
        module.training = False
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def _encode(model, pixels: torch.Tensor) -> torch.Tensor:
    """Encode images `(num_images, 3, height, width)` to what the model reads of each, `(num_images, ...)`."""
    if not len(pixels):
        return torch.zeros(0, model.config.vision_config.hidden_size, device=model.device, dtype=model.dtype)
    parts = pixels.split(BATCH_SIZE)
    return torch.cat([model.encode_images_in_groups(part.to(model.device, model.dtype)) for part in parts])


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
    logits = pipe.computing_model()(**inputs, return_dict=True).logits.float().cpu()
    word_mask = inputs["word_mask"].cpu()
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
        flags, word_mask = {"output_attentions": num_images > 0, "return_dict": True}, inputs["word_mask"][0]
        outputs = pipe.computing_model()(**inputs, **flags)
        parts.append(outputs.logits[0][word_mask][window["core"]].float().cpu())
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
            torch.cat([vectors[:image], vector[None], vectors[image + 1 :]])
            for vector in _encode(pipe.computing_model().base_model, painted)
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


__all__ = [
    "CUSTOM_PIPELINES",
    "TASK",
    "EntityExplanation",
    "Explanation",
    "ImageEvidence",
    "MultiImageNERPipeline",
    "find_entities",
    "patch_edges",
]
