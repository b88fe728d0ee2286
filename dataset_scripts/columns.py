"""What columns mean: how they may be named, of which types they may be, and which look like images."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Features, Image, Json, LargeList, List, Value

from .schema import DataError
from .tag_schemes import SCHEMES, guess_scheme, is_bio2

COLUMNS = ("id", "tokens", "text", "ner_tags", "images", "source")
# Words that name images in the name of a column; with one of the others, it is about something else.
IMAGE_WORDS = {
    *("image", "images", "img", "imgs", "pic", "pics", "picture", "pictures", "photo", "photos"),
    *("photograph", "photographs", "jpg", "jpeg", "png", "webp", "thumbnail", "thumbnails", "figure", "figures"),
}
OTHER_WORDS = {
    *("id", "ids", "caption", "captions", "alt", "text", "texts", "tag", "tags", "label", "labels", "title", "count"),
    *("description", "descriptions", "type", "format", "mime", "license", "credit", "author", "ocr", "hash", "sha"),
}

# How the files of images are called, and how they begin: JPEG, PNG, GIF, BMP, TIFF, WebP.
IMAGE_FILE = re.compile(r"[^\n]+\.(jpe?g|png|gif|bmp|tiff?|webp|avif|jp2)([?#]\S*)?\s*", re.IGNORECASE)
IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
# Posts whose other values are looked at for images that would not be read.
FIRST_ROWS = 100


def parse_columns(
    values: str | Sequence[str] | Mapping[str, str] | None, known: Sequence[str] = COLUMNS
) -> dict[str, str]:
    """Read the argument `--columns`, such as `images=image tokens=words ner_tags=tags`.

    Args:
        values (`str`, `Sequence[str]` or `Mapping[str, str]`, *optional*): `OURS=THEIRS` pairs, one text of them apart
            by spaces or commas, or a mapping of an arguments file.
        known (`Sequence[str]`, *optional*, defaults to `COLUMNS`): Our names.

    Returns:
        `dict[str, str]`: for our names those that the data set has in their place.

    Raises:
        ValueError: if a pair can't be read, a name is none of ours, or a name stands twice; names it.
    """
    if isinstance(values, Mapping):
        pairs = [(str(ours), theirs) for ours, theirs in values.items()]
    else:
        items = re.split(r"[\s,]+", values.strip()) if isinstance(values, str) else list(values or ())
        pairs = [tuple(str(item).split("=", 1)) for item in items if item]
    columns = {}
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(name, str) and name.strip() for name in pair):
            raise DataError(
                f"`--columns` takes OURS=THEIRS pairs, such as `images=image tokens=words`, got "
                f"{'='.join(map(str, pair))!r}."
            )
        ours, theirs = (name.strip() for name in pair)
        if ours not in known:
            turned = f" Did you mean `{theirs}={ours}`?" if theirs in known else ""
            raise DataError(
                f"`--columns {ours}={theirs}`: there is no column {ours!r} in the schema, which has "
                f"{', '.join(known)}. Ours stands in front of `=`, the data set's behind it.{turned}"
            )
        if ours in columns:
            raise DataError(f"`--columns` gives {ours!r} twice: {columns[ours]!r} and {theirs!r}. Leave one out.")
        if theirs in columns.values():
            raise DataError(f"`--columns` uses the column {theirs!r} twice. Leave one out.")
        columns[ours] = theirs
    return columns


def find_columns(names: Iterable[str], columns: Mapping[str, str] | None, where: str) -> dict[str, str]:
    """Find the columns of the schema in a data set.

    Args:
        names (`Iterable[str]`): The columns that it has.
        columns (`Mapping[str, str]`, *optional*): Of `parse_columns`.
        where (`str`): What has them, for messages.

    Returns:
        `dict[str, str]`: for each of `COLUMNS` that is there, its name in the data set.

    Raises:
        ValueError: if a column to be renamed is not there, or a name that it is to get is taken.
    """
    names, columns = list(names), dict(columns or {})
    for ours, theirs in columns.items():
        if theirs not in names:
            raise DataError(
                f"{where} has no column {theirs!r}, which `--columns {ours}={theirs}` names; it has {names}."
            )
        if ours != theirs and ours in names and ours not in columns.values():
            raise DataError(
                f"{where} has a column {ours!r} already, so `--columns {ours}={theirs}` would hide it. Rename or "
                "remove one of the two."
            )
    found = {name: name for name in COLUMNS if name in names and name not in columns.values()}
    return found | columns


def find_image_like(features: Mapping[str, Any], skip: Iterable[str] = ()) -> list[str]:
    """Find columns that hold or name images, though none is called `images`.

    Args:
        features (`Mapping[str, Any]`): Columns and their features; a feature is `None` where it is not known.
        skip (`Iterable[str]`, *optional*): Columns that are something else.

    Returns:
        `list[str]`: those with a type of images, or with a name for images and a type that could be.
    """
    return [name for name, feature in features.items() if name not in set(skip) and _is_image_like(name, feature)]


def _is_image_like(name: str, feature: Any) -> bool:
    item = item_of(feature)
    inner = feature if item is None else item
    if isinstance(inner, Image) or _is_file(inner):
        return True
    if isinstance(inner, ClassLabel) or (isinstance(feature, Value) and not (is_string(feature) or is_binary(feature))):
        return False
    return has_image_name(name)


def has_image_name(name: str) -> bool:
    """Tell whether the name of a column is one for images, such as `Image`, `photo_urls`, `imgPath2`."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
    glued = re.fullmatch(r"(images?|imgs?|pictures?|photos?)(paths?|files?|names?|urls?|bytes|list)", name.lower())
    return bool(glued) or (bool(IMAGE_WORDS & set(words)) and not OTHER_WORDS & set(words))


