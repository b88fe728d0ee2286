"""Whatever is brought to training passes the gate, from the command line and from Python."""

import json
import re

import datasets
import pytest
import torch
from datasets import ClassLabel, Dataset, List, Value, load_dataset
from factories import LABELS, make_model
from PIL import Image

from smcl.crf_smcl import find_entities
from smcl.run_ner_multiimage import main
from smcl.train.arguments import SMCLTrainingArguments, parse_arguments
from smcl.train.calibration import EntityConfidences
from smcl.train.collator import SMCLDataCollator
from smcl.train.data import load_posts
from smcl.train.trainer import SMCLTrainer, build_compute_metrics


@pytest.fixture(scope="module")
def icons(data) -> Dataset:
    return load_dataset(data, split="train").select(range(8))


@pytest.fixture
def trainer_of(processor, tmp_path):
    def build(train=None, evaluated=None, labels=LABELS):
        arguments = {"use_cpu": True, "disable_tqdm": True, "eval_strategy": "no", "load_best_model_at_end": False}
        arguments |= {"save_strategy": "no", "max_steps": 1, "per_device_train_batch_size": 4}
        return SMCLTrainer(
            make_model(),
            SMCLTrainingArguments(str(tmp_path), **arguments),
            data_collator=SMCLDataCollator(processor),
            train_dataset=train,
            eval_dataset=evaluated,
            compute_metrics=build_compute_metrics(labels),
        )

    return build


def names_in_place_of_numbers(posts: Dataset) -> Dataset:
    texts = posts.cast_column("ner_tags", List(Value("string")))
    return texts.map(lambda post: {"ner_tags": [LABELS[int(tag)] for tag in post["ner_tags"]]})


@pytest.mark.parametrize(
    "change",
    [
        lambda posts: posts.with_format("numpy"),
        lambda posts: posts.with_format("arrow"),
        lambda posts: posts.with_format("pandas"),
        names_in_place_of_numbers,
        lambda posts: posts.to_iterable_dataset(),
        lambda posts: posts.add_column("lang", ["en"] * len(posts)),
    ],
)
def test_the_trainer_reads_posts_however_they_are_given(icons, trainer_of, change):
    expected = trainer_of(evaluated=icons).evaluate()["eval_loss"]
    trainer = trainer_of(train=change(icons), evaluated={"own": change(icons)})
    assert trainer.evaluate()["eval_own_loss"] == expected
    assert trainer.evaluate(change(icons))["eval_loss"] == expected
    assert len(trainer.predict(change(icons)).predictions) == len(icons)
    trainer.train()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda posts: posts.rename_column("images", "photo"), "--columns images=photo"),
        (lambda posts: posts.rename_column("tokens", "words"), "--columns tokens=words"),
        (
            lambda posts: posts.cast_column("ner_tags", List(ClassLabel(names=[*LABELS, "B-EVENT", "I-EVENT"]))),
            r"has the labels .*but the model has .*lacks \['B-EVENT', 'I-EVENT'\]",
        ),
        (lambda posts: posts.cast_column("ner_tags", List(Value("int64"))), "Numbers without names"),
        (lambda posts: list(posts), "got list.*Dataset.from_list"),
        (lambda posts: posts.with_transform(lambda rows: rows), "transform"),
    ],
)
def test_the_trainer_refuses_what_it_can_not_read_before_any_work(icons, trainer_of, change, message):
    for options in ({"train": change(icons)}, {"evaluated": change(icons)}, {"evaluated": {"own": change(icons)}}):
        with pytest.raises(ValueError, match=f"_dataset`.*{message}"):
            trainer_of(**options)
    trainer = trainer_of()
    for use in (trainer.evaluate, trainer.predict):
        with pytest.raises(ValueError, match=message):
            use(change(icons))


