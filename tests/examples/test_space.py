import base64
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import gradio
import gradio_client
import gradio_client.exceptions
import pytest
import torch
from datasets import Dataset, load_dataset
from factories import make_model, noise
from PIL import Image
from playwright import sync_api
from web import BROWSER, FLAGS, free_port, wait_for

import smcl
from smcl import MultiImageNERPipeline
from smcl.dataset_scripts.gate import prepare_posts
from smcl.dataset_scripts.icons import convert

ROOT = Path(smcl.__file__).parent
SPACE = ROOT / "examples" / "space"
SECONDS = 30


def load(name: str):
    """Import a file of the Space, which is no package."""
    spec = importlib.util.spec_from_file_location(name, SPACE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(SPACE))
analysis = load("analysis")
EXAMPLES = analysis.read_examples(SPACE / "examples")


def make_pipeline(processor, seed: int) -> MultiImageNERPipeline:
    """A tiny random model that finds entities in most posts."""
    model = make_model(seed)
    with torch.no_grad():
        model.classifier.weight.mul_(8)
        model.classifier.bias[0] = -8
    return MultiImageNERPipeline(model, processor)


def describe(entities: list[dict]) -> list[tuple[str, str, str]]:
    """What a reader sees of entities."""
    return [(entity["word"], entity["entity_group"], f"{entity['score']:.2f}") for entity in entities]


def tags(entities: list[dict]) -> list[tuple]:
    return [(entity["words"], entity["entity_group"]) for entity in entities]


def without(post: dict, slot: int) -> dict:
    return {**post, "images": post["images"][:slot] + post["images"][slot + 1 :]}


def find_deciding_image(pipe) -> tuple[int, int] | None:
    """Find an example, and its image, without which the pipeline gives other entities."""
    for number, post in enumerate(EXAMPLES):
        before = tags(pipe(post))
        for slot in range(len(post["images"])):
            after = tags(pipe(without(post, slot)))
            if before and after and before != after:
                return number, slot
    return None


@pytest.fixture(scope="module")
def decided(processor) -> tuple[MultiImageNERPipeline, int, int]:
    """A pipeline, an example, and its image that decides of the example's tags."""
    for seed in range(20):
        pipe = make_pipeline(processor, seed)
        found = find_deciding_image(pipe)
        if found:
            return pipe, *found
    raise AssertionError("no random model looks at the images")


@pytest.fixture(scope="module")
def pipe(decided) -> MultiImageNERPipeline:
    return decided[0]


@pytest.fixture
def photos(tmp_path) -> list[str]:
    """Paths of as many good images as a model takes, and one more."""
    paths = [tmp_path / f"photo{slot}.png" for slot in range(5)]
    for slot, path in enumerate(paths):
        noise((20, 30), seed=slot).convert("RGB").save(path)
    return [str(path) for path in paths]


@pytest.fixture
def broken(tmp_path) -> str:
    path = tmp_path / "broken.png"
    path.write_text("this is no image")
    return str(path)


# The Space as it stands


def test_header_and_requirements_are_what_the_hub_and_the_package_ask_for():
    header = dict(re.findall(r"^(\w+): (.+)$", (SPACE / "README.md").read_text(encoding="utf-8").split("---")[1], re.M))
    assert header["sdk"] == "gradio" and (SPACE / header["app_file"]).is_file()
    assert header["sdk_version"].split(".")[0] == gradio.__version__.split(".")[0]
    assert len(header["short_description"]) <= 60
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    requirements = [line for line in (SPACE / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(requirements) > 3 and all(f'"{line}"' in project for line in requirements)


def test_bundled_examples_are_small_and_varied():
    files = [path for path in (SPACE / "examples").iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000
    assert len(EXAMPLES) >= 4 and {len(post["images"]) for post in EXAMPLES} == {1, 2, 3, 4}
    assert {path.name for path in files} == {"posts.json"} | {Path(x).name for post in EXAMPLES for x in post["images"]}


def test_without_a_model_the_program_says_what_to_set(monkeypatch, capsys):
    monkeypatch.delenv("SMCL_MODEL", raising=False)
    with pytest.raises(SystemExit):
        load("app").main([])
    assert "give --model, or set the variable SMCL_MODEL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "message"),
    [(None, "nowhere/at/all"), ("gradio", 'The page needs gradio: run `pip install "smcl[app]"`.')],
)
def test_what_keeps_the_program_from_starting_is_told_in_one_line(monkeypatch, capsys, missing, message):
    monkeypatch.setitem(sys.modules, missing or "nothing", None)
    with pytest.raises(SystemExit):
        load("app").main(["--model", "nowhere/at/all"])
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def write_run(folder: Path, title: str) -> str:
    run = {"stages": ["train"], "data": {"title": title, "name": "x", "splits": {"train": {"posts": 4000}}}}
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"runs": [run]}))
    return str(folder)