def item_of(feature: Any) -> Any:
    """Return what a list holds, of whichever kind of list; `None` of anything else."""
    if isinstance(feature, List | LargeList):
        return feature.feature
    return feature[0] if isinstance(feature, list) and len(feature) == 1 else None


def is_string(feature: Any) -> bool:
    """Tell whether a feature is text."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def is_binary(feature: Any) -> bool:
    """Tell whether a feature is bytes."""
    return isinstance(feature, Value) and feature.dtype in ("binary", "large_binary", "binary_view")


def is_integer(feature: Any) -> bool:
    """Tell whether a feature is a whole number."""
    return isinstance(feature, Value) and feature.dtype.startswith(("int", "uint"))


def is_null(feature: Any) -> bool:
    """Tell whether a feature says that there is never a value."""
    return isinstance(feature, Value) and feature.dtype == "null"


def _is_file(feature: Any) -> bool:
    if not isinstance(feature, dict) or feature.keys() != {"bytes", "path"}:
        return False
    data, path = feature["bytes"], feature["path"]
    return (is_binary(data) or is_null(data)) and (is_string(path) or is_null(path))


def arrow_features(schema: pa.Schema) -> dict[str, Any]:
    """Return the features of Arrow's columns, as of a Parquet file or of Ray.

    Args:
        schema (`pyarrow.Schema`): The columns.

    Returns:
        `dict[str, Any]`: for [`check_features`]; `None` where `datasets` has no feature for a column.

    Raises:
        DataError: if two columns have the same name.
    """
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise DataError(f"Several columns are called {twice[0]!r}. Give each a name of its own.")
    return {field.name: _arrow_feature(field, schema.metadata) for field in schema}


def _arrow_feature(field: pa.Field, metadata: Mapping[bytes, bytes] | None) -> Any:
    try:
        return Features.from_arrow_schema(pa.schema([field], metadata=metadata))[field.name]
    except ValueError:
        return None


def check_features(
    features: Mapping[str, Any],
    *,
    where: str,
    columns: Mapping[str, str] | None = None,
    reads_images: bool = True,
    ignore_images: bool = False,
    needs_tags: bool = True,
) -> dict[str, str]:
    """Check the columns of a data set and their types, without reading a row.

    Args:
        features (`Mapping[str, Any]`): `Features` of a data set, or [`arrow_features`] of other columns.
        where (`str`): What has them, such as `"Split 'train' of data/own"`, for messages.
        columns (`Mapping[str, str]`, *optional*): Of `parse_columns`.
        reads_images (`bool`, *optional*, defaults to `True`): Whether the model reads images.
        ignore_images (`bool`, *optional*, defaults to `False`): Whether they are to be left away all the same.
        needs_tags (`bool`, *optional*, defaults to `True`): Whether there must be gold tags, and so words.

    Returns:
        `dict[str, str]`: for each of `COLUMNS` that is to be read, its name in the data set.

    Raises:
        ValueError: if a column is missing, of another type, or looks like images that would not be read.
    """
    found = find_columns(features, columns, where)
    _check_text(features, found, where, needs_tags)
    if "id" in found and not (is_string(features[found["id"]]) or is_integer(features[found["id"]])):
        _refuse(where, found["id"], "a text or a whole number", features[found["id"]], "Convert it, or remove it.")
    if needs_tags:
        _check_tags(features, found, where)
    else:
        found.pop("ner_tags", None)
    if "source" in found and not is_string(features[found["source"]]):
        del found["source"]
    if not reads_images or ignore_images:
        found.pop("images", None)
        return found
    place = found.get("images")
    if place is None or is_null(features[place]) or is_null(item_of(features[place])):
        refuse_unread_images(features, [*found.values()], where)
    if place is not None:
        _check_image_type(features[place], place, where)
    return found


def refuse_unread_images(features: Mapping[str, Any], skip: Iterable[str], where: str) -> None:
    """Refuse data whose images stand in a column that would not be read; arguments as of `find_image_like`.

    Raises:
        ValueError: names the columns and the argument that renames one.
    """
    _refuse_likely(find_image_like(features, skip), where)


def refuse_image_values(rows: Sequence[Mapping[str, Any]], skip: Iterable[str], where: str) -> None:
    """Refuse data whose images stand in a column that would not be read, whatever it is called.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): Some rows.
        skip (`Iterable[str]`): Columns that are something else.
        where (`str`): What has them, for messages.

    Raises:
        ValueError: names the columns whose every value is an image file or its name, and the argument that renames one.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if row.get(name)] for name in names}
    # An object that holds no image may be of a post without one.
    for name, column in values.items():
        values[name] = [value for value in column if not isinstance(value, Mapping) or holds_images(value)]
    _refuse_likely([name for name in values if name not in set(skip) and holds_images(values[name])], where)


