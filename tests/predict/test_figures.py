import base64
import io
import json
import logging
import re
import sys
import warnings
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from factories import make_model
from PIL import Image

from smcl.pipeline_smcl import EntityExplanation, Explanation, ImageEvidence
from smcl.predict.figures import plot, png, style
from smcl.predict.figures.html import explanation_to_html
from smcl.predict.figures.plot import DRAWERS, main, plot_explanation

TYPES = ["PER", "LOC", "ORG", "MISC"]
SCRIPT = "<script>alert(1)</script>"
NASTY = [
    SCRIPT,
    '"><img src=x onerror=alert(1)>',
    "'><b onclick='x'>",
    "</style></svg></p>",
    "<!--",
    "]]>",
    "&lt;b&gt;",
    "{}%s\\",
    "$\\frac{$",
    "$x$",
    "a\nb\tc",
    "\u202eabc",
    "\x00\x1b",
    "W" * 400,
]
WORDS = ["what", "do", "Maple", "and", "Houston", "Dawn", "have", "in", "common"]


def make_explanation(
    words=WORDS, spans=((2, 2, "ORG"), (4, 5, "PER")), num_images=2, grid=3, types=TYPES, attention="fusion", **kwargs
) -> Explanation:
    """An explanation of these spans, in which each image but the first leaves each entity its type."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (num_images, 12, 12, 3), dtype=np.uint8)
    weights = generator.dirichlet(np.ones(max(1, num_images)), size=len(words)).astype(np.float32)
    weights = weights if num_images else None
    entities = []
    for first, last, name in spans:
        entity = {
            "entity_group": name,
            "word": " ".join(words[first : last + 1]),
            "score": 0.81,
            "words": (first, last),
        }
        evidence = [
            ImageEvidence(
                0.4 if attention == "fusion" else None,
                None if attention is None else 0.3,
                *((0.12, types[-1], 0.77) if image == 0 else (0.79, name, 0.79)),
                generator.normal(size=(grid, grid)) if grid else None,
            )
            for image in range(num_images)
        ]
        entities.append(EntityExplanation(entity, 0.25, "O", 0.5, evidence))
    fields = {
        "fusion_attention": weights if attention == "fusion" else None,
        "guidance_attention": None if attention is None or weights is None else weights / 2,
        "skipped_images": [],
    }
    return Explanation(list(words), [Image.fromarray(x) for x in noise], entities, types=types, **(fields | kwargs))


VARIETY = {
    "usual": {},
    "no images": {"num_images": 0},
    "no entities": {"spans": ()},
    "nothing at all": {"words": [], "spans": (), "num_images": 0},
    "no words": {"words": [], "spans": ()},
    "one image": {"num_images": 1},
    "nine images": {"num_images": 9},
    "no patches": {"grid": 0},
    "patches that do not divide the image": {"grid": 5},
    "guidance only": {"attention": "guidance"},
    "no attention": {"attention": None},
    "entity over all words": {"spans": ((0, 8, "LOC"),)},
    "neighbours": {"spans": ((0, 0, "LOC"), (1, 1, "LOC"), (2, 3, "MISC"))},
    "nasty words": {"words": NASTY, "spans": ((0, 1, "ORG"), (3, 3, "PER"), (13, 13, "LOC"))},
    "nasty types": {"types": [SCRIPT, "$\\frac{$", "שם"], "spans": ((0, 0, SCRIPT), (1, 2, "$\\frac{$"), (3, 3, "שם"))},
    "right to left": {"words": ["في", "مدينة", "القاهرة", "Coral", "Drake", "قهوة"], "spans": ((2, 4, "LOC"),)},
    "emoji": {"words": ["🤼\u200d♀️", "👍🏽", "日本", "❤️", "ok"], "spans": ((0, 1, "ORG"),)},
    "long": {"words": WORDS * 12, "spans": ((2, 2, "ORG"), (24, 29, "PER"), (104, 105, "LOC"))},
    "images left out": {"skipped_images": [f"Image 2: no image {SCRIPT}"]},
}
KINDS = list(DRAWERS)
each_variety = pytest.mark.parametrize("name", list(VARIETY))
each_kind = pytest.mark.parametrize("kind", KINDS)


class Page(HTMLParser):
    """What a browser makes of a page: its elements with their attributes, and its text."""

    EMPTY = {"meta", "image", "use", "br"}

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def of(self, tag) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def drawn(page) -> list[str]:
    """The lines of text on a PNG."""
    return [text.get_text() for text in page.axes.texts]


# HTML


@each_variety
@each_kind
def test_pages_run_and_fetch_nothing(name, kind):
    page = Page(explanation_to_html(make_explanation(**VARIETY[name]), kind))
    tags = {tag for tag, _ in page.elements}
    assert tags <= {
        *("html", "head", "meta", "title", "style", "body", "p", "bdi", "mark", "span", "div", "figure", "figcaption"),
        *("svg", "defs", "image", "use", "rect", "section", "h2", "br", "table", "thead", "tbody", "tr", "th", "td"),
    }
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert re.match(r"data:image/jpeg;base64,|#", attributes.get("href", "#"))
        assert "src" not in attributes and "url(" not in attributes.get("style", "")
    policy = next(x["content"] for x in page.of("meta") if "http-equiv" in x)
    assert "default-src 'none'" in policy and "script" not in policy


@each_kind
def test_words_and_types_from_strangers_stay_text(kind):
    spans = ((0, 1, "A"), (3, 3, "B"), (13, 13, "C"))
    harmless = [f"w{row}" for row in range(len(NASTY))]
    tame = make_explanation(harmless, spans, types=["A", "B", "C"], skipped_images=["reason"])
    types = [SCRIPT, '" onload="alert(1)', "</span>"]
    spans = [(first, last, name) for (first, last, _), name in zip(spans, types, strict=True)]
    wild = make_explanation(NASTY, spans, types=types, skipped_images=[SCRIPT])
    tame, wild = (Page(explanation_to_html(explanation, kind)) for explanation in (tame, wild))
    # The same elements with the same attributes, but for the direction that a letter may give.
    assert wild.elements == tame.elements
    for text in (*NASTY, *types):
        assert text in wild.text


def test_page_says_what_happens_without_images():
    page = Page(explanation_to_html(make_explanation()))
    text = page.text.replace("\u00a0", " ")
    assert text.count("without all images: ORG 0.81 → 0.25, no such entity 0.50") == 1
    assert text.count("without this image:ORG 0.81 → 0.12, MISC 0.77") == 1
    assert text.count("without this image:ORG 0.81 → 0.79attention: fusion 0.40, guidance 0.30") == 1
    assert text.count("without this image:PER 0.81 → 0.12, MISC 0.77") == 1
    assert [x.get("class") for x in page.of("figure")] == [None, None, "turns", None, "turns", None]


def test_page_marks_entities_where_they_are():
    html = explanation_to_html(make_explanation())
    marks = re.findall(r"<mark[^>]*><bdi[^>]*>(.*?)</bdi> <span[^>]*>(.*?)</span></mark>", html)
    assert marks == [("Maple", "ORG 0.81"), ("Houston Dawn", "PER 0.81")]
    post = re.search(r'<p class="post".*?</p>', html)[0]
    assert re.sub("<.*?>", "", post) == "what do Maple ORG 0.81 and Houston Dawn PER 0.81 have in common"


def test_page_shows_the_images_and_the_effect_of_each_patch():
    explanation = make_explanation(grid=5)
    page = Page(explanation_to_html(explanation))
    images = {x["id"]: x for x in page.of("image")}
    assert list(images) == ["image-1", "image-2", "faded-1", "faded-2"]
    for number, image in enumerate(explanation.images, start=1):
        data = base64.b64decode(images[f"image-{number}"]["href"].split(",")[1])
        difference = np.asarray(Image.open(io.BytesIO(data)), dtype=float) - np.asarray(image)
        assert np.abs(difference).mean() < 8
    shown = [x["href"] for x in page.of("use")]
    assert shown == ["#image-1", "#image-2", "#faded-1", "#faded-2", "#faded-1", "#faded-2"]
    rectangles = page.of("rect")
    assert len(rectangles) == 2 * 2 * 25
    effects = explanation.entities[1].images[0].patch_effects
    strongest = max(np.abs(x.patch_effects).max() for e in explanation.entities for x in e.images)
    for rectangle, effect in zip(rectangles[50:75], effects.ravel(), strict=True):
        assert rectangle["fill"] == style.PATCH_COLOURS[int(effect < 0)]
        share = np.sqrt(abs(effect) / max(1, strongest))
        assert float(rectangle["fill-opacity"]) == pytest.approx(0.8 * share, abs=0.006)
    # Patches cover the image once.
    assert sum(int(x["width"]) * int(x["height"]) for x in rectangles[:25]) == 12 * 12
    assert page.text.count(f"log-odds without this patch: {-effects[0, 0]:+.2f}") == 1


@pytest.mark.parametrize(
    ("words", "direction"),
    [(["في", "Coral"], "rtl"), (["Coral", "في"], "ltr"), (["12", "👍", "שלום"], "rtl"), (["12"], "ltr"), ([], "ltr")],
)
def test_direction_of_a_page_is_that_of_its_first_letter(words, direction):
    html = explanation_to_html(make_explanation(words, ()))
    assert f'<p class="post" dir="{direction}">' in html


def test_words_cannot_turn_what_follows_them():
    html = explanation_to_html(make_explanation(["\u202eabc", "def", "Maple"], ((2, 2, "ORG"),)))
    assert '<bdi dir="ltr">\u202eabc def</bdi> <mark' in html


@pytest.mark.parametrize("attention", ["fusion", "guidance"])
def test_heat_map_has_a_cell_for_each_word_and_image_on_a_scale_around_even_attention(attention):
    explanation = make_explanation(attention=attention)
    weights = explanation.fusion_attention if attention == "fusion" else explanation.guidance_attention
    html = explanation_to_html(explanation, "heat_map")
    cells = re.findall(r'<td style="background:(#\w+);color:(#\w+)">([\d.]+)</td>', html)
    assert [float(text) for _, _, text in cells] == pytest.approx(weights.ravel(), abs=0.0051)
    middle = float(weights.mean())
    colours = [style.attention_colour(weight, middle, 2 * middle) for weight in weights.ravel()]
    assert [colour for colour, _, _ in cells] == colours
    assert all(style.contrast(colour, ink) >= 4.5 for colour, ink, _ in cells)
    assert "0 <span" in html and f"</span> {2 * middle:.2f}; the middle is " in html and f"evenly, {middle:.2f}" in html
    assert ("in the fusion" in html) == (attention == "fusion")
    assert [x["rowspan"] for tag, x in Page(html).elements if "rowspan" in x] == ["1", "2"]


def test_attention_that_hardly_differs_looks_alike():
    even = np.full((len(WORDS), 2), 0.5, dtype=np.float32)
    html = explanation_to_html(make_explanation(fusion_attention=even), "heat_map")
    assert html.count(f"background:{style.ATTENTION_COLOURS[1]}") == 2 * len(WORDS)
    close, middle = (style.to_rgb(style.attention_colour(x, 0.5, 1.0)) for x in (0.496, 0.5))
    assert np.abs(close - middle).max() < 0.01
    ends = [style.attention_colour(x, 0.25, 1.0) for x in (0.0, 0.25, 1.0)]
    assert ends == [*style.ATTENTION_COLOURS]
    # One image has all attention, which says nothing.
    assert style.attention_colour(1.0, 1.0, 1.0) == style.ATTENTION_COLOURS[1]


@pytest.mark.parametrize("kind", KINDS)
def test_images_keep_the_numbers_that_they_are_given(kind):
    html = explanation_to_html(make_explanation(num_images=2), kind, numbers=[1, 3])
    assert 'aria-label="image 3"' in html and 'aria-label="image 2"' not in html
    assert len(re.findall(r'id="image-(\d)"', html)) == 2 and 'href="#image-2"' not in html


def test_a_card_of_attentions_alone_is_refused():
    explanation = make_explanation()
    for explained in explanation.entities:
        explained.score_without_images = None
    with pytest.raises(ValueError, match="`without=True`"):
        explanation_to_html(explanation)
    assert explanation_to_html(explanation, "heat_map")


@pytest.mark.parametrize(
    ("settings", "reason"), [({"num_images": 0}, "the post has no images"), ({"attention": None}, "neither")]
)
def test_heat_map_without_attention_says_why(settings, reason):
    explanation = make_explanation(**settings)
    assert reason in explanation_to_html(explanation, "heat_map")
    assert any(reason in line for line in [" ".join(drawn(png.draw_heat_map(explanation)))])


# PNG


@each_variety
@each_kind
def test_every_post_is_drawn_without_a_warning_and_inside_the_figure(name, kind, tmp_path, caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        page = DRAWERS[kind](make_explanation(**VARIETY[name]))
        page.save(tmp_path / "figure.png")
    assert caplog.records == []
    with Image.open(tmp_path / "figure.png") as image:
        image.load()
        assert image.format == "PNG" and min(image.size) > 40
        width, height = image.size
    for text in page.axes.texts:
        box = text.get_window_extent(page.renderer)
        assert -1 <= box.x0 and box.x1 <= width + 1 and -1 <= box.y0 and box.y1 <= height + 1, text.get_text()


def test_card_has_the_words_the_entities_and_what_happens_without_images():
    lines = [line.replace("\u00a0", " ") for line in drawn(png.draw_card(make_explanation()))]
    labels = ["what", "do", "ORG 0.81", "Maple", "and", "Houston", "PER 0.81", "Dawn", "have", "in", "common"]
    assert lines[: len(labels)] == labels
    text = " ".join(lines)
    assert text.count("without all images: ORG 0.81 → 0.25, no such entity 0.50") == 1
    assert text.count("without this image: ORG 0.81 → 0.12, MISC 0.77") == 1
    assert text.count("without this image: PER 0.81 → 0.79") == 1
    assert text.count("attention: fusion 0.40, guidance 0.30") == 4


def test_card_frames_the_images_without_which_something_else_is_most_probable():
    page = png.draw_card(make_explanation())
    from matplotlib.colors import to_hex

    edges = [to_hex(patch.get_edgecolor()).upper() for patch in page.axes.patches if patch.get_edgecolor()[3]]
    assert edges == ["#009E73", "#0072B2", style.FAINT]


def test_card_paints_patches_over_the_images():
    explanation = make_explanation()
    page = png.draw_card(explanation)
    arrays = [image.get_array() for image in page.axes.images]
    # The images, and for each entity each faded image and its patches.
    assert [array.shape[2] for array in arrays] == [3, 3, *[3, 4] * 4]
    opacity = arrays[3][..., 3]
    effects = np.abs(explanation.entities[0].images[0].patch_effects)
    assert opacity[0, 0] == opacity[3, 3]
    order = opacity[::4, ::4].ravel().argsort()
    assert order.tolist() == effects.ravel().argsort().tolist()


def test_letters_that_no_font_has_are_said_and_not_dropped(tmp_path):
    page = png.draw_card(make_explanation(["a\U000e1000b", "🤼\u200d♀️", "\U0010fffd"], ()))
    page.save(tmp_path / "figure.png")
    first, second, third = drawn(page)[:3]
    assert first == "a□b" and third == "□"
    assert any(re.fullmatch(r"□ stands for [23] characters that no font here has", line) for line in drawn(page))
    # Where there is a font with these wrestlers, they are drawn.
    assert second in ("🤼\u200d♀️", "□\u200d♀️")


def test_fonts_are_asked_only_for_what_the_first_lacks():
    assert png.choose_fonts("Größe и λ שלום العربية → 😀") == ([png.FONT], set())
    assert png.choose_fonts("\U0010fffd")[1] == {"\U0010fffd"}


def test_dollars_are_no_formulas(tmp_path):
    page = png.draw_card(make_explanation(["$x_1$", "$\\frac{$"], ()))
    page.save(tmp_path / "figure.png")
    assert drawn(page)[:2] == ["$x_1$", "$\\frac{$"]
    assert not any(text.get_parse_math() for text in page.axes.texts)


def test_posts_from_right_to_left_are_drawn_from_right_to_left():
    words = ["في", "مدينة", "القاهرة", "Coral", "Drake", "قهوة"]
    page = png.draw_card(make_explanation(words, ((3, 4, "PER"),)))
    places = {text.get_text(): text.get_position()[0] for text in page.axes.texts[:6]}
    order = sorted(places, key=places.get, reverse=True)
    assert order == ["في", "مدينة", "القاهرة", "Coral Drake", "PER 0.81", "قهوة"]


def test_a_label_stays_on_the_line_of_its_entity():
    words = [*["word"] * 40]
    spans = tuple((row, row, "PER") for row in range(0, 40, 2))
    page = png.draw_card(make_explanation(words, spans, num_images=0))
    places = [(text.get_text(), text.get_position()) for text in page.axes.texts[:60]]
    pairs = [(a, b) for a, b in zip(places, places[1:], strict=False) if a[0] == "PER 0.81"]
    assert len(pairs) == 20
    assert all(label[1] == word[1] and word[0] < label[0] for (_, label), (_, word) in pairs)


def test_heat_map_goes_on_in_panels(monkeypatch):
    monkeypatch.setattr(png, "ROWS", 4)
    monkeypatch.setattr(png, "PANELS", 2)
    # The second entity lies on both sides of a border.
    page = png.draw_heat_map(make_explanation(spans=((2, 4, "ORG"),)))
    lines = drawn(page)
    assert [line for line in lines if line in WORDS] == WORDS
    # Each panel has its images and, beside the bar, their numbers.
    assert lines.count("1") == 3 and len(page.axes.images) == 3 * 2 + 1
    assert lines.count("ORG 0.81") == 2
    left = {text.get_text(): text.get_position() for text in page.axes.texts if text.get_text() in WORDS}
    assert left["what"][0] == left["common"][0] < left["Houston"][0]
    assert left["what"][1] == left["Houston"][1] < left["common"][1]


def test_figures_too_high_for_agg_are_drawn_smaller(monkeypatch, tmp_path):
    monkeypatch.setattr(png, "MOST_PIXELS", 300)
    plot_explanation(make_explanation(), tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert max(image.size) <= 301


def test_without_matplotlib_png_says_what_to_install_and_html_is_drawn(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for kind in KINDS:
        with pytest.raises(ImportError, match=r'needs matplotlib: run `pip install "smcl\[plot\]"`'):
            plot_explanation(make_explanation(), tmp_path / "figure.png", kind)
        plot_explanation(make_explanation(), tmp_path / "figure.html", kind)
    assert not (tmp_path / "figure.png").exists()


# Both


@pytest.mark.parametrize("name", ["figure.jpg", "figure", "figure.png.txt", "png"])
def test_other_suffixes_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in .png or .html, got .*" + name):
        plot_explanation(make_explanation(), tmp_path / name)
    assert not (tmp_path / name).exists()


def test_other_kinds_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`kind` must be one of 'card', 'heat_map', got 'heatmap'"):
        plot_explanation(make_explanation(), tmp_path / "figure.png", "heatmap")


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.html", "a.HTML"])
def test_paths_may_be_strings_and_suffixes_of_any_case(name, tmp_path):
    plot_explanation(make_explanation(), str(tmp_path / name))
    content = (tmp_path / name).read_bytes()
    assert content.startswith(b"\x89PNG" if "png" in name.lower() else b"<!DOCTYPE html>")


# What severe red, green and blue blindness make of linear RGB (Machado, Oliveira and Fernandes, 2009).
VISIONS = {
    "full": np.eye(3),
    "red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour: str, vision: str) -> np.ndarray:
    """CIELAB of a colour as somebody sees it."""
    rgb = style.to_rgb(colour)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(VISIONS[vision]) @ linear, 0, 1)
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.maximum(matrix @ linear / np.array([0.9505, 1, 1.089]), 1e-6))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", list(VISIONS))
def test_colours_are_told_apart_with_any_colour_vision(vision):
    for colours in (style.TYPE_COLOURS, style.PATCH_COLOURS, style.ATTENTION_COLOURS):
        seen = [lab(colour, vision) for colour in colours]
        distances = [np.linalg.norm(a - b) for row, a in enumerate(seen) for b in seen[:row]]
        # 2.3 is a difference just noticed.
        assert min(distances) > 10


def test_text_has_the_contrast_that_wcag_asks_for():
    for colour in style.TYPE_COLOURS:
        assert style.contrast(colour, style.ink_on(colour)) >= 4.5
        assert style.contrast(style.tint(colour), style.INK) >= 7
    assert style.contrast(style.FAINT, style.PAPER) >= 4.5
    for share in np.linspace(0, 1, 101):
        colour = style.mix(style.ATTENTION_COLOURS, share)
        assert style.contrast(colour, style.ink_on(colour)) >= 4.5
    assert style.contrast("#000000", "#FFFFFF") == pytest.approx(21)


def test_colours_of_types_follow_the_order_of_the_labels():
    names = [f"type {row}" for row in range(9)]
    colours = style.type_colours(names)
    assert list(colours) == names and len(set(colours.values())) == 7
    assert colours["type 7"] == colours["type 0"]
    # Whatever a post has of them.
    one, other = (explanation_to_html(make_explanation(spans=((0, 0, name),))) for name in ("LOC", "MISC"))
    assert style.TYPE_COLOURS[1] in one and style.TYPE_COLOURS[3] in other
    assert style.TYPE_COLOURS[3] not in one


def test_command_line_draws_a_post_of_a_file(processor, photo, tmp_path, monkeypatch, capsys):
    make_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "post").mkdir()
    photo.save(tmp_path / "post" / "a.png")
    (tmp_path / "post" / "post.json").write_text(json.dumps({"text": "joey and niko", "images": ["a.png"]}))
    (tmp_path / "post" / "bare.json").write_text(json.dumps({"text": "joey and niko"}))
    (tmp_path / "post" / "list.json").write_text(json.dumps(["joey"]))
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", "model", "--post", "post/post.json"]
    main([*arguments, "--output", "card.html", "--patch_grid", "2"])
    html = (tmp_path / "card.html").read_text(encoding="utf-8")
    assert html.count("<image ") in (1, 2) and "joey" in html
    main([*arguments, "--output", "heat_map.png", "--kind", "heat_map"])
    assert (tmp_path / "heat_map.png").exists()
    main(["--model", "model", "--post", "post/bare.json", "--output", "bare.html"])
    assert (tmp_path / "bare.html").exists()
    with pytest.raises(SystemExit):
        main(["--model", "model", "--post", "post/list.json", "--output", "list.html"])
    message = capsys.readouterr().err
    assert "Expected an object" in message.splitlines()[-1] and "Traceback" not in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"text": "joey", "images": "a.png"}', {"text": "joey", "images": ["FOLDER/a.png"]}),
        (
            '{"tokens": ["joey"], "images": ["a.png", "/b.png"]}',
            {"text": ["joey"], "images": ["FOLDER/a.png", "/b.png"]},
        ),
        ('{"text": "joey", "images": ["HTTP://host/a b.png"]}', {"text": "joey", "images": ["HTTP://host/a b.png"]}),
        ('{"text": "joey", "images": null}', {"text": "joey", "images": []}),
        ('{"text": "joey", "image": "a.png"}', "It has no `images`, but 'image'"),
        ('{"text": "joey", "text": "niko"}', "the key 'text' stands twice"),
        ('{"text": 3}', "`text` must be a string or a list of words, got 3"),
        ("[1]", "Expected an object"),
        ("{", "post.json`: .*can't be read"),
        (None, "There is no file .*post.json"),
    ],
)
def test_the_post_of_the_command_is_read_as_a_line_to_predict_is(tmp_path, monkeypatch, capsys, text, expected):
    seen, path = [], tmp_path / "post.json"
    processor = SimpleNamespace(context_columns=())
    pipe = SimpleNamespace(model=make_model(), processor=processor, explain=lambda post, patch_grid: seen.append(post))
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(plot, "load_pipeline", lambda name: pipe)
    monkeypatch.setattr(plot, "plot_explanation", lambda *args: None)
    argv = ["--model", "m", "--post", str(path), "--output", "card.png"]
    if isinstance(expected, str):
        with pytest.raises(SystemExit):
            plot.main(argv)
        message = capsys.readouterr().err
        assert re.search(expected, message.splitlines()[-1]) and "Traceback" not in message
        return
    plot.main(argv)
    images = [image.replace("FOLDER", str(tmp_path)) for image in expected["images"]]
    assert seen == [expected | {"images": images}]
