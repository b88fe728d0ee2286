"""Add columns of context to a data set: objects, regions, captions and text of its images, knowledge about its posts.

    python -m smcl.dataset_scripts.enrich --input data/mner_mi --output data/mner_mi_context --objects MODEL

Each column comes from a model of transformers, by its folder or its name on the Hub, from a FILE.jsonl that somebody
made, or from a template over the column `objects`. Columns that are not asked for stay as they are, so they can be
added one after the other. What a model says is kept by the image's content: the same command, run again, goes on where
a killed run ended. See docs/data.md for the files and the columns.
"""

import argparse
import hashlib
import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import torch
from datasets import Dataset, DatasetDict, Features, Image, List, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetGenerationError
from tqdm.auto import tqdm

from ..images_smcl import fetch_image, is_address, is_data_uri
from .annotators import CAPTION, MIN_REGION_SCORE, OCR, Captioner, RegionFinder, Tesseract, TextReader, object_model
from .columns import find_columns, parse_columns
from .command_line import CommandParser, check_device, describe, say
from .context import CONTEXT_FEATURES, IMAGE_COLUMNS, check_context, column_digest
from .context_files import ContextFile, Template
from .files import check_writable, write_whole
from .fingerprints import image_digest
from .gate import as_file, undecoded
from .knowledge import Examples, Knowledge, make_examples, read_examples
from .label_files import check_files_to_copy
from .row_checks import flat
from .rows import read_images
from .schema import DataError, require_folder, write_json
from .value_cache import DEFAULT_FOLDER, ValueCache
from .writer import BATCH_SIZE

FLAGS = {name: "ocr" if name == "image_text" else name for name in CONTEXT_FEATURES}
# What only models of a column read.
SETTINGS = {"threshold": "objects", "max_objects": "objects", "queries": "regions", "num_captions": "captions"}
SETTINGS |= dict.fromkeys(("knowledge_url", "examples", "make_examples", "num_examples"), "knowledge")
LEAST = dict.fromkeys(("batch_size", "num_captions", "max_objects", "limit", "make_examples"), 1)
LEAST |= {"threshold": 0, "num_examples": 0}
QUERIES = ("person", "location", "organization", "miscellaneous")
# What a model raises on an image, or a text, that it can't take.
MODEL_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# If so many fail from the start, all would.
FAILED_AT_ONCE = 10
MAX_FAILED = 0.01


def enrich(options: argparse.Namespace) -> dict[str, Any]:
    """Add the columns that were asked for, and write the data set to a new folder.

    Args:
        options (`argparse.Namespace`): As of [`make_parser`].

    Returns:
        `dict`: the report: that of the input, with `context` of each column.

    Raises:
        DataError: if something asked for can't be had, or the input is not as it must be.
    """
    asked = [column for column in CONTEXT_FEATURES if getattr(options, FLAGS[column])]
    _check_options(options, asked)
    splits = _load(options.input, parse_columns(options.columns))
    report = _read_report(options.input)
    _check_files(options.output, splits)
    context = report.setdefault("context", {})
    sources: dict[str, Any] = {}
    # All of them before the first image is read, so that what is missing is said at once.
    for column in asked:
        _require_columns(column, options, splits, asked)
        sources[column] = _make_source(column, options, splits, sources, context)
    for column in asked:
        if column == "knowledge" and "captions" in asked:
            # The examples in its prompts read captions that are there by now.
            sources[column] = _make_source(column, options, splits, sources, context)
        splits, context[column] = _add_column(splits, column, sources[column], options)
    report["context"] = {column: context[column] for column in CONTEXT_FEATURES if column in context}
    _write(splits, options, report)
    return report


