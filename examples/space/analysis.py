"""What the web page does with posts, apart from its layout: examples, uploads, tags, what changes, figures."""

import base64
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from smcl import MultiImageNERPipeline
from smcl.images_smcl import ImageError, load_image
from smcl.pipeline_smcl import Explanation
from smcl.predict.figures.html import chip, data_uri, explanation_to_html
from smcl.predict.figures.style import is_right_to_left, type_colours

logger = logging.getLogger(__name__)

MAX_EXAMPLES = 6
EXAMPLE_PIXELS = 512
THUMBNAIL_PIXELS, CARD_PIXELS = 320, 64
MEANINGS = {"PER": "person", "LOC": "place", "ORG": "organisation", "MISC": "other name"}
TITLES = {
    "heat_map": "Which images the words look at",
    "card": "What each part of each image does",
    "whole": "What each image does (the post is too long to look at parts)",
}
MAX_CHARACTERS = 5000
# Patches on a side of an image, the finest first, and how many patches in windows of text a card may look at.
PATCH_GRIDS, MAX_LOOKS = (6, 4, 2), 300
GONE = "The images were deleted in the meantime. Clear the page, and add them again."
NO_TEXT = "There is no text yet: type or paste a post."
UNREADABLE = "This post can't be read. Try it in plain letters, or with other images."
BAD_IMAGE = "{} was left out: it is no image, is damaged or is too large. Choose a PNG, JPEG, GIF or WebP file."
LOST_IMAGE = "{} was left out: it was deleted in the meantime, or can't be read. Add it again."
CUT = "Only the first {:,} of {:,} characters were read: a post on this page has at most {:,}."
# What is known of models by the data that they were trained on.
KNOWLEDGE = {
    "icons": "It is a demo, and knows icon posts alone: short, invented English sentences with drawn icons. What it "
    "says of any other post means nothing."
}


# The model


def describe_model(name: str, pipe: MultiImageNERPipeline, about: str | None = None) -> str:
    """Say which model the page shows, and what it knows.

    Args:
        name (`str`): Its folder or its name on the Hub.
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        about (`str`, *optional*): What to say of what it knows; by default what `run.json` beside it tells.

    Returns:
        `str`: HTML.
    """
    parts = [f"<b>Model:</b> <bdi>{escape('/'.join(Path(name).parts[-2:]))}</bdi>."]
    types = [f"{kind} ({MEANINGS[kind]})" if kind in MEANINGS else kind for kind in pipe.crf.types]
    parts.append(f"It finds {escape(', '.join(types))}.")
    parts.append(escape(about or _read_about(Path(name) / "run.json")))
    return f'<p class="smcl-about">{" ".join(parts)}</p>'


def _read_about(path: Path) -> str:
    """Tell what a model was trained on, as far as the record of its runs says."""
    unknown = "What it was trained on is not recorded here: see its card."
    try:
        runs = json.loads(path.read_text(encoding="utf-8-sig"))["runs"]
        data = next(run["data"] for run in reversed(runs) if "train" in run["stages"])
        title, posts = data.get("title") or Path(data["name"]).name, data["splits"]["train"]["posts"]
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        return unknown
    about = f"It was trained on {posts:,} posts of the data set “{title}”." if posts else unknown
    return f"{about} {KNOWLEDGE[title]}" if title in KNOWLEDGE else about


# Examples


def choose_examples(dataset) -> list[dict]:
    """Choose posts that differ: the first for each number of images and entities.

    Args:
        dataset (`datasets.Dataset`): Posts, as of [`~gate.prepare_posts`].

    Returns:
        `list[dict]`: at most `MAX_EXAMPLES` posts with images and entities, those with few images first.

    Raises:
        ValueError: if there is no such post.
    """
    names = dataset.features["ner_tags"].feature.names
    chosen: dict[tuple[int, int], dict] = {}
    for post in dataset:
        kind = len(post.get("images", ())), sum(tag >= 0 and names[tag].startswith("B-") for tag in post["ner_tags"])
        if all(kind):
            chosen.setdefault(kind, post)
        if len(chosen) == MAX_EXAMPLES:
            break
    if not chosen:
        raise ValueError("The data set of examples has no post with both an image and an entity. Choose another.")
    return [chosen[kind] for kind in sorted(chosen)]


