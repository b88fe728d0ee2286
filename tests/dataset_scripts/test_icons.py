import hashlib
import json
import random
from collections import Counter, defaultdict

import pytest
from datasets import load_dataset

from smcl.dataset_scripts import icons
from smcl.dataset_scripts.icon_difficulty import SETTINGS, Difficulty
from smcl.dataset_scripts.icons import (
    CUE_WORDS,
    ICON_OF_TYPE,
    KINDS,
    NAMES,
    ONE_NAME_TEMPLATES,
    SECOND_NAMES,
    TWO_NAME_TEMPLATES,
    convert,
    draw_icon,
    draw_post,
)
from smcl.dataset_scripts.schema import ENTITY_TYPES, FEATURES

SIZES = {"train": 12, "validation": 4, "test": 6}


def draw_posts(count, seed=0):
    rng = random.Random(seed)
    return [draw_post(str(index), rng) for index in range(count)]


def mentions(post):
    """Return (name, type) of each name of a post."""
    starts = [i for i, tag in enumerate(post.tags) if tag.startswith("B-")]
    found = []
    for start in starts:
        end = start + 1
        while end < len(post.tags) and post.tags[end].startswith("I-"):
            end += 1
        found.append((" ".join(post.tokens[start:end]), post.tags[start][2:]))
    return found


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("icons")
    report = convert(folder / "out", **SIZES)
    return folder / "out", report, load_dataset(str(folder / "out"), cache_dir=str(folder / "cache"))


def test_the_demo_set_loads_with_the_schema(converted):
    _, report, data = converted
    assert {name: len(split) for name, split in data.items()} == SIZES
    assert all(split.features == FEATURES for split in data.values())
    assert data["train"]["id"][0] == "icons-train-0"
    assert {image.size for row in data["train"] for image in row["images"]} == {(48, 48)}
    assert {image.mode for row in data["train"] for image in row["images"]} == {"RGB"}
    assert report["splits"]["train"]["missing_images"]["count"] == 0


def test_image_kinds_tell_what_each_image_shows(converted):
    folder, _, data = converted
    kinds = json.loads((folder / "image_kinds.json").read_text())
    names = FEATURES["ner_tags"].feature.names
    assert set(kinds) == {row["id"] for split in data.values() for row in split}
    for row in data["train"]:
        assert len(kinds[row["id"]]) == len(row["images"])
        types = [names[tag][2:] for tag in row["ner_tags"] if names[tag].startswith("B-")]
        assert [kind for kind in kinds[row["id"]] if kind != "noise"] == [ICON_OF_TYPE[name] for name in types]


def digests(report):
    return {name: split["sha256"] for name, split in report["splits"].items()}


def test_the_seed_decides_the_data(converted, tmp_path):
    _, report, _ = converted
    assert digests(convert(tmp_path / "same", **SIZES)) == digests(report)
    other = digests(convert(tmp_path / "other", **SIZES, seed=1))
    assert not set(other.values()) & set(digests(report).values())


def test_a_split_does_not_depend_on_the_size_of_another(converted, tmp_path):
    _, report, _ = converted
    assert digests(convert(tmp_path, **{**SIZES, "train": 3}))["test"] == digests(report)["test"]


def test_the_kth_icon_shows_the_kth_name():
    for post, kinds in draw_posts(500):
        assert [ICON_OF_TYPE[kind] for _, kind in mentions(post)] == [kind for kind in kinds if kind != "noise"]


def test_posts_have_one_or_two_names_and_at_most_four_images():
    posts = draw_posts(2000)
    assert {len(mentions(post)) for post, _ in posts} == {1, 2}
    assert 0.45 < sum(len(mentions(post)) == 2 for post, _ in posts) / len(posts) < 0.55
    assert {len(kinds) for _, kinds in posts} == {1, 2, 3, 4}
    assert {kinds.count("noise") for _, kinds in posts} == {0, 1, 2, 3}


def test_there_is_variety():
    assert len(NAMES) == len(set(NAMES)) >= 60
    assert not set(NAMES) & set(SECOND_NAMES)
    assert len(set(ONE_NAME_TEMPLATES + TWO_NAME_TEMPLATES)) >= 40
    assert all(template.split().count("{}") == 1 for template in ONE_NAME_TEMPLATES)
    assert all(template.split().count("{}") == 2 for template in TWO_NAME_TEMPLATES)
    tags = Counter(tag for post, _ in draw_posts(500) for tag in post.tags)
    assert all(tags[f"I-{name}"] > 20 for name in ENTITY_TYPES)


