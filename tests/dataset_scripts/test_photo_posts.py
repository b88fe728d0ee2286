import ast
import hashlib
import io
import json
from collections import Counter

import pytest
from datasets import Image as ImageFeature
from datasets import List, load_dataset
from PIL import Image

from smcl.dataset_scripts import conll, mner_mi, natural_posts, photo_posts
from smcl.experiments import image_dependent

# Each class has a colour of its own, so that an image tells its class.
COLOURS = dict(
    zip("airplane automobile bird cat deer dog frog horse ship truck".split(), range(10, 210, 20), strict=True)
)
TYPES = {
    "automobile": "ORG",
    "truck": "ORG",
    "airplane": "LOC",
    "ship": "LOC",
    "deer": None,
    "frog": None,
} | dict.fromkeys(("bird", "cat", "dog", "horse"), "MISC")


@pytest.fixture(scope="module")
def tweets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tweets")
    for split, count in (("train", 60), ("valid", 20), ("test", 20)):
        posts = []
        for index in range(count):
            tags = ["O", "B-PER", "I-PER", "O", "B-OTHER"][: 3 + index % 3] if index % 7 else ["O", "O", "O"]
            words = ["Look,", "Ann", "Lee", "it's", "😀"][: len(tags)]
            posts.append(conll.format_post(f"{split}{index}", words, tags))
        (folder / f"{split}.txt").write_text("\n".join(posts) + "\n", encoding="utf-8")
    return folder


def save_photographs(folder, level):
    folder.mkdir(parents=True)
    for index in range(2):
        Image.new("RGB", (16, 16), (level, index, 99)).save(folder / f"{index}.jpg")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for split in ("train", "test"):
        for name, level in COLOURS.items():
            save_photographs(folder / split / name, level)
    return folder


@pytest.fixture(scope="module")
def natural_photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("natural")
    for first, split in ((0, "train"), (120, "test")):
        for place, motif in enumerate(("PER", "LOC", "ORG", "MIS", "noise")):
            for index in range(2):
                save_photographs(folder / split / motif / f"class{index}", first + 20 * place + 10)
    return folder


def make(maker, tweets, photos, output, *arguments):
    maker.main(["--tweets", str(tweets), "--photos", str(photos), "--output", str(output), *arguments])
    read = {name: json.loads((output / f"{name}.json").read_text()) for name in ("image_dependent", "showing_images")}
    return read["image_dependent"], read["showing_images"]


def convert(source, output):
    report = mner_mi.convert(source, output)
    splits = load_dataset(str(output))
    features = splits["train"].features["ner_tags"].feature.names
    splits = splits.cast_column("images", List(ImageFeature(decode=False)))
    return report, {
        split: [post | {"tags": [features[tag] for tag in post["ner_tags"]]} for post in posts]
        for split, posts in splits.items()
    }


def level_of(image):
    return Image.open(io.BytesIO(image["bytes"])).convert("RGB").getpixel((3, 3))[0]


def names_of_types(posts, dependent, showing):
    """Yield the type of each mention that was replaced, the red of the image that shows it, and the post."""
    for post in posts:
        images = {image["path"]: image for image in post["images"]}
        for (first, last), name in zip(dependent[post["id"]], showing[post["id"]], strict=True):
            assert post["tags"][first].startswith("B-")
            assert all(tag.startswith("I-") for tag in post["tags"][first + 1 : last])
            assert post["tags"][last : last + 1] == [] or not post["tags"][last].startswith("I-")
            assert post["tokens"][first] in photo_posts.NAMES
            # Ten of a thousand images are missing.
            if name is None or name in images:
                yield post["tags"][first][2:], name and level_of(images[name]), post


def nearest_class(level):
    return min(COLOURS, key=lambda name: abs(COLOURS[name] - level))