def _check_options(options: argparse.Namespace, asked: list[str]) -> None:
    if not asked:
        raise DataError(f"Nothing to add. Expected one of {', '.join(f'--{flag}' for flag in FLAGS.values())}.")
    require_folder(options.input, "data set", "Check --input.")
    source, target = options.input.resolve(), options.output.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise DataError(f"--output {options.output} lies in --input {options.input}, or holds it. Choose a new folder.")
    for name, least in LEAST.items():
        value = getattr(options, name)
        # Also not a number.
        if value is not None and not value >= least:
            raise DataError(f"--{name}: expected at least {least}, got {value}.")
    if options.threshold is not None and not options.threshold <= 1:
        raise DataError(f"--threshold: expected a probability from 0 to 1, got {options.threshold}.")
    if options.examples and options.make_examples:
        raise DataError("--examples and --make_examples both give examples. Expected one of them.")
    for name, column in SETTINGS.items():
        if getattr(options, name) is not None and not _is_model(getattr(options, FLAGS[column])):
            raise DataError(f"--{name} is a setting of a model. Give --{FLAGS[column]} MODEL, or leave it out.")
    for name in options.made_by:
        column, _, maker = name.partition("=")
        if column not in asked or not _is_file(getattr(options, FLAGS[column])) or not maker:
            raise DataError(f"--made_by: expected COLUMN=NAME of a column that comes from a FILE.jsonl, got {name!r}.")
    check_device(options.device, f"--device {options.device}")


