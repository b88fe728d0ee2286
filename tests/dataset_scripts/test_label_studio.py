import base64
import json
import xml.etree.ElementTree

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from smcl.dataset_scripts import label_studio
from smcl.dataset_scripts.label_studio import export_tasks, import_tasks

ENTITIES = [{"entity_group": "LOC", "word": "Rome", "start": 6, "end": 10, "score": 0.75, "words": [2, 2]}]
TAGGED = {"id": "7", "words": ["i", "saw", "Rome", "👍"], "tags": ["O", "O", "B-LOC", "O"], "entities": ENTITIES}
POST = {"id": "7", "text": "i saw Rome 👍", "images": ["a b.png"]}
SCORED = {"id": "8", "tokens": ["New", "York"], "gold": ["O", "O"], "predicted": ["B-LOC", "I-LOC"]}

LABELLED = {"type": "labels", "value": {"start": 0, "end": 4, "labels": ["PER"]}}
HYPERTEXT = {"type": "hypertextlabels", "value": {"startOffset": 0, "endOffset": 1, "hypertextlabels": ["PER"]}}


@pytest.fixture
def export(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a b.png")

    def run(records, posts=None, **options):
        (tmp_path / "tagged.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        if posts is not None:
            (tmp_path / "posts.jsonl").write_text("".join(json.dumps(post) + "\n" for post in posts))
            options["posts"] = tmp_path / "posts.jsonl"
        counts = export_tasks(tmp_path / "tagged.jsonl", tmp_path / "tasks", **options)
        return counts, json.loads((tmp_path / "tasks" / "tasks.json").read_text(encoding="utf-8"))

    return run


def accept(tasks, correct=lambda result: result):
    """What Label Studio exports when somebody submits each prediction, corrected."""
    return [
        {"id": number, **task, "annotations": [{"result": [correct(r) for r in task["predictions"][0]["result"]]}]}
        for number, task in enumerate(tasks, 100)
    ]


def test_predictions_become_tasks_with_scores_and_images(export, tmp_path):
    counts, (first, second) = export([TAGGED, SCORED], [POST, {"text": ["New", "York"]}], types=["PER"])
    assert counts == {"tasks": 2, "entities": 2, "images": 1, "errors": 0}
    assert first["data"]["text"] == "i saw Rome 👍"
    assert first["data"]["images"] == ["/data/local-files/?d=images/0_0_a%20b.png"]
    assert (tmp_path / "tasks" / "images" / "0_0_a b.png").is_file()
    (prediction,) = first["predictions"]
    assert prediction["score"] == 0.75
    assert prediction["result"][0]["value"] == {"start": 6, "end": 10, "text": "Rome", "labels": ["LOC"]}
    assert prediction["result"][0]["score"] == 0.75
    assert second["predictions"][0]["result"][0]["value"]["text"] == "New York"
    config = xml.etree.ElementTree.parse(tmp_path / "tasks" / "config.xml")
    assert [label.get("value") for label in config.iter("Label")] == ["LOC", "PER"]
    # Names in the interface and in the pre-annotations must be the same.
    assert config.find("Labels").get("name") == prediction["result"][0]["from_name"]
    assert config.find("Text").get("name") == prediction["result"][0]["to_name"]
    assert config.find("Image").get("valueList") == "$images"


def test_what_was_exported_comes_back_with_its_images(export, tmp_path):
    _, tasks = export([TAGGED, SCORED], [POST, {"text": ["New", "York"]}])
    (tmp_path / "export.json").write_text(json.dumps(accept(tasks)), encoding="utf-8")
    import_tasks(tmp_path / "export.json", tmp_path / "out", tmp_path / "tasks" / "images")
    posts = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    labels = posts.features["ner_tags"].feature
    assert posts["id"][:] == ["7", "8"]
    assert posts["tokens"][:] == [TAGGED["words"], SCORED["tokens"]]
    assert [labels.int2str(tags) for tags in posts["ner_tags"]] == [TAGGED["tags"], SCORED["predicted"]]
    assert [len(images) for images in posts["images"]] == [1, 0]


@pytest.mark.parametrize(
    ("value", "words", "tags"),
    [
        ({"start": 6, "end": 10, "labels": ["PER"]}, ["i", "saw", "Rome", "👍"], ["O", "O", "B-PER", "O"]),
        ({"start": 2, "end": 10, "labels": ["PER"]}, ["i", "saw", "Rome", "👍"], ["O", "B-PER", "I-PER", "O"]),
        ({"start": 6, "end": 8, "labels": ["PER"]}, ["i", "saw", "Ro", "me", "👍"], ["O", "O", "B-PER", "O", "O"]),
        ({"start": 11, "end": 13, "labels": ["X"], "text": "👍"}, ["i", "saw", "Rome", "👍"], ["O", "O", "O", "B-X"]),
    ],
)
def test_corrections_come_back(export, tmp_path, value, words, tags):
    _, tasks = export([TAGGED], [POST])
    done = accept(tasks, lambda result: {**result, "value": value})
    (tmp_path / "export.json").write_text(json.dumps(done), encoding="utf-8")
    report = import_tasks(tmp_path / "export.json", tmp_path / "out", split="test")
    posts = load_dataset(str(tmp_path / "out"), split="test", cache_dir=str(tmp_path / "cache"))
    assert posts[0]["tokens"] == words
    assert posts.features["ner_tags"].feature.int2str(posts[0]["ner_tags"]) == tags
    assert report["splits"]["test"]["missing_images"]["count"] == 1


def test_tasks_made_elsewhere_are_split_into_words(tmp_path):
    result = {"type": "labels", "value": {"start": 0, "end": 2, "labels": ["PER"]}}
    tasks = [
        {"id": 1, "data": {"text": "徐渭 paints."}, "annotations": [{"result": [result]}]},
        {"id": 2, "data": {"text": "no"}, "annotations": []},
        {"id": 3, "data": {"text": "no"}, "annotations": [{"result": [], "was_cancelled": True}]},
        {"id": 4, "data": {"text": "yes"}, "annotations": [{"result": []}, {"result": [], "ground_truth": True}]},
    ]
    (tmp_path / "export.json").write_text(json.dumps(tasks), encoding="utf-8")
    import_tasks(tmp_path / "export.json", tmp_path / "out")
    posts = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert posts["tokens"][:] == [["徐", "渭", "paints", "."], ["yes"]]
    assert posts["id"][:] == ["1", "4"]


@pytest.mark.parametrize(
    ("records", "posts", "message"),
    [
        ([TAGGED], [POST, POST], "has 2 posts, but .* has 1"),
        ([TAGGED], [{**POST, "id": "9"}], "record 0: it has the id '7', but the post there has '9'"),
        ([TAGGED], [{**POST, "text": "you saw Rome"}], "record 0: The span .* is said to be 'Rome'"),
        ([TAGGED], [{**POST, "images": ["gone.png"]}], "there is no image 'gone.png'"),
        ([{"id": "7"}], None, "has no words to correct"),
        ([7], None, "record 0: expected an object with `words`"),
        ([{"id": "7", "words": [1]}], None, "has no words to correct"),
        ([{**TAGGED, "entities": "LOC"}], None, "Expected a list of spans"),
        ([{**TAGGED, "entities": [5]}], None, "Expected spans such as"),
        ([TAGGED], [5], "record 0: Expected an object with `text` or `tokens`"),
        ([{**SCORED, "predicted": ["O"]}], None, "2 words and 1 predicted tags"),
        ([{**SCORED, "predicted": ["O", 3]}], None, "predicted tags of post .* must be texts"),
        (
            [{"id": "1", "tokens": ["Hi", "you"], "predicted": ["O", "O"]}],
            [{"id": "1", "text": "Hi, you"}],
            "words of post '1' don't stand in its text 'Hi, you'",
        ),
    ],
)
def test_predictions_that_do_not_fit_are_refused(export, records, posts, message):
    with pytest.raises(ValueError, match=message):
        export(records, posts)


def test_predicted_words_are_marked_where_they_stand_in_the_text(export):
    record = {"id": "1", "tokens": ["Hello", ",", "Joey", "!"], "predicted": ["O", None, "B-PER", "O"]}
    _, (task,) = export([record], [{"id": "1", "text": "Hello, Joey!"}])
    assert [result["value"]["text"] for result in task["predictions"][0]["result"]] == ["Joey"]


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({"image": "/data/upload/1/x.png"}, ["x.png"]),
        ({"image": "https://host/a/x.png?Signature=a%2Fb"}, ["x.png"]),
        ({"photo_urls": ["/data/local-files/?d=a/1.png", "/data/local-files/?d=b/1.png"]}, ["a/1.png", "b/1.png"]),
        ({"images": [], "image": None}, []),
    ],
)
def test_images_are_found_by_their_addresses_in_whichever_key(tmp_path, data, names):
    folder = tmp_path / "images"
    for number, name in enumerate(("x.png", "a/1.png", "b/1.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / name)
    task = {"id": 1, "data": {"text": "Joey", **data}, "annotations": [{"result": [LABELLED]}]}
    (tmp_path / "export.json").write_text(json.dumps([task]))
    report = import_tasks(tmp_path / "export.json", tmp_path / "out", images=folder)
    (post,) = pq.read_table(tmp_path / "out" / "data" / "train-00000-of-00001.parquet").to_pylist()
    assert [image["path"] for image in post["images"]] == names
    assert [image["bytes"] for image in post["images"]] == [(folder / name).read_bytes() for name in names]
    assert report["splits"]["train"]["missing_images"]["count"] == 0


def test_what_is_said_of_a_labelled_part_beside_its_label_is_left_out(tmp_path):
    choice = {"id": "e", "type": "choices", "value": {"start": 0, "end": 4, "choices": ["sure"]}}
    task = {"id": 1, "data": {"text": "Joey"}, "annotations": [{"result": [{**LABELLED, "id": "e"}, choice]}]}
    (tmp_path / "export.json").write_text(json.dumps([task]))
    assert import_tasks(tmp_path / "export.json", tmp_path / "out")["splits"]["train"]["entities"]["PER"] == 1


def test_posts_with_an_error_are_counted_and_left_out(export):
    counts, tasks = export([{"id": "1", "error": "Row 0 can't be read"}, SCORED])
    assert (counts["errors"], len(tasks)) == (1, 1)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"text": "a", "label": []}, "not as JSON-MIN"),
        ({"data": {"text": "a"}, "annotations": "x"}, "`annotations` must be a list of objects"),
        ({"data": {"text": "a"}, "annotations": [{"result": "x"}]}, "`result` must be a list of objects"),
        ({"data": {"text": "a"}, "annotations": [{"result": [{"type": "labels"}]}]}, "a result has no `value`"),
        (
            {"data": {"text": "a", "images": 5}, "annotations": [{"result": []}]},
            "`images` must be a list of addresses",
        ),
        ({"data": {"text": "a"}, "annotations": [{"result": []}, {"result": []}]}, "2 annotations are there"),
        ({"data": {"body": "a"}, "annotations": [{"result": []}]}, r"`data` has no `text`, but \['body'\]"),
        (
            {"data": {"text": "a", "image": "1.jpg", "photo": "2.jpg"}, "annotations": [{"result": []}]},
            r"images may be in \['image', 'photo'\]",
        ),
        (
            {"data": {"text": "a", "images": ["x?d=a/1.jpg", "x?d=b/1.jpg"]}, "annotations": [{"result": []}]},
            "'1.jpg' would be the image of two addresses",
        ),
        (
            {"data": {"text": "a"}, "annotations": [{"result": [HYPERTEXT]}]},
            "a part of the text is labelled by 'hypertextlabels', which can't be read",
        ),
        (
            {
                "data": {"text": "a"},
                "annotations": [{"result": [{**LABELLED, "to_name": name} for name in ("text", "title")]}],
            },
            "labels are of several texts, text, title",
        ),
        (
            {"data": {"text": "a"}, "annotations": [{"result": [{"type": "labels", "value": {"start": 0}}]}]},
            "Expected spans such as",
        ),
    ],
)
def test_tasks_that_can_not_be_used_are_named(tmp_path, task, message):
    (tmp_path / "export.json").write_text(json.dumps([task]))
    with pytest.raises(ValueError, match="export.json, item 0: .*" + message):
        import_tasks(tmp_path / "export.json", tmp_path / "out")


