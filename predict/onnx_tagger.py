"""Run an exported SMCL model: ONNX Runtime for the emissions, NumPy for the CRF; needs neither torch nor this package.

`export_onnx` puts a copy of this file beside the model, so that the folder can be used by itself. The processor that
lies there needs transformers, but no torch either.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file

if TYPE_CHECKING:
    import onnxruntime

# As of the pipeline, which this file does not import: columns that hold images under another name.
IMAGE_NAME = re.compile(
    "(.*_)?(images?|imgs?|pics?|pictures?|photos?)_?(paths?|files?|names?|urls?|bytes|list)?", re.IGNORECASE
)
IMAGE_TYPES = (str, bytes, dict, list, tuple)


class OnnxTagger:
    """Tag posts by a model that `export_onnx` wrote.

    Args:
        folder (`str` or `Path`): The folder of the export.
        session_options (`onnxruntime.SessionOptions`, *optional*): Such as `intra_op_num_threads`; by default, ONNX
            Runtime takes all cores.
        providers (`list`, *optional*): ONNX Runtime's execution providers, by default the CPU's only.
        processor (`SMCLProcessor`, *optional*): The processor in the folder, for raw texts and photographs.

    Raises:
        FileNotFoundError: if `folder` is no export.
        ImportError: if onnxruntime is missing.

    Example:
    ```python
    >>> processor = AutoProcessor.from_pretrained("exported", trust_remote_code=True)
    >>> tagger = OnnxTagger("exported", processor=processor)
    >>> tagger({"text": "i will never forget Verona", "images": ["building.png"]})
    [{'entity_group': 'LOC', 'word': 'Verona', 'start': 20, 'end': 26, 'score': 0.998, 'words': (4, 4)}]
    ```
    """

    def __init__(
        self,
        folder: str | Path,
        session_options: "onnxruntime.SessionOptions | None" = None,
        providers: list[Any] | None = None,
        processor: Any = None,
    ):
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError('`OnnxTagger` needs onnxruntime: run `pip install "smcl[onnx]"`.') from error
        folder = Path(folder)
        missing = [name for name in ("model.onnx", "crf.safetensors", "config.json") if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}: expected a folder that `export_onnx` wrote.")
        self.processor = processor
        config = json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
        self.labels = [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
        self.max_images = config["max_images"]
        self.max_tokens = config["max_tokens"]
        self.vocab_size = config["text_config"]["vocab_size"]
        self.temperature = config["temperature"]
        self.quantized = config["quantized"]
        crf = load_file(folder / "crf.safetensors")
        self.starts, self.transitions, self.ends = (
            crf[name].astype(np.float32) for name in ("start_transitions", "transitions", "end_transitions")
        )
        if config["constrain_bio"]:
            self._forbid_illegal_transitions()
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), session_options, providers=providers or ["CPUExecutionProvider"]
        )
        # Channels, height and width.
        self.pixels_shape = tuple({x.name: x.shape for x in self.session.get_inputs()}["pixel_values"][2:])

    def _forbid_illegal_transitions(self) -> None:
        """Give -inf to what BIO2 does not allow: `I-X` anywhere but after `B-X` or `I-X`."""
        for tag, label in enumerate(self.labels):
            if label.startswith("I-"):
                self.starts[tag] = -np.inf
                allowed = [other in (f"B-{label[2:]}", label) for other in self.labels]
                self.transitions[np.logical_not(allowed), tag] = -np.inf

    def __call__(self, posts: dict[str, Any] | str | Iterable[dict[str, Any] | str]) -> list:
        """Find the entities of posts, one by one; of the same posts, the pipeline of the model finds the same.

        Args:
            posts (`dict`, `str`, or an iterable of these): Posts `{"text": ..., "images": [...]}`. The text is a string
                or a list of words, which may stand as `tokens`, however long; images are paths, URLs, PIL images or the
                bytes of image files, in post order, and one alone may stand as `image`. A string is a post without
                images.

        Returns:
            `list[dict]`: the entities of a post, each with `entity_group`, `word`, `start`, `end` (characters of the
            text, of words joined by spaces), `score` (its probability under the CRF) and `words` (first and last). For
            several posts, a list of these.

        Raises:
            ValueError: if there is no processor, or a post can't be used; names it.
        """
        if self.processor is None:
            raise ValueError(
                "Tagging posts takes a processor: `OnnxTagger(folder, processor=AutoProcessor.from_pretrained(folder, "
                "trust_remote_code=True))`. Without one, give tensors to `logits`."
            )
        posts = _row_to_dict(posts)
        if not isinstance(posts, Iterable) and hasattr(posts, "__getitem__") and hasattr(posts, "__len__"):
            # A data set of PyTorch; so is `KeyDataset` of transformers.
            posts = map(posts.__getitem__, range(len(posts)))
        is_table = hasattr(posts, "to_dict") and hasattr(posts, "columns")
        if is_table or isinstance(posts, bytes | bytearray) or not isinstance(posts, Iterable):
            fix = " Give its rows, by `.to_dict('records')`." if is_table else ""
            raise ValueError(f"Expected a post, or an iterable of posts, got {type(posts).__name__}.{fix}")
        return self._tag(posts) if isinstance(posts, Mapping | str) else [self._tag(post) for post in posts]

    def _tag(self, post: dict[str, Any] | str) -> list[dict[str, Any]]:
        """Find the entities of one post, in windows if it is long."""
        post = _to_post(post)
        try:
            text, words, offsets = self.processor.read_text(post["text"])
            images = self.processor.limit_images([post.get("images")])
            emissions = [np.zeros((0, len(self.labels)), np.float32)]
            for start, stop, core in self.processor.split_long(words, max_length=self.max_tokens):
                window = [words[start:stop]]
                inputs = self.processor(words=window, images=images, max_length=None, return_tensors="np")
                emissions.append(self.logits(**inputs)[inputs["word_mask"]][core])
        except ValueError as error:
            text = ascii(post["text"])[:60]
            raise ValueError(str(error).replace("Post 0 of the batch", f"The post {text}")) from error
        emissions = np.concatenate(emissions)
        entities = self.entities(emissions[None], np.ones((1, len(words)), bool))[0]
        for entity in entities:
            start, end = (offsets[word][side] for side, word in enumerate(entity["words"]))
            entity |= {"word": text[start:end], "start": start, "end": end}
        order = ("entity_group", "word", "start", "end", "score", "words")
        return [{name: entity[name] for name in order} for entity in entities]

    def logits(
        self,
        input_ids: Any,
        attention_mask: Any | None = None,
        pixel_values: Any | None = None,
        image_mask: Any | None = None,
        token_type_ids: Any | None = None,
        word_mask: Any | None = None,
    ) -> np.ndarray:
        """Score the tags of every token; takes what the processor returns with `return_tensors="np"`.

        Anything array-like is taken: arrays of other kinds of numbers, lists, tuples, PyTorch's tensors.

        An int8 graph scales numbers by the largest of all that it is given, so posts pass through it one by one,
        without padding: what is said of a post must not depend on its neighbours.

        Args:
            input_ids, attention_mask (array-like of shape `(batch_size, num_tokens)`): Token ids, and 1 at real ones,
                by default all.
            pixel_values (array-like of shape `(batch_size, num_images, 3, height, width)`, *optional*): Normalised
                images in post order; padding slots may hold anything.
            image_mask (array-like of shape `(batch_size, num_images)`, *optional*): `True` marks a real image; by
                default all are.
            token_type_ids (array-like of shape `(batch_size, num_tokens)`, *optional*): Not used: a post is one text.
            word_mask (array-like of shape `(batch_size, num_tokens)`, *optional*): Not used here, but by `decode`.

        Returns:
            `np.ndarray` of shape `(batch_size, num_tokens, num_labels)`, float32: emission scores of the CRF, which
            mean nothing at padded tokens.

        Raises:
            ValueError: if there are too many tokens or images, an argument can't be used or does not fit the others, or
                images have another size than at the export.
        """
        input_ids = _to_array("input_ids", input_ids, np.int64, (None, None))
        num_posts, num_tokens = input_ids.shape
        self._check_tokens(input_ids)
        if token_type_ids is not None and np.any(
            _to_array("token_type_ids", token_type_ids, np.int64, (num_posts, num_tokens))
        ):
            raise ValueError("`token_type_ids` must be 0: a post is one text.")
        if attention_mask is None:
            attention_mask = np.ones_like(input_ids)
        attention_mask = _to_array("attention_mask", attention_mask, np.bool_, (num_posts, num_tokens))
        if pixel_values is not None:
            pixel_values = _to_array("pixel_values", pixel_values, np.float32, (num_posts, None, None, None, None))
        if pixel_values is None or pixel_values.shape[1] == 0:
            # The graph wants a slot; an empty one changes nothing.
            pixel_values = np.zeros((num_posts, 1, *self.pixels_shape), np.float32)
            image_mask = np.zeros((num_posts, 1), bool)
        if image_mask is None:
            image_mask = np.ones(pixel_values.shape[:2], bool)
        if pixel_values.shape[1] > self.max_images or pixel_values.shape[2:] != self.pixels_shape:
            raise ValueError(
                f"`pixel_values` must have the shape (batch_size, at most {self.max_images}, "
                f"{', '.join(map(str, self.pixels_shape))}), got {pixel_values.shape}. Use the processor that was "
                "exported, or export with another."
            )
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask.astype(np.int64),
            "pixel_values": pixel_values,
            "image_mask": _to_array("image_mask", image_mask, np.bool_, pixel_values.shape[:2]),
        }
        return self._run_one_by_one(inputs) if self.quantized else self.session.run(["logits"], inputs)[0]

    def _check_tokens(self, input_ids: np.ndarray) -> None:
        """Refuse more tokens than the text encoder has positions for, and ids that it has no embedding for."""
        if not input_ids.size:
            raise ValueError(f"`input_ids` must hold at least one post and one token, got the shape {input_ids.shape}.")
        if self.max_tokens is not None and input_ids.shape[1] > self.max_tokens:
            raise ValueError(
                f"Posts have {input_ids.shape[1]} tokens, but the text encoder has positions for {self.max_tokens}. "
                f"Pass `max_length={self.max_tokens}` to the processor, or tag the parts of long posts one by one."
            )
        if not 0 <= input_ids.min() <= input_ids.max() < self.vocab_size:
            raise ValueError(
                f"`input_ids` must be from 0 to {self.vocab_size - 1}, got {input_ids.min()} to {input_ids.max()}. Use "
                "the processor that was exported."
            )

    def _run_one_by_one(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Run the graph on each post alone, cut to its own tokens and images; 0 at padded tokens."""
        logits = np.zeros((*inputs["input_ids"].shape, len(self.labels)), np.float32)
        for row, tokens in enumerate(inputs["attention_mask"].astype(bool)):
            images = inputs["image_mask"][row].copy()
            # The graph wants a slot.
            images[:1] |= not images.any()
            kept = {"input_ids": tokens, "attention_mask": tokens, "pixel_values": images, "image_mask": images}
            post = {name: array[row][kept[name]][None] for name, array in inputs.items()}
            logits[row, tokens] = self.session.run(["logits"], post)[0][0]
        return logits

    def decode(self, logits: Any, word_mask: Any) -> np.ndarray:
        """Find the best tag sequence of each post (Viterbi over words), as `SMCLForTokenClassification.decode` does.

        Args:
            logits (array-like of shape `(batch_size, num_tokens, num_labels)`): Emission scores.
            word_mask (array-like of shape `(batch_size, num_tokens)`): `True` at each word's first token.

        Returns:
            `np.ndarray` of shape `(batch_size, num_tokens)`: tag ids at word starts, -100 elsewhere.

        Raises:
            ValueError: if `logits` are not finite or the arguments do not fit together.
        """
        logits, word_mask = self._to_scores(logits, word_mask)
        words, mask, positions = _gather_words(logits, word_mask)
        tags = np.full(word_mask.shape, -100, np.int64)
        if words.shape[1] == 0:
            return tags
        # shape: (batch_size, num_labels)
        score = self.starts + words[:, 0]
        history = []
        for step in range(1, words.shape[1]):
            # shape: (batch_size, num_labels, num_labels), the earlier tag in dimension 1
            paths = score[:, :, None] + self.transitions
            is_word = mask[:, step, None]
            score = np.where(is_word, paths.max(axis=1) + words[:, step], score)
            # Past the end, pointing back at itself carries the last tag through to the end of the batch.
            history.append(np.where(is_word, paths.argmax(axis=1), np.arange(len(self.labels))))
        path = [(score + self.ends).argmax(axis=1)[:, None]]
        for previous in reversed(history):
            path.append(np.take_along_axis(previous, path[-1], axis=1))
        path = np.where(mask, np.concatenate(path[::-1], axis=1), -100)
        np.put_along_axis(tags, positions, path, axis=1)
        return tags

    def marginals(self, logits: Any, word_mask: Any) -> np.ndarray:
        """Compute each word's tag probabilities under the CRF (forward-backward) at the configuration's temperature.

        Args:
            logits (array-like of shape `(batch_size, num_tokens, num_labels)`): Emission scores.
            word_mask (array-like of shape `(batch_size, num_tokens)`): `True` at each word's first token.

        Returns:
            `np.ndarray` of shape `(batch_size, num_tokens, num_labels)`, float64: probabilities, 0 off word starts.

        Raises:
            ValueError: if `logits` are not finite or the arguments do not fit together.
        """
        logits, word_mask = self._to_scores(logits, word_mask)
        words, mask, positions = _gather_words(logits, word_mask)
        probabilities = np.zeros(logits.shape)
        if words.shape[1] == 0:
            return probabilities
        words = words.astype(np.float64) / self.temperature
        transitions = self.transitions / self.temperature
        alphas = self._forward_scores(words, mask)
        beta = np.broadcast_to(self.ends / self.temperature, alphas[0].shape)
        by_word = [alphas[-1] + beta]
        for step in range(words.shape[1] - 1, 0, -1):
            # shape: (batch_size, num_labels)
            left = np.logaddexp.reduce(transitions + (words[:, step] + beta)[:, None, :], axis=2)
            beta = np.where(mask[:, step, None], left, beta)
            by_word.append(alphas[step - 1] + beta)
        scores = np.stack(by_word[::-1], axis=1)
        scores = np.exp(scores - np.logaddexp.reduce(scores, axis=2, keepdims=True)) * mask[..., None]
        np.put_along_axis(probabilities, positions[..., None], scores, axis=1)
        return probabilities

    def entities(self, logits: Any, word_mask: Any) -> list[list[dict[str, Any]]]:
        """Decode, and give each entity the probability under the CRF that this span is exactly this entity.

        Args:
            logits (array-like of shape `(batch_size, num_tokens, num_labels)`): Emission scores.
            word_mask (array-like of shape `(batch_size, num_tokens)`): `True` at each word's first token.

        Returns:
            `list[list[dict]]`: for each post its entities, each with `"entity_group"`, `"words"` (first and last) and
            `"score"`.

        Raises:
            ValueError: if `logits` are not finite, the arguments do not fit together, or labels are no BIO2.
        """
        # As in `SMCLConfig.labels_of_no_entity`.
        if others := [label for label in self.labels if label != "O" and label[:2] not in ("B-", "I-")]:
            raise ValueError(
                f"The model has the labels {others[:5]}, of which no entity can be made. Expected BIO2, such as "
                "'B-PER' and 'I-PER': export it with the labels that it was trained with; `decode` gives its tags."
            )
        logits, word_mask = self._to_scores(logits, word_mask)
        posts = []
        for tags, starts, emissions in zip(self.decode(logits, word_mask), word_mask, logits, strict=True):
            words = emissions[starts]
            entities = _find_entities([self.labels[tag] for tag in tags[starts]])
            posts.append(
                [
                    {"entity_group": name, "words": (first, last), "score": self._posterior(words, first, last, name)}
                    for first, last, name in entities
                ]
            )
        return posts

    def _to_scores(self, logits: Any, word_mask: Any) -> tuple[np.ndarray, np.ndarray]:
        """Turn the arguments of `decode` and its like into arrays."""
        logits = _to_array("logits", logits, np.floating, (None, None, len(self.labels)))
        return logits, _to_array("word_mask", word_mask, np.bool_, logits.shape[:2])

    def _posterior(self, words: np.ndarray, first: int, last: int, name: str) -> float:
        """Return the part that the paths through one entity have in all paths of a post `(num_words, num_labels)`."""
        words = words.astype(np.float64) / self.temperature
        through = words.copy()
        for word in range(first, last + 1):
            wanted = f"{'B' if word == first else 'I'}-{name}"
            through[word, [label != wanted for label in self.labels]] = -np.inf
        # At the end of the post, there is no word after it.
        through[last + 1 : last + 2, [label == f"I-{name}" for label in self.labels]] = -np.inf
        both = np.stack([through, words])
        last_alpha = self._forward_scores(both, np.ones(both.shape[:2], bool))[-1]
        through, total = np.logaddexp.reduce(last_alpha + self.ends / self.temperature, axis=1)
        return float(np.exp(through - total))

    def _forward_scores(self, words: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
        """Return for each word `(batch_size, num_labels)`: log-sum of all paths up to each tag, its emission included.

        The emissions `(batch_size, num_words, num_labels)` have been divided by the temperature already.
        """
        transitions = self.transitions / self.temperature
        alphas = [self.starts / self.temperature + words[:, 0]]
        for step in range(1, words.shape[1]):
            # shape: (batch_size, num_labels)
            reached = np.logaddexp.reduce(alphas[-1][:, :, None] + transitions, axis=1) + words[:, step]
            alphas.append(np.where(mask[:, step, None], reached, alphas[-1]))
        return alphas


def _to_post(post: Any) -> dict[str, Any]:
    """Bring a post into the form `{"text": ..., "images": [...]}`, or refuse it, as the pipeline does."""
    if isinstance(post, str):
        return {"text": post}
    post = _row_to_dict(post)
    post = {name: _plain_images(value) for name, value in post.items()} if isinstance(post, Mapping) else post
    post = {name: value for name, value in post.items() if value is not None} if isinstance(post, dict) else post
    if isinstance(post, dict) and "tokens" in post:
        images = {name: post[name] for name in ("images", "image") if name in post}
        words, text = (x.tolist() if hasattr(x, "tolist") else x for x in (post["tokens"], post.get("text")))
        if not isinstance(words, list | tuple):
            raise ValueError(f"`tokens` must be a list of words, got {ascii(words)[:80]}. Call a sentence `text`.")
        others = [key for key, value in post.items() if IMAGE_NAME.fullmatch(str(key)) and _holds_images(value)]
        if not images and others:
            raise ValueError(
                f"Expected images as 'images', or one as 'image', got {others} beside 'tokens': rename it."
            )
        post = {"text": text if not words and text else words} | images
    if not isinstance(post, dict) or "text" not in post or post.keys() - {"text", "images", "image"}:
        found = sorted(map(str, post)) if isinstance(post, dict) else type(post).__name__
        raise ValueError(f"Expected a post with the keys 'text' and, if it has images, 'images', got {found}.")
    if "image" in post and ("images" in post or isinstance(post["image"], list | tuple)):
        raise ValueError("Expected one image as 'image', or a list of them as 'images', got a list or both.")
    return {"text": post["text"], "images": [post["image"]] if "image" in post else post.get("images")}


def _row_to_dict(post: Any) -> Any:
    """Return a row of pandas as the mapping that it is not by itself; anything else as it is, a column of texts too."""
    is_row = hasattr(post, "to_dict") and getattr(post, "ndim", 0) == 1 and ("text" in post or "tokens" in post)
    return post.to_dict() if is_row else post


def _plain_images(images: Any) -> Any:
    """Return an array of images, as tables of pandas hold them, as a list, and pandas' missing value as `None`."""
    if isinstance(images, float) and images != images:
        return None
    return images.tolist() if hasattr(images, "tolist") and getattr(images, "ndim", 0) == 1 else images


def _holds_images(value: Any) -> bool:
    """Tell whether what stands under a name of images may be some, and not their number, say."""
    if isinstance(value, IMAGE_TYPES):
        return bool(value)
    # A PIL image, a path, pixels.
    return hasattr(value, "getbands") or isinstance(value, os.PathLike) or getattr(value, "ndim", 0) > 1


def _to_array(name: str, values: Any, kind: type, shape: tuple[int | None, ...]) -> np.ndarray:
    """Turn anything array-like into an array.

    Args:
        name (`str`): The argument's name, for errors.
        values (`Any`): The values.
        kind (`type`): `np.int64`, `np.bool_`, `np.float32`, or `np.floating` for floats of any precision as they are.
        shape (`tuple`): The lengths of its dimensions; `None` for any.

    Returns:
        `np.ndarray`: of that kind.

    Raises:
        ValueError: if it has another shape or number of dimensions, or values that the kind does not have.
    """
    if hasattr(values, "detach"):
        # NumPy takes no tensor of PyTorch that has a gradient, is on another device, or has bfloat16's numbers.
        values = values.detach().cpu()
        values = values.float() if "bfloat16" in str(values.dtype) else values
    try:
        found = np.asarray(values)
        is_kept = kind is np.floating and found.dtype.kind == "f"
        array = found if is_kept else found.astype(np.float32 if kind is np.floating else kind)
        fits = array.dtype.kind == "f" or np.array_equal(array, found)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"`{name}` must be an array of numbers, got {type(values).__name__}: {error}.") from error
    if found.dtype.kind not in "biuf" or not fits:
        wanted = {np.int64: "whole numbers", np.bool_: "True and False, or 1 and 0"}.get(kind, "numbers")
        raise ValueError(f"`{name}` must hold {wanted}, got {ascii(found.ravel()[:4].tolist())} ... of {found.dtype}.")
    lengths = tuple(got if want is None else want for want, got in zip(shape, array.shape, strict=False))
    if array.ndim != len(shape) or array.shape != lengths:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"`{name}` must have the shape ({wanted}), got {array.shape}.")
    if name == "pixel_values" and found.dtype == np.uint8:
        raise ValueError("`pixel_values` must be normalised images, got bytes. Use the processor that was exported.")
    return array


def _gather_words(logits: np.ndarray, word_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Move the emissions at word starts to the front, cut to the longest post.

    Returns:
        Emissions `(batch_size, num_words, num_labels)`, their bool mask and token positions `(batch_size, num_words)`.
    """
    if not np.isfinite(logits).all():
        raise ValueError("`logits` are not finite: expected numbers, got NaN or infinity.")
    num_words = word_mask.sum(axis=1).max(initial=0)
    positions = np.argsort(~word_mask, axis=1, kind="stable")[:, :num_words]
    mask = np.take_along_axis(word_mask, positions, axis=1)
    return np.take_along_axis(logits, positions[..., None], axis=1), mask, positions


def _find_entities(tags: list[str]) -> list[tuple[int, int, str]]:
    """Return the first word, last word and type of the entities that BIO2 tags spell."""
    found: list[tuple[int, int, str]] = []
    for word, tag in enumerate(tags):
        if tag.startswith("B-"):
            found.append((word, word, tag[2:]))
        elif tag.startswith("I-") and found and found[-1][1:] == (word - 1, tag[2:]):
            found[-1] = (found[-1][0], word, tag[2:])
    return found


__all__ = ["OnnxTagger"]
