import pyarrow as pa
import pytest
from datasets import Features, Image, List, Value

from smcl.dataset_scripts.columns import arrow_features, check_features, find_columns, has_image_name, parse_columns


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {}),
        (["images=image", "tokens=words"], {"images": "image", "tokens": "words"}),
        ("images=image, tokens=words", {"images": "image", "tokens": "words"}),
        ({"ner_tags": "tags"}, {"ner_tags": "tags"}),
        (["tokens=a=b"], {"tokens": "a=b"}),
    ],
)
def test_pairs_are_read(given, expected):
    assert parse_columns(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["images"], "takes OURS=THEIRS pairs"),
        (["images="], "takes OURS=THEIRS pairs"),
        ({"images": None}, "takes OURS=THEIRS pairs"),
        (["words=text"], "no column 'words' in the schema"),
        (["image=images"], "Did you mean `images=image`?"),
        (["images=a", "images=b"], "gives 'images' twice: 'a' and 'b'"),
        (["images=a", "tokens=a"], "uses the column 'a' twice"),
    ],
)
def test_pairs_that_make_no_sense_are_refused(given, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        parse_columns(given)


def test_columns_are_found_under_their_new_names():
    names = ["id", "words", "tags", "images", "lang"]
    found = find_columns(names, {"tokens": "words", "ner_tags": "tags"}, "own")
    assert found == {"id": "id", "images": "images", "tokens": "words", "ner_tags": "tags"}
    # Two columns may change places.
    assert find_columns(["text", "tokens"], {"text": "tokens", "tokens": "text"}, "own") == {
        "text": "tokens",
        "tokens": "text",
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"images": "image"}, "own has no column 'image', which `--columns images=image` names"),
        ({"images": "img"}, "own has a column 'images' already"),
    ],
)
def test_a_column_that_is_not_there_or_a_name_that_is_taken_is_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        find_columns(["images", "img"], columns, "own")


@pytest.mark.parametrize(
    "name",
    "image Images IMAGE img imgs pictures Photo photo_url image_paths imagePath imagepaths image1 tweet_images jpg "
    "picture_file".split(),
)
def test_names_of_images_are_known_in_any_case(name):
    assert has_image_name(name)


@pytest.mark.parametrize("name", "imagine image_id photo_caption tokens img_count picturesque alt_image_text".split())
def test_names_of_other_things_are_not_taken_for_images(name):
    assert not has_image_name(name)


POST = {"id": Value("string"), "tokens": List(Value("string")), "ner_tags": List(Value("string"))}


@pytest.mark.parametrize(
    ("column", "feature"),
    [
        ("anything", Image()),
        ("anything", List(Image())),
        ("anything", {"bytes": Value("binary"), "path": Value("string")}),
        ("Image_Paths", List(Value("string"))),
        ("photo", Value("binary")),
        ("img", List(List(Value("uint8")))),
    ],
)
def test_images_that_would_not_be_read_are_refused_with_the_argument_that_renames_them(column, feature):
    features = Features(POST | {column: feature})
    with pytest.raises(ValueError, match=f"Give `--columns images={column}`.*`--ignore_images`"):
        check_features(features, where="own")
    for options in ({"ignore_images": True}, {"reads_images": False}):
        assert "images" not in check_features(features, where="own", **options)


@pytest.mark.parametrize("column", ["has_image", "image_count", "num_photos"])
def test_numbers_about_images_are_no_images(column):
    check_features(Features(POST | {column: Value("int64")}), where="own")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": Value("string")}, r"column `tokens`: expected a list of words, found a text\..*json.loads"),
        ({"tokens": List(Value("int64"))}, "expected a list of words, found List"),
        ({"tokens": List(List(Value("string")))}, "expected a list of words"),
        ({"tokens": None, "words": List(Value("string"))}, "--columns tokens=words"),
        ({"tokens": None, "text": List(Value("string"))}, "--columns tokens=text"),
        ({"tokens": None, "text": Value("string")}, "Tags belong to words: convert it"),
        ({"ner_tags": List(Value("int64"))}, "Numbers without names.*List\\(ClassLabel"),
        ({"ner_tags": Value("string")}, "Give a list of tags for each post"),
        ({"ner_tags": List(Value("float32"))}, "expected a list of class labels"),
        ({"ner_tags": None, "Labels": List(Value("string"))}, "--columns ner_tags=Labels"),
        ({"id": Value("float64")}, "column `id`: expected a text or a whole number"),
        ({"images": Value("int64")}, "column `images`: expected a list of images"),
        ({"images": List(List(Value("uint8")))}, "PIL.Image.fromarray"),
        ({"images": List(List(Image()))}, "expected a list of images"),
    ],
)
def test_columns_of_other_types_are_refused_by_name(change, message):
    features = Features({name: feature for name, feature in (POST | change).items() if feature is not None})
    with pytest.raises(ValueError, match="^own.*" + message):
        check_features(features, where="own")


def test_posts_to_predict_need_words_or_a_text_only():
    found = check_features(Features({"text": Value("string")}), where="own", needs_tags=False)
    assert found == {"text": "text"}
    with pytest.raises(ValueError, match="`tokens` .* or `text`"):
        check_features(Features({"body": Value("string")}), where="own", needs_tags=False)


def test_columns_of_arrow_are_checked_like_those_of_a_data_set():
    words = pa.field("tokens", pa.list_(pa.string()))
    odd = pa.field("meta", pa.map_(pa.string(), pa.int64()))
    found = check_features(arrow_features(pa.schema([words, odd])), where="own", needs_tags=False)
    assert found == {"tokens": "tokens"}
    photo = pa.field("photo", pa.list_(pa.binary()))
    with pytest.raises(ValueError, match="--columns images=photo"):
        check_features(arrow_features(pa.schema([words, photo])), where="own", needs_tags=False)
    odd = pa.field("tokens", pa.map_(pa.string(), pa.int64()))
    with pytest.raises(ValueError, match="column `tokens`: .* does not know"):
        check_features(arrow_features(pa.schema([odd])), where="own", needs_tags=False)