@pytest.mark.parametrize("order", [LABELS[::-1], [*LABELS[5:], *LABELS[:5]], ["I-ORG", *LABELS[:6], *LABELS[7:]]])
def test_labels_in_another_order_train_and_score_as_the_models_do(icons, trainer_of, order):
    tags = [[order.index(LABELS[tag]) for tag in row] for row in icons["ner_tags"]]
    features = List(ClassLabel(names=order))
    posts = icons.remove_columns("ner_tags").add_column("ner_tags", tags).cast_column("ner_tags", features)
    expected, trainer = trainer_of(evaluated=icons).evaluate(), trainer_of(posts, posts, labels=order)
    same = {name: expected[name] for name in expected if not re.search("second|time", name)}
    assert same.items() <= trainer.evaluate().items()
    assert same.items() <= trainer.evaluate(posts).items()
    assert same["eval_loss"] == trainer.predict(posts).metrics["test_loss"]
    trainer.train()


def test_scores_for_labels_that_the_model_lacks_are_refused(trainer_of):
    with pytest.raises(ValueError, match="`compute_metrics` was built for the labels .*'B-LAW'.*but the model has"):
        trainer_of(labels=["O", "B-LAW"])


def test_posts_to_predict_need_no_tags(icons, trainer_of):
    assert len(trainer_of().predict(icons.remove_columns("ner_tags")).predictions) == len(icons)


def test_posts_without_the_key_images_stand_among_others(icons, processor):
    rows = [dict(icons[row]) for row in (1, 2, 3)]
    expected = SMCLDataCollator(processor)([rows[0], rows[1] | {"images": []}, rows[2]])
    for without in ({k: v for k, v in rows[1].items() if k != "images"}, rows[1] | {"images": None}):
        for order in ([0, 1, 2], [1, 0, 2]):
            given = [rows[0], without, rows[2]]
            batch = SMCLDataCollator(processor)([given[place] for place in order])
            assert all(torch.equal(batch[name], expected[name][order]) for name in expected)


