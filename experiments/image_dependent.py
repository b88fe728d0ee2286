"""Score the mentions whose type only a photograph shows apart from all others.

    python -m smcl.experiments.image_dependent --mentions DIR/image_dependent.json OUT/predictions.jsonl [...]

`image_dependent.json` maps post ids to `[first word, last word + 1]` of such mentions, as the maker of photo posts
writes it. A predicted entity counts as image-dependent if it shares a word with one of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smcl.dataset_scripts.command_line import CommandParser, run_main, say
from smcl.dataset_scripts.schema import parse_json
from smcl.train.metrics import entity_metrics

from .plan import read_mentions
from .significance import entities_of


def read_predictions(path: Path) -> list[dict]:
    """Read the `predictions.jsonl` of a run; a `ValueError` names the line that is none of it."""
    posts = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line:
            continue
        try:
            post = parse_json(line)
        except ValueError:
            post = None
        if not _is_prediction(post):
            raise ValueError(f"{path}:{number}: expected a line of predictions.jsonl, got {line[:80]!r}.")
        posts.append(post)
    if not posts:
        raise ValueError(f"Expected the predictions.jsonl of a run, got {path}, which holds no post.")
    return posts


def _is_prediction(post: Any) -> bool:
    if not isinstance(post, dict) or not isinstance(post.get("id"), str):
        return False
    sides = [post.get("gold"), post.get("predicted")]
    are_lists = all(isinstance(tags, list) and all(isinstance(tag, str | None) for tag in tags) for tags in sides)
    return are_lists and len(sides[0]) == len(sides[1])


def keep_overlapping(tags: list[str], spans: list[tuple[int, int]], overlapping: bool) -> list[str]:
    """Blank out entities by whether they share a word with a span.

    Args:
        tags (`list[str]`): BIO2 tags; `None` for a word that nobody tagged.
        spans (`list[tuple[int, int]]`): First word, and last word + 1.
        overlapping (`bool`): Whether to keep the entities that share a word with a span, or the others.

    Returns:
        `list[str]`: the tags, `"O"` at the other entities.
    """
    kept = [tag and "O" for tag in tags]
    for first, last, _ in entities_of(tags):
        if any(first < end and start < last for start, end in spans) == overlapping:
            kept[first:last] = tags[first:last]
    return kept


def score(predictions: Path, mentions: dict[str, list[tuple[int, int]]]) -> dict[str, dict[str, float]]:
    """Score the predictions of a run on image-dependent mentions, on the other mentions and on all.

    Args:
        predictions (`Path`): A `predictions.jsonl`.
        mentions (`dict`): Spans of the image-dependent mentions by post id.

    Returns:
        `dict` from `"image-dependent"`, `"others"` and `"all"` to strict scores.

    Raises:
        ValueError: if a post is not in `mentions`.
    """
    posts = read_predictions(predictions)
    unknown = [post["id"] for post in posts if post["id"] not in mentions]
    if unknown:
        raise ValueError(
            f"{len(unknown)} posts of {predictions}, the first {unknown[0]!r}, are not in the file of --mentions: "
            "expected the image_dependent.json that was written with this data set."
        )
    for post in posts:
        if any(end > len(post["gold"]) for _, end in mentions[post["id"]]):
            raise ValueError(
                f"The file of --mentions has a mention beyond the {len(post['gold'])} words of post {post['id']!r} of "
                f"{predictions}: expected the image_dependent.json that was written with this data set."
            )

    def tags(column: str, overlapping: bool) -> list[list[str]]:
        return [keep_overlapping(post[column], mentions[post["id"]], overlapping) for post in posts]

    scores = {
        name: entity_metrics(tags("gold", overlapping), tags("predicted", overlapping))
        for name, overlapping in (("image-dependent", True), ("others", False))
    }
    return scores | {"all": entity_metrics([p["gold"] for p in posts], [p["predicted"] for p in posts])}


def main(argv: Sequence[str] | None = None) -> None:
    """Print precision, recall and F1 of each file of predictions.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = CommandParser(__doc__)
    parser.add_argument("--mentions", type=Path, required=True, help="the image_dependent.json of the data set")
    parser.add_argument("predictions", type=Path, nargs="+", help="files of predictions of the test split")
    arguments = parser.parse_args(argv)
    with parser.errors_in_one_line():
        mentions = read_mentions(arguments.mentions)
        found = {path: score(path, mentions) for path in arguments.predictions}
    for path, parts in found.items():
        say(f"{path}\n")
        for name, scores in parts.items():
            numbers = "  ".join(f"{key} {scores[key]:.3f}" for key in ("precision", "recall", "f1"))
            say(f"  {name:<16} {numbers}\n")


if __name__ == "__main__":
    run_main(main)
