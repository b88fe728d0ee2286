"""Predictions to Label Studio, where people correct them, and its export back to Parquet.

    python -m smcl.dataset_scripts.label_studio export --predictions tagged.jsonl --posts posts.jsonl --output tasks
    python -m smcl.dataset_scripts.label_studio import --export export.json --images tasks/images --output corrected

`export` writes `tasks.json`, `config.xml` (the labelling interface) and `images/`; it takes `tagged.jsonl` of
`--output`, or `predictions.jsonl`, and gives each entity as a pre-annotation, with its score if there is one. `import`
reads what Label Studio exports as JSON.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import quoteattr

import pyarrow.parquet as pq
from tqdm import tqdm

from ..images_smcl import fetch_image, is_address, is_data_uri
from .columns import has_image_name, holds_images, parse_columns
from .command_line import CommandParser, say
from .conll import convert_tags
from .files import check_writable
from .image_files import find_image, find_rivals, read_image_of
from .jsonl import read_records
from .rows import read_post, refuse_shared_id
from .schema import DataError, Post, make_post, require_folder, write_json
from .spans import find_words, read_spans, words_of
from .tag_schemes import bio2_labels
from .writer import add_processes_argument, run_command, write_dataset

TEXT, LABELS, IMAGE = "text", "label", "image"
# How Label Studio serves a folder of its own machine (LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED).
IMAGE_ROOT = "/data/local-files/?d=images/"
MODEL_VERSION = "smcl"


def make_task(record: Mapping[str, Any], post: Mapping[str, Any], images: Sequence[str]) -> dict[str, Any]:
    """Make a task of one predicted post.

    Args:
        record (`Mapping[str, Any]`): A line of predictions: `id`, `words` and `entities`; or `tokens` and `predicted`.
        post (`Mapping[str, Any]`): What [`~rows.read_post`] gives of the post itself, whose `text` offsets refer to.
        images (`Sequence[str]`): Addresses of its images.

    Returns:
        `dict`: with `data` and `predictions`.

    Raises:
        DataError: if a record has no words, or an entity does not fit the text.
    """
    words = record.get("words") or record.get("tokens")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        reason = record.get("error") or f"it has the keys {sorted(record)}"
        raise DataError(
            f"post {record.get('id')!r} has no words to correct: {reason}. Predict it again, or leave it out."
        )
    text = post.get("text") or " ".join(words)
    spans = [_result(number, text, *span) for number, span in enumerate(_entities(record, words, text))]
    data = {"id": str(record.get("id", "")), TEXT: text, "words": words, "images": list(images)}
    prediction = {"model_version": MODEL_VERSION, "result": spans}
    scores = [span["score"] for span in spans if "score" in span]
    if scores:
        # The least certain entity decides which post is looked at first.
        prediction["score"] = min(scores)
    return {"data": data, "predictions": [prediction]}


def _result(number: int, text: str, start: int, end: int, label: str, score: float | None) -> dict[str, Any]:
    value = {"start": start, "end": end, "text": text[start:end], "labels": [label]}
    result = {"id": f"e{number}", "from_name": LABELS, "to_name": TEXT, "type": "labels", "value": value}
    return result if score is None else result | {"score": score}


def _entities(record: Mapping[str, Any], words: list[str], text: str) -> Iterator[tuple[int, int, str, float | None]]:
    """Yield start, end, type and score of each entity."""
    if record.get("entities") is not None:
        spans = read_spans(record["entities"], text)
        scores = {span[:2]: entity.get("score") for entity in record["entities"] for span in read_spans([entity], text)}
        yield from ((*span, scores[span[:2]]) for span in spans)
        return
    # A word that was not tagged has null.
    tags = [*("O" if tag is None else tag for tag in record.get("predicted") or record.get("tags") or []), "O"]
    if len(tags) != len(words) + 1:
        raise DataError(f"post {record.get('id')!r} has {len(words)} words and {len(tags) - 1} predicted tags.")
    if not all(isinstance(tag, str) for tag in tags):
        raise DataError(f"the predicted tags of post {record.get('id')!r} must be texts, got {ascii(tags)[:80]}.")
    places, begin = find_words(text, words), None
    if places is None:
        raise DataError(f"the words of post {record.get('id')!r} don't stand in its text {ascii(text)[:80]}.")
    for row, tag in enumerate(tags):
        if begin is not None and not (tag[:2] == "I-" and tag[2:] == tags[begin][2:]):
            yield places[begin][0], places[row - 1][1], tags[begin][2:], None
            begin = None
        if tag[:2] == "B-":
            begin = row


def labelling_config(types: Iterable[str], most_images: int) -> str:
    """Return the labelling interface that the tasks need, as Label Studio's XML.

    Args:
        types (`Iterable[str]`): The entity types.
        most_images (`int`): Images of the post with the most.
    """
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in types)
    image = f'  <Image name="{IMAGE}" valueList="$images"/>\n' if most_images else ""
    return (
        f'<View>\n  <Labels name="{LABELS}" toName="{TEXT}">\n{labels}  </Labels>\n'
        f'  <Text name="{TEXT}" value="${TEXT}" granularity="symbol"/>\n{image}</View>\n'
    )


def export_tasks(
    predictions: str | os.PathLike,
    output: str | os.PathLike,
    posts: str | os.PathLike | None = None,
    image_root: str = IMAGE_ROOT,
    types: Sequence[str] = (),
    columns: Mapping[str, str] | Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write predictions as tasks of Label Studio.

    Args:
        predictions (`str` or `os.PathLike`): JSON lines or Parquet of predictions.
        output (`str` or `os.PathLike`): New or empty folder for `tasks.json`, `config.xml` and `images/`.
        posts (`str` or `os.PathLike`, *optional*): What was predicted, in the same order: JSON lines, or a Parquet
            file. Without it there are no images, and a text is its words with spaces between.
        image_root (`str`, *optional*): What addresses of images begin with; by default Label Studio's local files.
        types (`Sequence[str]`, *optional*): Entity types to offer besides those that were predicted.
        columns (`Mapping[str, str]` or `Sequence[str]`, *optional*): As of [`~columns.parse_columns`], for posts whose
            columns are called otherwise.

    Returns:
        `dict`: numbers of `tasks`, `entities`, `images`, and posts left out since they have an `error`.

    Raises:
        DataError: if files do not fit together, or the folder holds something.
    """
    folder, columns = Path(output), parse_columns(columns)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"Expected a new or empty folder at {folder}. Choose another --output.")
    try:
        check_writable(folder, "--output")
    except ValueError as error:
        raise DataError(str(error)) from error
    records = [record for _, record in _read_rows(Path(predictions))]
    rows = [{}] * len(records) if posts is None else [row for _, row in _read_rows(Path(posts))]
    if len(rows) != len(records):
        raise DataError(
            f"{posts} has {len(rows)} posts, but {predictions} has {len(records)}. Give what was predicted."
        )
    (folder / "images").mkdir(parents=True)
    tasks, counts, found = [], Counter(tasks=0, entities=0, images=0, errors=0), set(types)
    for number, (record, row) in enumerate(zip(records, rows, strict=True)):
        try:
            if not isinstance(record, Mapping):
                raise DataError(f"expected an object with `words` or `tokens`, got {ascii(record)[:80]}")
            post = read_post(row, columns=columns) if posts is not None else {"images": []}
            if post.get("id") not in (None, str(record.get("id"))):
                raise DataError(f"it has the id {record.get('id')!r}, but the post there has {post['id']!r}")
            if record.get("error"):
                counts["errors"] += 1
                continue
            addresses = _write_images(post["images"], number, folder / "images", image_root, posts)
            task = make_task(record, post, addresses)
        except ValueError as error:
            # So that the mended command finds an empty folder.
            shutil.rmtree(folder / "images")
            raise DataError(f"{predictions}, record {number}: {error}") from None
        tasks.append(task)
        results = task["predictions"][0]["result"]
        found.update(result["value"]["labels"][0] for result in results)
        counts.update(tasks=1, entities=len(results), images=len(addresses))
    write_json(tasks, folder / "tasks.json")
    config = labelling_config(sorted(found), max((len(task["data"]["images"]) for task in tasks), default=0))
    (folder / "config.xml").write_text(config, encoding="utf-8")
    return dict(counts)


