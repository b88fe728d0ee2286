"""What the systems that read columns of context share: the processors that turn these into inputs of a model.

The columns are those of `dataset_scripts/context.py`, made by `python -m smcl.dataset_scripts.enrich`.
"""

import shlex
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.utils import logging

from ..dataset_scripts.context import CONTEXT_FEATURES, IMAGE_COLUMNS, check_entry
from ..images_smcl import ImageError
from ..processing_smcl import REFUSED_SETTINGS, STAND_IN, SMCLProcessor, as_list
from .text_only import TextOnlyModel, TextProcessor

logger = logging.get_logger(__name__)

# For each column, the argument of `enrich` that makes it, and what it may be.
MAKERS = {
    "objects": "--objects hustvl/yolos-small",
    "regions": "--regions google/owlv2-base-patch16-ensemble",
    "captions": "--captions Salesforce/blip-image-captioning-base",
    "image_text": "--ocr tesseract",
    "knowledge": "--knowledge Qwen/Qwen2.5-7B-Instruct",
}


# So many ids of posts are named.
SHOWN = 5


def how_to_make(columns: Sequence[str], dataset: str = "DATA") -> str:
    """Return the command that adds columns to a data set.

    Args:
        columns (`Sequence[str]`): Names of the columns.
        dataset (`str`, *optional*, defaults to `"DATA"`): The folder of the data set.

    Returns:
        `str`: the command, with a model for each column to choose or to replace.
    """
    makers = " ".join(MAKERS[column] for column in columns)
    source, output = shlex.quote(dataset), shlex.quote(f"{dataset.rstrip('/')}_context")
    return f"python -m smcl.dataset_scripts.enrich --input {source} --output {output} {makers}"


def check_columns(columns: Sequence[str], posts: DatasetDict | IterableDatasetDict, reader: str, dataset: str) -> None:
    """See before any work that a data set has the context that a system reads.

    Args:
        columns (`Sequence[str]`): The columns it reads.
        posts (`DatasetDict` or `IterableDatasetDict`): The splits that it will read.
        reader (`str`): Its name.
        dataset (`str`): Folder or name of the data set.

    Raises:
        ValueError: if a column is missing, was not computed for all first images, or does not run beside the images;
            says how to make it.
    """
    for split, rows in posts.items():
        check_names(columns, rows.column_names or (), reader, dataset)
        # Of a stream, each post is checked when it is read.
        for column in columns if isinstance(rows, Dataset) else ():
            _check_column(column, rows, f"the column `{column}` of split {split!r} of {dataset}", reader, dataset)


def check_names(columns: Sequence[str], names: Sequence[str], reader: str, dataset: str) -> None:
    """See that a data set has the columns that a system reads, whatever is in them.

    Args:
        columns (`Sequence[str]`): The columns it reads.
        names (`Sequence[str]`): The columns there are.
        reader (`str`): Its name.
        dataset (`str`): Folder or name of the data set.

    Raises:
        ValueError: if one is missing; says how to make it.
    """
    missing = [column for column in columns if column not in names]
    if not missing:
        return
    listed = f"column{'s' * (len(missing) > 1)} {', '.join(f'`{column}`' for column in missing)}"
    if "knowledge" in missing and "captions" not in names:
        # A language model is told the caption.
        missing.append("captions")
    raise ValueError(
        f"The system {reader!r} reads the {listed}, which the data set {dataset} lacks (it has "
        f"{', '.join(sorted(names))}). Make it by `{how_to_make(missing, dataset)}`, with models of your choice, and "
        "pass the new folder."
    )


