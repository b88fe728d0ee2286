"""Processor of SMCL: words and images of posts to padded tensors.

Needs no torch, so that it serves exported models as well: arrays become PyTorch's tensors at the very end.
"""

import itertools
import operator
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import PreTokenizedString, normalizers
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BatchEncoding,
    BatchFeature,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, TextKwargs, Unpack
from transformers.utils import logging

from .images_smcl import ImageError, cut_to_middle, load_image

logger = logging.get_logger(__name__)

CROP_SETTINGS = ("do_center_crop", "size")
# With these a tokenizer's rows and words are no longer the posts and theirs.
REFUSED_SETTINGS = {
    *("is_split_into_words", "padding_side", "return_overflowing_tokens", "stride", "text_pair", "text_pair_target")
}
# Share of a window, on each side, that repeats tokens of its neighbour.
OVERLAP = 0.25
# Takes the place of a word that the tokenizer gives no token, until its tokens are replaced by the unknown token.
STAND_IN = "a"


class SMCLTextKwargs(TextKwargs, total=False):
    """What a call may ask about texts, besides what the tokenizer takes."""

    return_word_offsets: bool


class SMCLImagesKwargs(ImagesKwargs, total=False):
    """What a call may ask about images, besides what the image processor takes."""

    on_extra_images: str


class SMCLProcessorKwargs(ProcessingKwargs, total=False):
    """Keyword arguments of a call, flat or by modality."""

    text_kwargs: SMCLTextKwargs
    images_kwargs: SMCLImagesKwargs
    _defaults = {"text_kwargs": {"padding": True}, "common_kwargs": {"return_tensors": "pt"}}