def test_the_page_says_which_model_it_shows_and_what_that_knows(pipe, tmp_path):
    demo = analysis.describe_model(write_run(tmp_path / "demo", "icons"), pipe)
    assert "demo" in demo and "4,000 posts" in demo and "knows icon posts alone" in demo and "PER (person)" in demo
    other = analysis.describe_model(write_run(tmp_path / "other", "<b>mine"), pipe)
    assert "“&lt;b&gt;mine”" in other and "icon posts" not in other
    assert "not recorded" in analysis.describe_model("someone/model", pipe)
    assert "Tweets &amp; more" in analysis.describe_model("someone/model", pipe, "Tweets & more")
    (tmp_path / "demo" / "run.json").write_text("[]")
    assert "not recorded" in analysis.describe_model(str(tmp_path / "demo"), pipe)


def test_examples_of_a_data_set_are_chosen_to_differ_and_read_back_as_they_were(tmp_path):
    convert(tmp_path / "data", train=2, validation=2, test=60)
    dataset = load_dataset(str(tmp_path / "data"), split="test", cache_dir=str(tmp_path / "cache"))
    chosen = analysis.choose_examples(dataset)
    analysis.write_examples(chosen, tmp_path / "examples")
    posts = analysis.read_examples(tmp_path / "examples")
    kinds = [(len(post["images"]), sum(tag in (1, 3, 5, 7) for tag in post["ner_tags"])) for post in chosen]
    assert len(posts) == analysis.MAX_EXAMPLES and kinds == sorted(set(kinds)) and kinds[0][0] < kinds[-1][0]
    for post, original in zip(posts, chosen, strict=True):
        assert post["text"].split() == original["tokens"]
        pixels = [Image.open(path).convert("RGB").tobytes() for path in post["images"]]
        assert pixels == [image.convert("RGB").tobytes() for image in original["images"]]


