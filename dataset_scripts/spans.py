"""Raw texts with spans of characters: to words and tags."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from .schema import DataError

Span = tuple[int, int, str]
# Where words are written without spaces, each character is a word, as it is for BERT's tokenizers.
IDEOGRAPHS = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))


def split_text(text: str) -> list[tuple[int, int]]:
    """Split a text into words: runs of letters and digits, and ideographs and all else but white space one by one.

    Marks that stand above or below a letter, and what joins emoji, belong to the word in front of them.

    Args:
        text (`str`): The text.

    Returns:
        `list[tuple[int, int]]`: the first and last + 1 character of each word.
    """
    words, before = [], "space"
    for place, char in enumerate(text):
        kind = _kind(char)
        if kind == "joins" and before != "space":
            words[-1] = (words[-1][0], place + 1)
            continue
        if kind == "word" == before:
            words[-1] = (words[-1][0], place + 1)
        elif kind != "space":
            words.append((place, place + 1))
        before = kind
    return words


def _kind(char: str) -> str:
    if char.isspace():
        return "space"
    if any(first <= ord(char) <= last for first, last in IDEOGRAPHS):
        return "single"
    if char.isalnum() or char == "_":
        return "word"
    return "joins" if unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf") else "single"


def cut_words(words: Iterable[tuple[int, int]], borders: Iterable[int]) -> list[tuple[int, int]]:
    """Cut words where a border lies inside.

    Args:
        words (`Iterable[tuple[int, int]]`): Of [`split_text`].
        borders (`Iterable[int]`): Characters in front of which a word ends in any case.

    Returns:
        `list[tuple[int, int]]`: likewise.
    """
    borders, cut = sorted(set(borders)), []
    for start, end in words:
        places = [start, *(place for place in borders if start < place < end), end]
        cut += zip(places[:-1], places[1:], strict=True)
    return cut


def read_spans(spans: Any, text: str) -> list[Span]:
    """Read spans as tools write them: `{"start", "end", "label"}`, or `[start, end, label]`.

    Args:
        spans (`Any`): A list of them. The label may be called `label`, `labels` (a list of one), `type`,
            `entity_group` or `tag`; `end` is the first character behind the span.
        text (`str`): The text.

    Returns:
        `list[tuple[int, int, str]]`: start, end and label in order, without the white space at their ends.

    Raises:
        DataError: if a span is not so, lies outside the text, is empty, says another text than stands there, or
            overlaps another one.
    """
    if spans is None:
        return []
    if not isinstance(spans, list):
        raise DataError(f"Expected a list of spans, got {ascii(spans)[:80]}.")
    found = sorted(_read_span(span, text) for span in spans)
    for first, second in zip(found, found[1:], strict=False):
        if second[0] < first[1]:
            raise DataError(
                f"The spans {first} and {second} overlap. A word has one tag only: keep one of them, or shorten it."
            )
    return found


def _read_span(span: Any, text: str) -> Span:
    if isinstance(span, Mapping):
        names = ("label", "labels", "type", "entity_group", "tag")
        start, end, label = span.get("start"), span.get("end"), next((span[n] for n in names if n in span), None)
        told = next((span[name] for name in ("text", "word") if isinstance(span.get(name), str)), None)
    else:
        start, end, label = span if isinstance(span, list | tuple) and len(span) == 3 else (None, None, None)
        told = None
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    numbers = all(isinstance(place, int) and not isinstance(place, bool) for place in (start, end))
    if not numbers or not isinstance(label, str) or not label.strip():
        raise DataError(
            "Expected spans such as {'start': 0, 'end': 4, 'label': 'PER'} or [0, 4, 'PER'], got "
            f"{ascii(span)[:200]}."
        )
    if label == "O" or label[:2] in ("B-", "I-"):
        raise DataError(
            f"The span {ascii(span)[:200]} has a tag in place of a type. Give each entity one span with its type, such "
            "as 'PER', as its label."
        )
    if told is not None and 0 <= start < end and (end > len(text) or told != text[start:end]):
        start, end = _by_utf16(start, end, told, text, span)
    if not 0 <= start < end <= len(text) or not text[start:end].strip():
        raise DataError(
            f"The span {ascii(span)[:200]} is empty or lies outside the text, which has {len(text)} characters. "
            "`end` is the first character behind a span."
        )
    inside = text[start:end]
    return start + len(inside) - len(inside.lstrip()), end - (len(inside) - len(inside.rstrip())), label


def _by_utf16(start: int, end: int, told: str, text: str, span: Any) -> tuple[int, int]:
    """Read offsets that count characters as JavaScript does, in which emoji are two; only if the text agrees."""
    units = text.encode("utf-16-le")
    begin, length = units[: 2 * start], units[2 * start : 2 * end]
    try:
        if length.decode("utf-16-le") == told:
            first = len(begin.decode("utf-16-le"))
            return first, first + len(told)
    except UnicodeDecodeError:
        pass
    raise DataError(
        f"The span {ascii(span)[:200]} is said to be {ascii(told)[:80]}, but {ascii(text[start:end])[:80]} stands "
        "there. Correct its offsets."
    )


def tag_words(words: Sequence[tuple[int, int]], spans: Iterable[Span]) -> list[str]:
    """Tag words in BIO2 by spans whose borders are borders of words.

    Args:
        words (`Sequence[tuple[int, int]]`): First and last + 1 character of each word, in order.
        spans (`Iterable[tuple[int, int, str]]`): Start, end and label, in order, without overlap.

    Returns:
        `list[str]`: a tag for each word.

    Raises:
        DataError: if a span holds no word.
    """
    tags = ["O"] * len(words)
    for start, end, label in spans:
        inside = [row for row, word in enumerate(words) if start <= word[0] and word[1] <= end]
        if not inside:
            raise DataError(f"The span {(start, end, label)} holds no word. Correct or remove it.")
        for row in inside:
            tags[row] = f"{'B' if row == inside[0] else 'I'}-{label}"
    return tags


def find_words(text: str, words: Sequence[str]) -> list[tuple[int, int]] | None:
    """Find words in their order in a text, with nothing but white space between.

    Args:
        text (`str`): The text.
        words (`Sequence[str]`): The words.

    Returns:
        `list[tuple[int, int]]`, *optional*: the first and last + 1 character of each word; or none.
    """
    if text == " ".join(words):
        # Words that hold white space, or nothing, are found only so.
        ends = [end - 1 for end in accumulate(len(word) + 1 for word in words)]
        return [(end - len(word), end) for word, end in zip(words, ends, strict=True)]
    places, start = [], 0
    for word in words:
        place = text.find(word, start)
        if place < 0 or text[start:place].strip():
            return None
        places.append((place, place + len(word)))
        start = place + len(word)
    return None if text[start:].strip() else places


def words_of(text: str, spans: Any, words: Sequence[str] | None = None) -> tuple[list[str], list[str], int]:
    """Split a text and tag its words by spans.

    Args:
        text (`str`): The text.
        spans (`Any`): As of [`read_spans`].
        words (`Sequence[str]`, *optional*): Its words; by default it is split by [`split_text`].

    Returns:
        Words, their tags, and how many more words there are because an entity begins or ends within one.

    Raises:
        DataError: if a span can't be used, or these are not the text's words.
    """
    found = read_spans(spans, text)
    places = split_text(text) if words is None else find_words(text, words)
    if places is None:
        raise DataError(f"the words {ascii(words)[:80]} don't stand in the text {ascii(text)[:80]}. Correct either.")
    # An empty word has no place to cut.
    cut = cut_words(places, [place for start, end, _ in found for place in (start, end)])
    return [text[start:end] for start, end in cut], tag_words(cut, found), len(cut) - len(places)
