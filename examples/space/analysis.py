"""What the web page does with posts, apart from its layout: examples, uploads, tags, what changes, the heat map."""

import json
import os
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from smcl import MultiImageNERPipeline
from smcl.images_smcl import ImageError, load_image
from smcl.predict.figures.html import chip, data_uri
from smcl.predict.figures.plot import plot_explanation
from smcl.predict.figures.style import type_colours

MAX_EXAMPLES = 6
EXAMPLE_PIXELS = 512
THUMBNAIL_PIXELS, CARD_PIXELS = 320, 64
MEANINGS = {"PER": "person", "LOC": "place", "ORG": "organisation", "MISC": "other name"}
TITLES = {"heat_map": "Which images the words look at", "card": "What each part of each image does"}
GONE = "The images were deleted in the meantime. Clear the page, and add them again."
NO_TEXT = "There is no text yet: type or paste a post."


# Examples


def choose_examples(dataset) -> list[dict]:
    """Choose posts that differ: the first for each number of images and entities.

    Args:
        dataset (`datasets.Dataset`): Posts with `tokens`, `ner_tags` and `images`.

    Returns:
        `list[dict]`: at most `MAX_EXAMPLES` posts with images and entities, those with few images first.
    """
    names = dataset.features["ner_tags"].feature.names
    chosen: dict[tuple[int, int], dict] = {}
    for post in dataset:
        kind = len(post["images"]), sum(tag >= 0 and names[tag].startswith("B-") for tag in post["ner_tags"])
        if all(kind):
            chosen.setdefault(kind, post)
        if len(chosen) == MAX_EXAMPLES:
            break
    return [chosen[kind] for kind in sorted(chosen)]


def write_examples(posts: Sequence[dict], folder: str | os.PathLike) -> None:
    """Write posts as PNG files of at most `EXAMPLE_PIXELS` a side and `posts.json`.

    Args:
        posts (`list[dict]`): Posts with `tokens` and `images` (PIL).
        folder (`str` or `os.PathLike`): Where to.
    """
    folder, lines = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for row, post in enumerate(posts):
        names = [f"{row}_{slot}.png" for slot in range(len(post["images"]))]
        for name, image in zip(names, post["images"], strict=True):
            image = load_image(image)
            image.thumbnail((EXAMPLE_PIXELS, EXAMPLE_PIXELS))
            image.save(folder / name, optimize=True)
        lines.append({"text": " ".join(post["tokens"]), "images": names})
    text = json.dumps(lines, indent=2, ensure_ascii=False)
    (folder / "posts.json").write_text(text + "\n", encoding="utf-8")


def read_examples(folder: str | os.PathLike) -> list[dict]:
    """Read what `write_examples` wrote.

    Args:
        folder (`str` or `os.PathLike`): The folder.

    Returns:
        `list[dict]`: posts with `text` and `images` (paths).
    """
    posts = json.loads(Path(folder, "posts.json").read_text(encoding="utf-8"))
    return [{**post, "images": [str(Path(folder, name)) for name in post["images"]]} for post in posts]


def render_example(post: dict) -> str:
    """Render an example as a card: its images, small, and its text, as HTML."""
    sources = [data_uri(make_thumbnail(image, CARD_PIXELS), "png") for image in post["images"]]
    images = "".join(f'<img src="{source}" alt="">' for source in sources)
    return f'<span class="smcl-example"><span>{images}</span>{escape(post["text"])}</span>'


# Uploads


def add_images(
    images: list[str], used: list[bool], new: list[str], limit: int
) -> tuple[list[str], list[bool], list[str]]:
    """Add files to the images of a post.

    Args:
        images (`list[str]`): Paths of the images so far.
        used (`list[bool]`): `False` for images that were taken away; where room is short, they are dropped.
        new (`list[str]`): Paths of the files to add.
        limit (`int`): Most images of a post.

    Returns:
        `tuple[list[str], list[bool], list[str]]`: the images, which of them are used, and messages about files that
        were left out.
    """
    good, notes = [], []
    kept = [pair for pair in zip(images, used, strict=False) if os.path.isfile(pair[0])]
    if len(kept) < len(images):
        notes.append("Images that were deleted in the meantime are gone from the post.")
    images, used = [image for image, _ in kept], [is_used for _, is_used in kept]
    for path in map(Path, new):
        data = path.read_bytes()
        try:
            load_image(data)
        except ImageError as error:
            notes.append(str(error).replace(f"the image of {len(data)} bytes", path.name))
        else:
            good.append(str(path))
    if len(images) + len(good) > limit:
        images = [image for image, is_used in zip(images, used, strict=False) if is_used]
        used = [True] * len(images)
    extra = [Path(path).name for path in good[limit - len(images) :]]
    if extra:
        notes.append(f"A post has at most {limit} images. Left out: {', '.join(extra)}.")
    images = [*images, *good][:limit]
    return images, [*used, *[True] * limit][: len(images)], notes


def make_thumbnail(path: str, pixels: int = THUMBNAIL_PIXELS) -> Image.Image:
    """Read an image and scale its longer side down to so many pixels."""
    image = load_image(path)
    image.thumbnail((pixels, pixels))
    return image


# Tags


def compare(before: list[dict], after: list[dict]) -> list[tuple[dict | None, dict | None]]:
    """Pair two sets of entities of a text.

    Args:
        before (`list[dict]`): Entities, as the pipeline returns them.
        after (`list[dict]`): Others of the same text.

    Returns:
        `list[tuple[dict | None, dict | None]]`: for each span that is an entity in either, in order of the text, the
        entity before and after; `None` where exactly these words are none.
    """
    sides = [{entity["words"]: entity for entity in entities} for entities in (before, after)]
    return [tuple(side.get(words) for side in sides) for words in sorted(sides[0].keys() | sides[1].keys())]


