"""What a converter reports about the data it wrote."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from datasets import Dataset, Image, List

from .schema import Post, features_of


class SplitReport:
    """Collects the figures of one split, post by post.

    Args:
        types (`Iterable[str]`): The entity types, in the order of the report.
    """

    def __init__(self, types: Iterable[str]):
        self.types = list(types)
        self.posts = 0
        self.words = 0
        self.entities = Counter()
        self.mapped_tags = Counter()
        self.images_per_post = Counter()
        self.image_problems = {"missing": [], "ambiguous": [], "repaired": [], "broken": []}
        self.illegal_transitions = 0
        self.posts_with_illegal_transitions = []
        self._content = hashlib.sha256()

    def add_image_problem(self, post: Post, name: str, state: str) -> None:
        """Note an image file that was not whole.

        Args:
            post (`Post`): The post that names the image.
            name (`str`): The image's file name.
            state (`str`): `"missing"`, `"ambiguous"`, `"repaired"` or `"broken"`.
        """
        self.image_problems[state].append(f"{post.id}: {name}")

    def add(self, post: Post, images: list[dict[str, Any]]) -> None:
        """Count a post as it is written.

        Args:
            post (`Post`): The post.
            images (`list[dict]`): Its images as `{"bytes": ..., "path": file name}`.
        """
        self.posts += 1
        self.words += len(post.tokens)
        self.entities.update(tag[2:] for tag in post.tags if tag.startswith("B-"))
        pairs = zip(post.published_tags, post.tags, strict=True)
        self.mapped_tags.update(f"{published} -> {tag}" for published, tag in pairs if published != tag)
        self.images_per_post[len(images)] += 1
        illegal = count_illegal_transitions(post.tags)
        if illegal:
            self.illegal_transitions += illegal
            self.posts_with_illegal_transitions.append(post.id)
        self._content.update(_canonical(post.id, post.tokens, post.tags, images, post.source))

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values.

        Returns:
            `dict`: posts, words, entities, images, problems, illegal transitions, mapped tags and SHA-256.
        """
        problems = {
            f"{state}_images": {"count": len(files), "files": files} for state, files in self.image_problems.items()
        }
        return {
            "posts": self.posts,
            "words": self.words,
            "entities": {name: self.entities[name] for name in self.types} | {"total": self.entities.total()},
            "images": sum(count * posts for count, posts in self.images_per_post.items()),
            "images_per_post": {str(count): self.images_per_post[count] for count in sorted(self.images_per_post)},
            **problems,
            "illegal_transitions": {
                "count": self.illegal_transitions,
                "posts": self.posts_with_illegal_transitions,
            },
            "mapped_tags": dict(sorted(self.mapped_tags.items())),
            "sha256": self._content.hexdigest(),
        }


def count_illegal_transitions(tags: list[str]) -> int:
    """Count the tags that BIO2 forbids where they stand: `I-X` that follows neither `B-X` nor `I-X`.

    Args:
        tags (`list[str]`): The tags of one post.

    Returns:
        `int`: how many tags are out of place.
    """
    pairs = zip(["O", *tags], tags, strict=False)
    return sum(tag.startswith("I-") and previous[2:] != tag[2:] for previous, tag in pairs)


def _canonical(name: str, tokens: list[str], tags: list[str], images: list[dict[str, Any]], source: str) -> bytes:
    """Return a post as one JSON line, the same whatever version of Parquet wrote it."""
    digests = [[image["path"], hashlib.sha256(image["bytes"]).hexdigest()] for image in images]
    return (json.dumps([name, tokens, tags, digests, source], ensure_ascii=False) + "\n").encode("utf-8")


def content_digest(posts: Dataset) -> str | None:
    """Return the SHA-256 that a report tells of a split, from the posts as they are.

    Args:
        posts (`Dataset`): A split.

    Returns:
        `str`, *optional*: the hexadecimal digest; `None` if it is not in the schema that converters write.
    """
    labels = getattr(getattr(posts.features.get("ner_tags"), "feature", None), "names", [])
    if any(posts.features.get(name) != feature for name, feature in features_of(labels).items()):
        return None
    digest = hashlib.sha256()
    for post in posts.cast_column("images", List(Image(decode=False))):
        # No converter leaves a word untagged, so that such posts are never those of a report.
        tags = [labels[tag] if tag in range(len(labels)) else str(tag) for tag in post["ner_tags"]]
        # Files written by others may name images that they do not hold, or have none.
        images = [image | {"bytes": image["bytes"] or b""} for image in post["images"] or []]
        digest.update(_canonical(post["id"], post["tokens"], tags, images, post["source"]))
    return digest.hexdigest()


def find_duplicate_ids(splits: dict[str, Iterable[Post]]) -> dict[str, list[str]]:
    """Find the ids that more than one post has.

    Args:
        splits (`dict[str, Iterable[Post]]`): The posts of each split.

    Returns:
        `dict[str, list[str]]`: for each such id the splits of its posts.
    """
    places = defaultdict(list)
    for split, posts in splits.items():
        for post in posts:
            places[post.id].append(split)
    return {post_id: found for post_id, found in places.items() if len(found) > 1}


def format_report(report: dict[str, Any]) -> str:
    """Lay a converter's report out as a table for people.

    Args:
        report (`dict`): What `convert` returns.

    Returns:
        `str`: the table, with a closing line break.
    """
    splits = report["splits"]
    counts = sorted({count for split in splits.values() for count in split["images_per_post"]}, key=int)
    rows = [("posts", [s["posts"] for s in splits.values()]), ("words", [s["words"] for s in splits.values()])]
    types = [name for name in next(iter(splits.values()))["entities"] if name != "total"]
    for name in ["total", *types]:
        title = "entities" if name == "total" else f"  {name}"
        rows.append((title, [s["entities"][name] for s in splits.values()]))
    rows.append(("images", [s["images"] for s in splits.values()]))
    for count in counts:
        rows.append((f"  posts with {count}", [s["images_per_post"].get(count, 0) for s in splits.values()]))
    for field in ("missing_images", "ambiguous_images", "repaired_images", "broken_images", "illegal_transitions"):
        rows.append((field.replace("_", " "), [s[field]["count"] for s in splits.values()]))
    lines = [f"{report['name']}:", _row("", [*splits, "total"])]
    lines += [_row(title, [*cells, sum(cells)]) for title, cells in rows]
    lines.append(f"ids of several posts: {len(report['duplicate_ids'])}")
    published = [f"{count:,} {what}" for what, count in report.get("published", {}).items()]
    lines += [f"published: {', '.join(published)}"] if published else []
    mapped = sum((Counter(split["mapped_tags"]) for split in splits.values()), Counter())
    lines += [f"tags mapped: {pair}: {count}" for pair, count in sorted(mapped.items())]
    lines += [f"sha256 {name:10} {split['sha256']}" for name, split in splits.items()]
    return "\n".join(lines) + "\n"


def _row(title: str, cells: list[Any]) -> str:
    return f"{title:20}" + "".join(f"{cell:>12}" for cell in cells)
