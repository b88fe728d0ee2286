"""The inference pipeline of SMCL: posts in, entities with confidences out, and what each image did for them."""

import copy
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.pipelines.base import ChunkPipeline
from transformers.utils import logging

from .crf_smcl import find_entities
from .explanation_smcl import Explanation, explain_post
from .images_smcl import take_images
from .processing_smcl import SMCLProcessor

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


class MultiImageNERPipeline(ChunkPipeline):
    """Find the named entities of posts with images.

    Args:
        model ([`SMCLForTokenClassification`]): The model.
        processor ([`SMCLProcessor`]): Its processor.
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

    def __init__(self, model, processor: SMCLProcessor | None = None, **kwargs):
        if processor is None:
            raise ValueError(
                "`processor` must be the model's SMCLProcessor, got None: pass "
                "`processor=AutoProcessor.from_pretrained(...)` along with a model that is already loaded."
            )
        super().__init__(model=model, processor=processor, **kwargs)
        self.model.eval()
        # One post at a time is decoded on the CPU, where steps this small are fastest.
        self.crf = copy.deepcopy(model.crf).cpu()

    def __call__(self, posts: dict | Iterable[dict], **kwargs) -> list | Iterator:
        """Tag posts.

        Args:
            posts (`dict`, `str`, or an iterable of these): A post, a list, or a generator or data set of posts, each
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
        if isinstance(posts, dict | str):
            return super().__call__(posts, **kwargs)
        if not isinstance(posts, Iterable):
            raise ValueError(
                f"Expected a post {{'text': ..., 'images': [...]}} or an iterable of posts, got {type(posts).__name__}."
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
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"`threshold` must be a probability from 0 to 1, got {threshold!r}.")
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
            What is known of the post, and its windows: each with `inputs` (the processor's tensors, a batch of one) and
            `core`, the slice of its words that no other window answers for.

        Raises:
            ValueError: if the post can't be used; names it.
        """
        columns = self.processor.context_columns
        post = self._to_post(post)
        try:
            about = Post(*self.processor.read_text(post["text"]))
            images, about.skipped_images = self._read_images(post, **settings)
            given, num_appended = {"images": [list(images.values())]}, 0
            if columns:
                # Systems with context read the first image alone.
                first = self.processor.with_image(post, next(iter(images), None if post["images"] else 0))
                given = {"images": [given["images"][0][:1]], "context": {name: [first[name]] for name in columns}}
                (num_appended,) = self.processor.count_context(self.processor.read_contexts(num_posts=1, **given))
            windows, pixels = [], {}
            for start, stop, core in self.processor.split_long(about.words, num_appended):
                inputs = dict(self.processor(words=[about.words[start:stop]], **given)) | pixels
                windows.append({"inputs": inputs, "core": core})
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
        self, post: dict, on_bad_image: str = "error", on_extra_images: str = "error", **allowed: bool
    ) -> tuple[dict[int, Any], list[str]]:
        """Return the images of a post that are read, by their number, and why others are left out."""
        images = post.get("images")
        images = [] if images is None else images if isinstance(images, list | tuple) else [images]
        if not hasattr(self.processor, "image_processor") and self.processor.context_columns:
            return dict(enumerate(images)), []
        images = self.processor.limit_images([images], on_extra_images)[0]
        good, skipped = take_images(images, on_bad_image == "skip", **allowed)
        if skipped:
            logger.warning(f"{len(skipped)} images were left out. {' '.join(skipped)}")
        return good, skipped

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
                padding_side=tokenizer.padding_side,
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
        batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
        return {name: x.to(self.model.dtype) if x.is_floating_point() else x for name, x in batch.items()}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        """Score the words of one window, or of a list of windows."""
        windows = model_inputs["window"]
        is_batch = isinstance(windows, list)
        windows = windows if is_batch else [windows]
        batch = self.collate([window["inputs"] for window in windows])
        logits, word_mask = self.model(**batch).logits.cpu(), batch["word_mask"].cpu()
        scored = [
            {"emissions": row[mask][window["core"]], "post": window["post"]}
            for window, row, mask in zip(windows, logits, word_mask, strict=True)
        ]
        return {"window": scored if is_batch else scored[0], "is_last": model_inputs["is_last"]}

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
        mask = torch.ones(1, len(emissions), dtype=torch.bool)
        return [self.crf.labels[tag] for tag in self.crf.decode(emissions[None], mask)[0].tolist()]

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
            ValueError: if the post can't be used.
        """
        return explain_post(self, post, patch_grid, without, **settings)

    def _read_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return how to read a post: what the pipeline was built with, but for what is asked for here."""
        known = [name for name in CHOICES if name != "on_error"]
        if settings.keys() - set(known):
            raise ValueError(f"Expected {', '.join(known)} as settings of an explanation, got {sorted(settings)}.")
        checked, _, _ = self._sanitize_parameters(**settings)
        return {name: value for name, value in (self._preprocess_params | checked).items() if name in known}

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
    image, images = post.get("image"), post.get("images")
    if image is not None and (images is not None or isinstance(image, list | tuple)):
        raise ValueError("Expected one image as 'image', or a list of them as 'images', got a list or both.")
    images = images if image is None else [image]
    is_list = images is None or isinstance(images, list | tuple)
    return {"text": post["text"], "images": images if is_list else [images], **context}


def _to_text(record: dict[str, Any], reads_images: bool) -> dict[str, Any]:
    """Take the words of a record of a data set, or its text where it has no words, and its images."""
    words, text = record["tokens"], record.get("text")
    words = words.tolist() if hasattr(words, "tolist") else words
    if not isinstance(words, list | tuple):
        raise ValueError(f"`tokens` must be a list of words, got {ascii(words)[:80]}. Call a sentence `text`.")
    images = {name: record[name] for name in ("image", "images") if record.get(name) is not None}
    others = [key for key, value in record.items() if IMAGE_NAME.fullmatch(str(key)) and isinstance(value, IMAGE_TYPES)]
    if reads_images and not images and any(record[key] for key in others):
        raise ValueError(f"Expected images as 'images', or one as 'image', got {others} beside 'tokens': rename it.")
    return {"text": text if not words and isinstance(text, str) else words} | images


__all__ = [
    "CUSTOM_PIPELINES",
    "TASK",
    "MultiImageNERPipeline",
    "find_entities",
]
