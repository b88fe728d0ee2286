import io
import logging

import pytest
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    LargeList,
    List,
    Value,
    load_dataset_builder,
)
from PIL import Image as Picture

from smcl.dataset_scripts.columns import parse_columns
from smcl.dataset_scripts.gate import prepare_posts
from smcl.dataset_scripts.label_files import check_files

NAMES = ["O", "B-X", "I-X"]


def png(colour="red"):
    file = io.BytesIO()
    Picture.new("RGB", (4, 4), colour).save(file, "PNG")
    return file.getvalue()


FILE = {"bytes": png(), "path": "red.png"}
ROWS = {
    "id": ["1", "2"],
    "tokens": [["a", "b"], ["c"]],
    "ner_tags": [[1, 2], [0]],
    "images": [[FILE, FILE], []],
}
FEATURES = {
    "id": Value("string"),
    "tokens": List(Value("string")),
    "ner_tags": List(ClassLabel(names=NAMES)),
    "images": List(Image()),
}


def make(features=None, drop=(), **changes):
    """Posts in the schema, but for some columns, types and values."""
    rows = {name: values for name, values in (ROWS | changes).items() if name not in drop}
    types = FEATURES | (features or {})
    return Dataset.from_dict(rows, features=Features({name: types[name] for name in rows}))


def prepare(posts, **options):
    return prepare_posts(posts, where="own", **options)


def read(posts, **options):
    """What comes out of the gate, as lists, or of a stream."""
    return [dict(row) for row in prepare(posts, **options)]


EXPECTED = read(make())


def test_posts_in_the_schema_stay_what_they_are():
    assert EXPECTED == [dict(zip(ROWS, values, strict=True)) for values in zip(*ROWS.values(), strict=True)]


@pytest.mark.parametrize(
    "posts",
    [
        make().with_format("numpy"),
        make().with_format("pandas"),
        make().with_format("arrow"),
        make().with_format("torch", columns=["tokens"]),
        make({"tokens": LargeList(Value("large_string")), "images": LargeList(Image(decode=False))}),
        make({"ner_tags": LargeList(ClassLabel(names=NAMES))}),
        make({"id": Value("int64")}, id=[1, 2]),
        make({"images": List({"bytes": Value("binary"), "path": Value("string")})}),
        make({"lang": Value("string")}, lang=["en", "de"]),
        make(images=[[FILE, FILE], None]),
        make().select([1, 0]).select([1, 0]),
        make().to_iterable_dataset(),
        make({"images": LargeList(Image())}).to_iterable_dataset(),
    ],
    ids=range(13),
)
def test_what_means_the_same_becomes_the_same(posts):
    assert read(posts) == EXPECTED