def _read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix != ".parquet":
        yield from read_records(path)
        return
    if not path.is_file():
        raise DataError(f"There is no file {path}. Check the path.")
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(100):
            yield from ((str(path), row) for row in batch.to_pylist())


def _write_images(
    images: list[Any], number: int, folder: Path, image_root: str, posts: str | os.PathLike | None
) -> list[str]:
    """Copy the images of a post, but for those on the web; gives the addresses of all."""
    addresses = []
    for place, image in enumerate(images):
        name = image.get("path") if isinstance(image, dict) else image if isinstance(image, str) else None
        data = image.get("bytes") if isinstance(image, dict) else image if isinstance(image, bytes) else None
        if data is None and name is not None and is_address(name):
            addresses.append(name)
            continue
        if data is None and name is not None and is_data_uri(name):
            name, data = None, fetch_image(name)
        if data is None:
            base = Path(posts or ".").resolve().parent
            path = find_image(base, str(name)) if name else None
            if path is None:
                raise DataError(f"there is no image {name!r} in {base}. Correct its path, or leave it out.")
            data = path.read_bytes()
        file = f"{number}_{place}_{Path(name or 'image').name}"
        (folder / file).write_bytes(data)
        addresses.append(image_root + quote(file))
    return addresses


class TaskImages:
    """Finds the image files of tasks by their addresses.

    Args:
        folder (`Path`, *optional*): The folder of images; without one, each is named by the end of its address.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self._addresses: dict[str, str] = {}

    def name_of(self, address: str, where: str) -> str:
        """Name the file of an address: as much of its end as there is in the folder.

        Raises:
            DataError: if another address has the same file.
        """
        path = unquote(address)
        # Label Studio's own addresses have the path behind, others something else.
        path = path.partition("?d=")[2] or path.partition("?")[0]
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        ends = ["/".join(parts[start:]) for start in range(len(parts))] or [""]
        name = next((end for end in ends if self.folder is not None and (self.folder / end).is_file()), ends[-1])
        other = self._addresses.setdefault(name, address)
        if other != address:
            raise DataError(
                f"{where}: {name!r} would be the image of two addresses, {other!r} and {address!r}. Put images into "
                "folders as in the addresses."
            )
        return name


def read_task(task: Any, where: str, source: str, number: int, counts: Counter, images: TaskImages) -> Post | None:
    """Read a corrected task.

    Args:
        task (`Any`): An item of Label Studio's JSON export.
        where (`str`): Where it stands, for messages.
        source (`str`): The data set's name.
        number (`int`): Stands in for a missing id.
        counts (`Counter`): Counts `unlabelled` and `cancelled` tasks, and `cut words`.
        images ([`TaskImages`]): Finds the images.

    Returns:
        `Post`, *optional*: none if nobody corrected it.

    Raises:
        DataError: if it is no such task, several people's corrections are there and none is marked as ground truth, or
            a span can't be used.
    """
    if not isinstance(task, Mapping) or not isinstance(task.get("data"), Mapping):
        raise DataError(
            f"{where}: expected a task with `data` and `annotations`, got {ascii(task)[:80]}. Export as JSON, not as "
            "JSON-MIN."
        )
    data = task["data"]
    given = _objects(task.get("annotations"), "annotations", where)
    done = [one for one in given if not one.get("was_cancelled")]
    if not done:
        counts["cancelled" if given else "unlabelled"] += 1
        return None
    truths = [one for one in done if one.get("ground_truth")]
    chosen = truths if len(truths) == 1 else done
    if len(chosen) > 1:
        raise DataError(
            f"{where}: {len(chosen)} annotations are there. Mark one of them as ground truth, or remove the others."
        )
    try:
        text = data.get(TEXT)
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"`data` has no `{TEXT}`, but {sorted(data)}")
        spans = [_span(result) for result in _text_regions(_objects(chosen[0].get("result"), "result", where))]
        tokens, tags = _tag(text, spans, data.get("words"), counts)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    names = [images.name_of(address, where) for address in _addresses(data, where)]
    post_id = next((one for one in (data.get("id"), task.get("id")) if one not in (None, "")), number)
    return make_post(str(post_id), tokens, tags, names, source, where, str)


def _objects(value: Any, name: str, where: str) -> list[Mapping[str, Any]]:
    """Return a list of objects, which may be missing."""
    value = value or []
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise DataError(f"{where}: `{name}` must be a list of objects, got {ascii(value)[:80]}.")
    return value


def _text_regions(results: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the labelled parts of the text; a `DataError` says so if there are others, or several texts."""
    labelled = [result for result in results if result.get("type") == "labels"]
    known = {result.get("id") for result in labelled} - {None}
    for result in results:
        value = result.get("value")
        in_text = isinstance(value, Mapping) and value.keys() & {"start", "startOffset", "globalOffsets"}
        # What a person says of a labelled part beside its label has the same id.
        if in_text and result.get("type") != "labels" and result.get("id") not in known:
            raise DataError(
                f"a part of the text is labelled by {ascii(result.get('type'))[:80]}, which can't be read. Expected "
                "`labels`, of <Labels> over <Text>. Label it so, or remove the part."
            )
    texts = sorted({str(result["to_name"]) for result in labelled if "to_name" in result})
    if len(texts) > 1:
        raise DataError(
            f"labels are of several texts, {', '.join(texts)}, but one of them alone can be `{TEXT}`. Remove those "
            "of the others."
        )
    return labelled


