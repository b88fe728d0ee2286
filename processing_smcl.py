"""Processor of SMCL: words and images of posts to padded tensors."""

from typing import Any

import torch
from transformers import AutoImageProcessor, AutoTokenizer, BatchEncoding, BatchFeature, ProcessorMixin
from transformers.image_utils import load_image
from transformers.utils import logging

logger = logging.get_logger(__name__)


class SMCLProcessor(ProcessorMixin):
    r"""Turn posts, words and up to `max_images` images each, into the inputs of an SMCL model.

    Args:
        image_processor (`BaseImageProcessor`): Resizes and normalises images.
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer: word borders are asked of it.
        max_images (`int`, *optional*, defaults to 4): Largest number of images of a post.

    Raises:
        ValueError: if the tokenizer is a slow one.

    Example:
    ```python
    >>> inputs = processor(words=[["Joey", "and", "Niko", "rest"]], images=[[photo]])
    >>> sorted(inputs)
    ['attention_mask', 'image_mask', 'input_ids', 'pixel_values', 'token_type_ids', 'word_mask']
    ```
    """

    def __init__(self, image_processor, tokenizer, max_images: int = 4, **kwargs):
        super().__init__(image_processor, tokenizer, **kwargs)
        if not tokenizer.is_fast:
            raise ValueError(
                f"`tokenizer` must be a fast tokenizer, which knows which token belongs to which word, got "
                f"{type(tokenizer).__name__}. Load it with `AutoTokenizer.from_pretrained(...)`."
            )
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
        tokenizer = AutoTokenizer.from_pretrained(text_model_name_or_path)
        if getattr(tokenizer, "add_prefix_space", None) is False:
            # Byte-level tokenizers would otherwise glue the words of a post together.
            tokenizer = AutoTokenizer.from_pretrained(text_model_name_or_path, add_prefix_space=True)
        return cls(AutoImageProcessor.from_pretrained(vision_model_name_or_path), tokenizer, max_images)

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
        max_length: int | None = None,
        padding: bool | str = True,
        on_extra_images: str = "error",
        return_word_offsets: bool = False,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Process a batch of posts; a single post may be given without the outer list.

        Args:
            words (`list[list[str]]`, *optional*): Words of each post.
            images (`list[list]`, *optional*): PIL images of any mode, paths or URLs, 0 or more of each post in order.
            labels (`list[list[int]]`, *optional*): Tag id of each word.
            text (`list[str]`, *optional*): Raw posts in place of `words`; see [`~SMCLProcessor.split_words`].
            max_length (`int`, *optional*): Most tokens of a post, by default the tokenizer's. A warning counts the
                words cut off.
            padding (`bool` or `str`, *optional*, defaults to `True`): As in a tokenizer.
            on_extra_images (`str`, *optional*, defaults to `"error"`): See [`~SMCLProcessor.limit_images`].
            return_word_offsets (`bool`, *optional*, defaults to `False`): With `text`, add `word_offsets`: the
                `(start, end)` characters of each word of each post.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"` or `"np"`.

        Returns:
            [`BatchFeature`]: of shape `(batch_size, num_tokens)`, `input_ids`, `attention_mask`, the tokenizer's other
            tensors, `word_mask`, `True` at each word's first token, and with labels `labels`, -100 off word starts.
            If any post has an image, `pixel_values (batch_size, num_images, 3, height, width)`, zeros where padded,
            and `image_mask (batch_size, num_images)`, with the largest number of images in this batch.

        Raises:
            ValueError: if the arguments do not fit together; names the post.
        """
        if (words is None) == (text is None):
            raise ValueError("Expected exactly one of `words` and `text`.")
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"`return_tensors` must be 'pt' or 'np', got {return_tensors!r}.")
        if isinstance(text, str) or (words and isinstance(words[0], str)):
            words, text, images, labels = (None if x is None else [x] for x in (words, text, images, labels))
        word_offsets = None
        if text is not None:
            splits = [self.split_words(post) for post in text]
            words, word_offsets = [split[0] for split in splits], [split[1] for split in splits]
        if not words:
            raise ValueError("Expected at least one post, got an empty batch.")
        encoding, positions = self._tokenize(words, max_length, padding)
        data = {name: torch.tensor(values) for name, values in encoding.items()}
        data["word_mask"] = torch.zeros_like(data["input_ids"], dtype=torch.bool)
        for row, starts in enumerate(positions):
            data["word_mask"][row, list(starts.values())] = True
        if labels is not None:
            data["labels"] = self._align_labels(words, labels, positions, data["input_ids"].shape)
        data.update(self._process_images(images, len(words), on_extra_images))
        if return_tensors == "np":
            data = {name: tensor.numpy() for name, tensor in data.items()}
        if return_word_offsets:
            data["word_offsets"] = word_offsets
        return BatchFeature(data)

    def split_words(self, text: str) -> tuple[list[str], list[tuple[int, int]]]:
        """Split a raw post into words by the tokenizer's own pre-tokenizer.

        Args:
            text (`str`): A post.

        Returns:
            The words and their `(start, end)` character offsets, so that `text[start:end]` is the word.

        Raises:
            ValueError: if the tokenizer has no pre-tokenizer.
        """
        pre_tokenizer = self.tokenizer.backend_tokenizer.pre_tokenizer
        if pre_tokenizer is None:
            raise ValueError("This tokenizer has no pre-tokenizer to split `text`: pass `words` instead.")
        offsets = []
        for _, (start, end) in pre_tokenizer.pre_tokenize_str(text):
            piece = text[start:end]
            start += len(piece) - len(piece.lstrip())
            end -= len(piece) - len(piece.rstrip())
            if start < end:
                offsets.append((start, end))
        return [text[start:end] for start, end in offsets], offsets

    def limit_images(self, images: list[list[Any] | None], on_extra_images: str = "error") -> list[list[Any]]:
        """See to it that no post has more than `max_images` images.

        Args:
            images (`list[list]`): Images of each post, of any kind; `None` for none.
            on_extra_images (`str`, *optional*, defaults to `"error"`): `"error"`, or `"first"` to keep the first ones.

        Returns:
            `list[list]`: images of each post, at most `max_images`.

        Raises:
            ValueError: if a post has more and `on_extra_images` is `"error"`; names the post.
        """
        if on_extra_images not in ("error", "first"):
            raise ValueError(f"`on_extra_images` must be 'error' or 'first', got {on_extra_images!r}.")
        posts = [list(post or []) for post in images]
        for row, post in enumerate(posts):
            if len(post) > self.max_images and on_extra_images == "error":
                raise ValueError(
                    f"Post {row} of the batch has {len(post)} images, but `max_images` is {self.max_images}: drop "
                    "some, or pass `on_extra_images='first'` to keep the first ones."
                )
        return [post[: self.max_images] for post in posts]

    def _tokenize(
        self, words: list[list[str]], max_length: int | None, padding: bool | str
    ) -> tuple[BatchEncoding, list[dict[int, int]]]:
        """Tokenize; return the encoding and, for each post, the position of each word's first token."""
        if max_length is None and self.tokenizer.model_max_length < 1_000_000:
            max_length = self.tokenizer.model_max_length

        def encode(batch: list[list[str]]) -> tuple[BatchEncoding, list[dict[int, int]]]:
            encoding = self.tokenizer(
                batch,
                is_split_into_words=True,
                truncation=max_length is not None,
                max_length=max_length,
                padding=padding,
            )
            return encoding, [_first_positions(encoding.word_ids(row)) for row in range(len(batch))]

        encoding, positions = encode(words)
        short = [row for row, post in enumerate(words) if len(positions[row]) < len(post)]
        if not short:
            return encoding, positions
        words = [self._fill_empty_words(post) if row in short else post for row, post in enumerate(words)]
        encoding, positions = encode(words)
        cut = sum(len(post) - len(starts) for post, starts in zip(words, positions, strict=True))
        if cut:
            logger.warning(
                f"{cut} words of {len(short)} posts lie beyond `max_length` = {max_length} tokens and were cut off."
            )
        return encoding, positions

    def _fill_empty_words(self, words: list[str]) -> list[str]:
        """Put the unknown token for words that the tokenizer gives no token, such as zero-width characters."""
        encoding = self.tokenizer(words, is_split_into_words=True, add_special_tokens=False, verbose=False)
        present = set(encoding.word_ids())
        if len(present) < len(words) and self.tokenizer.unk_token is None:
            raise ValueError(
                f"The tokenizer gives no token for {[w for i, w in enumerate(words) if i not in present]} and has no "
                "unknown token to stand in: set `tokenizer.unk_token`."
            )
        return [word if i in present else self.tokenizer.unk_token for i, word in enumerate(words)]

    def _align_labels(
        self, words: list[list[str]], labels: list[list[int]], positions: list[dict[int, int]], shape: torch.Size
    ) -> torch.Tensor:
        """Put each word's tag at its first token."""
        if len(labels) != len(words):
            raise ValueError(f"Expected `labels` for {len(words)} posts, got {len(labels)}.")
        aligned = torch.full(shape, -100)
        for row, (tags, starts) in enumerate(zip(labels, positions, strict=True)):
            if len(tags) != len(words[row]):
                raise ValueError(
                    f"Post {row} of the batch has {len(words[row])} words but {len(tags)} labels: expected one label "
                    f"for each word of {words[row]}."
                )
            aligned[row, list(starts.values())] = torch.tensor([tags[word] for word in starts], dtype=torch.long)
        return aligned

    def _process_images(
        self, images: list[list[Any] | None] | None, num_posts: int, on_extra_images: str
    ) -> dict[str, torch.Tensor]:
        """Return `pixel_values` and `image_mask` of posts, or nothing where no post has an image."""
        posts = self.limit_images(images or [], on_extra_images)
        if images is None:
            return {}
        if len(posts) != num_posts:
            raise ValueError(f"Expected a list of images for each of {num_posts} posts, got {len(posts)} lists.")
        flat = [load_image(image) for post in posts for image in post]
        if not flat:
            return {}
        pixels = self.image_processor(flat, return_tensors="pt")["pixel_values"]
        image_mask = torch.tensor([[slot < len(post) for slot in range(max(map(len, posts)))] for post in posts])
        pixel_values = pixels.new_zeros(*image_mask.shape, *pixels.shape[1:])
        pixel_values[image_mask] = pixels
        return {"pixel_values": pixel_values, "image_mask": image_mask}


def _first_positions(word_ids: list[int | None]) -> dict[int, int]:
    """Map each word to the position of its first token."""
    positions: dict[int, int] = {}
    for position, word in enumerate(word_ids):
        if word is not None:
            positions.setdefault(word, position)
    return positions


__all__ = ["SMCLProcessor"]