def test_examples_may_have_tags_by_name_and_posts_without_images(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    rows = {"tokens": [["joey", "rests"]] * 2, "ner_tags": [["B-PER", "O"]] * 2, "images": [None, [buffer.getvalue()]]}
    posts = prepare_posts(Dataset.from_dict(rows))
    analysis.write_examples(analysis.choose_examples(posts), tmp_path)
    assert [len(post["images"]) for post in analysis.read_examples(tmp_path)] == [1]
    with pytest.raises(ValueError, match="no post with both an image and an entity"):
        analysis.choose_examples(posts.remove_columns("images"))


# What the page does with posts


def entity(first: int, last: int, name: str, score: float = 0.9) -> dict:
    return {"words": (first, last), "entity_group": name, "score": score}


def test_entities_of_the_same_words_are_compared():
    before = [entity(0, 0, "PER"), entity(2, 3, "ORG")]
    after = [entity(0, 0, "LOC"), entity(2, 2, "ORG"), entity(5, 5, "MISC")]
    pairs = analysis.compare(before, after)
    assert pairs == [(before[0], after[0]), (None, after[1]), (before[1], None), (None, after[2])]


def test_text_is_shown_as_text_and_not_run_as_markup(pipe, photos):
    text = '<script>1</script> "<b>joey</b>" & niko'
    for html in analysis.analyse(pipe, text, photos[:2], [False, True]):
        assert "&lt;" in html and "<script" not in html and "<b>joey" not in html and '"<b' not in html


def result(html: str) -> dict:
    """The result that a page offers as a file."""
    return json.loads(base64.b64decode(re.search(r"application/json;base64,([\w+/=]+)", html)[1]))


def test_the_result_as_a_file_is_that_of_the_pipeline(decided):
    pipe, number, slot = decided
    post = EXAMPLES[number]
    html, _ = analysis.analyse(pipe, post["text"], post["images"], [n != slot for n in range(len(post["images"]))])
    found, expected = result(html), pipe(without(post, slot))
    assert found["text"] == post["text"] and slot + 1 not in found["images"]
    assert describe(found["entities"]) == describe(expected)


def test_entities_below_the_least_score_are_left_out_everywhere(decided):
    pipe, number, _ = decided
    post = EXAMPLES[number]
    scores = sorted(entity["score"] for entity in pipe(post))
    used = [True] * len(post["images"])
    html, heat_map = analysis.analyse(pipe, post["text"], post["images"], used, threshold=scores[0] + 1e-6)
    assert len(result(html)["entities"]) == len(scores) - 1 == html.count("<mark") == heat_map.count("class=&quot;span")


def test_words_that_the_tokenizer_has_never_seen_are_marked(pipe):
    text = "joey 日 <niko"
    assert [text[slice(*place)] for place in analysis.find_unknown(pipe, text)] == ["日", "<"]
    html, _ = analysis.analyse(pipe, text, [], [])
    assert '<span class="smcl-unknown">日</span>' in html and '<span class="smcl-unknown">&lt;</span>' in html
    assert "has never seen this word" in html
    assert "smcl-unknown" not in analysis.analyse(pipe, "joey and niko", [], [])[0]


def test_text_beyond_the_most_is_cut_at_a_gap_and_said(pipe, monkeypatch):
    monkeypatch.setattr(analysis, "MAX_CHARACTERS", 12)
    assert analysis.cut_text("joey and rest") == ("joey and", [analysis.CUT.format(8, 13, 12)])
    assert analysis.cut_text("joey and res") == ("joey and res", [])
    assert analysis.cut_text("x" * 20)[0] == "x" * 12
    html, _ = analysis.analyse(pipe, "joey and rest", [], [])
    assert "Only the first 8 of 13 characters" in html and 'data-text="joey and rest"' in html
    assert analysis.answer(pipe, "joey and rest", [])["notes"] == [analysis.CUT.format(8, 13, 12)]


def test_text_from_right_to_left_runs_that_way_throughout(pipe, photos):
    for text, direction, arrow in (("زرت joey مدينة", "rtl", "←"), ("joey زرت", "ltr", "→")):
        html, heat_map = analysis.analyse(pipe, text, photos[:2], [True, False])
        assert html.count(f'<p dir="{direction}">') == 2 and f'<table dir="{direction}">' in html
        assert f"table dir=&quot;{direction}" in heat_map
        assert (arrow in html) == ("<tr" in html)


def test_images_are_moved_and_removed_with_their_marks():
    images, used = ["a", "b", "c"], [True, False, True, True]
    assert analysis.move_image(images, used, 1, -1) == (["b", "a", "c"], [False, True, True])
    assert analysis.move_image(images, used, 1, 1) == (["a", "c", "b"], [True, True, False])
    assert analysis.move_image(images, used, 0, -1) == analysis.move_image(images, used, 2, 1) == (images, used[:3])
    assert analysis.remove_image(images, used, 1) == (["a", "c"], [True, True])
    assert images == ["a", "b", "c"]


@pytest.mark.parametrize(("looks", "count"), [(1000, 36), (20, 16), (0, 0)])
def test_cards_of_long_posts_look_at_larger_parts(pipe, photos, monkeypatch, looks, count):
    monkeypatch.setattr(analysis, "MAX_LOOKS", looks)
    text = next(post["text"] for post in EXAMPLES if pipe({"text": post["text"], "images": photos[:1]}))
    html = analysis.draw_card(pipe, text, photos[:2], [True, False])
    entities = len(pipe({"text": text, "images": photos[:1]}))
    assert html.count("&lt;rect ") == count * entities and ("too long" in html) == (count == 0)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_empty_text_gives_a_message(pipe, text):
    assert analysis.analyse(pipe, text, [], []) == (analysis.render_notes([analysis.NO_TEXT]), "")
    assert analysis.draw_card(pipe, text, EXAMPLES[0]["images"], [True]) == ""


def test_images_that_were_deleted_give_a_message(pipe, photos):
    os.remove(photos[0])
    assert analysis.analyse(pipe, "joey", photos[:2], [True, True]) == (analysis.render_notes([analysis.GONE]), "")
    assert analysis.draw_card(pipe, "joey", photos[:2], [True, True]) == ""
    images, used, notes = analysis.add_images(photos[:2], [True, False], photos[2:3], 4)
    assert images == photos[1:3] and used == [False, True] and len(notes) == 1
    images, used, notes = analysis.add_images(photos[1:2], [True], [photos[0], photos[2]], 4)
    assert images == photos[1:3] and notes == [analysis.LOST_IMAGE.format("photo0.png")]


def test_a_program_that_gives_no_text_is_told_so(pipe):
    with pytest.raises(gradio.Error, match="There is no text yet"):
        load("page").Page(pipe, []).find_entities(None, None, None)


def test_images_that_were_deleted_are_dropped_when_others_are_moved(pipe, photos):
    page = load("page").Page(pipe, [])
    os.remove(photos[1])
    shown = page.change(partial(analysis.move_image, slot=0, step=1), photos[:3], True, False, True, True)
    assert shown[0] == [photos[0], photos[2]] and "meantime" in shown[-1]


def test_what_the_pipeline_refuses_is_told_to_visitors_and_logged_for_the_host(pipe, photos, broken, caplog):
    told = analysis.analyse(pipe, "joey & niko", [photos[0], broken], [True, True])
    assert told == (analysis.render_notes([analysis.UNREADABLE]), "")
    assert "is no image" in caplog.text


def test_broken_files_are_left_out_and_named(photos, broken):
    images, used, notes = analysis.add_images([photos[0]], [False], [broken, photos[1]], 4)
    assert images == photos[:2] and used == [False, True]
    assert notes == [analysis.BAD_IMAGE.format("broken.png")]


def test_images_beyond_the_most_are_left_out_and_named(photos):
    images, used, notes = analysis.add_images(photos[:1], [True], photos[1:], 4)
    assert images == photos[:4] and used == [True] * 4
    assert notes == ["A post has at most 4 images. Left out: photo4.png."]


def test_images_that_were_taken_away_make_room_only_where_it_is_needed(photos):
    assert analysis.add_images(photos[:4], [True, False, True, True], photos[4:], 4) == (
        [photos[0], *photos[2:]],
        [True] * 4,
        [],
    )
    assert analysis.add_images(photos[:2], [True, False], photos[2:4], 4)[:2] == (photos[:4], [True, False, True, True])


# The page in a browser


# As app.py, but cards wait as long as there is a file `hold`.
HOLDING = """
import time
from pathlib import Path
import app, page

def draw_card(*arguments, draw=page.draw_card):
    while Path(__file__).with_name("hold").exists():
        time.sleep(0.05)
    return draw(*arguments)

page.draw_card = draw_card
app.main()
"""


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> Path:
    """The folder that the page is served from."""
    return tmp_path_factory.mktemp("space")


@pytest.fixture(scope="module")
def address(decided, space):
    """The page, served the way a Space is laid out: the package lies beside it."""
    folder = space
    shutil.copytree(SPACE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "smcl").mkdir()
    for path in [ROOT / "__init__.py", *ROOT.glob("*_smcl.py")]:
        shutil.copy(path, folder / "smcl")
    for room in ("predict", "dataset_scripts"):
        shutil.copytree(ROOT / room, folder / "smcl" / room, ignore=shutil.ignore_patterns("__pycache__"))
    decided[0].save_pretrained(str(folder / "model"))
    port = free_port()
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    settings |= {"GRADIO_TEMP_DIR": str(folder / "uploads"), "SMCL_MODEL": str(folder / "model")}
    log = folder / "log"
    with log.open("w") as output:
        (folder / "holding.py").write_text(HOLDING)
        program = [sys.executable, str(folder / "holding.py")]
        server = subprocess.Popen(program, env=os.environ | settings, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/", server, log, 6 * SECONDS)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def browser():
    assert BROWSER is not None, "needs chromium or google-chrome: `make test` installs it"
    sync_api.expect.set_options(timeout=1000 * SECONDS)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The page just opened, on a screen of its own. At the end: no request went elsewhere, no trace was shown."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(1000 * SECONDS)
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(address)
    page.locator(".smcl-example").first.wait_for()
    yield page
    assert "Traceback" not in page.content()
    assert [url for url in requests if not url.startswith((address, "data:", "blob:", "about:"))] == []
    assert errors == []
    context.close()


def open_example(page, number: int) -> None:
    page.locator(".smcl-example").nth(number).click()
    page.locator("#result .smcl-post").wait_for()


def shown(page, side: int = 0) -> list[tuple[str, str, str]]:
    """Word, type and score of each coloured span of one of the tagged texts."""
    texts = page.locator("#result .smcl-post").nth(side).locator("mark").all()
    found = []
    for mark in texts:
        word = mark.evaluate("mark => mark.firstChild.textContent")
        found.append((word, mark.locator("b").inner_text(), mark.locator("small").inner_text()))
    return found


def expect_sides(page, count: int) -> None:
    sync_api.expect(page.locator("#result .smcl-post")).to_have_count(count)


def box(page, slot: int):
    return page.get_by_role("checkbox", name=f"Use image {slot + 1}")


def test_example_is_tagged_as_by_the_pipeline(page, pipe):
    assert page.locator(".smcl-example").count() == len(EXAMPLES)
    for number, post in enumerate(EXAMPLES[:2]):
        page.locator(".smcl-example").nth(number).click()
        sync_api.expect(page.locator("#result p").first).to_contain_text(post["text"].split()[-1])
        assert shown(page) == describe(pipe(post))
        assert page.locator("#text textarea").input_value() == post["text"]
        sync_api.expect(page.locator(".smcl-slot:visible img")).to_have_count(len(post["images"]))


def test_taking_an_image_away_shows_what_changes_and_putting_it_back_ends_it(page, decided):
    pipe, number, slot = decided
    post = EXAMPLES[number]
    open_example(page, number)
    box(page, slot).uncheck()
    expect_sides(page, 2)
    after = pipe(without(post, slot))
    assert shown(page, 0) == describe(pipe(post)) and shown(page, 1) == describe(after)
    assert shown(page, 0) != shown(page, 1)
    pairs = analysis.compare(pipe(post), after)
    rows = page.locator(".smcl-changes tr")
    assert rows.count() == len(pairs) and page.locator(".smcl-changes tr.smcl-changed").count() > 0
    for row, pair in zip(rows.all(), pairs, strict=True):
        cells = row.locator("td").all_inner_texts()
        for cell, entity in zip((cells[1], cells[3]), pair, strict=True):
            expected = "no entity" if entity is None else f"{entity['entity_group']}{entity['score']:.2f}"
            assert "".join(cell.split()) == "".join(expected.split())
    box(page, slot).check()
    expect_sides(page, 1)
    assert shown(page) == describe(pipe(post))


def test_heat_map_and_card_are_drawn_and_fit_their_frames(page):
    open_example(page, 3)
    cells = page.frame_locator("#heat_map iframe").locator("td")
    sync_api.expect(cells).to_have_count(len(EXAMPLES[3]["text"].split()) * len(EXAMPLES[3]["images"]))
    page.locator("#look").click()
    page.frame_locator("#card iframe").locator("rect").first.wait_for()
    fits = "frame => Math.abs(frame.clientHeight - frame.contentDocument.body.offsetHeight) < 2"
    for frame in page.locator("iframe").all():
        page.wait_for_function(fits, arg=frame.element_handle())
    box(page, 0).uncheck()
    sync_api.expect(page.locator("#card iframe")).to_have_count(0)
    # The images keep their numbers.
    expect_sides(page, 2)
    page.locator("#heat_map h3", has_text="without image 1").wait_for()
    sync_api.expect(page.frame_locator("#heat_map iframe").locator("thead th").last).to_have_text("3")


def test_own_post_with_own_images(page, pipe, photos):
    page.locator("#text textarea").fill("joey and niko rest")
    page.locator("#text textarea").press("Enter")
    page.locator("#result .smcl-post").wait_for()
    assert shown(page) == describe(pipe({"text": "joey and niko rest"}))
    page.locator("#files input[type=file]").set_input_files(photos[:2])
    sync_api.expect(page.locator("#result h3").first).to_have_text("With all images")
    assert shown(page) == describe(pipe({"text": "joey and niko rest", "images": photos[:2]}))
    for slot in range(2):
        box(page, slot).uncheck()
    sync_api.expect(page.locator("#result h3").nth(1)).to_have_text("Without images 1 and 2")
    assert shown(page, 1) == describe(pipe({"text": "joey and niko rest"}))
    sync_api.expect(page.locator("#heat_map iframe")).to_have_count(0)


def test_broken_file_gives_a_message_and_the_post_is_kept(page, broken, photos):
    open_example(page, 0)
    page.locator("#files input[type=file]").set_input_files([broken, photos[0]])
    sync_api.expect(page.locator("#note")).to_contain_text("broken.png was left out")
    sync_api.expect(page.locator(".smcl-slot:visible img")).to_have_count(len(EXAMPLES[0]["images"]) + 1)
    expect_sides(page, 1)


def test_too_many_files_give_a_message(page, photos):
    page.locator("#files input[type=file]").set_input_files(photos)
    sync_api.expect(page.locator("#note")).to_contain_text("at most 4 images. Left out: photo4.png.")
    sync_api.expect(page.locator(".smcl-slot:visible img")).to_have_count(4)


def test_empty_text_gives_a_message_and_clear_empties_the_page(page):
    page.locator("#run").click()
    sync_api.expect(page.locator("#result")).to_contain_text(analysis.NO_TEXT)
    open_example(page, 1)
    page.locator("#heat_map iframe").wait_for()
    page.get_by_role("button", name="Clear").click()
    for part in ("#result .smcl-post", ".smcl-slot:visible", "iframe", "#look:visible"):
        sync_api.expect(page.locator(part)).to_have_count(0)
    assert page.locator("#text textarea").input_value() == ""


BACKGROUND = "element => getComputedStyle(element).backgroundColor"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screens_of_any_width_and_shade_show_all_of_the_page(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.reload()
    page.locator(".smcl-example").first.wait_for()
    open_example(page, 3)
    box(page, 0).uncheck()
    expect_sides(page, 2)
    page.locator("#look").click()
    page.locator("#card iframe").wait_for()
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    for place in (
        page.locator("body"),
        *(page.frame_locator(f"#{x} iframe").locator("body") for x in ("heat_map", "card")),
    ):
        red = int(re.search(r"\d+", place.evaluate(BACKGROUND))[0])
        assert (red < 60) == (scheme == "dark")


def test_a_text_that_was_changed_greys_the_old_result(page):
    open_example(page, 0)
    stale, area = page.locator("body.smcl-stale"), page.locator("#text textarea")
    sync_api.expect(stale).to_have_count(0)
    text = area.input_value()
    area.fill(text + " niko")
    sync_api.expect(stale).to_have_count(1)
    area.fill(text)
    sync_api.expect(stale).to_have_count(0)
    area.fill(text + " niko")
    page.locator("#run").click()
    sync_api.expect(page.locator("#result p").first).to_contain_text("niko")
    sync_api.expect(stale).to_have_count(0)


def test_images_are_moved_and_removed(page, pipe):
    post = EXAMPLES[3]
    open_example(page, 3)
    first, second, third = post["images"]
    page.get_by_role("button", name="Move image 1 later").click()
    expected = describe(pipe({**post, "images": [second, first, third]}))
    page.wait_for_function("count => document.querySelectorAll('#result mark').length === count", arg=len(expected))
    page.get_by_role("button", name="Remove image 1").click()
    sync_api.expect(page.locator(".smcl-slot:visible img")).to_have_count(2)
    page.frame_locator("#heat_map iframe").locator("thead svg").nth(1).wait_for()
    sync_api.expect(page.frame_locator("#heat_map iframe").locator("thead svg")).to_have_count(2)
    assert shown(page) == describe(pipe({**post, "images": [first, third]}))


def test_the_result_is_saved_as_a_file_by_a_click(page, pipe, tmp_path):
    open_example(page, 0)
    with page.expect_download() as download:
        page.get_by_text("Save as JSON").click()
    download.value.save_as(tmp_path / "entities.json")
    saved = json.loads((tmp_path / "entities.json").read_text(encoding="utf-8"))
    assert describe(saved["entities"]) == describe(pipe(EXAMPLES[0]))
    page.locator("#look").click()
    with page.expect_download() as download:
        page.get_by_text("Save this figure").click()
    assert download.value.suggested_filename == "card.html"


def test_a_long_post_is_read_and_its_card_keeps_nobody_waiting(page, browser, address, space):
    words = "joey and niko rest here "
    open_example(page, 5)
    page.locator("#text textarea").fill(words * 210)
    page.locator("#run").click()
    sync_api.expect(page.locator("#result .smcl-note")).to_contain_text("Only the first")
    hold = space / "hold"
    hold.touch()
    try:
        page.locator("#look").click()
        other = browser.new_page()
        other.goto(address)
        other.locator(".smcl-example").first.click()
        other.locator("#result .smcl-post").wait_for()
        assert page.locator("#card iframe").count() == 0
    finally:
        hold.unlink()
    other.close()
    page.locator("#card iframe").wait_for()


def test_programs_ask_by_the_named_endpoint(address, pipe, photos, broken):
    client = gradio_client.Client(address, verbose=False)
    files = [gradio_client.handle_file(path) for path in (*photos[:2], broken)]
    answer = client.predict("joey and niko rest", files, 0.1, api_name="/find_entities")
    expected = pipe({"text": "joey and niko rest", "images": photos[:2]}, threshold=0.1)
    assert describe(answer["entities"]) == describe(expected)
    assert answer["notes"] == [analysis.BAD_IMAGE.format("broken.png")]
    with pytest.raises(gradio_client.exceptions.AppError, match="no text yet"):
        client.predict(" ", None, 0, api_name="/find_entities")
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert [*named] == ["/find_entities"]