def test_photo_posts_show_the_type_of_each_replaced_name_in_the_photograph_that_is_said_to(tweets, photos, tmp_path):
    dependent, showing = make(photo_posts, tweets, photos, tmp_path / "made")
    report, splits = convert(tmp_path / "made", tmp_path / "data")
    assert {split: counts["posts"] for split, counts in report["splits"].items()} == {
        "train": 60,
        "validation": 20,
        "test": 20,
    }
    found = Counter()
    for posts in splits.values():
        for entity_type, level, post in names_of_types(posts, dependent, showing):
            assert (entity_type == "PER") == (level is None)
            assert level is None or TYPES[nearest_class(level)] == entity_type
            assert len(post["images"]) <= 4
            found[entity_type] += 1
        for post in posts:
            others = [image for image in post["images"] if image["path"] not in showing[post["id"]]]
            assert {nearest_class(level_of(image)) for image in others} <= {"deer", "frog"}
    assert set(found) == {"PER", "LOC", "ORG", "MISC"}
    assert sum(found.values()) > 50


def test_natural_posts_mislead_and_test_posts_show_photographs_of_the_test_folder(tweets, natural_photos, tmp_path):
    dependent, showing = make(natural_posts, tweets, natural_photos, tmp_path / "made")
    _, splits = convert(tmp_path / "made", tmp_path / "data")
    types, misleading, lost, shown = ["PER", "LOC", "ORG", "MISC", "noise"], 0, 0, 0
    for split, posts in splits.items():
        first = 120 if split == "test" else 0
        for entity_type, level, _ in names_of_types(posts, dependent, showing):
            lost += level is None
            shown += level is not None
            assert level is None or types[round((level - 10 - first) / 20)] == entity_type
        for post in posts:
            levels = [level_of(image) for image in post["images"]]
            assert all((level > 115) == (split == "test") for level in levels)
            misleading += not dependent[post["id"]] and any(level < first + 80 for level in levels)
    assert shown > 50
    assert 0 < lost < shown / 5
    assert misleading > 5


def test_tweets_stay_as_they_were_in_the_larger_set(tweets, photos, tmp_path):
    make(photo_posts, tweets, photos, tmp_path / "made")
    report = mner_mi.convert(tmp_path / "made", tmp_path / "plus", plus=True)
    assert report["splits"]["train"]["posts"] == 120
    posts = [post for post in load_dataset(str(tmp_path / "plus"), split="train") if post["source"] == "twitter2017"]
    assert [post["id"] for post in posts[:2]] == ["twitter2017-train0", "twitter2017-train1"]
    assert posts[1]["tokens"] == ["Look,", "Ann", "Lee", "it's"]
    assert posts[5]["ner_tags"] == [0, 1, 2, 0, 7]


@pytest.mark.parametrize("maker", ["photo_posts", "natural_posts"])
def test_the_same_seed_makes_the_same_files_and_another_seed_others(maker, tweets, photos, natural_photos, tmp_path):
    module, folder = {"photo_posts": (photo_posts, photos), "natural_posts": (natural_posts, natural_photos)}[maker]

    def digest(name, *arguments):
        make(module, tweets, folder, tmp_path / name, *arguments)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        text = b"".join(str(path.relative_to(tmp_path / name)).encode() + path.read_bytes() for path in files)
        return hashlib.sha256(text).hexdigest()

    first = digest("first", "--seed", "5")
    assert digest("again", "--seed", "5") == first
    assert digest("other", "--seed", "6") != first