def has_value(column: pa.Array | pa.ChunkedArray) -> bool:
    """Tell whether a column of Arrow has a value that is neither null nor an empty list."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return bool(pc.any(pc.greater(pc.list_value_length(column), 0)).as_py())
    return column.null_count < len(column)


def holds_images(value: Any) -> bool:
    """Tell whether a value is the content of an image file, the name of one, a list of these, or an object with one."""
    if isinstance(value, Mapping):
        return any(map(holds_images, value.values()))
    if isinstance(value, list):
        return bool(value) and all(map(holds_images, value))
    if isinstance(value, bytes):
        return value.startswith(IMAGE_STARTS)
    return isinstance(value, str) and bool(IMAGE_FILE.fullmatch(value))


def _refuse_likely(likely: list[str], where: str) -> None:
    if not likely:
        return
    several = "" if len(likely) == 1 else " (or another one; put several columns into one of lists first)"
    raise DataError(
        f"{where} has no images in a column `images`, but {', '.join(map(repr, likely))}, and the model reads images. "
        f"Give `--columns images={likely[0]}`{several}. To go on without them, take it away; run_ner_multiimage.py "
        "also has `--ignore_images`."
    )


def _check_text(features: Mapping[str, Any], found: dict[str, str], where: str, needs_tags: bool) -> None:
    """Check `tokens` and `text`."""
    tokens, text = (features[found[name]] if name in found else None for name in ("tokens", "text"))
    has_tokens, has_text = "tokens" in found, "text" in found
    if not has_tokens and (needs_tags or not has_text):
        likely = [name for name in features if name.lower() in ("tokens", "words", "token", "word", "characters")]
        fix = f"Name the column of words by `--columns tokens={likely[0] if likely else 'NAME'}`."
        if text is not None and is_string(item_of(text)):
            fix = f"Give `--columns tokens={found['text']}`."
        elif has_text:
            fix = "Tags belong to words: convert it with `python -m smcl.dataset_scripts.jsonl`, which splits texts."
        expected = "`tokens` (a list of words)" if needs_tags else "`tokens` (a list of words) or `text` (a string)"
        raise DataError(f"{where} lacks the column {expected}; it has {list(features)}. {fix}")
    if has_tokens and not (is_string(item_of(tokens)) or is_null(item_of(tokens))):
        fix = "Give a list of words for each post."
        if is_string(tokens):
            fix = (
                "If it is a list written as text, read it by `dataset.map(lambda post: {'tokens': "
                "json.loads(post['tokens'])})`, or `ast.literal_eval` for Python's quotes; if it is a sentence, "
                "call it `text` and split it with `python -m smcl.dataset_scripts.jsonl`."
            )
        elif is_null(tokens):
            fix = "No post has any: fill the column" + (", or remove it to read `text`." if text is not None else ".")
        _refuse(where, found["tokens"], "a list of words", tokens, fix)
    if needs_tags:
        # Kept to see whether a post without words has a text.
        if not is_string(text):
            found.pop("text", None)
    elif has_text and not has_tokens and not (is_string(text) or is_string(item_of(text))):
        _refuse(where, found["text"], "a string", text, "Convert it.")


def _check_tags(features: Mapping[str, Any], found: dict[str, str], where: str) -> None:
    if "ner_tags" not in found:
        likely = [name for name in features if name.lower() in ("tags", "labels", "label", "ner", "ner_tag", "tag")]
        raise DataError(
            f"{where} lacks the column `ner_tags` (a tag of each word); it has {list(features)}. Name it by "
            f"`--columns ner_tags={likely[0] if likely else 'NAME'}`; posts without tags are tagged as `--input`, with "
            "`--output`."
        )
    place = found["ner_tags"]
    tags, item = features[place], item_of(features[place])
    if isinstance(item, ClassLabel) or is_string(item):
        return
    if is_integer(item):
        fix = (
            "Numbers without names could be any tags: give their names by `dataset.cast_column"
            f"({place!r}, List(ClassLabel(names=['O', 'B-PER', ...])))`."
        )
    elif is_string(tags):
        fix = "Give a list of tags for each post, one for each word."
    else:
        fix = "Give a list for each post, with the name of one tag for each word."
    _refuse(where, place, "a list of class labels or of the names of tags", tags, fix)


def _check_image_type(feature: Any, place: str, where: str) -> None:
    """Refuse a column of images that `load_image` could not read; a single image in place of a list is fine."""
    item = item_of(feature)
    inner = feature if item is None else item
    if isinstance(inner, Image) or _is_file(inner) or is_string(inner) or is_binary(inner) or is_null(inner):
        return
    fix = "Give image files as `Image()`, paths, URLs or bytes."
    if item is not None or not isinstance(feature, Value):
        fix += " Arrays of pixels become images by `PIL.Image.fromarray`."
    _refuse(where, place, "a list of images", feature, fix)


def check_labels(names: Sequence[str], where: str, place: str = "ner_tags") -> None:
    """Refuse labels other than `O`, `B-X` and `I-X`.

    Args:
        names (`Sequence[str]`): The labels.
        where (`str`): What has them, for messages.
        place (`str`, *optional*, defaults to `"ner_tags"`): Their column.

    Raises:
        ValueError: names those that are none, and the argument that converts them.
    """
    others = [name for name in names if not is_bio2(name)]
    lonely = [name for name in names if name[:2] == "I-" and f"B-{name[2:]}" not in names]
    if not others and not lonely:
        return
    guess = guess_scheme(names)
    fix = f"Give `--tag_scheme {guess}`" if guess else f"Give `--tag_scheme` ({', '.join(SCHEMES)})"
    what = f"{others[:5]}" if others else f"{lonely[:5]} without the `B-` that begins them"
    raise DataError(
        f"{where}, column `{place}`: expected the labels O, B-X and I-X of BIO2, found {what} among {list(names)}. "
        f"{fix} if the data is tagged so, or correct the labels."
    )


def _refuse(where: str, place: str, expected: str, feature: Any, fix: str) -> None:
    raise DataError(f"{where}, column `{place}`: expected {expected}, found {describe(feature)}. {fix}")


def describe(feature: Any) -> str:
    """Say what a feature is, in a few words."""
    if feature is None:
        return "a type that `datasets` does not know"
    if is_string(feature):
        return "a text"
    if isinstance(feature, Json) or isinstance(item_of(feature), Json):
        # What `datasets` makes of JSON.
        return "values of several kinds"
    text = repr(feature)
    return text if len(text) <= 120 else f"{text[:117]}..."