def write_examples(posts: Sequence[dict], folder: str | os.PathLike) -> None:
    """Write posts as PNG files of at most `EXAMPLE_PIXELS` a side and `posts.json`.

    Args:
        posts (`list[dict]`): Posts with `tokens` and `images` (of any kind).
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
    return f'<span class="smcl-example"><span>{images}</span><bdi>{escape(post["text"])}</bdi></span>'


# Uploads


def drop_gone(images: list[str], used: list[bool]) -> tuple[list[str], list[bool], list[str]]:
    """Drop the images of a post whose files were deleted in the meantime.

    Args:
        images (`list[str]`): Paths of the images.
        used (`list[bool]`): `False` for images that were taken away.

    Returns:
        `tuple[list[str], list[bool], list[str]]`: both without them, and a message if there were any.
    """
    kept = [pair for pair in zip(images, used, strict=False) if os.path.isfile(pair[0])]
    notes = ["Images that were deleted in the meantime are gone from the post."] if len(kept) < len(images) else []
    return [image for image, _ in kept], [is_used for _, is_used in kept], notes


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
    good = []
    images, used, notes = drop_gone(images, used)
    for path in map(Path, new):
        try:
            # As content: a path that has gone in the meantime is told from an image that is none.
            load_image(path.read_bytes())
        except OSError as error:
            logger.warning("An upload can't be read: %s", error)
            notes.append(LOST_IMAGE.format(path.name))
        except ImageError as error:
            logger.warning("An upload was left out: %s", error)
            notes.append(BAD_IMAGE.format(path.name))
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


def move_image(images: list[str], used: list[bool], slot: int, step: int) -> tuple[list[str], list[bool]]:
    """Move an image of a post to an earlier or later place; at the ends, it stays.

    Args:
        images (`list[str]`): Paths of the images.
        used (`list[bool]`): `False` for images that were taken away.
        slot (`int`): Which, from 0.
        step (`int`): -1 or 1.

    Returns:
        `tuple[list[str], list[bool]]`: both in their new order.
    """
    images, used, other = list(images), list(used[: len(images)]), slot + step
    if slot < len(images) and 0 <= other < len(images):
        for things in (images, used):
            things[slot], things[other] = things[other], things[slot]
    return images, used


def remove_image(images: list[str], used: list[bool], slot: int) -> tuple[list[str], list[bool]]:
    """Remove an image from a post, as `move_image` moves one."""
    pairs = [pair for number, pair in enumerate(zip(images, used, strict=False)) if number != slot]
    return [image for image, _ in pairs], [is_used for _, is_used in pairs]


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


def analyse(
    pipe: MultiImageNERPipeline, text: str, images: list[str], used: list[bool], threshold: float = 0.0
) -> tuple[str, str]:
    """Tag a post, with and without the images that were taken away.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        text (`str`): The post.
        images (`list[str]`): Paths of its images.
        used (`list[bool]`): `False` for images that were taken away.
        threshold (`float`, *optional*, defaults to 0): Least score of the entities to show.

    Returns:
        `tuple[str, str]`: HTML of the tagged text; or, if an image was taken away, of the text tagged twice and what
        changes; or of a message, if the post can't be used. And HTML of the heat map, empty without images.
    """
    if not text.strip():
        return render_notes([NO_TEXT]), ""
    if not all(os.path.isfile(image) for image in images):
        return render_notes([GONE]), ""
    gone, kept = _name_gone(images, used), keep_used(images, used)
    read, notes = cut_text(text)
    try:
        explanations = [explain(pipe, read, part, threshold) for part in ([images, kept] if gone else [images])]
    except ValueError as error:
        logger.warning("A post can't be read: %s", error)
        return render_notes([UNREADABLE]), ""
    found, types = [entities_of(explanation) for explanation in explanations], pipe.crf.types
    unknown = find_unknown(pipe, read)
    if gone:
        texts = _render_text("With all images", read, found[0], types, unknown)
        texts += _render_text(f"Without {gone}", read, found[1], types, unknown)
        changes = _render_changes(compare(*found), types, is_right_to_left(read))
        shown = f'<div class="smcl-sides">{texts}</div>{changes}'
    else:
        title = "Without images" if not images else "With the image" if len(images) == 1 else "With all images"
        shown = _render_text(title, read, found[0], types, unknown)
    numbers = keep_used(list(range(1, len(images) + 1)), used)
    shown += _render_legend(types, bool(unknown)) + _render_download(read, found[-1], numbers)
    heat_map = _frame(_title("heat_map", gone), explanations[-1], "heat_map", numbers) if kept else ""
    return f'<div data-text="{escape(text)}">{render_notes(notes)}{shown}</div>', heat_map


def answer(pipe: MultiImageNERPipeline, text: str, files: list[str], threshold: float = 0.0) -> dict[str, Any]:
    """Find the entities of a post for a program.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        text (`str`): The post.
        files (`list[str]`): Paths of its images.
        threshold (`float`, *optional*, defaults to 0): Least score.

    Returns:
        `dict`: `entities`, as the pipeline returns them, and `notes` about what was left out.

    Raises:
        ValueError: if the post or the threshold can't be used.
    """
    if not text.strip():
        raise ValueError(NO_TEXT)
    if not 0 <= threshold <= 1:
        raise ValueError(f"The threshold must be a number from 0 to 1, got {threshold}.")
    images, _, notes = add_images([], [], files, pipe.model.config.max_images)
    read, cut = cut_text(text)
    try:
        found = pipe({"text": read, "images": [load_image(image) for image in images]}, threshold=threshold)
    except ValueError as error:
        logger.warning("A post can't be read: %s", error)
        raise ValueError(UNREADABLE) from None
    return {"entities": found, "notes": notes + cut}


def cut_text(text: str) -> tuple[str, list[str]]:
    """Cut a text to what the page reads, at a gap if there is one, and say so.

    Returns:
        `tuple[str, list[str]]`: the text, and messages about what was cut.
    """
    if len(text) <= MAX_CHARACTERS:
        return text, []
    kept = text[: MAX_CHARACTERS + 1].rstrip()
    gap = max(kept.rfind(gap) for gap in " \t\n")
    kept = kept[: gap if gap > MAX_CHARACTERS // 2 else MAX_CHARACTERS].rstrip()
    return kept, [CUT.format(len(kept), len(text), MAX_CHARACTERS)]


def explain(pipe: MultiImageNERPipeline, text: str, images: list[str], threshold: float, **options: Any) -> Explanation:
    """Explain a post, by attention alone unless `options` of `pipe.explain` ask for more."""
    post = {"text": text, "images": [load_image(image) for image in images]}
    explanation = pipe.explain(post, **{"without": False} | options)
    kept = [explained for explained in explanation.entities if explained.entity["score"] >= threshold]
    return replace(explanation, entities=kept)


def entities_of(explanation: Explanation) -> list[dict]:
    """Return the entities of an explanation, as the pipeline returns them."""
    return [explained.entity for explained in explanation.entities]


def find_unknown(pipe: MultiImageNERPipeline, text: str) -> list[tuple[int, int]]:
    """Find the words that the tokenizer has never seen.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        text (`str`): The post.

    Returns:
        `list[tuple[int, int]]`: first and last + 1 character of each; none for tokenizers that spell any word.
    """
    tokenizer = pipe.processor.tokenizer
    words, offsets = pipe.processor.split_words(text)
    if tokenizer.unk_token_id is None or not words:
        return []
    encoding = tokenizer(words, is_split_into_words=True, add_special_tokens=False, verbose=False)
    pairs = zip(encoding.word_ids(), encoding.input_ids, strict=True)
    return [offsets[word] for word in sorted({word for word, token in pairs if token == tokenizer.unk_token_id})]


def keep_used(images: list[str], used: list[bool]) -> list[str]:
    """Return the images that were not taken away."""
    return [image for image, is_used in zip(images, used, strict=False) if is_used]


def _name_gone(images: list[str], used: list[bool]) -> str:
    """Name the images that were taken away; an empty string if there is none."""
    numbers = [str(slot) for slot, is_used in enumerate(used[: len(images)], start=1) if not is_used]
    return f"image{'s' * (len(numbers) > 1)} {' and '.join(numbers)}" if numbers else ""


def _render_text(title: str, text: str, entities: list[dict], types: list[str], unknown: list[tuple[int, int]]) -> str:
    parts, end = [], 0
    for entity in entities:
        word = _mark_unknown(text, entity["start"], entity["end"], unknown)
        parts += [_mark_unknown(text, end, entity["start"], unknown), _render_entity(entity, types, word)]
        end = entity["end"]
    note = "" if entities else "<small>No entity was found.</small>"
    body = "".join(parts) + _mark_unknown(text, end, len(text), unknown)
    direction = "rtl" if is_right_to_left(text) else "ltr"
    return f'<section class="smcl-post"><h3>{escape(title)}</h3><p dir="{direction}">{body}</p>{note}</section>'


def _mark_unknown(text: str, start: int, end: int, unknown: list[tuple[int, int]]) -> str:
    """Return a part of a text as HTML, with the words marked that the tokenizer has never seen."""
    parts, done = [], start
    for first, last in unknown:
        if start <= first and last <= end:
            word = f'<span class="smcl-unknown">{escape(text[first:last])}</span>'
            parts += [escape(text[done:first]), word]
            done = last
    return "".join(parts) + escape(text[done:end])


def _render_entity(entity: dict | None, types: list[str], word: str = "") -> str:
    """Render an entity's type and score, after its words, HTML, if they are given."""
    if entity is None:
        return '<span class="smcl-none">no entity</span>'
    name = entity["entity_group"]
    colour = type_colours(types)[name]
    return (
        f'<mark class="smcl-entity" style="--smcl-colour: {colour}" data-type="{escape(name)}"><bdi>{word}</bdi>'
        f"{chip(name, colour, 'b')}<small>{entity['score']:.2f}</small></mark>"
    )