def test_records_are_written_both_ways_and_a_scale_takes_the_first_tweets(tweets, photos, tmp_path):
    dependent, _ = make(photo_posts, tweets, photos, tmp_path / "made", "--scale", "0.5")
    lines = (tmp_path / "made" / "text" / "MNER-MI_train.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 30
    assert len(dependent) == 50
    as_json = [line.startswith('{"') for line in lines]
    assert any(as_json)
    assert not all(as_json)
    assert [
        json.loads(x)["id"] if j else ast.literal_eval(x)["id"] for x, j in zip(lines, as_json, strict=True)
    ] == list(range(30))


def test_mentions_can_be_scored_apart(tweets, photos, tmp_path, capsys):
    make(photo_posts, tweets, photos, tmp_path / "made")
    _, splits = convert(tmp_path / "made", tmp_path / "data")
    posts = [{"id": p["id"], "tokens": p["tokens"], "gold": p["tags"], "predicted": p["tags"]} for p in splits["test"]]
    path = tmp_path / "predictions.jsonl"
    path.write_text("\n".join(map(json.dumps, posts)) + "\n")
    capsys.readouterr()
    image_dependent.main(["--mentions", str(tmp_path / "made" / "image_dependent.json"), str(path)])
    assert "image-dependent  precision 1.000  recall 1.000  f1 1.000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--scale": "0"}, "--scale to be above 0 and at most 1, got 0.0"),
        ({"--scale": "2"}, "--scale to be above 0 and at most 1, got 2.0"),
        ({"--scale": "nan"}, "--scale to be above 0 and at most 1, got nan"),
        ({"--tweets": "nowhere"}, "Check --tweets."),
        ({"--photos": "nowhere"}, "Check --photos."),
        ({"--photos": "{tweets}"}, "check --photos."),
        ({"--output": "{tweets}"}, "new or empty folder, but"),
        ({"--output": "{tweets}/train.txt"}, "a file in the way"),
    ],
)
@pytest.mark.parametrize("maker", [photo_posts, natural_posts])
def test_what_can_not_be_made_is_refused_in_one_line(
    maker, changes, message, tweets, photos, natural_photos, tmp_path, capsys
):
    folder = photos if maker is photo_posts else natural_photos
    arguments = {"--tweets": str(tweets), "--photos": str(folder), "--output": str(tmp_path / "made")}
    arguments |= {name: value.format(tweets=tweets) for name, value in changes.items()}
    with pytest.raises(SystemExit) as stopped:
        maker.main([part for pair in arguments.items() for part in pair])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "made").exists()


def test_a_class_without_images_is_named(tweets, photos, tmp_path):
    for path in (photos / "train").iterdir():
        (tmp_path / "train" / path.name).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"There is no image in .*train/bird"):
        photo_posts.CifarPhotographs(tmp_path)


@pytest.mark.parametrize(
    ("mentions", "line", "message"),
    [
        ({"1": None}, None, "expected a list of [first word, last word + 1] for post '1', got None"),
        ({"1": [["a", "b"]]}, None, "expected a list of [first word, last word + 1] for post '1'"),
        ({"1": [[-1, 1]]}, None, "expected a list of [first word, last word + 1] for post '1'"),
        ({"1": [[1, 1]]}, None, "expected a list of [first word, last word + 1] for post '1'"),
        ('{"1": [[0, 1]], "1": []}', None, "found none at"),
        ({"1": []}, "", "which holds no post"),
        ({"1": []}, {"id": ["1"]}, "predictions.jsonl:1: expected a line of predictions.jsonl"),
        ({"1": []}, {"predicted": None}, "predictions.jsonl:1: expected a line of predictions.jsonl"),
        ({"1": []}, {"predicted": [3]}, "predictions.jsonl:1: expected a line of predictions.jsonl"),
        ({"1": []}, {"predicted": ["O", "O"]}, "predictions.jsonl:1: expected a line of predictions.jsonl"),
    ],
)
def test_files_of_mentions_and_predictions_are_checked(tmp_path, capsys, mentions, line, message):
    (tmp_path / "mentions.json").write_text(mentions if isinstance(mentions, str) else json.dumps(mentions))
    post = {"id": "1", "gold": ["O"], "predicted": ["O"]}
    path = tmp_path / "predictions.jsonl"
    path.write_text("" if line == "" else json.dumps(post | (line or {})) + "\n")
    with pytest.raises(SystemExit):
        image_dependent.main(["--mentions", str(tmp_path / "mentions.json"), str(path)])
    assert message in capsys.readouterr().err
