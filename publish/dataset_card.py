"""The card of a published data set, written from its converter's report."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData

from .model_card import UNKNOWN, format_table

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
PROBLEMS = ("missing_images", "repaired_images", "broken_images", "illegal_transitions")


def dataset_card(
    name: str, report: dict[str, Any], labels: Sequence[str], size: int, license: str | None = None
) -> str:
    """Write the card of a data set.

    Args:
        name (`str`): Its name on the Hub, `"namespace/name"`.
        report (`dict`): Its converter's `report.json`.
        labels (`Sequence[str]`): The names of its tags, by id.
        size (`int`): Bytes of its Parquet files.
        license (`str`, *optional*): Identifier of its licence.

    Returns:
        `str`: metadata, and sections of Markdown.
    """
    splits = report["splits"]
    posts = sum(split["posts"] for split in splits.values())
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
    sections = [_introduction(name, report, posts, size, license), _use(name), _format(labels), _figures(splits)]
    sections += [_hashes(splits), _limits(report)]
    return f"---\n{metadata}\n---\n\n" + "\n\n".join(sections) + "\n"


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


def _introduction(name: str, report: dict[str, Any], posts: int, size: int, license: str | None) -> str:
    return f"""# {name.split("/")[-1]}

{posts:,} posts with images, and the named entities in their words: the data `{report["name"]}`, as written by its
converter in the package `smcl`. Parquet, images included, {size / 1e6:,.1f} MB.

Licence: {license or UNKNOWN}. Terms of those who made the posts, the images and the annotation apply."""


def _use(name: str) -> str:
    return f"""## Use

```python
from datasets import load_dataset

posts = load_dataset("{name}", split="test")
names = posts.features["ner_tags"].feature.names
print(posts[0]["tokens"], [names[tag] for tag in posts[0]["ner_tags"]], posts[0]["images"])
```"""


def _format(labels: Sequence[str]) -> str:
    rows = [
        ("`id`", "string"),
        ("`tokens`", "the words, a list of strings"),
        ("`ner_tags`", f"a class label for each word: {', '.join(labels)}"),
        ("`images`", "a list of images, in the order of the post"),
        ("`source`", "string: the data set that the post comes from"),
    ]
    return f"## Format\n\n{format_table(('column', 'content'), rows)}"


def _figures(splits: dict[str, dict[str, Any]]) -> str:
    every = list(splits.values())
    types = [name for name in every[0]["entities"] if name != "total"]
    counts = sorted({count for split in every for count in split["images_per_post"]}, key=int)
    rows = [(title, [split[title] for split in every]) for title in ("posts", "words")]
    rows.append(("entities", [split["entities"]["total"] for split in every]))
    rows += [(name, [split["entities"][name] for split in every]) for name in types]
    rows.append(("images", [split["images"] for split in every]))
    rows += [
        (f"posts with {count} image{'s' * (count != '1')}", [split["images_per_post"].get(count, 0) for split in every])
        for count in counts
    ]
    rows += [(field.replace("_", " "), [split[field]["count"] for split in every]) for field in PROBLEMS]
    cells = [(title, *(f"{value:,}" for value in (*values, sum(values)))) for title, values in rows]
    return f"## Figures\n\n{format_table(('', *splits, 'all'), cells)}"


def _hashes(splits: dict[str, dict[str, Any]]) -> str:
    rows = [(name, f"`{split['sha256']}`") for name, split in splits.items()]
    return f"""## SHA-256

Over one JSON line for each post, `[id, tokens, tags, [[image file name, SHA-256 of its bytes], ...], source]`.

{format_table(("split", "SHA-256"), rows)}"""


def _limits(report: dict[str, Any]) -> str:
    splits = report["splits"].values()
    mapped = sum((Counter(split["mapped_tags"]) for split in splits), Counter())
    renamed = ", ".join(f"{pair} ({count:,})" for pair, count in sorted(mapped.items()))
    lost = sum(split[field]["count"] for split in splits for field in ("missing_images", "broken_images"))
    limits = [
        f"{lost:,} images that were missing or broken in the source are left out; `report.json` names them.",
        f"{len(report['duplicate_ids']):,} ids belong to several posts.",
        f"Tags that the converter renamed: {renamed or 'none'}.",
        "Posts of people name and show people: who they are, and what they agreed to, is not recorded.",
        "How the annotators chose, and whom the posts leave out, is not recorded here.",
    ]
    return "## Limits and bias\n\n" + "\n".join(f"- {limit}" for limit in limits)


__all__ = ["dataset_card", "parquet_files"]