def _render_changes(pairs: list[tuple[dict | None, dict | None]], types: list[str], is_right_to_left: bool) -> str:
    rows, count = [], 0
    for before, after in pairs:
        changes = not (before and after) or before["entity_group"] != after["entity_group"]
        count += changes
        row = f"<td><bdi>{escape((before or after)['word'])}</bdi></td><td>{_render_entity(before, types)}</td>"
        row += f"<td>{'←' if is_right_to_left else '→'}</td><td>{_render_entity(after, types)}</td>"
        rows.append(f'<tr class="{"smcl-changed" if changes else "smcl-same"}">{row}</tr>')
    title = {0: "No tag changes", 1: "1 tag changes"}.get(count, f"{count} tags change")
    direction = "rtl" if is_right_to_left else "ltr"
    return f'<section class="smcl-changes"><h3>{title}</h3><table dir="{direction}">{"".join(rows)}</table></section>'


def draw_card(
    pipe: MultiImageNERPipeline, text: str, images: list[str], used: list[bool], threshold: float = 0.0
) -> str:
    """Draw what each part of each image did for each entity, of the images that were not taken away.

    The more there is to look at, the larger are the parts, down to whole images.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        text (`str`): The post.
        images (`list[str]`): Paths of its images.
        used (`list[bool]`): `False` for images that were taken away.
        threshold (`float`, *optional*, defaults to 0): Least score of the entities to show.

    Returns:
        `str`: HTML; empty without text or images, or if the post can't be used: `analyse` tells why.
    """
    kept, (read, _) = keep_used(images, used), cut_text(text)
    if not text.strip() or not kept or not all(os.path.isfile(image) for image in kept):
        return ""
    try:
        looks = len(pipe.read_post(read)[1]) * len(kept)
        grid = next((grid for grid in PATCH_GRIDS if grid * grid * looks <= MAX_LOOKS), 0)
        explanation = explain(pipe, read, kept, threshold, without=True, patch_grid=grid)
    except ValueError as error:
        logger.warning("A post can't be explained: %s", error)
        return ""
    title = _title("card" if grid else "whole", _name_gone(images, used))
    return _frame(title, explanation, "card", keep_used(list(range(1, len(images) + 1)), used))