def test_the_command_goes_both_ways(tmp_path, capsys):
    (tmp_path / "tagged.jsonl").write_text(json.dumps(SCORED) + "\n")
    label_studio.main(["export", "--predictions", f"{tmp_path}/tagged.jsonl", "--output", f"{tmp_path}/tasks"])
    assert json.loads(capsys.readouterr().out)["tasks"] == 1
    tasks = json.loads((tmp_path / "tasks" / "tasks.json").read_text())
    (tmp_path / "export.json").write_text(json.dumps(accept(tasks)))
    label_studio.main(["import", "--export", f"{tmp_path}/export.json", "--output", f"{tmp_path}/out"])
    assert "label_studio:" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        label_studio.main(["export", "--predictions", "nowhere.jsonl", "--output", f"{tmp_path}/tasks2"])
    assert "There is no file nowhere.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("types", "labels"),
    [
        ((), ["O", "B-LOC", "I-LOC"]),
        (["PER", "LOC"], ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]),
        (["PER"], r"types \['LOC'\], which are none of \['PER'\]"),
    ],
)
def test_labels_may_be_those_of_a_model(export, tmp_path, types, labels):
    _, tasks = export([TAGGED], [POST])
    (tmp_path / "export.json").write_text(json.dumps(accept(tasks)), encoding="utf-8")
    if isinstance(labels, str):
        with pytest.raises(ValueError, match=labels):
            import_tasks(tmp_path / "export.json", tmp_path / "out", types=types)
        return
    import_tasks(tmp_path / "export.json", tmp_path / "out", types=types)
    posts = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert posts.features["ner_tags"].feature.names == labels
    assert posts.features["ner_tags"].feature.int2str(posts[0]["ner_tags"]) == TAGGED["tags"]