def _addresses(data: Mapping[str, Any], where: str) -> list[str]:
    """Return the addresses of a task's images: those of `images`, or of the only other key that holds some."""
    name = "images"
    if data.get(name) in (None, "", []):
        others = [key for key in data if key not in ("id", TEXT, "words", name)]
        likely = [key for key in others if data[key] and (has_image_name(str(key)) or holds_images(data[key]))]
        if len(likely) > 1:
            raise DataError(f"{where}: images may be in {likely}. Put them all into one list `images`.")
        name = likely[0] if likely else name
    addresses = data.get(name) or []
    addresses = [addresses] if isinstance(addresses, str) else addresses
    if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
        raise DataError(f"{where}: `{name}` must be a list of addresses, got {ascii(addresses)[:80]}.")
    return addresses


def _span(result: Mapping[str, Any]) -> dict[str, Any]:
    value = result.get("value")
    if not isinstance(value, Mapping):
        raise DataError(f"a result has no `value`: {ascii(result)[:80]}")
    names = ("start", "end", "labels", "text")
    return {name: value[name] for name in names if name in value}


def _tag(text: str, spans: list[dict[str, Any]], words: Any, counts: Counter) -> tuple[list[str], list[str]]:
    """Tag the words of a task: those that it was exported with, if it was."""
    known = isinstance(words, list) and all(isinstance(word, str) for word in words)
    tokens, tags, cut = words_of(text, spans, words if known and find_words(text, words) is not None else None)
    counts["cut words"] += cut
    return tokens, tags