def analyse(pipe: MultiImageNERPipeline, text: str, images: list[str], used: list[bool]) -> str:
    """Tag a post, with and without the images that were taken away.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        text (`str`): The post.
        images (`list[str]`): Paths of its images.
        used (`list[bool]`): `False` for images that were taken away.

    Returns:
        `str`: HTML: the tagged text; or, if an image was taken away, the text tagged twice and what changes; or a
        message, if the post can't be used.
    """
    if not text.strip():
        return render_notes([NO_TEXT])
    if not all(os.path.isfile(image) for image in images):
        return render_notes([GONE])
    gone = _name_gone(images, used)
    posts = [{"text": text, "images": images}]
    if gone:
        posts.append({"text": text, "images": keep_used(images, used)})
    try:
        found = pipe(posts)
    except ValueError as error:
        return render_notes([str(error)])
    types = pipe.crf.types
    legend = _render_legend(types)
    if not gone:
        title = "Without images" if not images else "With the image" if len(images) == 1 else "With all images"
        return _render_text(title, text, found[0], types) + legend
    texts = _render_text("With all images", text, found[0], types)
    texts += _render_text(f"Without {gone}", text, found[1], types)
    return f'<div class="smcl-sides">{texts}</div>{_render_changes(compare(*found), types)}{legend}'


def keep_used(images: list[str], used: list[bool]) -> list[str]:
    """Return the images that were not taken away."""
    return [image for image, is_used in zip(images, used, strict=False) if is_used]


def _name_gone(images: list[str], used: list[bool]) -> str:
    """Name the images that were taken away; an empty string if there is none."""
    numbers = [str(slot) for slot, is_used in enumerate(used[: len(images)], start=1) if not is_used]
    return f"image{'s' * (len(numbers) > 1)} {' and '.join(numbers)}" if numbers else ""


def _render_text(title: str, text: str, entities: list[dict], types: list[str]) -> str:
    parts, end = [], 0
    for entity in entities:
        parts += [escape(text[end : entity["start"]]), _render_entity(entity, types, entity["word"])]
        end = entity["end"]
    note = "" if entities else "<small>No entity was found.</small>"
    body = "".join(parts) + escape(text[end:])
    return f'<section class="smcl-post"><h3>{escape(title)}</h3><p>{body}</p>{note}</section>'


def _render_entity(entity: dict | None, types: list[str], word: str = "") -> str:
    """Render an entity's type and score, after its words if they are given."""
    if entity is None:
        return '<span class="smcl-none">no entity</span>'
    name = entity["entity_group"]
    colour = type_colours(types)[name]
    return (
        f'<mark class="smcl-entity" style="--smcl-colour: {colour}" data-type="{escape(name)}">{escape(word)}'
        f"{chip(name, colour, 'b')}<small>{entity['score']:.2f}</small></mark>"
    )


def _render_changes(pairs: list[tuple[dict | None, dict | None]], types: list[str]) -> str:
    rows, count = [], 0
    for before, after in pairs:
        changes = not (before and after) or before["entity_group"] != after["entity_group"]
        count += changes
        row = f"<td>{escape((before or after)['word'])}</td>"
        row += f"<td>{_render_entity(before, types)}</td><td>→</td><td>{_render_entity(after, types)}</td>"
        rows.append(f'<tr class="{"smcl-changed" if changes else "smcl-same"}">{row}</tr>')
    title = {0: "No tag changes", 1: "1 tag changes"}.get(count, f"{count} tags change")
    return f'<section class="smcl-changes"><h3>{title}</h3><table>{"".join(rows)}</table></section>'


def draw_figure(
    pipe: MultiImageNERPipeline, text: str, images: list[str], used: list[bool], kind: str, patch_grid: int = 0
) -> str:
    """Draw what the images of a post did that were not taken away.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        text (`str`): The post.
        images (`list[str]`): Paths of its images.
        used (`list[bool]`): `False` for images that were taken away.
        kind (`str`): As in `plot_explanation`.
        patch_grid (`int`, *optional*, defaults to 0): As in [`MultiImageNERPipeline.explain`].

    Returns:
        `str`: HTML; empty without text or images, or if the post can't be used: `analyse` tells why.
    """
    kept, gone = keep_used(images, used), _name_gone(images, used)
    if not text.strip() or not kept:
        return ""
    try:
        explanation = pipe.explain({"text": text, "images": kept}, patch_grid=patch_grid)
    except ValueError:
        return ""
    title = f"{TITLES[kind]}, without {gone}" if gone else TITLES[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "figure.html")
        plot_explanation(explanation, path, kind=kind)
        page = path.read_text(encoding="utf-8")
    # A frame of its own, without scripts; whatever its width, it is made as high as what is in it.
    fit = "const body = this.contentDocument?.body; if (body) this.style.height = body.offsetHeight + 'px';"
    fit = f"new ResizeObserver(() => {{ {fit} }}).observe(this)"
    frame = (
        f'<iframe sandbox="allow-same-origin" title="{escape(title)}" srcdoc="{escape(page)}" onload="{fit}"></iframe>'
    )
    return f'<section class="smcl-figure"><h3>{escape(title)}</h3>{frame}</section>'


def _render_legend(types: list[str]) -> str:
    """Render the types that have a known meaning, in their colours."""
    colours = type_colours(types)
    chips = [f"<span>{chip(name, colours[name], 'b')} {MEANINGS[name]}</span>" for name in types if name in MEANINGS]
    return f'<p class="smcl-legend">{"".join(chips)}</p>' if chips else ""


def render_notes(notes: list[str]) -> str:
    """Render messages to the reader; an empty string if there is none."""
    return "".join(f'<p class="smcl-note" role="alert">{escape(note)}</p>' for note in notes)