@pytest.mark.parametrize(
    ("feature", "values", "expected"),
    [
        (Image(), [FILE, None], [[FILE], []]),
        (Value("string"), ["a.png", None], [[{"bytes": None, "path": "a.png"}], []]),
        (Value("binary"), [png(), None], [[{"bytes": png(), "path": None}], []]),
        (List(Value("string")), [["a.png", "b.png"], []], [[{"bytes": None, "path": f"{x}.png"} for x in "ab"], []]),
        (List(Value("large_binary")), [[png()], None], [[{"bytes": png(), "path": None}], []]),
        (Value("null"), [None, None], [[], []]),
        (List(Image(), length=1), [[FILE], [FILE]], [[FILE], [FILE]]),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_images_may_be_one_or_a_list_of_files_paths_or_bytes(feature, values, expected, streams):
    posts = make({"images": feature}, images=values)
    posts = posts.to_iterable_dataset() if streams else posts
    assert [row["images"] for row in read(posts)] == expected


def test_columns_are_renamed_and_others_left_away():
    posts = make().rename_columns({"images": "Photos", "tokens": "words", "ner_tags": "tags"}).add_column("n", [1, 2])
    columns = parse_columns("images=Photos tokens=words ner_tags=tags")
    for some in (posts, posts.to_iterable_dataset()):
        assert read(some, columns=columns) == EXPECTED


@pytest.mark.parametrize("options", [{"ignore_images": True}, {"reads_images": False}])
def test_images_that_are_not_read_are_left_away(options):
    assert prepare(make(), **options).column_names == ["id", "tokens", "ner_tags"]


def test_a_missing_id_is_the_number_of_the_row():
    for posts in (make(drop=["id"]), make(drop=["id"]).to_iterable_dataset(), make(id=[None, "x"])):
        assert read(posts)[0]["id"] == "0"


def test_a_missing_id_is_not_that_of_another_post(caplog):
    assert [post["id"] for post in read(make({"id": Value("int64")}, id=[None, 0]))] == ["row 0", "0"]
    assert "1 posts have no id, and their numbers are the ids of others. They are called 'row 0'." in caplog.text
    # Of a selection, rows are counted anew.
    posts = Dataset.from_dict({"id": ["0", "1", None], "tokens": [["a"]] * 3, "ner_tags": [["O"]] * 3})
    assert [post["id"] for post in read(posts.select([1, 2]))] == ["1", "row 1"]
    assert [post["id"] for post in read(posts.select([0, 2]))] == ["0", "1"]


@pytest.mark.parametrize(
    ("tags", "names"),
    [
        ([["B-Y", "I-Y"], ["O"]], ["O", "B-Y", "I-Y"]),
        ([["B-Z", "B-A"], ["O"]], ["O", "B-A", "I-A", "B-Z", "I-Z"]),
        ([["O", "O"], ["O"]], ["O"]),
    ],
)
def test_names_of_tags_become_class_labels(tags, names):
    posts = prepare(make({"ner_tags": List(Value("string"))}, ner_tags=tags))
    labels = posts.features["ner_tags"].feature
    assert labels.names == names
    assert [labels.int2str(row) for row in posts["ner_tags"]] == tags


def test_names_of_tags_get_the_same_labels_in_all_splits_and_those_of_a_model():
    text = {"ner_tags": List(Value("string"))}
    one, two = make(text, ner_tags=[["B-Y", "O"], ["O"]]), make(text, ner_tags=[["B-A", "O"], ["O"]])
    both = prepare(DatasetDict(train=one, test=two))
    assert {tuple(split.features["ner_tags"].feature.names) for split in both.values()} == {
        ("O", "B-A", "I-A", "B-Y", "I-Y")
    }
    own = ["B-Y", "I-Y", "O"]
    for posts in (one, one.to_iterable_dataset()):
        assert [row["ner_tags"] for row in read(posts, labels=own)] == [[0, 2], [2]]
    with pytest.raises(ValueError, match=r"has the labels .*'B-A'.* but the model has .* it lacks \['B-A'\]"):
        prepare(two, labels=own)
    with pytest.raises(ValueError, match="'B-A', which is none of the labels"):
        read(two.to_iterable_dataset(), labels=own)
    with pytest.raises(ValueError, match="can't be streamed"):
        prepare(one.to_iterable_dataset())


@pytest.mark.parametrize("names", [["O", "I-X", "B-X"], ["O", "B-Y", "I-Y"], NAMES + ["B-Y", "I-Y"]])
def test_splits_with_other_labels_are_refused_with_both_lists(names):
    other = make({"ner_tags": List(ClassLabel(names=names))})
    for pair in ({"train": make(), "test": other}, {"train": make(), "a": make(), "test": other}):
        with pytest.raises(ValueError, match="Split 'test' of own has the labels .*, but Split 'train' of own has"):
            prepare(DatasetDict(pair))


@pytest.mark.parametrize("names", [["O", "I-X", "B-X"], ["O", "B-Y", "I-Y"], None])
@pytest.mark.parametrize("kind", ["split", "file"])
def test_files_with_other_labels_are_refused_with_both_lists(tmp_path, names, kind):
    other = List(ClassLabel(names=names)) if names else List(Value("int64"))
    paths = ["train.parquet", "test.parquet"] if kind == "split" else ["train-0.parquet", "train-1.parquet"]
    folder = tmp_path / "data"
    folder.mkdir()
    make().to_parquet(folder / paths[0])
    make({"ner_tags": other}).to_parquet(folder / paths[1])
    builder = load_dataset_builder(str(folder), cache_dir=str(tmp_path / "cache"))
    used = ["test"] if kind == "split" else ["train"]
    with pytest.raises(ValueError, match=paths[1].replace(".", r"\.")) as error:
        check_files(builder, used)
    assert str(NAMES) in str(error.value)
    make().to_parquet(folder / paths[1])
    check_files(load_dataset_builder(str(folder), cache_dir=str(tmp_path / "other")), used)


@pytest.mark.parametrize(
    ("names", "tags", "scheme"),
    [
        (["O", "B-X", "E-X", "S-X"], [[1, 2], [3]], "iobes"),
        (["O", "X-B", "X-I"], [[1, 2], [1]], "bio2"),
        (["O", "b_X", "i_X"], [[1, 2], [1]], "BIO"),
        (["U-X", "L-X", "O", "B-X"], [[3, 1], [0]], "bilou"),
        (["O", "X"], [[1, 1], [1]], "io"),
        (["O", "I-X", "B-X"], [[1, 1], [1]], "iob1"),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_other_schemes_are_converted_when_asked(names, tags, scheme, named):
    feature = List(Value("string")) if named else List(ClassLabel(names=names))
    values = [[names[tag] for tag in row] for row in tags] if named else tags
    posts = make({"ner_tags": feature}, ner_tags=values)
    assert [row["ner_tags"] for row in read(posts, tag_scheme=scheme)] == [[1, 2], [1]]
    assert prepare(posts, tag_scheme=scheme).features["ner_tags"].feature.names == NAMES
    expected = "bio2" if scheme == "BIO" else scheme
    if scheme != "iob1":
        with pytest.raises(
            ValueError,
            match=f"column `ner_tags`: expected the labels O, B-X.*--tag_scheme {expected}",
        ):
            prepare(posts)


def test_a_tag_that_its_scheme_forbids_is_named_with_its_post():
    posts = make({"ner_tags": List(ClassLabel(names=["O", "B-X", "E-X", "S-X"]))}, ner_tags=[[1, 2], [1]])
    with pytest.raises(ValueError, match="own, post '2': the last tag 'B-X' leaves an entity open"):
        prepare(posts, tag_scheme="iobes")


def test_i_without_b_is_no_bio2():
    with pytest.raises(ValueError, match="without the `B-` that begins them.*--tag_scheme io"):
        prepare(make({"ner_tags": List(ClassLabel(names=["O", "I-X"]))}, ner_tags=[[0, 1], [0]]))


def test_tags_that_continue_nothing_are_counted_by_split(caplog):
    posts = make(ner_tags=[[2, 2], [2]])
    with caplog.at_level(logging.WARNING):
        out = prepare(DatasetDict(train=make(), test=posts))
    assert out["test"]["ner_tags"][:] == [[2, 2], [2]]
    (record,) = caplog.records
    assert "Split 'test' of own: 2 I- tags in 2 posts continue no entity" in record.getMessage()


def test_words_that_are_not_tagged_stay_so():
    posts = make(ner_tags=[[1, -100], [-100]])
    for some in (posts, posts.to_iterable_dataset()):
        assert [row["ner_tags"] for row in read(some)] == [[1, -100], [-100]]
    old = make({"ner_tags": List(ClassLabel(names=["O", "U-X"]))}, ner_tags=[[1, -100], [-100]])
    assert [row["ner_tags"] for row in read(old, tag_scheme="bilou")] == [[1, -100], [-100]]


def from_arrow(**changes):
    """Posts with values that `datasets` itself would not take."""
    import pyarrow as pa

    schema = Features(FEATURES).arrow_schema
    return Dataset(pa.Table.from_pydict(ROWS | changes, schema=schema))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ner_tags": [[1, 2], [3]]}, "post '2': `ner_tags` hold 3, which is no label: expected 0 to 2"),
        ({"ner_tags": [[1, -1], [0]]}, "post '1': `ner_tags` hold -1, which is no label"),
        ({"ner_tags": [[1], [0]]}, "post '1': it has 2 words and 1 tags"),
        ({"ner_tags": [[1, None], [0]]}, "post '1': `ner_tags` hold"),
        ({"ner_tags": [[1, 2], None]}, "post '2': `ner_tags`"),
        ({"tokens": [["a", None], ["c"]]}, "post '1': `tokens`"),
        ({"tokens": [["a", "b"], None]}, "post '2': (`tokens`|Expected `text` or `tokens`)"),
        ({"images": [[None], []]}, "post '1': Image 0 of `images` is empty"),
        ({"images": [[FILE, {"bytes": None, "path": None}], []]}, "post '1': Image 1 of `images` is empty"),
        ({"images": [[{"bytes": None, "path": ""}], []]}, "post '1': Image 0 of `images` is empty"),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_values_that_can_not_be_used_are_named_with_their_post(changes, message, streams):
    posts = from_arrow(**changes)
    with pytest.raises(ValueError, match="^own, " + message):
        read(posts.to_iterable_dataset() if streams else posts)


def test_empty_tokens_beside_a_text_have_no_tags_but_can_be_predicted():
    text = {"text": Value("string")}
    posts = make(text, tokens=[["a", "b"], []], ner_tags=[[1, 2], []], text=["a b", "c"])
    with pytest.raises(ValueError, match="post '2': `tokens` are empty beside a text"):
        prepare(posts)
    assert "text" not in prepare(make(text, text=["a b", "c"])).column_names
    assert prepare(posts.remove_columns("ner_tags"), needs_tags=False)["text"][:] == ["a b", "c"]


@pytest.mark.parametrize(
    ("posts", "message"),
    [
        ([{"tokens": ["a"]}], "must be a `Dataset`"),
        (make().with_transform(lambda rows: rows), "transform"),
        (IterableDataset.from_generator(lambda: iter(())), "no post, or no column"),
        (Dataset.from_dict({}), "no post, or no column"),
    ],
)
def test_what_is_no_data_set_is_refused(posts, message):
    with pytest.raises(ValueError, match="own .*" + message):
        prepare(posts)


def test_a_generator_without_features_is_read():
    rows = [{"id": 7, "tokens": ["a"], "ner_tags": ["B-X"], "image": "a.png"}]
    posts = IterableDataset.from_generator(lambda: iter(rows))
    (row,) = read(posts, labels=NAMES, columns={"images": "image"})
    assert row == {"id": "7", "tokens": ["a"], "ner_tags": [1], "images": [{"bytes": None, "path": "a.png"}]}


def test_a_card_with_other_labels_than_its_files_is_refused(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    make().to_parquet(folder / "train.parquet")
    card = (
        "---\ndataset_info:\n  features:\n  - name: id\n    dtype: string\n  - name: tokens\n    list: string\n"
        "  - name: ner_tags\n    list:\n      class_label:\n        names:\n          '0': O\n          '1': I-X\n"
        "          '2': B-X\n  - name: images\n    list: image\n---\n"
    )
    (folder / "README.md").write_text(card)
    builder = load_dataset_builder(str(folder), cache_dir=str(tmp_path / "cache"))
    assert builder.info.features["ner_tags"].feature.names == ["O", "I-X", "B-X"]
    with pytest.raises(ValueError, match="the card of .* has"):
        check_files(builder, ["train"])


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("own", "tags"),
    [
        (["O", "I-X", "B-X"], [[2, 1], [-100]]),
        (["B-X", "I-X", "O"], [[0, 1], [2]]),
        (["O", "B-X", "I-X"], [[1, -100], [0]]),
        (["O", "B-Y", "I-Y"], [[1, 2], [0]]),
        (["I-Y", "B-Y", "I-X", "B-X", "O"], [[3, 2], [1]]),
    ],
)
def test_labels_that_a_model_has_are_read_by_their_names_and_it_is_said(own, tags, streams, caplog):
    model = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    posts = make({"ner_tags": List(ClassLabel(names=own))}, ner_tags=tags)
    with caplog.at_level(logging.WARNING):
        out = prepare(posts.to_iterable_dataset() if streams else posts, labels=model)
    assert out.features["ner_tags"].feature.names == model
    read = [[-100 if tag == -100 else model[tag] for tag in row["ner_tags"]] for row in out]
    assert read == [[-100 if tag == -100 else own[tag] for tag in row] for row in tags]
    told = [record.message for record in caplog.records if "read by their names" in record.message]
    assert len(told) == 1 and str(own) in told[0] and str(model) in told[0]


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("own", [["O", "B-Z", "I-Z"], ["O", "B-X", "I-X", "B-Z", "I-Z"], ["I-x", "B-x", "O"]])
def test_labels_that_a_model_lacks_are_refused_with_both_lists(own, streams):
    posts = make({"ner_tags": List(ClassLabel(names=own))})
    with pytest.raises(ValueError) as error:
        prepare(posts.to_iterable_dataset() if streams else posts, labels=NAMES)
    assert str(own) in str(error.value) and str(NAMES) in str(error.value)


@pytest.mark.parametrize("streams", [False, True])
def test_numbers_that_are_no_label_are_refused_though_names_are_read(streams):
    posts = from_arrow(ner_tags=[[1, 7], [0]])
    with pytest.raises(ValueError, match="post '1': `ner_tags` hold 7, which is no label: expected 0 to 2"):
        read(posts.to_iterable_dataset() if streams else posts, labels=["O", "B-Y", "I-Y", *NAMES[1:]])


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("feature", [List(Value("string")), List(Image()), Value("string")])
def test_relative_paths_start_at_the_folder(tmp_path, feature, streams):
    given = ["sub/a.png", "HTTP://host/a.png", "/abs/a.png"]
    wanted = [str(tmp_path / "sub/a.png"), *given[1:]]
    one = feature == Value("string")
    rows = {"id": ["1", "2", "3"], "tokens": [["a"]] * 3, "ner_tags": [[0]] * 3}
    posts = make({"images": feature}, images=given if one else [[path] for path in given], **rows)
    posts = posts.to_iterable_dataset() if streams else posts
    assert [row["images"][0]["path"] for row in read(posts, folder=tmp_path)] == wanted
    assert [row["images"][0]["path"] for row in read(posts)] == given


def test_bytes_are_kept_where_a_folder_is_given(tmp_path):
    assert read(make(), folder=tmp_path) == EXPECTED


@pytest.mark.parametrize(
    ("name", "feature", "values"),
    [
        ("images", List(List(Value("uint8"))), [[[1, 2]], []]),
        ("images", Value("int64"), [1, 2]),
        ("tokens", Value("string"), ["Joey sleeps", "a"]),
    ],
)
def test_a_file_with_columns_of_its_own_is_refused_by_its_name(tmp_path, name, feature, values):
    """`datasets` would cast them to the columns of the first file."""
    make().to_parquet(tmp_path / "train.parquet")
    make({name: feature}, **{name: values}).to_parquet(tmp_path / "test.parquet")
    builder = load_dataset_builder(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    check_files(builder, ["train"])
    with pytest.raises(ValueError, match=rf"test.parquet, column `{name}`: expected a list"):
        check_files(builder, ["train", "test"])


@pytest.mark.parametrize(
    ("name", "feature", "values"),
    [
        ("media", List(Value("string")), [["a.png", "sub/b.JPEG"], ["https://host/c.webp?size=2"]]),
        ("url", Value("string"), ["http://host/a b.jpg", None]),
        ("content", Value("binary"), [png(), png()]),
        ("screens", List(Value("binary")), [[], [png()]]),
        ("file_name", Value("string"), ["17_06_4705.jpg", "16_05.TIFF"]),
    ],
)
def test_images_in_a_column_of_any_name_are_refused_unless_they_are_to_be_ignored(name, feature, values):
    posts = make({name: feature}, drop=["images"], **{name: values})
    with pytest.raises(ValueError, match=f"has no images in a column `images`, but '{name}'.*--columns images={name}"):
        prepare(posts)
    assert "images" not in prepare(posts, ignore_images=True).column_names
    assert "images" not in prepare(posts, reads_images=False).column_names
    assert prepare(posts, columns={"images": name}).column_names == ["id", "tokens", "ner_tags", "images"]


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        (Value("string"), ["a.png", "a post"]),
        (Value("string"), [None, ""]),
        (List(Value("string")), [["a.png", "x"], []]),
        (Value("binary"), [b"", b"text"]),
    ],
)
def test_other_texts_and_bytes_are_no_images(feature, values):
    assert "images" not in prepare(make({"media": feature}, drop=["images"], media=values)).column_names


def test_files_whose_parts_are_lists_are_no_image():
    odd = {"bytes": List(Value("binary")), "path": List(Value("string"))}
    posts = make({"images": odd}, images=[{"bytes": [png()], "path": ["a"]}] * 2)
    with pytest.raises(ValueError, match="own, column `images`: expected a list of images, found {'bytes'"):
        prepare(posts)


@pytest.mark.parametrize("second", [{"tokens": "b"}, {"tokens": [["b"]]}, {"tokens": {"a": 1}}])
def test_a_generator_of_posts_of_several_types_is_refused(second):
    rows = [{"tokens": ["a"], "ner_tags": ["O"]}, {"ner_tags": ["O"]} | second]
    with pytest.raises(ValueError, match="own: `datasets` can't tell the types of its columns"):
        prepare(IterableDataset.from_generator(lambda: iter(rows)), labels=NAMES)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("photo", ["some text", None]),
        ("media", [["a.png"], []]),
        ("url", ["http://host/a.png", None]),
        ("media", [[{"url": "https://host/a.jpg", "type": "photo"}], []]),
        ("post", [{"author": "x", "pictures": ["a.jpg"]}, {"author": "y", "pictures": []}]),
    ],
)
def test_images_of_another_name_beside_a_column_without_any_are_refused(name, values):
    feature = Dataset.from_dict({name: values}).features[name]
    for none in ([None, None], [[], []]):
        with pytest.raises(ValueError, match=f"--columns images={name}"):
            prepare(make({name: feature}, images=none, **{name: values}))
    assert len(read(make({name: feature}, images=[None, [FILE]], **{name: values}))[1]["images"]) == 1


def test_images_of_a_selection_are_not_looked_for_in_the_whole_table():
    rows = {"id": list("abcdef"), "tokens": [["a"]] * 6, "ner_tags": [[0]] * 6, "images": [[FILE], None] * 3}
    posts = make({"photo_url": Value("string")}, **rows, photo_url=["x.png"] * 6)
    assert len(read(posts.select([0, 1, 2]))) == 3
    with pytest.raises(ValueError, match="no images in a column `images`, but 'photo_url'"):
        prepare(posts.select([1, 3, 5]))


@pytest.mark.parametrize("path", ["data:image/png;base64,aGk=", "s3://bucket/1.png", "HTTPS://a.b/1.png", "/1.png"])
def test_only_relative_paths_are_placed_in_the_folder(path):
    posts = make({"images": List(Value("string"))}, images=[[path], ["1.png"]])
    first, second = read(posts, folder="/folder")
    assert [first["images"][0]["path"], second["images"][0]["path"]] == [path, "/folder/1.png"]


def test_posts_without_any_tag_are_said_to_have_no_scores(caplog):
    with caplog.at_level(logging.WARNING):
        read(make({}, ner_tags=[[-100, -100], [-100]]))
    assert "no word has a tag" in caplog.text
    caplog.clear()
    read(make({}, ner_tags=[[-100, -100], [0]]))
    assert "no word has a tag" not in caplog.text