def import_tasks(
    export: str | os.PathLike,
    output: str | os.PathLike,
    images: str | os.PathLike | None = None,
    split: str = "train",
    name: str = "label_studio",
    types: Sequence[str] = (),
    processes: int = 1,
) -> dict[str, Any]:
    """Convert Label Studio's JSON export to Parquet.

    Args:
        export (`str` or `os.PathLike`): The exported file.
        output (`str` or `os.PathLike`): The folder to write to.
        images (`str` or `os.PathLike`, *optional*): The folder of images that `export_tasks` wrote.
        split (`str`, *optional*, defaults to `"train"`): The split that the posts become.
        name (`str`, *optional*, defaults to `"label_studio"`): The data set's name.
        types (`Sequence[str]`, *optional*): All entity types, in the order of the labels, as a model that is to be
            trained on has them; by default those that stand there.
        processes (`int`, *optional*, defaults to 1): How many processes read images.

    Returns:
        `dict`: the report, see [`write_dataset`], with numbers of tasks left out.

    Raises:
        DataError: if a file or folder is missing, or a task can't be used; names it.
    """
    if images is not None:
        require_folder(Path(images), "image folder", "Check --images.")
    counts = Counter()
    places = TaskImages(images and Path(images))
    with tqdm(read_records(Path(export)), desc=f"{split}: tasks", unit=" tasks") as records:
        posts, kinds = [], {}
        for number, (where, task) in enumerate(records):
            post = read_task(task, where, name, number, counts, places)
            if post is not None:
                refuse_shared_id(post.id, task["data"].get("id"), kinds, where)
                posts.append(post)
    splits, labels = convert_tags({split: posts}, "bio2")
    if types:
        if unknown := [label[2:] for label in labels if label[:2] == "B-" and label[2:] not in types]:
            raise DataError(f"{export} has entities of the types {unknown}, which are none of {list(types)}.")
        labels = bio2_labels(types)
    if left_out := {what: count for what, count in counts.items() if count}:
        tqdm.write(", ".join(f"{what}: {count}" for what, count in left_out.items()))
    read_image = partial(read_image_of, images and Path(images), rivals=find_rivals(splits))
    return write_dataset(output, name, splits, read_image, processes, labels)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = CommandParser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("export", help="predictions to tasks of Label Studio")
    out.add_argument("--predictions", type=Path, required=True, help=".jsonl or .parquet of predictions")
    out.add_argument("--posts", type=Path, help="what was predicted: .jsonl or .parquet, for texts and images")
    out.add_argument("--output", type=Path, required=True, help="new folder for tasks, interface and images")
    out.add_argument("--image_root", default=IMAGE_ROOT, help=f"what addresses of images begin with ({IMAGE_ROOT})")
    out.add_argument("--types", nargs="+", default=(), help="entity types to offer besides the predicted ones")
    out.add_argument("--columns", nargs="+", help="OURS=THEIRS pairs for --posts, such as images=img tokens=words")
    back = commands.add_parser("import", help="corrected tasks to Parquet")
    back.add_argument("--export", type=Path, required=True, help="what Label Studio exported as JSON")
    back.add_argument("--images", type=Path, help="the folder of images that `export` wrote")
    back.add_argument("--output", type=Path, required=True, help="the folder to write Parquet files to")
    back.add_argument("--split", default="train", help="the split that the posts become (train)")
    back.add_argument("--types", nargs="+", default=(), help="all entity types, in the order of a model's labels")
    back.add_argument("--name", default="label_studio", help="the data set's name")
    add_processes_argument(back)
    options = vars(parser.parse_args(argv))
    if options.pop("command") == "import":
        run_command(parser, import_tasks, **options)
        return
    with parser.errors_in_one_line():
        counts = export_tasks(**options)
    say(json.dumps(counts) + "\n")


if __name__ == "__main__":
    main()