def _check_column(column: str, posts: Dataset, where: str, reader: str, dataset: str) -> None:
    """Check which entries of a column are there, without reading what is in them."""
    values = _arrow(posts, column)
    if column not in IMAGE_COLUMNS:
        if not pa.types.is_string(values.type) and not pa.types.is_large_string(values.type):
            raise ValueError(f"Expected texts in {where}, got {values.type}.")
        absent = values.is_null().to_pylist()
    else:
        if not pa.types.is_list(values.type) or not pa.types.is_list(values.type.value_type):
            raise ValueError(f"Expected {CONTEXT_FEATURES[column]} in {where}, got {values.type}.")
        lengths = values.value_lengths().fill_null(-1).to_pylist()
        no_entry = values.values.is_null().to_pylist()
        starts = values.offsets.to_pylist()
        absent = [n < 0 or (n > 0 and no_entry[start]) for n, start in zip(lengths, starts, strict=False)]
        if "images" in posts.column_names:
            counts = _arrow(posts, "images").value_lengths().fill_null(0).to_pylist()
            absent = [is_absent and n > 0 for is_absent, n in zip(absent, counts, strict=True)]
            wrong = [row for row, (n, has) in enumerate(zip(counts, lengths, strict=True)) if has >= 0 and n != has]
            if wrong:
                raise ValueError(
                    f"Expected an entry for each image in {where}, but of {len(wrong)} posts ({_ids(posts, wrong)}) it "
                    "has another number. Make the column anew."
                )
    rows = [row for row, is_absent in enumerate(absent) if is_absent]
    if rows:
        raise ValueError(
            f"The system {reader!r} reads {where}, but of {len(rows)} posts ({_ids(posts, rows)}) it was not computed. "
            f"Make it by `{how_to_make([column], dataset)}`, with a model of your choice, and pass the new folder. "
            "What no model can read is taken for an image of nothing with `--on_failed empty`."
        )


def _arrow(posts: Dataset, column: str) -> pa.Array:
    values = posts.select_columns(column).with_format("arrow")[:][column]
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _ids(posts: Dataset, rows: list[int]) -> str:
    names = [str(name) for name in posts.select(rows[:SHOWN])["id"]]
    return f"ids {', '.join(names)}{', ...' * (len(rows) > SHOWN)}"


def empty_context(posts: Dataset | IterableDataset, columns: Sequence[str] = ()) -> Dataset | IterableDataset:
    """Take away all that was made of the images of posts, as if nothing had been found.

    Args:
        posts (`Dataset` or `IterableDataset`): Posts, with or without columns of context.
        columns (`Sequence[str]`, *optional*): Columns to make where there are none.

    Returns:
        As `posts`: the same, with `[]` and `""` in these columns. They have no images.
    """
    there = CONTEXT_FEATURES.keys() & set(posts.column_names)
    posts = posts.remove_columns(sorted(there))
    if isinstance(posts, IterableDataset):
        nothing = {column: [] if column in IMAGE_COLUMNS else "" for column in sorted(there | {*columns})}
        features = Features({**posts.features, **{column: CONTEXT_FEATURES[column] for column in nothing}})
        return posts.map(lambda post: post | nothing, features=features)
    for column in sorted(there | {*columns}):
        nothing = [] if column in IMAGE_COLUMNS else ""
        posts = posts.add_column(column, [nothing] * len(posts), feature=CONTEXT_FEATURES[column])
    return posts