class SMCLProcessor(ProcessorMixin):
    r"""Turn posts, words and up to `max_images` images each, into the inputs of an SMCL model.

    Args:
        image_processor (`BaseImageProcessor`): Resizes and normalises images.
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer: word borders are asked of it.
        max_images (`int`, *optional*, defaults to 4): Largest number of images of a post.

    Raises:
        ValueError: if the tokenizer is a slow one or does not know its special tokens, or `max_images` is no number of
            images.

    Example:
    ```python
    >>> inputs = processor(words=[["Joey", "and", "Niko", "rest"]], images=[[photo]])
    >>> sorted(inputs)
    ['attention_mask', 'image_mask', 'input_ids', 'pixel_values', 'token_type_ids', 'word_mask']
    ```
    """

    valid_processor_kwargs = SMCLProcessorKwargs
    # Columns of a data set, besides words, images and labels, that a call takes as `context`.
    context_columns: tuple[str, ...] = ()
    # Settings of a tokenizer that can't be used here.
    refused_settings = REFUSED_SETTINGS

    def __init__(self, image_processor, tokenizer, max_images: int = 4, **kwargs):
        super().__init__(image_processor, tokenizer, **kwargs)
        check_tokenizer(tokenizer)
        if not isinstance(max_images, int) or isinstance(max_images, bool) or max_images < 1:
            raise ValueError(f"`max_images` must be a whole number of at least 1, got {max_images!r}.")
        self.max_images = max_images

    @classmethod
    def from_text_vision_pretrained(
        cls, text_model_name_or_path: str, vision_model_name_or_path: str, max_images: int = 4
    ) -> "SMCLProcessor":
        """Join the tokenizer of a text encoder and the image processor of an image encoder.

        Args:
            text_model_name_or_path (`str`): Hub name or folder of the text encoder.
            vision_model_name_or_path (`str`): Hub name or folder of the image encoder.
            max_images (`int`, *optional*, defaults to 4): Largest number of images of a post.

        Returns:
            [`SMCLProcessor`].
        """
        tokenizer = load_tokenizer(text_model_name_or_path)
        return cls(AutoImageProcessor.from_pretrained(vision_model_name_or_path), tokenizer, max_images)

    def save_pretrained(self, save_directory, **kwargs):
        """Save the parts and the code; see transformers' `ProcessorMixin.save_pretrained`."""
        saved = super().save_pretrained(save_directory, **kwargs)
        # Saving notes on the processor where its code is, loading does not: the same processor would look different.
        self.__dict__.pop("auto_map", None)
        return saved

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call may return, but for `labels`."""
        return [*self.tokenizer.model_input_names, "word_mask", "pixel_values", "image_mask"]

    def __call__(
        self,
        words: list[list[str]] | None = None,
        images: list[list[Any]] | None = None,
        labels: list[list[int]] | None = None,
        text: list[str] | None = None,
        **kwargs: Unpack[SMCLProcessorKwargs],
    ) -> BatchFeature:
        """Process a batch of posts; a single post may be given without the outer list.

        Args:
            words (`list[list[str]]`, *optional*): Words of each post. For lists, here and below, any sequence will do.
            images (`list[list]`, *optional*): PIL images of any mode, paths, URLs or bytes of image files, 0 or more of
                each post in order; an image in place of a list is a post's only one.
            labels (`list[list[int]]`, *optional*): Tag id of each word.
            text (`list[str]`, *optional*): Raw posts in place of `words`; see [`~SMCLProcessor.split_words`].
            **kwargs: Those of the tokenizer and of the image processor, flat or in `text_kwargs` and `images_kwargs`:

                - max_length (`int`, *optional*): Most tokens of a post, by default the tokenizer's. A warning counts
                  the words cut off.
                - padding (`bool` or `str`, *optional*, defaults to `True`): As in a tokenizer.
                - on_extra_images (`str`, *optional*, defaults to `"error"`): See [`~SMCLProcessor.limit_images`].
                - return_word_offsets (`bool`, *optional*, defaults to `False`): With `text`, add `word_offsets`: the
                  `(start, end)` characters of each word of each post.
                - return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"` or `"np"`.

        Returns:
            [`BatchFeature`]: of shape `(batch_size, num_tokens)`, `input_ids`, `attention_mask`, the tokenizer's other
            tensors, `word_mask`, `True` at each word's first token, and with labels `labels`, -100 off word starts.
            If any post has an image, `pixel_values (batch_size, num_images, 3, height, width)`, zeros where padded,
            and `image_mask (batch_size, num_images)`, with the largest number of images in this batch.

        Raises:
            TypeError: if there is no such keyword argument.
            ValueError: if the arguments do not fit together; names the post.
        """
        text_kwargs, images_kwargs = self._split_kwargs(kwargs)
        return_tensors = text_kwargs.pop("return_tensors")
        return_word_offsets = text_kwargs.pop("return_word_offsets", False)
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"`return_tensors` must be 'pt' or 'np', got {return_tensors!r}.")
        words, images, labels, text, _ = self._as_batch(words, images, labels, text)
        words, word_offsets = self._to_words(words and [as_list(post) for post in words], text)
        encoding, positions = self._tokenize(words, **text_kwargs)
        if len(set(map(len, encoding["input_ids"]))) > 1:
            raise ValueError("The posts have different numbers of tokens: expected `padding=True`, got no padding.")
        data = {name: np.array(values, dtype=np.int64) for name, values in encoding.items()}
        data["word_mask"] = np.zeros_like(data["input_ids"], dtype=bool)
        for row, starts in enumerate(positions):
            data["word_mask"][row, list(starts.values())] = True
        if labels is not None:
            data["labels"] = self._align_labels(words, labels, positions, data["input_ids"].shape)
        data.update(self._process_images(images, len(words), **images_kwargs))
        batch = BatchFeature(data, tensor_type=return_tensors)
        if return_word_offsets:
            batch["word_offsets"] = word_offsets
        return batch

    def _as_batch(self, words: Any, images: Any, labels: Any, text: Any) -> tuple[Any, Any, Any, Any, bool]:
        """Return a call's arguments as lists with one entry for each post, and whether they were of a single post."""
        words, images, labels, text = map(as_list, (words, images, labels, text))
        if not isinstance(words, list | None):
            raise ValueError(f"`words` must be a list with a list of words for each post, got {type(words).__name__}.")
        if not isinstance(text, str | list | None):
            raise ValueError(f"`text` must be a string or a list of strings, got {type(text).__name__}.")
        is_single = isinstance(text, str) or bool(words) and isinstance(words[0], str)
        if is_single:
            words, images, labels, text = (None if x is None else [x] for x in (words, images, labels, text))
        if not isinstance(images, list | None):
            raise ValueError(f"`images` must be a list with a list for each post, got {type(images).__name__}.")
        return words, images, labels, text, is_single

    def _to_words(
        self, words: list[list[str]] | None, text: list[str] | None
    ) -> tuple[list[list[str]], list[list[tuple[int, int]]] | None]:
        """Check the texts of a batch; return words, and their offsets if raw texts were given."""
        if (words is None) == (text is None):
            raise ValueError("Expected exactly one of `words` and `text`.")
        word_offsets = None
        if text is not None:
            if lists := [row for row, post in enumerate(text) if isinstance(post, list | tuple)]:
                raise ValueError(f"`text` takes untouched posts, and post {lists[0]} is a list: pass words as `words`.")
            check_words([[post] for post in text])
            splits = [self.split_words(post) for post in text]
            words, word_offsets = [split[0] for split in splits], [split[1] for split in splits]
        if not words:
            raise ValueError("Expected at least one post, got an empty batch.")
        check_words(words)
        return words, word_offsets

    def split_words(self, text: str) -> tuple[list[str], list[tuple[int, int]]]:
        """Split a raw post into words as the tokenizer does: normalised first, then split by its pre-tokenizer.

        So, BERT's tokenizers make each Chinese character a word. What the normaliser removes, such as control
        characters, belongs to the word that it touches, or is a word of its own.

        Args:
            text (`str`): A post.

        Returns:
            The words and their `(start, end)` character offsets in `text` as it is: `text[start:end]` is the word. No
            character but white space lies between words.

        Raises:
            ValueError: if the tokenizer has no pre-tokenizer, or the text is no valid unicode.
        """
        check_words([[text]])
        backend = self.tokenizer.backend_tokenizer
        if backend.pre_tokenizer is None:
            raise ValueError("This tokenizer has no pre-tokenizer to split `text`: pass `words` instead.")
        pieces = PreTokenizedString(text)
        if backend.normalizer is not None:
            pieces.normalize(backend.normalizer.normalize)
        backend.pre_tokenizer.pre_tokenize(pieces)
        splits = pieces.get_splits(offset_referential="original", offset_type="char")
        offsets = _cover(text, [span for _, span, _ in splits])
        return [text[start:end] for start, end in offsets], offsets

    def read_text(self, text: str | list[str]) -> tuple[str, list[str], list[tuple[int, int]]]:
        """Read the text of one post, in either form.

        Args:
            text (`str` or `list[str]`): A raw text, or words.

        Returns:
            The text, of words joined by spaces; its words; their `(start, end)` character offsets in it.

        Raises:
            ValueError: if it is neither, or a word can't be used.
        """
        if isinstance(text, str):
            return text, *self.split_words(text)
        text = as_list(text)
        if not isinstance(text, list | tuple):
            raise ValueError(f"`text` must be a string or a list of words, got {ascii(text)[:80]}.")
        check_words([text])
        starts = itertools.accumulate((len(word) + 1 for word in text[:-1]), initial=0)
        offsets = [(start, start + len(word)) for word, start in zip(text, starts, strict=False)]
        return " ".join(text), list(text), offsets

    def split_long(
        self, words: list[str], num_appended: int = 0, max_length: int | None = None
    ) -> list[tuple[int, int, slice]]:
        """Split the words of one post into windows that fit the text encoder; see [`split_into_windows`].

        Args:
            words (`list[str]`): The words.
            num_appended (`int`, *optional*, defaults to 0): Tokens that a subclass appends to each window.
            max_length (`int`, *optional*): Most tokens that the text encoder takes, besides the tokenizer's own limit.

        Returns:
            `list[tuple[int, int, slice]]`: windows; one of all words if they fit.
        """
        limit = self.tokenizer.model_max_length
        limit = limit if max_length is None else min(limit, max_length)
        if limit > 1_000_000:
            return [(0, len(words), slice(None))]
        encoding = self.tokenizer(
            words, is_split_into_words=True, split_special_tokens=True, add_special_tokens=False, verbose=False
        )
        # A word without a token gets one in a call.
        counts = [0] * len(words)
        for word in encoding.word_ids() if words else ():
            counts[word] += 1
        # At most half is left to what is appended, which is cut to its room.
        limit -= self.tokenizer.num_special_tokens_to_add() + min(num_appended, limit // 2)
        return split_into_windows([max(1, count) for count in counts], limit)

    def limit_images(self, images: list[list[Any] | None], on_extra_images: str = "error") -> list[list[Any]]:
        """See to it that no post has more than `max_images` images.

        Args:
            images (`list[list]`): Images of each post, of any kind; `None` for none, an image for a list of one.
            on_extra_images (`str`, *optional*, defaults to `"error"`): `"error"`, or `"first"` to keep the first ones.

        Returns:
            `list[list]`: images of each post, at most `max_images`.

        Raises:
            ValueError: if a post has more and `on_extra_images` is `"error"`; names the post.
        """
        if on_extra_images not in ("error", "first"):
            raise ValueError(f"`on_extra_images` must be 'error' or 'first', got {on_extra_images!r}.")
        posts = [as_list(post) for post in images]
        posts = [[] if post is None else post if isinstance(post, list) else [post] for post in posts]
        for row, post in enumerate(posts):
            if len(post) > self.max_images and on_extra_images == "error":
                raise ValueError(
                    f"Post {row} of the batch has {len(post)} images, but `max_images` is {self.max_images}: drop "
                    "some, or pass `on_extra_images='first'` to keep the first ones."
                )
        return [post[: self.max_images] for post in posts]

    def post_views(self, post: dict[str, Any], on_extra_images: str = "error") -> list[Any]:
        """Return what takes the places of images in the inputs of a model: the images of a post, at most `max_images`.

        Args:
            post (`dict`): A post with `images`, and with the columns of `context_columns`.
            on_extra_images (`str`, *optional*, defaults to `"error"`): See [`~SMCLProcessor.limit_images`].

        Returns:
            `list`: images of any kind.
        """
        return self.limit_images([post.get("images")], on_extra_images)[0]

    def _split_kwargs(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a call's keyword arguments for the tokenizer and for the image processor, with their defaults."""
        kinds = [SMCLProcessorKwargs, SMCLTextKwargs, SMCLImagesKwargs]
        if hasattr(self, "image_processor"):
            kinds.append(self.image_processor.valid_kwargs)
        given = kwargs.keys() | dict(kwargs.get("text_kwargs") or {}).keys()
        known = {"common_kwargs"}.union(*(kind.__annotations__ for kind in kinds)) - self.refused_settings
        unknown = given - known
        if unknown:
            # transformers would ignore them with a warning.
            raise TypeError(f"Got the keyword arguments {sorted(unknown)}, which nothing here takes.")
        merged = self._merge_kwargs(SMCLProcessorKwargs, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        return merged["text_kwargs"], merged["images_kwargs"]

    def _tokenize(
        self, words: list[list[str]], max_length: int | None = None, **text_kwargs
    ) -> tuple[BatchEncoding, list[dict[int, int]]]:
        """Tokenize; return the encoding and, for each post, the position of each word's first token."""
        if max_length is None and self.tokenizer.model_max_length < 1_000_000:
            max_length = self.tokenizer.model_max_length
        least = self.tokenizer.num_special_tokens_to_add() + 1
        if max_length is not None and not (isinstance(max_length, int) and max_length >= least):
            raise ValueError(f"`max_length` must be a whole number of at least {least} tokens, got {max_length!r}.")

        # A literal "[SEP]" in a post is text, not the end of the post.
        settings = {"truncation": max_length is not None, **text_kwargs, "split_special_tokens": True}
        # Positions count from the left: padded there, a post would depend on its batch; and what is cut is at the end.
        settings["padding_side"] = self.tokenizer.truncation_side = "right"

        def encode(batch: list[list[str]]) -> tuple[BatchEncoding, list[dict[int, int]]]:
            encoding = self.tokenizer(batch, is_split_into_words=True, max_length=max_length, **settings)
            self._replace_special_tokens(encoding)
            return encoding, [_first_positions(encoding.word_ids(row)) for row in range(len(batch))]

        encoding, positions = encode(words)
        short = [row for row, post in enumerate(words) if len(positions[row]) < len(post)]
        if not short:
            return encoding, positions
        empty = {row: self._find_empty_words(words[row], row) for row in short}
        encoding, positions = encode(
            [
                [STAND_IN if word in empty.get(row, ()) else text for word, text in enumerate(post)]
                for row, post in enumerate(words)
            ]
        )
        for row in short:
            for position, word in enumerate(encoding.word_ids(row)):
                if word in empty[row]:
                    encoding["input_ids"][row][position] = self.tokenizer.unk_token_id
        cut = [lost for row in short if (lost := len(words[row]) - len(positions[row]))]
        if cut:
            logger.warning(
                f"{sum(cut)} words of {len(cut)} posts lie beyond `max_length` = {max_length} tokens and were cut off."
            )
        return encoding, positions

    def _replace_special_tokens(self, encoding: BatchEncoding) -> None:
        """Put the unknown token for special tokens inside words: some vocabularies hold them as ordinary pieces."""
        unknown = self.tokenizer.unk_token_id
        special = set(self.tokenizer.all_special_ids) - {unknown} if unknown is not None else ()
        for row, ids in enumerate(encoding["input_ids"]):
            for position, word in enumerate(encoding.word_ids(row)):
                if word is not None and ids[position] in special:
                    ids[position] = unknown

    def _find_empty_words(self, words: list[str], row: int) -> set[int]:
        """Find the words that the tokenizer gives no token, such as zero-width characters."""
        encoding = self.tokenizer(
            words, is_split_into_words=True, split_special_tokens=True, add_special_tokens=False, verbose=False
        )
        empty = set(range(len(words))) - set(encoding.word_ids())
        if empty and self.tokenizer.unk_token is None:
            raise ValueError(
                f"Post {row} of the batch: the tokenizer gives no token for {ascii([words[i] for i in sorted(empty)])} "
                "and has no unknown token to stand in: set `tokenizer.unk_token`."
            )
        return empty

    def _align_labels(
        self, words: list[list[str]], labels: list[list[int]], positions: list[dict[int, int]], shape: tuple[int, int]
    ) -> np.ndarray:
        """Put each word's tag at its first token."""
        if not isinstance(labels, list) or len(labels) != len(words):
            got = len(labels) if isinstance(labels, list) else type(labels).__name__
            raise ValueError(f"Expected `labels` for {len(words)} posts, got {got}.")
        aligned = np.full(shape, -100)
        for row, (tags, starts) in enumerate(zip(labels, positions, strict=True)):
            tags = _check_tags(as_list(tags), row)
            if len(tags) != len(words[row]):
                raise ValueError(
                    f"Post {row} of the batch has {len(words[row])} words but {len(tags)} labels: expected one label "
                    f"for each word of {words[row]}."
                )
            aligned[row, list(starts.values())] = [tags[word] for word in starts]
        return aligned

    def _process_images(
        self, images: list[list[Any] | None] | None, num_posts: int, on_extra_images: str = "error", **images_kwargs
    ) -> dict[str, np.ndarray]:
        """Return `pixel_values` and `image_mask` of posts, or nothing where no post has an image."""
        posts = self.limit_images(images or [], on_extra_images)
        if images is None:
            return {}
        if len(posts) != num_posts:
            raise ValueError(f"Expected a list of images for each of {num_posts} posts, got {len(posts)} lists.")
        # One by one, so that only one image at a time is held in full size.
        flat = [
            self._process_image(image, f"Post {row} of the batch, image {slot}", images_kwargs)
            for row, post in enumerate(posts)
            for slot, image in enumerate(post)
        ]
        if not flat:
            return {}
        shapes = sorted({tuple(pixels.shape) for pixels in flat})
        if len(shapes) > 1:
            raise ValueError(f"`image_processor` must scale all images to one size, got the shapes {shapes}.")
        image_mask = np.array([[slot < len(post) for slot in range(max(map(len, posts)))] for post in posts])
        pixel_values = np.zeros((*image_mask.shape, *flat[0].shape), flat[0].dtype)
        pixel_values[image_mask] = flat
        return {"pixel_values": pixel_values, "image_mask": image_mask}

    def _process_image(self, image: Any, where: str, images_kwargs: dict[str, Any]) -> np.ndarray:
        """Return the pixel values of one image."""
        try:
            image = load_image(image)
        except ImageError as error:
            raise ValueError(f"{where}: {error}") from error
        settings = {name: images_kwargs.get(name, getattr(self.image_processor, name, None)) for name in CROP_SETTINGS}
        size = settings["size"]
        if isinstance(size, int):
            size = {} if self.image_processor.default_to_square else {"shortest_edge": size}
        if settings["do_center_crop"] and not isinstance(size, list | tuple) and "shortest_edge" in dict(size or {}):
            image = cut_to_middle(image)
        # Some image processors make arrays, others PyTorch's tensors.
        return np.asarray(self.image_processor(image, **{**images_kwargs, "return_tensors": None})["pixel_values"][0])


def as_list(values: Any) -> Any:
    """Return any kind of sequence as a list: of NumPy, pandas, Arrow, PyTorch, a column of `datasets`.

    Args:
        values (`Any`): What may be one. A text, bytes, a mapping, or an array of pixels is none.

    Returns:
        `list`, or `values` as they are.
    """
    if isinstance(values, str | bytes | bytearray):
        return values
    if isinstance(values, Sequence):
        return list(values)
    if hasattr(values, "to_pylist"):
        return values.to_pylist()
    if hasattr(values, "as_py"):
        return values.as_py()
    # Two rows of numbers of as many columns may be tags; three dimensions are an image.
    if hasattr(values, "tolist") and 0 < getattr(values, "ndim", 0) < 3:
        return values.tolist()
    return values


def _cover(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Turn the spans that a pre-tokenizer found into words: apart, without white space around, and all of the text."""
    words: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        # A character that is normalised to several is several pieces, all with its span.
        start = max(start, words[-1][1] if words else 0)
        piece = text[start:end]
        start, end = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
        if start < end:
            words.append((start, end))
    covered: list[tuple[int, int]] = []
    for (_, last), (start, end) in zip([(0, 0), *words], [*words, (len(text), len(text))], strict=True):
        for run in re.finditer(r"\S+", text[last:start]):
            first, stop = last + run.start(), last + run.end()
            if covered and covered[-1][1] == first:
                covered[-1] = (covered[-1][0], stop)
            elif stop == start and start < end:
                start = first
            else:
                covered.append((first, stop))
        if start < end:
            covered.append((start, end))
    return covered


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a text encoder.

    Args:
        name (`str`): Hub name or folder.

    Returns:
        `PreTrainedTokenizerBase`: the tokenizer, which keeps the words of a post apart.
    """
    tokenizer = AutoTokenizer.from_pretrained(name)
    if getattr(tokenizer, "add_prefix_space", None) is False:
        # Byte-level tokenizers would otherwise glue the words of a post together.
        tokenizer = AutoTokenizer.from_pretrained(name, add_prefix_space=True)
    if _glues_words(tokenizer):
        # Those without a class of their own, such as ModernBERT's, note that argument and go on as before.
        backend = tokenizer.backend_tokenizer
        before = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([*before, normalizers.Prepend(" ")])
    return tokenizer


def _glues_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether words given one by one become other tokens than the same words parted by spaces."""
    if not tokenizer.is_fast or tokenizer.backend_tokenizer.pre_tokenizer is None:
        return False
    given, written = [STAND_IN, STAND_IN], f"{STAND_IN} {STAND_IN} {STAND_IN}"
    settings = {"add_special_tokens": False, "verbose": False}
    ids = tokenizer(given, is_split_into_words=True, **settings)["input_ids"]
    # What stands first in a text may have no space in front of it.
    return tokenizer(written, **settings)["input_ids"][-len(ids) :] != ids


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that can't serve a processor.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.

    Raises:
        ValueError: if it is a slow one or does not know its special tokens.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"`tokenizer` must be a fast tokenizer, which knows which token belongs to which word, got "
            f"{type(tokenizer).__name__}. Load it with `AutoTokenizer.from_pretrained(...)`."
        )
    around = set(tokenizer("")["input_ids"])
    if tokenizer.pad_token is None or (around and not around & set(tokenizer.all_special_ids)):
        raise ValueError(
            f"`tokenizer` must know its special tokens, padding and those it puts around a post, got "
            f"{tokenizer.special_tokens_map}. Look whether its tokenizer_config.json is missing."
        )
    if _glues_words(tokenizer):
        logger.warning_once(
            "The tokenizer reads the words of a post as if no space were between them. Load it with "
            "`SMCLProcessor.from_text_vision_pretrained`, or with `add_prefix_space=True` where it knows that."
        )


def _first_positions(word_ids: list[int | None]) -> dict[int, int]:
    """Map each word to the position of its first token."""
    positions: dict[int, int] = {}
    for position, word in enumerate(word_ids):
        if word is not None:
            positions.setdefault(word, position)
    return positions


def check_words(posts: list[list[str]]) -> None:
    """Refuse words that no tokenizer takes.

    Args:
        posts (`list[list[str]]`): Words of each post.

    Raises:
        ValueError: if a post is no list, or a word no string of valid unicode; names the post.
    """
    for row, post in enumerate(posts):
        if not isinstance(post, list | tuple):
            raise ValueError(
                f"Post {row} of the batch: expected a list of words, got {type(post).__name__}. Pass an untouched post "
                "as `text`."
            )
        for word in post:
            if not isinstance(word, str):
                raise ValueError(
                    f"Post {row} of the batch: expected words as strings, got {ascii(word)[:80]}. Convert it."
                )
            _check_unicode(word, row)


def _check_unicode(text: str, row: int) -> None:
    """Refuse half a surrogate pair, which stands for no character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(
            f"Post {row} of the batch: {ascii(text[:80])} holds half of a surrogate pair. Expected valid unicode. "
            "Write the character itself, or drop it."
        ) from None


def _check_tags(tags: list[int], row: int) -> list[int]:
    """Return the tag ids of a post as whole numbers; names the post where they are none."""
    try:
        numbers = [operator.index(tag) for tag in tags]
    except TypeError:
        numbers = None
    # A negative index would silently count from the last tag, and tensors hold no larger numbers than 2^63.
    if numbers is None or any(number != -100 and not 0 <= number < 2**63 for number in numbers):
        raise ValueError(
            f"Post {row} of the batch: expected label ids 0, 1, 2, ... (or -100 for words without a label), got "
            f"{tags!r}. Map label names by `config.label2id`."
        )
    return numbers


def split_into_windows(counts: list[int], limit: int) -> list[tuple[int, int, slice]]:
    """Split words into overlapping windows, so that each word is read with words on both sides.

    Args:
        counts (`list[int]`): Number of tokens of each word.
        limit (`int`): Most tokens in a window. A word that has more gets a window in which it comes last, and is cut.

    Returns:
        `list[tuple[int, int, slice]]`: first word and last word + 1 of each window, and within it the words that this
        window answers for; these slices cover each word once, in order.
    """
    windows, first = [], 0
    while not windows or first < len(counts):
        start, room = first, int(limit * OVERLAP)
        while start > 0 and counts[start - 1] <= room:
            start -= 1
            room -= counts[start]
        stop, room = start, limit
        while stop < len(counts) and (counts[stop] <= room or stop <= first):
            room -= counts[stop]
            stop += 1
        # Words at the end are left to the next window, which sees what follows them.
        last, room = stop, int(limit * OVERLAP) if stop < len(counts) else 0
        while last - 1 > first and counts[last - 1] <= room:
            last -= 1
            room -= counts[last]
        windows.append((start, stop, slice(first - start, last - start)))
        first = last
    return windows


__all__ = [
    "SMCLProcessor",
    "SMCLProcessorKwargs",
    "as_list",
    "check_tokenizer",
    "check_words",
    "load_tokenizer",
    "split_into_windows",
]
