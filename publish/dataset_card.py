"""The card of a published data set, written from its converter's report.

Its text is the template beside this file.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Features
from huggingface_hub import DatasetCard, DatasetCardData

from ..dataset_scripts.context import column_digest
from ..dataset_scripts.report import SplitReport
from ..dataset_scripts.schema import Post
from .model_card import UNKNOWN, as_code, as_text, describe_maker
from .run_record import tag_names

TEMPLATE = Path(__file__).with_suffix(".md")
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
# What of a report can be counted again in the Parquet files; the rest tells what the converter met.
FIGURES = ("posts", "words", "entities", "images", "images_per_post", "illegal_transitions", "sha256")
PROBLEMS = ("missing_images", "ambiguous_images", "repaired_images", "broken_images", "illegal_transitions")
LOST = ("missing_images", "ambiguous_images", "broken_images")
CONTEXT_CONTENT = {
    "objects": 'for each image a list of `{"label", "score", "box"}`, best first',
    "regions": 'for each image the best box of each query, `{"query", "score", "box"}`',
    "captions": "for each image a list of strings, best first",
    "image_text": "for each image a list of strings: the lines of text in it",
    "knowledge": "string: what is known about the post",
}


def dataset_card(
    name: str, report: dict[str, Any], labels: Sequence[str], size: int, license: str | None = None
) -> DatasetCard:
    """Write the card of a data set.

    Args:
        name (`str`): Its name on the Hub, `"namespace/name"`.
        report (`dict`): Its converter's `report.json`.
        labels (`Sequence[str]`): The names of its tags, by id.
        size (`int`): Bytes of its Parquet files.
        license (`str`, *optional*): Identifier of its licence.

    Returns:
        `huggingface_hub.DatasetCard`: metadata, and sections of Markdown.
    """
    splits, context = report["splits"], report.get("context", {})
    posts = sum(split["posts"] for split in splits.values())
    mapped = sum((Counter(split["mapped_tags"]) for split in splits.values()), Counter())
    metadata = DatasetCardData(
        license=license or "unknown",
        pretty_name=report["name"],
        task_categories=["token-classification"],
        task_ids=["named-entity-recognition"],
        size_categories=[next((text for limit, text in SIZES if posts < limit), "n>1M")],
        tags=["multimodal", "image", "text", "smcl"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    )
    return DatasetCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        unknown=UNKNOWN,
        name=name,
        title=as_text(name.split("/")[-1]),
        source=as_code(report["name"]),
        posts=posts,
        size=size,
        license=license and as_text(license),
        labels=[as_text(label) for label in labels],
        splits=list(splits),
        figures=_figure_rows(list(splits.values())),
        hashes={name: split["sha256"] for name, split in splits.items()},
        context_columns={column: text for column, text in CONTEXT_CONTENT.items() if column in context},
        context=[_context_row(column, about) for column, about in context.items()],
        context_hashes=[
            (as_code(c), *(as_code(about["sha256"][name]) for name in splits)) for c, about in context.items()
        ],
        lost_images=sum(split[field]["count"] for split in splits.values() for field in LOST),
        duplicate_ids=len(report["duplicate_ids"]),
        renamed=[f"{as_text(pair)} ({count:,})" for pair, count in sorted(mapped.items())],
    )


def parquet_files(folder: Path, report: dict[str, Any]) -> list[Path]:
    """List the Parquet files of the splits that a report tells of, in their order.

    Args:
        folder (`Path`): The data set's folder.
        report (`dict`): Its `report.json`.

    Returns:
        `list[Path]`: the files.

    Raises:
        ValueError: if a split has none.
    """
    files = []
    for split in report["splits"]:
        found = sorted((folder / "data").glob(f"{split}-*.parquet"))
        if not found:
            raise ValueError(
                f"Expected Parquet files data/{split}-*.parquet in {folder}, as its report.json tells of that split; "
                "found none. Run the converter again."
            )
        files += found
    return files


def check_report(files: Sequence[Path], report: dict[str, Any]) -> None:
    """See to it that a report is of the data beside it: a card that tells its figures and hashes must not be wrong.

    Args:
        files (`Sequence[Path]`): The data set's Parquet files, as [`parquet_files`] lists them.
        report (`dict`): Its `report.json`.

    Raises:
        ValueError: if a figure or a hash of the report is not that of the posts.
    """
    for split, told in report["splits"].items():
        found = SplitReport(name for name in told["entities"] if name != "total")
        for path in files:
            if path.name.startswith(f"{split}-"):
                _count_posts(path, found)
        for figure, value in found.as_dict().items():
            if figure in FIGURES and value != told[figure]:
                raise ValueError(
                    f"The split {split!r} in {files[0].parents[1]} has {value} {figure}, but report.json tells of "
                    f"{told[figure]}: it is of other data. Run the converter again."
                )
    _check_context(files, report.get("context", {}), list(report["splits"]))


def _check_context(files: Sequence[Path], context: dict[str, Any], splits: Sequence[str]) -> None:
    """See to it that what a report tells of columns of context is of those in the files."""
    for column, split in product(context, splits):
        parts = [path for path in files if path.name.startswith(f"{split}-")]
        told = context[column]["sha256"].get(split)
        if not all(column in pq.read_schema(path).names for path in parts) or told != column_digest(
            value
            for path in parts
            for batch in pq.ParquetFile(path).iter_batches(columns=[column])
            for value in batch.column(0).to_pylist()
        ):
            raise ValueError(
                f"The column {column!r} of the split {split!r} in {files[0].parents[1]} is not that which report.json "
                "tells of. Run `python -m smcl.dataset_scripts.enrich` again."
            )


def _context_row(column: str, about: dict[str, Any]) -> tuple[str, ...]:
    """Tell what made a column of context, of how many images or posts, and how many have no value."""
    unit = "images" if "images" in about else "posts"
    read = "the first of each post" if about["read"] == "first" and unit == "images" else "all"
    limit = "" if about["limit"] is None else f" of the first {about['limit']:,} posts of each split"
    failed = f"{about['failed']['count']:,}"
    if about["failed"]["count"]:
        failed += ": as if nothing was found" if about["failed"]["became"] == "empty" else ": null"
    return (
        as_code(column),
        describe_maker(about),
        _list(about["settings"]),
        _list(about.get("versions", {})),
        f"{about[unit]:,} {unit}, {read}{limit}",
        failed,
    )


def _list(values: dict[str, Any]) -> str:
    """Write names with values in one line."""
    return ", ".join(f"{as_text(name)} {as_text(str(value))}" for name, value in values.items()) or UNKNOWN


def _count_posts(path: Path, report: SplitReport) -> None:
    """Add the posts of a Parquet file to a report, a few at a time, as images can be large."""
    labels = Features.from_arrow_schema(pq.read_schema(path))["ner_tags"].feature.names
    for batch in pq.ParquetFile(path).iter_batches(batch_size=100):
        for row in batch.to_pylist():
            tags = tag_names(row["ner_tags"], labels)
            names = [image["path"] for image in row["images"]]
            report.add(Post(row["id"], row["tokens"], tags, names, row["source"], published_tags=tags), row["images"])


def _figure_rows(splits: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Count by split and in all: posts, words, entities of each type, images, problems."""
    types = [name for name in splits[0]["entities"] if name != "total"]
    counts = sorted({count for split in splits for count in split["images_per_post"]}, key=int)
    rows = [(title, [split[title] for split in splits]) for title in ("posts", "words")]
    rows.append(("entities", [split["entities"]["total"] for split in splits]))
    rows += [(as_text(name), [split["entities"][name] for split in splits]) for name in types]
    rows.append(("images", [split["images"] for split in splits]))
    rows += [
        (f"posts with {n} image{'s' * (n != '1')}", [split["images_per_post"].get(n, 0) for split in splits])
        for n in counts
    ]
    rows += [(field.replace("_", " "), [split[field]["count"] for split in splits]) for field in PROBLEMS]
    return [(title, *(f"{value:,}" for value in (*values, sum(values)))) for title, values in rows]


__all__ = ["check_report", "dataset_card", "parquet_files"]