HINTS = {
    "nothing": lambda post, kinds, name, place: None,
    "the name": lambda post, kinds, name, place: name.split()[0],
    "the second name": lambda post, kinds, name, place: name.split()[1:],
    "the other words": lambda post, kinds, name, place: [
        t for t, g in zip(post.tokens, post.tags, strict=True) if g == "O"
    ],
    "the place in the post": lambda post, kinds, name, place: post.tokens.index(name.split()[0]),
    "the other name": lambda post, kinds, name, place: [
        other for k, (other, _) in enumerate(mentions(post)) if k != place
    ],
    "the number of images": lambda post, kinds, name, place: (len(kinds), place, len(mentions(post))),
    "where the noise stands": lambda post, kinds, name, place: [kind == "noise" for kind in kinds],
}


@pytest.mark.parametrize("hint", HINTS)
def test_nothing_but_the_icons_tells_the_type(hint):
    """The best guess from a hint, learnt on one sample, is right a quarter of the time on another."""

    def observations(seed):
        for post, kinds in draw_posts(4000, seed):
            for place, (name, entity_type) in enumerate(mentions(post)):
                yield str(HINTS[hint](post, kinds, name, place)), entity_type

    seen = defaultdict(Counter)
    for clue, entity_type in observations(1):
        seen[clue][entity_type] += 1
    guesses = {clue: counts.most_common(1)[0][0] for clue, counts in seen.items()}
    right = [guesses.get(clue, "PER") == entity_type for clue, entity_type in observations(2)]
    # Six thousand names: the standard deviation of a blind guess is 0.0056.
    assert abs(sum(right) / len(right) - 0.25) < 0.02


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [24, 48])
def test_icons_are_drawn_in_their_size_and_differ(kind, size):
    rng = random.Random(0)
    drawn = [draw_icon(kind, rng, size) for _ in range(5)]
    assert all(icon.size == (size, size) and icon.mode == "RGB" for icon in drawn)
    assert len({icon.tobytes() for icon in drawn}) == 5
    assert draw_icon(kind, random.Random(3), size).tobytes() == draw_icon(kind, random.Random(3), size).tobytes()


def test_an_icon_stands_out_from_its_background():
    for seed in range(40):
        icon = draw_icon(KINDS[seed % len(KINDS)], random.Random(seed)).convert("L")
        low, high = icon.getextrema()
        assert high - low >= 60


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="Unknown kind of icon 'dog'. Expected one of person, building"):
        draw_icon("dog", random.Random(0))


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="The test split of icons has no posts"):
        convert(tmp_path, train=1, validation=1, test=0)


def test_the_command_generates_and_prints_the_report(tmp_path, capsys):
    icons.main(["--output", str(tmp_path), "--train", "3", "--validation", "1", "--test", "1", "--seed", "5"])
    assert "icons:" in capsys.readouterr().out
    assert digests(json.loads((tmp_path / "report.json").read_text())) == digests(
        convert(tmp_path / "again", train=3, validation=1, test=1, seed=5)
    )


def test_the_default_data_stay_what_they_were():
    digest = hashlib.sha256()
    for split in ("train", "test"):
        rng = random.Random(f"0 {split}")
        for index in range(40):
            post, kinds = draw_post(f"icons-{split}-{index}", rng)
            digest.update(json.dumps([post.id, post.tokens, post.tags, post.image_names, kinds]).encode())
            for name, kind in zip(post.image_names, kinds, strict=True):
                digest.update(draw_icon(kind, random.Random(f"0 {name}")).tobytes())
    assert digest.hexdigest() == "3f9594c47e558ab9a69a9a0238fa117deed7a6266f73a010f43ca16fb4bf1c49"


def draw_hard_posts(count, **knobs):
    rng = random.Random(1)
    return [draw_post(str(index), rng, Difficulty(**knobs)) for index in range(count)]


