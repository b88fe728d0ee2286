"""Context that is made without a model: what people have in files, and sentences by a template over objects."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from .context import BOX_NAMES, IMAGE_COLUMNS, WHOLE_IMAGE, check_context, clip_box
from .fingerprints import file_digest, image_digest
from .jsonl import read_records
from .schema import DataError

# Names of one object among the best of an image that a template takes.
TEMPLATE_OBJECTS = 2


class ContextFile:
    """Values of a column from a file of JSON lines.

    A line has the column's name with its value, and whom it is about: `sha256` of an image file's bytes in
    hexadecimal, or `file_name` of an image; for `knowledge` the `id` of a post. An object or region is `{"label" or
    "query", "score", "box"}`, or `[label, score]` with or without a box; without one it gets the whole image. Boxes are
    fractions, or pixels in a line that has the image's `width` and `height`.

    Args:
        path (`Path`): The file.
        column (`str`): A name in `CONTEXT_FEATURES`.
        made_by (`str`, *optional*): What made the values, for tables and cards; by default the file's name.
        shared (`set[str]`, *optional*): Ids that several posts have, or names that several images have: what is said
            of one can't be told from what is said of another.

    Raises:
        DataError: if the file is missing or a line is not as it must be; names the line.
    """

    def __init__(self, path: Path, column: str, made_by: str | None = None, shared: set[str] | None = None):
        self.column, self.shared = column, shared or set()
        self.made_by = made_by or f"the file {path.name}"
        self.values: dict[tuple[str, str], Any] = {}
        for where, record in read_records(path):
            self._add(record, where)
        self.about = {"model": self.made_by, "fingerprint": file_digest(path).hex(), "settings": {"file": path.name}}

    def _add(self, record: Any, where: str) -> None:
        names = ("sha256", "file_name") if self.column in IMAGE_COLUMNS else ("id",)
        if not isinstance(record, dict) or self.column not in record or sum(name in record for name in names) != 1:
            raise DataError(
                f"{where}: expected a record with `{self.column}` and with one of {', '.join(names)}, got "
                f"{ascii(record)[:80]}. Correct the line; see docs/data.md."
            )
        name = next(name for name in names if name in record)
        if isinstance(record[name], bool) or not isinstance(record[name], str | int) or record[name] == "":
            raise DataError(f"{where}: `{name}` must be a text, got {ascii(record[name])[:80]}. Correct the line.")
        key = name, str(record[name]).lower() if name == "sha256" else str(record[name])
        if key in self.values:
            raise DataError(f"{where}: {name} {key[1]} stands in a line before. Expected it once. Remove one of them.")
        value = record[self.column]
        if self.column in BOX_NAMES and isinstance(value, list):
            try:
                value = sorted((self._item(item, record) for item in value), key=lambda item: -item["score"])
            except (AttributeError, TypeError, ValueError, KeyError, ZeroDivisionError) as error:
                raise DataError(
                    f'{where}: expected {{"{BOX_NAMES[self.column]}": text, "score": number, "box": four numbers}} or '
                    f"[text, score], got {ascii(record)[:80]} ({error!r}). Correct the line."
                ) from None
        # As of a post with one image.
        row = {"id": key[1], "images": [None]}
        try:
            check_context(row | {self.column: [value] if self.column in IMAGE_COLUMNS else value}, self.column)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        self.values[key] = value

    def _item(self, item: Any, record: dict[str, Any]) -> dict[str, Any]:
        name = BOX_NAMES[self.column]
        if isinstance(item, list):
            item = dict(zip((name, "score", "box"), item, strict=False))
        box = item.get("box", WHOLE_IMAGE)
        if "box" in item and ("width" in record or "height" in record):
            left, top, right, bottom = box
            width, height = record["width"], record["height"]
            box = clip_box(left / width, top / height, right / width, bottom / height)
        return {name: item[name], "score": item["score"], "box": box}

    @property
    def asks_names(self) -> bool:
        """Whether a line speaks of its post or image by a name, which several may have, and not by content."""
        return any(kind != "sha256" for kind, _ in self.values)

    def key(self, item: dict[str, Any]) -> str:
        """Return what an image, or a post, is known by here."""
        if self.column not in IMAGE_COLUMNS:
            return item["id"]
        return f"{image_digest(item['image']).hex()} {item['name']}"

    def annotate(self, items: list[dict[str, Any]]) -> list[Any]:
        """Look values up.

        Args:
            items (`list[dict]`): Posts with an `id`, or images with `image` and `name`.

        Returns:
            `list`: their values.

        Raises:
            ValueError: if the file has none for one of them.
        """
        return [self._look_up(item) for item in items]

    def _look_up(self, item: dict[str, Any]) -> Any:
        if self.column not in IMAGE_COLUMNS:
            keys = [("id", item["id"])]
            if item["id"] in self.shared:
                raise ValueError("several posts have this id, so its line in the file could be about another")
        else:
            keys = [("sha256", image_digest(item["image"]).hex()), ("file_name", item["name"])]
        found = next((key for key in keys if key in self.values), None)
        if found is None:
            raise ValueError("not in the file")
        if found[0] == "file_name" and found[1] in self.shared:
            raise ValueError("other images have this name, too: give its `sha256` in the file")
        return self.values[found]


class Template:
    """Captions, or knowledge, as one sentence on the best objects of an image.

    Args:
        column (`str`): `"captions"` or `"knowledge"`.
        objects_by (`str`): What made the objects.
    """

    def __init__(self, column: str, objects_by: str):
        self.column = column
        self.made_by = f"a template from objects by {objects_by}"
        self.about = {"model": "template", "settings": {"objects": TEMPLATE_OBJECTS, "objects_by": objects_by}}

    def key(self, item: dict[str, Any]) -> str:
        """Return what decides the sentence."""
        return json.dumps(self._objects(item))

    def _objects(self, item: dict[str, Any]) -> Any:
        if self.column == "captions":
            return item["objects"]
        # Of the first image; a post without images has none.
        return [] if item["objects"] == [] else (item["objects"] or [None])[0]

    def annotate(self, items: list[dict[str, Any]]) -> list[Any]:
        """Write sentences.

        Args:
            items (`list[dict]`): Images with their `objects`, or posts with those of all their images.

        Returns:
            `list`: entries of the column; nothing where there is no object.

        Raises:
            ValueError: if objects were not computed.
        """
        return [self._sentence(self._objects(item)) for item in items]

    def _sentence(self, objects: list[dict[str, Any]] | None) -> list[str] | str:
        if objects is None:
            raise ValueError("its objects were not computed")
        # ImageNet's names are lists of synonyms.
        labels = Counter(found["label"].split(",")[0].strip() for found in objects)
        names = [f"{'an' if label[:1].lower() in 'aeiou' else 'a'} {label}" for label in labels if label]
        text = " and ".join(names[:TEMPLATE_OBJECTS])
        if self.column == "captions":
            return [f"a photo of {text}"] if text else []
        return f"The picture shows {text}." if text else ""