def _load(folder: Path, columns: dict[str, str]) -> DatasetDict:
    """Load all splits with their images embedded, and columns of other names, as of `--columns`, by ours."""
    try:
        features = check_files_to_copy(load_dataset_builder(str(folder)))
        splits = load_dataset(str(folder), **({} if features is None else {"features": features}))
    except DataError as error:
        raise DataError(f"--input {folder}: {error}") from None
    except (DatasetGenerationError, OSError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise DataError(f"--input {folder} is no data set that `load_dataset` reads: {reason}") from None
    for split, dataset in splits.items():
        found = find_columns(dataset.column_names, columns, f"--input {folder}, split {split},")
        names = {theirs: ours for ours, theirs in found.items() if ours != theirs}
        splits[split] = _with_embedded_images(dataset.rename_columns(names), split, folder)
    return DatasetDict({split: dataset.with_format("arrow") for split, dataset in splits.items()})


def _with_embedded_images(dataset: Dataset, split: str, folder: Path) -> Dataset:
    """Return a data set whose images are lists of files with their bytes, as the converters write them.

    Paths are relative to the data set's folder, and the columns are written to another one.
    """
    feature = dataset.features.get("images")
    if feature is None or feature == List(Image()) and not flat(dataset.data.column("images")).field(0).null_count:
        return dataset

    def embed(row: dict[str, Any], number: int) -> dict[str, Any]:
        try:
            files = [as_file(image, folder) for image in read_images(row["images"])]
            for file in files:
                if file["bytes"] is None and is_data_uri(file["path"]):
                    file |= {"bytes": fetch_image(file["path"]), "path": None}
                elif file["bytes"] is None and not is_address(file["path"]):
                    file |= {"bytes": Path(file["path"]).read_bytes(), "path": os.path.relpath(file["path"], folder)}
        except (OSError, ValueError) as error:
            raise DataError(f"--input {folder}, split {split}, row {number}: {describe(error)}") from None
        return {"images": files}

    features = Features(undecoded(dataset).features | {"images": List(Image(decode=False))})
    settings = {"load_from_cache_file": False, "desc": f"{split}: reading images"}
    dataset = undecoded(dataset).map(embed, with_indices=True, features=features, **settings)
    return dataset.cast_column("images", List(Image()))


def _read_report(folder: Path) -> dict[str, Any]:
    path = folder / "report.json"
    if not path.is_file():
        return {"name": folder.resolve().name}
    try:
        report = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        report = None
    if not isinstance(report, dict):
        raise DataError(f"Expected a converter's report at {path}, found no JSON of one. Convert again, or remove it.")
    return report


def _check_files(output: Path, splits: DatasetDict) -> None:
    try:
        check_writable(output, "--output")
    except ValueError as error:
        raise DataError(str(error)) from error
    found = {path.name for path in output.glob("**/*.parquet")} - {_file_name(split) for split in splits}
    if found:
        raise DataError(
            f"--output {output} holds Parquet files of another data set, such as {min(found)}. Choose a new folder."
        )


def _require_columns(column: str, options: argparse.Namespace, splits: DatasetDict, asked: list[str]) -> None:
    present = set.intersection(*(set(dataset.column_names) for dataset in splits.values()))
    value = getattr(options, FLAGS[column])
    needed = {"images"} if column in IMAGE_COLUMNS else {"id"}
    if value == "template":
        needed |= {"images", "objects"}
    elif column == "knowledge" and _is_model(value):
        needed |= {"tokens", "ner_tags"} | ({"captions"} if "images" in present else set())
    for name in sorted(needed - present - set(asked)):
        flag = FLAGS.get(name)
        fix = f"Add --{flag} MODEL to the same command." if flag else f"Name it by `--columns {name}=NAME`."
        raise DataError(
            f"--{FLAGS[column]} {value} reads the column `{name}`, which {options.input} lacks; it has "
            f"{', '.join(sorted(present))}. {fix}"
        )


def _is_file(value: str) -> bool:
    return value.endswith(".jsonl")


def _is_model(value: str | None) -> bool:
    return value not in (None, "template") and not _is_file(value)


def _make_source(
    column: str, options: argparse.Namespace, splits: DatasetDict, sources: dict[str, Any], context: dict[str, Any]
) -> Any:
    """Make what gives the values of a column: a model, a file or a template."""
    value, device = getattr(options, FLAGS[column]), options.device
    if _is_file(value):
        names = dict(name.split("=", 1) for name in options.made_by)
        source = ContextFile(Path(value), column, names.get(column))
        if source.asks_names:
            source.shared = _find_shared(column, options, splits)
        return source
    if value == "template" and column in ("captions", "knowledge"):
        before = context.get("objects", {}).get("made_by", "an unknown source")
        return Template(column, sources["objects"].made_by if "objects" in sources else before)
    if column == "objects":
        return object_model(value, {"threshold": options.threshold, "max_objects": options.max_objects}, device)
    if column == "regions":
        queries = {query.partition("=")[0]: query.partition("=")[2] or query for query in options.queries or QUERIES}
        return RegionFinder(value, {"queries": queries, "threshold": MIN_REGION_SCORE}, device)
    if column == "captions":
        return Captioner(value, CAPTION | {"num_captions": options.num_captions or 1}, device)
    if column == "image_text":
        return Tesseract() if value == "tesseract" else TextReader(value, OCR, device)
    return _language_model(value, options, splits)


def _find_shared(column: str, options: argparse.Namespace, splits: DatasetDict) -> set[str]:
    """Find what names several: ids of posts or, of a column about images, names of images of different content."""
    if column not in IMAGE_COLUMNS:
        ids = Counter(post["id"] for split, rows in splits.items() for post in _posts(rows, split))
        return {post_id for post_id, count in ids.items() if count > 1}
    contents = defaultdict(set)
    for split, rows in splits.items():
        for item in filter(None, itertools.chain.from_iterable(_items(rows, split, column, options))):
            with suppress(ValueError):
                contents[item["name"]].add(image_digest(item["image"]))
    return {name for name, found in contents.items() if len(found) > 1}


def _language_model(name: str, options: argparse.Namespace, splits: DatasetDict) -> Knowledge:
    names = getattr(getattr(next(iter(splits.values())).features["ner_tags"], "feature", None), "names", None)
    if names is None:
        raise DataError("--knowledge: expected `ner_tags` to be class labels. Convert the data set; see docs/data.md.")
    posts = {split: list(_posts(rows, split)) for split, rows in splits.items()}
    answers = read_examples(options.examples) if options.examples else []
    if options.make_examples:
        answers = make_examples(posts.get("train", []), names, options.make_examples, options.seed)
        lines = [json.dumps({"id": i, "answer": answer}, ensure_ascii=False) + "\n" for i, answer in answers]
        path = options.output / "examples.jsonl"
        if path.is_file() and path.read_text(encoding="utf-8") != "".join(lines):
            raise DataError(f"{path} holds other examples, perhaps changed by hand. Give it by --examples.")
        options.output.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
    examples = Examples(answers, posts, 5 if options.num_examples is None else options.num_examples)
    types = list(dict.fromkeys(tag[2:] for tag in names if tag.startswith(("B-", "I-"))))
    return Knowledge(name, types, examples, options.knowledge_url, options.device, options.batch_size)


def _rows(dataset: Dataset, columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield rows as they are stored: images as bytes."""
    present = [name for name in columns if name in dataset.column_names]
    for table in dataset.select_columns(present).iter(BATCH_SIZE):
        yield from table.to_pylist()


def _posts(dataset: Dataset, split: str) -> Iterator[dict[str, Any]]:
    for index, row in enumerate(_rows(dataset, ("id", "tokens", "ner_tags", "objects", "captions"))):
        yield {"objects": [], "captions": [], **row, "id": _name_of(row, split, index)}


def _name_of(row: dict[str, Any], split: str, index: int) -> str:
    """Name a post by its id or, as the converters do, by its split and number."""
    return f"{split}-{index + 1}" if row.get("id") is None else str(row["id"])


def _items(
    dataset: Dataset, split: str, column: str, options: argparse.Namespace
) -> Iterator[list[dict[str, Any] | None]]:
    """Yield for each post what is to be annotated, or `None` for what is not: its images, or the post itself."""
    if column not in IMAGE_COLUMNS:
        for index, post in enumerate(_posts(dataset, split)):
            yield [None if options.limit and index >= options.limit else post | {"where": post["id"]}]
        return
    for index, row in enumerate(_rows(dataset, ("id", "images", "objects"))):
        chosen = None if options.images == "all" else 1
        if options.limit and index >= options.limit:
            chosen = 0
        items: list[dict[str, Any] | None] = [None] * len(row["images"] or [])
        for slot, image in enumerate((row["images"] or [])[:chosen]):
            # As the converters store it, perhaps below a folder; without the folders of this machine.
            path = (image.get("path") or "") if isinstance(image, dict) else str(image)
            name = Path(path).name if Path(path).is_absolute() else path
            found = next(iter((row.get("objects") or [])[slot:]), None)
            where = f"{_name_of(row, split, index)}: {name or f'image {slot + 1}'}"
            items[slot] = {"image": image, "name": name, "objects": found, "where": where}
        yield items


class _Annotation:
    """Has a source say what it has to of items, in batches, each different item once."""

    def __init__(self, source: Any, cache: ValueCache, batch_size: int):
        self.source, self.cache, self.batch_size = source, cache, batch_size
        self.pending: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self.has_values = False

    def add(self, item: dict[str, Any]) -> str:
        """Take an item; return the key of its value in the cache, or of the reason in `failed`."""
        try:
            key = self.source.key(item)
        except DataError:
            raise
        except ValueError as error:
            self.failed[item["where"]] = str(error)
            return item["where"]
        if key in self.cache:
            self.has_values = True
        elif key not in self.failed:
            self.pending[key] = item
        if len(self.pending) == self.batch_size:
            self.flush()
        return key

    def flush(self) -> None:
        """Annotate what was taken; an item that fails does not take others of its batch with it."""
        batch, self.pending = self.pending, {}
        batches = [batch] if batch else []
        while batches:
            batch = batches.pop()
            try:
                self.cache.add(dict(zip(batch, self.source.annotate(list(batch.values())), strict=True)))
                self.has_values = True
            except DataError:
                raise
            except MODEL_ERRORS as error:
                if len(batch) > 1:
                    batches += [{key: item} for key, item in batch.items()]
                else:
                    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                    self.failed[next(iter(batch))] = kind + " ".join(str(error).split())[:300]
        if len(self.failed) >= FAILED_AT_ONCE and not self.has_values and self.cache.folder:
            reason = next(iter(self.failed.values()))
            raise DataError(f"The first {len(self.failed)} all failed: {reason}. Nothing was written.")


def _add_column(
    splits: DatasetDict, column: str, source: Any, options: argparse.Namespace
) -> tuple[DatasetDict, dict[str, Any]]:
    """Add one column to all splits; return them, and what the report says of it."""
    known_by = {"column": column, **{name: value for name, value in source.about.items() if name != "versions"}}
    folder = hashlib.sha256(json.dumps(known_by, sort_keys=True).encode()).hexdigest()[:16]
    is_model = not isinstance(source, ContextFile | Template)
    keys: dict[str, list[list[str | None]]] = {}
    places = []
    with ValueCache(options.cache / folder if is_model else None) as cache:
        annotation = _Annotation(source, cache, options.batch_size)
        for split, dataset in splits.items():
            keys[split] = []
            for items in tqdm(
                _items(dataset, split, column, options), f"{split}: {column}", len(dataset), unit=" posts"
            ):
                keys[split].append([item and annotation.add(item) for item in items])
                places += [(key, item["where"]) for key, item in zip(keys[split][-1], items, strict=True) if item]
        annotation.flush()
        values = {
            split: [[_value(cache, key, column, options) for key in row] for row in rows]
            for split, rows in keys.items()
        }
    failed = [f"{where}: {annotation.failed[key]}" for key, where in places if key in annotation.failed]
    entry = {"made_by": source.made_by, **source.about, "read": options.images, "limit": options.limit}
    entry["images" if column in IMAGE_COLUMNS else "posts"] = len(places)
    entry["failed"] = {"count": len(failed), "became": options.on_failed, "of": failed}
    digests = entry["sha256"] = {}
    added = DatasetDict()
    for split, dataset in splits.items():
        rows = values[split] if column in IMAGE_COLUMNS else [row[0] for row in values[split]]
        added[split], digests[split] = _with_column(dataset, column, rows)
    return added, entry


def _value(cache: ValueCache, key: str | None, column: str, options: argparse.Namespace) -> Any:
    if key in cache:
        return cache[key]
    return None if key is None or options.on_failed == "none" else [] if column in IMAGE_COLUMNS else ""


def _with_column(dataset: Dataset, column: str, values: list[Any]) -> tuple[Dataset, str]:
    """Put a column in; return the data set and the column's digest."""
    if column in dataset.column_names:
        dataset = dataset.remove_columns(column)
    # A fingerprint of its own: `datasets` would pickle the values to make one.
    dataset = dataset.add_column(column, values, feature=CONTEXT_FEATURES[column], new_fingerprint=uuid4().hex)
    for row in _rows(dataset, ("id", "images", column)):
        check_context(row, column)
    return dataset, column_digest(row[column] for row in _rows(dataset, [column]))


def _file_name(split: str) -> str:
    return f"{split}-00000-of-00001.parquet"


def _write(splits: DatasetDict, options: argparse.Namespace, report: dict[str, Any]) -> None:
    data = options.output / "data"
    try:
        data.mkdir(parents=True, exist_ok=True)
        # All splits take their names together: a run that is killed leaves no data set of two runs.
        with ExitStack() as unfinished:
            for split, dataset in splits.items():
                names = [name for name in dataset.column_names if name not in CONTEXT_FEATURES]
                names += [name for name in CONTEXT_FEATURES if name in dataset.column_names]
                schema = Features({name: dataset.features[name] for name in names}).arrow_schema
                path = unfinished.enter_context(write_whole(data / _file_name(split)))
                with pq.ParquetWriter(path, schema) as writer:
                    tables = dataset.select_columns(names).iter(BATCH_SIZE)
                    for table in tqdm(tables, f"{split}: writing", -(-len(dataset) // BATCH_SIZE)):
                        writer.write_table(table.cast(schema))
            write_json(report, unfinished.enter_context(write_whole(options.output / "report.json")))
    except OSError as error:
        raise DataError(f"--output {options.output} can't be written: {error}. Make room there.") from None


def make_parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--input", type=Path, required=True, help="a folder that load_dataset reads")
    add("--output", type=Path, required=True, help="a new folder")
    add(
        "--columns",
        nargs="+",
        action="extend",
        metavar="OURS=THEIRS",
        help="names of the columns in --input, such as images=photos, which --output has by ours",
    )
    add("--objects", metavar="MODEL", help="an object detector or an image classifier, or FILE.jsonl")
    add("--regions", metavar="MODEL", help="a zero-shot object detector, or FILE.jsonl")
    add("--captions", metavar="MODEL", help="a model that writes about images, FILE.jsonl, or template (over objects)")
    add("--ocr", metavar="MODEL", help="a model that reads text, FILE.jsonl, or tesseract: the column image_text")
    add("--knowledge", metavar="MODEL", help="a language model, FILE.jsonl, or template (over objects)")
    add("--knowledge_url", metavar="URL", help="ask an OpenAI-compatible endpoint; its key stands in SMCL_API_KEY")
    add("--examples", type=Path, metavar="FILE.jsonl", help="training posts with answers, for the prompts")
    add("--make_examples", type=int, metavar="N", help="write them from gold mentions of N training posts")
    add("--num_examples", type=int, help="examples in a prompt (default: 5)")
    add("--images", choices=("first", "all"), default="first", help="which images of a post are read (default: first)")
    add("--threshold", type=float, help="least score of an object (default: 0.5 of a detector, 0 of a classifier)")
    add("--max_objects", type=int, help="objects of an image (default: 20 of a detector, 5 of a classifier)")
    add("--num_captions", type=int, help="captions of an image (default: 1)")
    add(
        "--queries",
        nargs="+",
        metavar="NAME[=WORDS]",
        help=f"what regions show; WORDS go to the model (default: {' '.join(QUERIES)})",
    )
    add("--made_by", nargs="+", default=[], metavar="COLUMN=NAME", help="who made the columns that come from files")
    add("--on_failed", choices=("none", "empty"), default="none", help="what has no value becomes: not computed, which "
        "systems refuse to read, or as if nothing was found (default: %(default)s)")  # fmt: skip
    add("--batch_size", type=int, default=1, help="images, or requests to an endpoint, at once; pays on a GPU only")
    add(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where models run (default: %(default)s)",
    )
    add("--limit", type=int, metavar="N", help="a trial: read the first N posts of each split only")
    add("--seed", type=int, default=0, help="chooses the posts of --make_examples")
    add("--cache", type=Path, default=DEFAULT_FOLDER, help="where what models say is kept")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.

    Raises:
        SystemExit: with status 2 if it can't be done, 3 if more than 1 % of the images or posts have no value.
    """
    parser = make_parser()
    options = parser.parse_args(argv)
    with parser.errors_in_one_line():
        report = enrich(options)
    bad = []
    for column, about in report["context"].items():
        if not getattr(options, FLAGS[column]):
            continue
        unit = "images" if column in IMAGE_COLUMNS else "posts"
        count, failed = about[unit], about["failed"]["count"]
        say(f"{column}: {count} {unit} by {about['made_by']}, {failed} without a value\n")
        say("".join(f"  {line}\n" for line in about["failed"]["of"][:3]))
        if failed > MAX_FAILED * count and options.on_failed == "none":
            bad.append(column)
    if bad:
        parser.exit(3, f"{parser.prog}: more than 1 % have no value in {', '.join(bad)}; report.json names all. "
                       "Systems refuse to read them: mend them, or add --on_failed empty.\n")  # fmt: skip


if __name__ == "__main__":
    main()