@pytest.mark.parametrize("rule", [lambda place: place == 0, lambda place: place % 2, lambda place: True])
def test_words_that_nobody_tagged_stay_out_of_scores_and_predictions(data, encoders, processor, tmp_path, rule):
    def untag(post):
        return {"ner_tags": [-100 if rule(place) else tag for place, tag in enumerate(post["ner_tags"])]}

    for split in ("train", "validation", "test"):
        load_dataset(data, split=split).map(untag).to_parquet(tmp_path / "data" / f"{split}.parquet")
    stages = [*encoders, "--do_train"]
    if rule(1) and rule(0):
        # There is nothing to learn from.
        make_model().save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        stages = ["--model", str(tmp_path / "model")]
    arguments = ["--dataset", str(tmp_path / "data"), *stages, "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    arguments += ["--do_eval", "--do_predict", "--max_steps", "2", "--disable_tqdm", "true"]
    main([*arguments, "--dry_run"])
    scores = main(arguments)
    posts = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    for post in posts:
        blank = [bool(rule(place)) for place in range(len(post["tokens"]))]
        assert [tag is None for tag in post["gold"]] == [tag is None for tag in post["predicted"]] == blank
    gold = [find_entities([tag or "O" for tag in post["gold"]]) for post in posts]
    assert sum(score for name, score in scores.items() if name.endswith("_support")) == sum(map(len, gold))


def test_entities_with_a_word_that_nobody_tagged_are_not_calibrated_on():
    crf = make_model().crf
    emissions = torch.full((4, len(LABELS)), -9.0)
    for word, tag in enumerate([1, 2, 3, 0]):
        emissions[word, tag] = 9
    for gold, correct in (([1, 2, 3, 0], [True, True]), ([1, -100, 3, 0], [True]), ([-100, -100, -100, 0], [])):
        assert EntityConfidences(crf, [(emissions, gold)]).correct.tolist() == correct


@pytest.mark.parametrize(
    "text",
    ['["images=photo", "tokens=words"]', '"images=photo tokens=words"', '{"images": "photo", "tokens": "words"}'],
)
def test_columns_of_an_arguments_file(tmp_path, text):
    (tmp_path / "a.json").write_text(f'{{"output_dir": "x", "columns": {text}}}', encoding="utf-8-sig")
    assert parse_arguments([str(tmp_path / "a.json")]).data.columns == ["images=photo", "tokens=words"]


def test_renamed_columns_and_another_scheme_train_as_the_schema_does(data, encoders, tmp_path):
    names = ["O", *(f"{letter}-{kind}" for kind in ("PER", "LOC", "ORG", "MISC") for letter in "BIES")]
    for split in ("train", "test"):
        posts = load_dataset(data, split=split)

        def spell(post):
            tags = [LABELS[tag] for tag in post["ner_tags"]]
            ends = [not after.startswith("I-") for after in [*tags[1:], "O"]]
            letters = {("B", True): "S", ("B", False): "B", ("I", True): "E", ("I", False): "I"}
            spelled = [
                tag if tag == "O" else letters[tag[0], end] + tag[1:] for tag, end in zip(tags, ends, strict=True)
            ]
            return {"tags": [names.index(tag) for tag in spelled]}

        posts = posts.map(spell, remove_columns=["ner_tags"]).cast_column("tags", List(ClassLabel(names=names)))
        posts.rename_columns({"tokens": "words", "images": "photo"}).to_parquet(tmp_path / "odd" / f"{split}.parquet")
    arguments = [*encoders, "--use_cpu", "--do_train", "--do_predict", "--max_steps", "2", "--eval_strategy", "no"]
    arguments += ["--disable_tqdm", "true", "--output_dir"]
    main(["--dataset", data, *arguments, str(tmp_path / "a")])
    odd = ["--dataset", str(tmp_path / "odd"), *arguments, str(tmp_path / "b")]
    main([*odd, "--columns", "images=photo", "tokens=words", "ner_tags=tags", "--tag_scheme", "iobes"])
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="tag_scheme iobes"):
        main([*odd[:-1], str(tmp_path / "c"), "--columns", "images=photo", "tokens=words", "ner_tags=tags"])