def test_icons_can_be_small_and_faint():
    def extent(icon):
        grey = icon.convert("L")
        paper = Counter(grey.tobytes()).most_common(1)[0][0]
        box = grey.point(lambda value: 255 * (abs(value - paper) > 8)).getbbox()
        return max(box[2] - box[0], box[3] - box[1])

    small = Difficulty(icon_size=(0.3, 0.4), contrast=(80, 255))
    sizes = []
    for seed in range(40):
        # Specks anywhere would stretch the box, so of their numbers only the smallest counts.
        sizes.append(extent(draw_icon("building", random.Random(seed), difficulty=small)))
    assert min(sizes) < 48 * 0.45 and min(extent(draw_icon("building", random.Random(s))) for s in range(40)) > 48 * 0.6
    faint = [draw_icon("building", random.Random(s), difficulty=Difficulty(contrast=(20, 30))) for s in range(40)]
    gaps = [
        max(counts) - min(counts) for counts in (dict(Counter(x.convert("L").tobytes()).most_common(2)) for x in faint)
    ]
    assert all(18 <= gap <= 32 for gap in gaps)


def test_more_images_can_be_noise():
    kinds = [kinds for _, kinds in draw_hard_posts(300, noise_images=(2, 3))]
    assert {len(k) for k in kinds} == {3, 4}
    assert all(k.count("noise") >= 2 for k in kinds)


def test_cue_words_hint_at_the_type_or_at_another():
    types = {word: name for name, words in CUE_WORDS.items() for word in words}
    template_words = {word for template in ONE_NAME_TEMPLATES + TWO_NAME_TEMPLATES for word in template.split()}
    assert not set(types) & template_words

    def hints(posts):
        for post, _ in posts:
            for before, tag in zip(post.tokens, post.tags[1:], strict=False):
                if tag.startswith("B-") and before in types:
                    yield types[before] == tag[2:]

    posts = draw_hard_posts(2000, cue_rate=0.5, cue_conflict=0.3)
    found = list(hints(posts))
    assert 0.47 < len(found) / sum(len(mentions(post)) for post, _ in posts) < 0.53
    assert 0.27 < found.count(False) / len(found) < 0.33
    assert all(hints(draw_hard_posts(200, cue_rate=1.0)))
    assert all([ICON_OF_TYPE[t] for _, t in mentions(p)] == [k for k in kinds if k != "noise"] for p, kinds in posts)


def test_names_can_favour_a_type():
    seen = defaultdict(Counter)
    for post, _ in draw_hard_posts(4000, name_prior=0.6):
        for name, entity_type in mentions(post):
            seen[name.split()[0]][entity_type] += 1
    share = sum(max(counts.values()) for counts in seen.values()) / sum(counts.total() for counts in seen.values())
    # 0.6 by favour and a quarter of the rest.
    assert 0.67 < share < 0.73
    assert {counts.most_common(1)[0][0] for counts in seen.values()} == set(ENTITY_TYPES)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"icon_size": (0.5, 0.4)}, "`icon_size` must be a range within 0.1 to 1"),
        ({"contrast": (100, 101)}, "`contrast` must span 5 or more"),
        ({"noise_images": (0, 4)}, "`noise_images` must be a range within 0 to 3"),
        ({"cue_conflict": 1.5}, "`cue_conflict` must be a share from 0 to 1, got 1.5"),
    ],
)
def test_difficulties_out_of_bounds_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        Difficulty(**knobs)


def test_a_setting_names_difficulties_and_single_ones_can_be_changed(tmp_path, capsys):
    sizes = ["--validation", "1", "--test", "1"]
    icons.main(["--output", str(tmp_path / "hard"), "--setting", "hard", *sizes])
    train, hard = SETTINGS["hard"]
    report = json.loads((tmp_path / "hard" / "report.json").read_text())
    assert report["splits"]["train"]["posts"] == train
    assert json.loads((tmp_path / "hard" / "difficulty.json").read_text())["contrast"] == list(hard.contrast)
    changed = ["--setting", "hard", "--train", "5", "--contrast", "30", "60", *sizes]
    icons.main(["--output", str(tmp_path / "other"), *changed])
    difficulty = json.loads((tmp_path / "other" / "difficulty.json").read_text())
    assert (difficulty["contrast"], difficulty["cue_rate"]) == ([30, 60], hard.cue_rate)
    with pytest.raises(SystemExit):
        icons.main(["--output", str(tmp_path / "bad"), "--cue_rate", "7"])
    assert "`cue_rate` must be a share" in capsys.readouterr().err