def test_posts_may_have_columns_of_other_names(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    (tmp_path / "tagged.jsonl").write_text(json.dumps(TAGGED))
    (tmp_path / "posts.jsonl").write_text(json.dumps({"text": POST["text"], "photo": "a.png"}))
    files = tmp_path / "tagged.jsonl", tmp_path / "tasks", tmp_path / "posts.jsonl"
    assert export_tasks(*files, columns=["images=photo"])["images"] == 1


def test_an_id_of_0_is_an_id(tmp_path):
    tasks = [{"id": 1 + n, "data": {"id": n, "text": "joey"}, "annotations": [{"result": [LABELLED]}]} for n in (0, 1)]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    report = import_tasks(tmp_path / "export.json", tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")["id"].to_pylist() == ["0", "1"]
    assert not report["duplicate_ids"]


def test_the_id_of_a_task_is_not_taken_for_that_of_another_post(tmp_path):
    tasks = [
        {"id": number, "data": {"text": "Rome"} | data, "annotations": [{"result": []}]}
        for number, data in ((3, {}), (4, {"id": "3"}))
    ]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match="item 1: another post has no id of its own, and '3'"):
        import_tasks(tmp_path / "export.json", tmp_path / "out")


def test_a_mended_export_finds_an_empty_folder(export):
    with pytest.raises(ValueError, match="there is no image"):
        export([TAGGED], [POST | {"images": ["a b.png", "lost.png"]}])
    assert export([TAGGED], [POST])[0]["images"] == 1


def test_images_on_the_web_keep_their_addresses_and_data_uris_become_files(export, tmp_path):
    uri = "data:image/png;base64," + base64.b64encode((tmp_path / "a b.png").read_bytes()).decode()
    _, (task,) = export([TAGGED], [POST | {"images": ["https://host/1.jpg", uri]}])
    assert task["data"]["images"] == ["https://host/1.jpg", "/data/local-files/?d=images/0_1_image"]
    assert (tmp_path / "tasks" / "images" / "0_1_image").read_bytes() == (tmp_path / "a b.png").read_bytes()