class ContextProcessor(SMCLProcessor):
    """A processor that also reads columns about the images of a post, or about the post: its context.

    Subclasses name the columns and override the hooks `context_tensors` and `views`, or `context_text`. These get, by
    column, what it says of the post's first image, or of the post. A post without images has nothing there: `[]`.
    """

    # Its code does not travel with a saved folder.
    _auto_class = None
    context_columns: tuple[str, ...] = ()

    def context_tensors(self, contexts: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return further tensors, whose shapes depend on nothing but the number of posts; by default none.

        Args:
            contexts (`list[dict]`): What the columns say of each post.

        Returns:
            `dict[str, torch.Tensor]`: tensors of shape `(batch_size, ...)`.
        """
        return {}

    def views(self, images: list[Any], context: dict[str, Any] | None = None) -> list[Any]:
        """Return what takes the places of a post's images; by default these.

        Args:
            images (`list`): At least one image, of any kind that a call takes.
            context (`dict`): What the columns say.

        Returns:
            `list`: images, at most `max_images`.

        Raises:
            ImageError: if an image can't be read.
        """
        return images

    def __call__(
        self,
        words: list[list[str]] | None = None,
        images: list[list[Any]] | None = None,
        labels: list[list[int]] | None = None,
        text: list[str] | None = None,
        context: dict[str, list] | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Process a batch of posts; see [`SMCLProcessor.__call__`].

        Args:
            words, images, labels, text: As there.
            context (`dict[str, list]`): For each of `context_columns` what it says of each post; of a single post given
                without the outer list, what it says of that.
            **kwargs: As there.

        Returns:
            [`BatchFeature`]: as there, and what the hooks add. With appended words, `context_mask (batch_size,
            num_tokens)`, `True` at the tokens that do not belong to the post.

        Raises:
            TypeError: if there is no such keyword argument.
            ValueError: if the arguments do not fit together or a column is missing; names the post.
        """
        words, images, labels, text, is_single = self._as_batch(words, images, labels, text)
        if is_single and context:
            context = {column: [value] for column, value in context.items()}
        contexts = self.read_contexts(context, images, len(words or text or []))
        text_kwargs, images_kwargs = self._split_kwargs(dict(kwargs))
        if images is not None:
            posts = self.limit_images(images, images_kwargs.get("on_extra_images", "error"))
            images = [self._views(post, contexts[row], row) for row, post in enumerate(posts)]
        batch = super().__call__(words, images, labels, text, **kwargs)
        offsets = batch.pop("word_offsets", None)
        data = {name: torch.as_tensor(x) for name, x in batch.items()}
        data = self._append(data, contexts, text_kwargs) | self.context_tensors(contexts)
        if text_kwargs["return_tensors"] == "np":
            data = {name: x.numpy() for name, x in data.items()}
        return BatchFeature(data if offsets is None else data | {"word_offsets": offsets})

    def _views(self, images: list[Any], context: dict[str, Any], row: int) -> list[Any]:
        try:
            return self.views(images, context) if images else []
        except ImageError as error:
            raise ValueError(f"Post {row} of the batch, image 0: {error}") from error

    def read_contexts(
        self, context: dict[str, list] | None, images: list[list[Any] | None] | None, num_posts: int
    ) -> list[dict[str, Any]]:
        """Check the context of posts, and take out what is said of their first images.

        Args:
            context (`dict[str, list]`): For each column what it says of each post.
            images (`list[list]`, *optional*): Images of each post, of any kind; only their number counts.
            num_posts (`int`): How many posts there are.

        Returns:
            `list[dict]`: for each post, by column what the hooks get.

        Raises:
            ValueError: if a column is missing, was not computed, or does not fit; names the post.
        """
        context = context or {}
        missing = [column for column in self.context_columns if context.get(column) is None]
        unknown = context.keys() - set(self.context_columns)
        if missing or unknown:
            raise ValueError(
                f"`context` must have the columns {list(self.context_columns)}, which {type(self).__name__} reads, got "
                f"{sorted(name for name, column in context.items() if column is not None)}. Make missing ones by "
                f"`{how_to_make(missing or list(self.context_columns))}`."
            )
        if wrong := {column: len(values) for column, values in context.items() if len(values) != num_posts}:
            raise ValueError(f"Expected `context` for {num_posts} posts, got {wrong}.")
        counts = [None] * num_posts
        if images is not None and len(images) == num_posts:
            counts = [len(post) if isinstance(post, list) else int(post is not None) for post in map(as_list, images)]
        return [
            {column: _read(column, values[row], counts[row], row) for column, values in context.items()}
            for row in range(num_posts)
        ]

    def _append(
        self, data: dict[str, torch.Tensor], contexts: list[dict[str, Any]], settings: dict[str, Any]
    ) -> dict[str, torch.Tensor]:
        """Append words to posts, by default none; see [`AppendingProcessor`]."""
        return data

    def post_views(self, post: dict[str, Any], on_extra_images: str = "error") -> list[Any]:
        """Return what takes the places of a post's images; see [`SMCLProcessor.post_views`]."""
        images = self.limit_images([post.get("images")], on_extra_images)[0]
        context = {column: [post.get(column)] for column in self.context_columns}
        return self.views(images, self.read_contexts(context, [post.get("images")], 1)[0]) if images else []

    def count_context(self, contexts: list[dict[str, Any]]) -> list[int]:
        """Count the tokens that are appended to posts, if these leave room for all, by default none.

        Args:
            contexts (`list[dict]`): What the columns say of each post, as `read_contexts` returns it.

        Returns:
            `list[int]`.
        """
        return [0] * len(contexts)

    def is_computed(self, post: dict[str, Any]) -> bool:
        """Tell whether nothing of a post's columns of context is missing.

        Args:
            post (`dict`): A post with the columns.
        """
        values = [post.get(column) for column in self.context_columns]
        return all(value is not None and not (isinstance(value, list) and None in value) for value in values)

    def with_image(self, post: dict[str, Any], index: int | None) -> dict[str, Any]:
        """Return a post as it would be with one of its images alone, or with none.

        Args:
            post (`dict`): A post with `images` and the columns of context.
            index (`int`, *optional*): Which image.

        Returns:
            `dict`: the post with at most one image, and what the columns say of that. What is said of a post is about
            its first image: without that, it is empty.

        Raises:
            ValueError: if a column does not have an entry for each image.
        """
        images = post.get("images")
        images = list(images) if isinstance(images, list | tuple) else [] if images is None else [images]
        kept = slice(0, 0) if index is None else slice(index, index + 1)
        context = {column: post.get(column) for column in self.context_columns}
        for column, value in context.items():
            if column in IMAGE_COLUMNS and isinstance(value, list | tuple):
                _check_entries(column, value, len(images), 0)
                context[column] = list(value)[kept]
            elif column in IMAGE_COLUMNS and not images[kept]:
                context[column] = []
            elif column in IMAGE_COLUMNS:
                context[column] = value
            elif index != 0:
                context[column] = ""
        return {**post, "images": images[kept], **context}


def _read(column: str, value: Any, num_images: int | None, row: int) -> Any:
    """Check what a column says of a post; return what it says of the first image, or of the post."""
    where = f"Post {row} of the batch, `{column}`"
    not_computed = f"{where}: not computed. Make it by `{how_to_make([column])}`."
    if column not in IMAGE_COLUMNS:
        if value is None:
            raise ValueError(not_computed)
        if not isinstance(value, str):
            raise ValueError(f"{where}: expected a text, got {type(value).__name__}.")
        return value
    if value is None and num_images != 0:
        raise ValueError(not_computed)
    entries = [] if value is None else value
    _check_entries(column, entries, num_images, row)
    if not entries:
        return []
    if entries[0] is None:
        raise ValueError(not_computed)
    check_entry(column, entries[0], where)
    return entries[0]


def _check_entries(column: str, entries: Any, num_images: int | None, row: int) -> None:
    """Refuse a column that does not run beside the images; their number may be unknown."""
    if not isinstance(entries, list | tuple) or num_images not in (None, len(entries)):
        came = len(entries) if isinstance(entries, list | tuple) else type(entries).__name__
        raise ValueError(
            f"Post {row} of the batch, `{column}`: expected an entry for each of {num_images} images, got {came}."
        )


class ContextTextProcessor(ContextProcessor, TextProcessor):
    """A processor of words and context, which leaves images unread.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.

    Raises:
        ValueError: if the tokenizer is a slow one or does not know its special tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, **kwargs):
        TextProcessor.__init__(self, tokenizer, **kwargs)


class AppendingProcessor(ContextTextProcessor):
    """A processor that appends words to those of a post, in the tokenizer's own form of a pair of texts.

    No word of a post is cut off for it: the context is cut to what a post leaves of `max_length`. As it stands behind
    the post, the post's tokens have the places that they have alone.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        max_context_tokens (`int`, *optional*, defaults to 128): Most tokens to append, separators among them.

    Raises:
        ValueError: if the tokenizer is a slow one or does not know its special tokens, or `max_context_tokens` is
            negative.
    """

    # Words are appended to the tokens of a post, of whose length these tensors would stay.
    refused_settings = REFUSED_SETTINGS | {
        "return_attention_mask",
        "return_length",
        "return_offsets_mapping",
        "return_special_tokens_mask",
    }

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_context_tokens: int = 128, **kwargs):
        super().__init__(tokenizer, **kwargs)
        if max_context_tokens < 0:
            raise ValueError(f"`max_context_tokens` must not be negative, got {max_context_tokens}.")
        self.max_context_tokens = max_context_tokens

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call may return, but for `labels`."""
        return [*super().model_input_names, "context_mask"]

    def context_text(self, context: dict[str, Any]) -> list[str]:
        """Return the words to append to a post.

        Args:
            context (`dict`): What the columns say.

        Returns:
            `list[str]`.
        """
        raise NotImplementedError

    def _append(
        self, data: dict[str, torch.Tensor], contexts: list[dict[str, Any]], settings: dict[str, Any]
    ) -> dict[str, torch.Tensor]:
        real = data["attention_mask"].bool()
        limit = settings.get("max_length") or self.tokenizer.model_max_length
        rooms = [min(self.max_context_tokens, limit - length) for length in real.sum(dim=1).tolist()]
        tails = self._tails([self.context_text(context) for context in contexts], rooms)
        fills = {"input_ids": self.tokenizer.pad_token_id, "token_type_ids": self.tokenizer.pad_token_type_id}
        fills |= {"attention_mask": 0, "word_mask": 0, "labels": -100, "context_mask": 0}
        data["context_mask"] = torch.zeros_like(real)
        width = data["input_ids"].shape[1] if settings.get("padding") == "max_length" else 0
        width = max(width, *(int(mask.sum()) + len(tail["input_ids"]) for mask, tail in zip(real, tails, strict=True)))
        step = settings.get("pad_to_multiple_of") or 1
        width += -width % step
        for name in fills.keys() & data.keys():
            rows = []
            for x, mask, tail in zip(data[name], real, tails, strict=True):
                more = tail.get(name, [fills[name]] * len(tail["input_ids"]))
                rows.append(torch.cat([x[mask], x.new_tensor(more)]))
            # A row of full width, so that padding reaches it.
            rows.append(data[name].new_zeros(width))
            data[name] = pad_sequence(rows, True, fills[name])[:-1]
        return data

    def count_context(self, contexts: list[dict[str, Any]]) -> list[int]:
        """Count the tokens to append; see [`ContextProcessor.count_context`]."""
        tails = self._tails(
            [self.context_text(context) for context in contexts], [self.max_context_tokens] * len(contexts)
        )
        return [len(tail["input_ids"]) for tail in tails]

    def _tails(self, texts: list[list[str]], rooms: list[int]) -> list[dict[str, list[int]]]:
        """Return, of each post, what follows its own tokens: `input_ids` and the tokenizer's other values.

        Args:
            texts (`list[list[str]]`): Words to append to each post.
            rooms (`list[int]`): How many tokens there is room for.
        """
        settings = {"is_split_into_words": True, "split_special_tokens": True, "verbose": False}
        # Any first text will do: what follows does not depend on it.
        num_own = len(self.tokenizer([STAND_IN], **settings)["input_ids"])
        asked = [row for row, words in enumerate(texts) if words]
        tails = [{"input_ids": [], "attention_mask": []} for _ in texts]
        if not asked:
            return tails
        pairs = self.tokenizer([[STAND_IN]] * len(asked), [texts[row] for row in asked], **settings)
        self._replace_special_tokens(pairs)
        num_cut = 0
        for index, row in enumerate(asked):
            of_context = [i for i, part in enumerate(pairs.sequence_ids(index)) if part == 1]
            num_surplus = max(0, len(pairs["input_ids"][index]) - num_own - rooms[row])
            num_cut += num_surplus > 0
            if num_surplus >= len(of_context):
                continue
            dropped = set(of_context[len(of_context) - num_surplus :])
            tails[row] = {
                name: [x for i, x in enumerate(values[index]) if i >= num_own and i not in dropped]
                for name, values in pairs.items()
            }
            tails[row]["context_mask"] = [1] * len(tails[row]["input_ids"])
        if num_cut:
            logger.warning_once(
                f"Context is cut at its end where it has more than `max_context_tokens` = {self.max_context_tokens} "
                "tokens, or more than its post leaves room for. This is said once."
            )
        return tails


class ContextTextModel(TextOnlyModel):
    """A text encoder that reads a post and what an [`AppendingProcessor`] appends to it, without a head.

    Args:
        config ([`TextOnlyConfig`]): The configuration.
    """

    context_inputs = ("context_mask",)

    def fuse(
        self, text_states: torch.Tensor, text_mask: torch.Tensor, context_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the text as it is: the encoder has read both; see [`TextOnlyModel.fuse`]."""
        return text_states


__all__ = [
    "AppendingProcessor",
    "ContextProcessor",
    "ContextTextModel",
    "ContextTextProcessor",
    "check_columns",
    "check_names",
    "empty_context",
    "how_to_make",
]
