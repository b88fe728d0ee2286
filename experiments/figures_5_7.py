"""Figures 5 and 7: where words look, and posts that one system has right and another wrong.

    python -m smcl.experiments.figures_5_7 --dataset DATA [--preset paper] [--systems smcl tpm-mi] [--posts 12]

Writes `figure7.html`, the posts that the first system has right and the second wrong, with their images, and
`figure5.html` and `figure5.png`, the attention of SMCL's words to images in one of these posts, beside the table.
Pages run no script and fetch nothing.
"""

from collections.abc import Iterator, Sequence
from html import escape

from datasets import Dataset
from PIL import Image

from smcl.dataset_scripts.command_line import positive, run_main
from smcl.dataset_scripts.schema import ENTITY_TYPES
from smcl.images_smcl import load_image
from smcl.predict import load_pipeline
from smcl.predict.figures.html import data_uri, mark_words, page
from smcl.predict.figures.plot import plot_explanation
from smcl.predict.figures.style import type_colours
from smcl.train.data import load_posts

from .plan import Plan, parse_plan, plan_parser
from .run_all import run_all
from .runs import Measured
from .significance import check_same_posts, entities_of
from .table2 import NAMES, system_cell
from .tables import NOT_MEASURED, describe, markdown, notes, write_table

LARGEST = 240


def pick_cases(right: Sequence[dict], wrong: Sequence[dict], most: int) -> list[int]:
    """Pick posts that one system has entirely right and the other not, those with most entities of it wrong first.

    Args:
        right (`Sequence[dict]`): Predicted posts of the one.
        wrong (`Sequence[dict]`): The same posts of the other.
        most (`int`): Most posts to pick.

    Returns:
        `list[int]`: rows.

    Raises:
        ValueError: if the two are not of the same posts.
    """
    check_same_posts([right, wrong])
    errors = {}
    for row, (first, second) in enumerate(zip(right, wrong, strict=True)):
        gold = entities_of(first["gold"])
        if gold and entities_of(first["predicted"]) == gold:
            errors[row] = len(gold ^ entities_of(second["predicted"]))
    found = [row for row, count in errors.items() if count]
    return sorted(found, key=lambda row: (-errors[row], row))[:most]


def _marked(post: dict, tags: list[str]) -> str:
    """Return the words of a post with the entities marked that BIO2 tags spell."""
    spans = entities_of(tags)
    colours = type_colours([*ENTITY_TYPES, *sorted({name for *_, name in spans} - set(ENTITY_TYPES))])
    return mark_words(post["tokens"], [(first, end, colours[name], name) for first, end, name in spans])


def _picture(image: Image.Image, number: int) -> str:
    image = image.convert("RGB")
    image.thumbnail((LARGEST, LARGEST))
    drawing = f'<img src="{data_uri(image, "png")}" alt="image {number}" style="max-width:100%">'
    return f'<figure>{drawing}<figcaption class="faint">image {number}</figcaption></figure>'


def case_page(titles: Sequence[str], cases: Sequence[tuple[dict, dict, list[Image.Image]]]) -> str:
    """Lay posts out as a page (Figure 7).

    Args:
        titles (`Sequence[str]`): Names of the two systems.
        cases (`Sequence[tuple]`): For each post what each system predicted of it, and its images.

    Returns:
        `str`: HTML.
    """
    sections = []
    for first, second, images in cases:
        lines = [("gold", first["gold"]), (titles[0], first["predicted"]), (titles[1], second["predicted"])]
        shown = "".join(f'<p class="faint">{escape(name)}</p>{_marked(first, tags)}' for name, tags in lines)
        pictures = "".join(_picture(image, number) for number, image in enumerate(images, start=1))
        sections.append(f"<section><h2>{escape(first['id'])}</h2>{shown}<div class=images>{pictures}</div></section>")
    title = f"Posts that {titles[0]} has right and {titles[1]} has not"
    return page(title, [f"<h1>{escape(title)}</h1>", *(sections or ["<p>There are none.</p>"])])


def _images(posts: Dataset, row: int) -> list[Image.Image]:
    return [load_image(image) for image in posts[row].get("images") or []]


def _draw_attention(plan: Plan, measured: Measured, post: dict) -> None:
    """Draw Figure 5 with the model that a cell kept."""
    pipe, post = load_pipeline(measured.folder / "run"), {"text": post["tokens"], "images": post["images"]}
    explanation = pipe.explain(post, on_extra_images=plan.arguments.get("on_extra_images", "error"))
    for suffix in (".html", ".png"):
        plot_explanation(explanation, plan.folder / f"figure5{suffix}", kind="heat_map")


def _with_model(measured: Sequence[Measured]) -> Iterator[Measured]:
    return (m for m in measured if (m.folder / "run" / "model.safetensors").is_file())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = plan_parser(__doc__)
    parser.add_argument("--systems", nargs=2, choices=NAMES, default=["smcl", "tpm-mi"], help="right one, wrong one")
    parser.add_argument("--posts", type=positive, default=12, help="most posts of Figure 7 (%(default)s)")
    plan, options = parse_plan("figures", parser, argv)
    cells = [system_cell(name, plan.dataset) for name in options.systems]
    titles = [cell.title for cell in cells]
    measured = list(run_all(plan, dict(enumerate(cells))).values())
    plan.folder.mkdir(parents=True, exist_ok=True)
    drawn, picked = {"Figure 5": NOT_MEASURED, "Figure 7": NOT_MEASURED}, []
    try:
        posts = load_posts(plan.dataset, ["test"], **plan.reading)["test"]
    except ValueError as error:
        parser.error(str(error))
    if all(measured):
        predictions = [runs[0].predictions() for runs in measured]
        picked = pick_cases(*predictions, options.posts)
        cases = [(predictions[0][row], predictions[1][row], _images(posts, row)) for row in picked]
        (plan.folder / "figure7.html").write_text(case_page(titles, cases), encoding="utf-8")
        drawn["Figure 7"] = f"figure7.html, {len(picked)} posts"
    looks = "SMCL" in titles and not plan.ignores_images
    kept = next(_with_model(measured[titles.index("SMCL")]), None) if looks else None
    if kept is not None:
        rows = [*picked, *range(len(posts))]
        row = next((row for row in rows if len(posts[row].get("images") or []) > 1), rows[0])
        _draw_attention(plan, kept, {"tokens": posts[row]["tokens"], "images": _images(posts, row)})
        drawn["Figure 5"] = f"figure5.html and figure5.png, post {posts[row]['id']}"
    remarks = [
        f"Figure 7: posts of the test split that {titles[0]} has entirely right and {titles[1]} has not, picked by "
        "number of errors; they show what happens, not how often. Figure 5: attention of the words to the images in "
        "the fusion, in the first of these posts with several images. It shows where the model looks, not why it "
        "decides.",
    ]
    everything = [m for runs in measured for m in runs]
    data = {"figures": drawn, "posts": [posts[row]["id"] for row in picked], "runs": describe(everything)}
    title = f"Figures 5 and 7, {plan.data_name}"
    table = markdown(["", "drawn"], [list(item) for item in drawn.items()])
    write_table(plan, title, table, data, [*remarks, *notes(plan, everything)])


if __name__ == "__main__":
    run_main(main)