def test_a_folder_of_json_lines_is_trained_on_with_paths_from_there(data, encoders, tmp_path):
    # `datasets` would take a folder with photographs in it for one of photographs alone.
    for folder in ("own", "photos"):
        (tmp_path / folder).mkdir()
    for split in ("train", "test"):
        lines = []
        for post in load_dataset(data, split=split):
            names = [f"../photos/{split}-{post['id']}-{slot}.png" for slot in range(len(post["images"]))]
            for name, image in zip(names, post["images"], strict=True):
                image.save(tmp_path / "own" / name)
            tags = [LABELS[tag] for tag in post["ner_tags"]]
            lines.append(json.dumps({"id": post["id"], "words": post["tokens"], "ner_tags": tags, "images": names}))
        (tmp_path / "own" / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    arguments = [*encoders, "--use_cpu", "--do_train", "--do_predict", "--max_steps", "2", "--eval_strategy", "no"]
    arguments += ["--disable_tqdm", "true", "--output_dir"]
    main(["--dataset", data, *arguments, str(tmp_path / "a")])
    main(["--dataset", str(tmp_path / "own"), "--columns", "tokens=words", *arguments, str(tmp_path / "b")])
    texts = [(tmp_path / name / "predictions.jsonl").read_text(encoding="utf-8").splitlines() for name in "ab"]
    assert len({str([json.loads(line)["gold"] for line in lines]) for lines in texts}) == 1
    # A saved model's labels decide where tags stand by their names.
    again = ["--dataset", str(tmp_path / "own"), "--columns", "tokens=words", "--use_cpu", "--do_predict"]
    main([*again, "--model", str(tmp_path / "a"), "--output_dir", str(tmp_path / "c")])
    assert (tmp_path / "a" / "predictions.jsonl").read_bytes() == (tmp_path / "c" / "predictions.jsonl").read_bytes()


@pytest.mark.parametrize("text", ["{", "[1, 2", "not JSON"])
def test_a_file_that_datasets_can_not_read_is_said_in_one_error(encoders, tmp_path, text):
    (tmp_path / "train.jsonl").write_text(text)
    arguments = [
        "--dataset",
        str(tmp_path),
        *encoders,
        "--output_dir",
        str(tmp_path / "out"),
        "--do_train",
        "--use_cpu",
    ]
    with pytest.raises(ValueError, match="can't read the data set"):
        main([*arguments, "--eval_strategy", "no"])


@pytest.mark.parametrize("names", [LABELS[::-1], ["I-PER", "B-PER", *LABELS[3:], "O"]])
def test_a_saved_model_scores_a_data_set_by_the_names_of_its_labels(data, encoders, tmp_path, names, monkeypatch):
    # After a stream that was left early, datasets waits for threads that download: there are none.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    for split in ("train", "test"):
        posts = load_dataset(data, split=split)
        tags = [[names.index(LABELS[tag]) for tag in row] for row in posts["ner_tags"]]
        posts = posts.remove_columns("ner_tags").add_column("ner_tags", tags)
        posts.cast_column("ner_tags", List(ClassLabel(names=names))).to_parquet(tmp_path / "own" / f"{split}.parquet")
    arguments = ["--use_cpu", "--disable_tqdm", "true", "--do_predict", "--output_dir"]
    model, first = str(tmp_path / "a"), ["--do_train", "--max_steps", "2", "--eval_strategy", "no"]
    expected = main(["--dataset", data, *encoders, *first, *arguments, model])
    for name, extra in {"b": [], "c": ["--streaming"]}.items():
        again = ["--dataset", str(tmp_path / "own"), "--model", model, *arguments, str(tmp_path / name), *extra]
        assert main([*again, "--dry_run"])["total_seconds"] > 0
        assert main(again) == expected
        written = [(tmp_path / folder / "predictions.jsonl").read_bytes() for folder in ("a", name)]
        assert written[0] == written[1]
    main(["--dataset", str(tmp_path / "own"), "--model", model, *first, *arguments, str(tmp_path / "d")])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_without_posts_is_refused_before_any_work(data, encoders, tmp_path, split):
    for name in ("train", "validation", "test"):
        posts = load_dataset(data, split=name)
        (posts.select([]) if name == split else posts).to_parquet(tmp_path / "own" / f"{name}.parquet")
    arguments = ["--dataset", str(tmp_path / "own"), *encoders, "--use_cpu", "--do_train", "--do_eval", "--do_predict"]
    for extra in (["--dry_run"], []):
        with pytest.raises(ValueError, match=f"has no split '{split}' with at least one post"):
            main([*arguments, "--output_dir", str(tmp_path / "out"), *extra])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_more_images_than_the_model_takes_are_refused_before_any_work(data, encoders, tmp_path, split, monkeypatch):
    for name in ("train", "validation", "test"):
        posts = load_dataset(data, split=name)
        many = [images * 3 if name == split else images for images in posts.with_format("arrow")["images"].to_pylist()]
        columns = {column: posts.with_format("arrow")[column].to_pylist() for column in posts.column_names}
        posts = Dataset.from_dict(columns | {"images": many}, posts.features)
        posts.to_parquet(tmp_path / "own" / f"{name}.parquet")
    arguments = ["--dataset", str(tmp_path / "own"), *encoders, "--use_cpu", "--do_train", "--do_eval", "--do_predict"]
    arguments += ["--output_dir", str(tmp_path / "out"), "--disable_tqdm", "true", "--max_steps", "1"]
    monkeypatch.setattr("smcl.train.trainer.SMCLTrainer.train", lambda *args, **kwargs: pytest.fail("work has begun"))
    with pytest.raises(ValueError, match=f"posts of the split '{split}', .* have more than 4 images: see"):
        main(arguments)
    with pytest.raises(pytest.fail.Exception, match="work has begun"):
        main([*arguments, "--on_extra_images", "first"])


@pytest.mark.parametrize(
    ("fill", "name", "message"),
    [
        ({}, "posts", "is a folder without a file that `datasets` reads"),
        ({"posts/train.jsonl": b""}, "posts", "The first file of the data set .*posts has no posts"),
        ({"posts/train.jsonl": b""}, "posts/train.jsonl", "is a file. Give the folder that it lies in, .*posts"),
        ({"posts/train.jsonl": b'{"tokens": ["caf\xe9"], "ner_tags": ["O"]}'}, "posts", "posts is no UTF-8"),
        ({}, "nothing", "neither a folder here nor a data set that can be reached"),
    ],
)
def test_what_is_no_data_set_is_told_apart(tmp_path, fill, name, message):
    (tmp_path / "posts").mkdir()
    for file, content in fill.items():
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_posts(str(tmp_path / name), ["train"])


@pytest.mark.parametrize("column", ["file_name", "file_names", "images_file_names"])
def test_a_folder_of_images_with_metadata_is_read(tmp_path, column):
    (tmp_path / "train").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "1.png")
    row = {column: "1.png" if column == "file_name" else ["1.png"], "id": "1", "tokens": ["a"], "ner_tags": ["O"]}
    (tmp_path / "train" / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    columns = {"images": "image"} if column == "file_name" else None
    (post,) = load_posts(str(tmp_path), ["train"], columns)["train"]
    assert [image["path"] for image in post["images"]] == [str(tmp_path / "train" / "1.png")]


@pytest.mark.parametrize("streaming", [False, True])
def test_one_of_several_configurations_is_read_by_name(tmp_path, caplog, streaming):
    card = "---\nconfigs:\n" + "".join(f"- config_name: {x}\n  data_files: {x}/*.parquet\n" for x in "ab") + "---\n"
    for name in "ab":
        Dataset.from_dict({"tokens": [[name]], "ner_tags": [["B-X"]]}).to_parquet(tmp_path / name / "train.parquet")
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    for missing in (None, "c"):
        with pytest.raises(ValueError, match=r"Expected as `--dataset_config_name` .* one of .*\['a', 'b'\]"):
            load_posts(str(tmp_path), ["train"], config_name=missing)
    labels = ["O", "B-X", "I-X"]
    posts = load_posts(str(tmp_path), ["train"], config_name="b", streaming=streaming, labels=labels)["train"]
    assert [post["tokens"] for post in posts] == [["b"]]
    assert "is not read" not in caplog.text


def test_a_saved_split_is_told(tmp_path):
    posts = Dataset.from_dict({"tokens": [["a"]], "ner_tags": [["B-X"]]})
    posts.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"is one split, written by `save_to_disk`. Write each split as Parquet"):
        load_posts(str(tmp_path / "saved"), ["train"])


@pytest.mark.parametrize("images", [None, [[], None]])
def test_a_split_without_any_image_is_said_to_a_model_that_reads_images(tmp_path, caplog, images):
    columns = {"img_id": ["1", "2"], "tokens": [["a"], ["b"]], "ner_tags": [["B-X"], ["O"]]}
    posts = Dataset.from_dict(columns | ({} if images is None else {"images": images}))
    posts.to_parquet(tmp_path / "train.parquet")
    Dataset.from_dict(columns | {"images": [[], ["a.png"]]}).to_parquet(tmp_path / "test.parquet")
    load_posts(str(tmp_path), ["train", "test"])
    told = [record.message for record in caplog.records if "no post has an image" in record.message]
    assert len(told) == 1 and "Split 'train'" in told[0] and "'img_id'" in told[0]
    caplog.clear()
    load_posts(str(tmp_path), ["train"], ignore_images=True)
    assert "no post has an image" not in caplog.text