def _title(figure: str, gone: str) -> str:
    return f"{TITLES[figure]}, without {gone}" if gone else TITLES[figure]


def _frame(title: str, explanation: Explanation, kind: str, numbers: list[int]) -> str:
    """Put a figure into a frame of its own, without scripts, as high as what is in it and as dark as the page."""
    page = explanation_to_html(explanation, kind, numbers)
    dark = "document.body.classList.contains('dark') ? 'dark' : 'light'"
    fit = "const root = this.contentDocument?.documentElement, body = this.contentDocument?.body;"
    fit += f" if (body) {{ root.style.colorScheme = {dark}; this.style.height = body.offsetHeight + 'px'; }}"
    fit = f"new ResizeObserver(() => {{ {fit} }}).observe(this)"
    link = _link(f"{kind}.html", "text/html", page, "Save this figure") if kind == "card" else ""
    frame = (
        f'<iframe sandbox="allow-same-origin" title="{escape(title)}" srcdoc="{escape(page)}" onload="{fit}"></iframe>'
    )
    return f'<section class="smcl-figure"><h3>{escape(title)}</h3>{frame}{link}</section>'


def _render_download(text: str, entities: list[dict], numbers: list[int]) -> str:
    """Offer the result as a file, which lies in the page itself."""
    result = {"text": text, "images": numbers, "entities": entities}
    content = json.dumps(result, ensure_ascii=False, indent=2)
    return _link("entities.json", "application/json", content, "Save as JSON")


def _link(name: str, kind: str, content: str, label: str) -> str:
    data = base64.b64encode(content.encode("utf-8")).decode("ascii")
    return f'<a class="smcl-link" download="{name}" href="data:{kind};base64,{data}">{label}</a>'


def _render_legend(types: list[str], has_unknown: bool) -> str:
    """Render the types that have a known meaning, in their colours, and what a dotted line means."""
    colours = type_colours(types)
    chips = [f"<span>{chip(name, colours[name], 'b')} {MEANINGS[name]}</span>" for name in types if name in MEANINGS]
    if has_unknown:
        chips.append('<span><span class="smcl-unknown">word</span> the tokenizer has never seen this word</span>')
    return f'<p class="smcl-legend">{"".join(chips)}</p>' if chips else ""


def render_notes(notes: list[str]) -> str:
    """Render messages to the reader; an empty string if there is none."""
    return "".join(f'<p class="smcl-note" role="alert">{escape(note)}</p>' for note in notes)
