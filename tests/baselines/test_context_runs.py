"""Systems with context under the collator, the pipeline, the command line and the rest of the house."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict, load_dataset
from PIL import Image
from systems import add_context, difference, make_context, make_system, own_processor, system_inputs

from smcl import MultiImageNERPipeline
from smcl.baselines import SYSTEMS, check_columns, context_columns, empty_context, how_to_make
from smcl.baselines.context import ContextTextProcessor
from smcl.dataset_scripts import enrich
from smcl.dataset_scripts.context import CONTEXT_FEATURES
from smcl.predict.onnx_export import export_onnx
from smcl.predict.predict_file import predict_file
from smcl.run_ner_multiimage import main
from smcl.train.collator import SMCLDataCollator
from smcl.train.samplers import token_counts

NAMES = ["ocsga", "umgf", "ita", "visualpt-moe", "pgim"]
PIXELS = ["umgf", "visualpt-moe"]
by_name = pytest.mark.parametrize("name", NAMES)


def processor_of(name: str, processor):
    kind = SYSTEMS[name].processor_class
    return kind(processor.tokenizer) if issubclass(kind, ContextTextProcessor) else own_processor(name, processor)


def pipe_of(name: str, processor) -> MultiImageNERPipeline:
    # Legal tags, so that there are entities.
    model = make_system(name, constrain_bio=True)
    with torch.no_grad():
        model.classifier.weight.mul_(8)
    return MultiImageNERPipeline(model, processor_of(name, processor))


def make_post(name: str, images: list, text="joey and niko rest", **changes) -> dict:
    columns = make_context(context_columns(SYSTEMS[name]), [len(images)])
    return {"text": text, "images": images} | {column: values[0] for column, values in columns.items()} | changes


def run(name: str, dataset: str, folder: Path, encoder_folders, *arguments: str) -> list[dict]:
    """Train and predict by the command line; return the predictions."""
    command = ["--dataset", dataset, "--system", name, "--text_model", encoder_folders[0], "--output_dir", str(folder)]
    command += ["--vision_model", encoder_folders[1]] if name in PIXELS else []
    main([*command, "--use_cpu", "--disable_tqdm", "true", "--do_predict", *arguments])
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


TRAIN = ("--do_train", "--num_train_epochs", "1", "--learning_rate", "1e-3")


# What a data set lacks


@by_name
def test_a_missing_column_stops_a_run_before_a_model_is_built_with_the_command_to_paste(
    name, data, encoder_folders, tmp_path, monkeypatch
):
    def build(*_, **__):
        raise AssertionError("a model was built")

    monkeypatch.setattr("smcl.train.build.load_model", build)
    for mode in ((), ("--dry_run",)):
        with pytest.raises(ValueError, match=f"The system '{name}' reads the column") as error:
            run(name, data, tmp_path / "out", encoder_folders, *TRAIN, *mode)
        message = str(error.value)
        assert f"python -m smcl.dataset_scripts.enrich --input {data} --output {data}_context --" in message
        assert all(f"`{column}`" in message for column in context_columns(SYSTEMS[name]))
        assert "(it has id, images, ner_tags, source, tokens)" in message
        pasted = enrich.make_parser().parse_args(shlex.split(message.split("`")[-2])[3:])
        # All that it reads, and what these are made from.
        asked = {column for column, flag in enrich.FLAGS.items() if getattr(pasted, flag)}
        assert asked == {*context_columns(SYSTEMS[name])} | ({"captions"} if name == "pgim" else set())
    assert not list((tmp_path / "out").glob("*"))


def test_columns_are_checked_entry_by_entry(context_data):
    posts = load_dataset(context_data, split="train")
    first = posts[0]
    assert len(first["images"]) and check_columns(("objects", "knowledge"), DatasetDict(train=posts), "x", "D") is None

    def changed(column, value):
        rows = [value if row == 0 else x for row, x in enumerate(posts[column])]
        return DatasetDict(train=posts.remove_columns(column).add_column(column, rows, feature=posts.features[column]))

    for value in (None, [None] * len(first["images"])):
        with pytest.raises(ValueError, match=rf"of 1 posts \(ids {first['id']}\) it was not computed.*--objects"):
            check_columns(("objects",), changed("objects", value), "x", "D")
    with pytest.raises(ValueError, match="not computed.*--knowledge"):
        check_columns(("knowledge",), changed("knowledge", None), "x", "D")
    with pytest.raises(ValueError, match=rf"of 1 posts \(ids {first['id']}\) it has another number"):
        check_columns(("captions",), changed("captions", [["a"]] * 9), "x", "D")
    nothing = [[] for _ in first["images"]]
    check_columns(("objects",), changed("objects", nothing), "x", "D")
    # Only the first image is read.
    check_columns(("objects",), changed("objects", [nothing[0], *[None] * (len(nothing) - 1)]), "x", "D")
    flat = posts.remove_columns("captions").add_column("captions", ["a"] * len(posts))
    with pytest.raises(ValueError, match="Expected List.* in the column `captions` of split 'train' of D, got string"):
        check_columns(("captions",), DatasetDict(train=flat), "x", "D")


def test_a_knowing_model_needs_captions_which_the_command_makes_too(data):
    posts = DatasetDict(train=load_dataset(data, split="train"))
    with pytest.raises(ValueError, match=r"column `knowledge`, .* --knowledge \S+ --captions \S+`"):
        check_columns(("knowledge",), posts, "pgim", "D/")
    captioned = DatasetDict(train=add_context(posts["train"]).remove_columns("knowledge"))
    with pytest.raises(ValueError, match=r"--output D_context --knowledge \S+`"):
        check_columns(("knowledge",), captioned, "pgim", "D/")


def test_the_command_can_be_pasted_whatever_the_folder_is_called():
    source, output = "my data's/", "my data's_context"
    command = shlex.split(how_to_make(["objects"], source))
    assert command[command.index("--input") + 1] == source and command[command.index("--output") + 1] == output


# Without images


@by_name
def test_ignoring_images_is_the_same_as_posts_without_images_and_context(
    name, data, context_data, encoder_folders, tmp_path
):
    run(name, context_data, tmp_path / "model", encoder_folders, *TRAIN)
    command = ["--model", str(tmp_path / "model"), "--dataset", context_data, "--do_predict", "--use_cpu"]
    main([*command, "--ignore_images", "--output_dir", str(tmp_path / "without")])
    blank = tmp_path / "blank"
    blank.mkdir()
    for split, posts in load_dataset(context_data).items():
        empty = posts.remove_columns("images").add_column(
            "images", [[] for _ in posts], feature=posts.features["images"]
        )
        empty_context(empty).to_parquet(blank / f"{split}-00000-of-00001.parquet")
    command[3] = str(blank)
    main([*command, "--output_dir", str(tmp_path / "blank_run")])
    # Nor need there be any columns.
    command[3] = data
    main([*command, "--ignore_images", "--output_dir", str(tmp_path / "lacking")])
    written = [(tmp_path / folder / "predictions.jsonl").read_bytes() for folder in ("without", "blank_run", "lacking")]
    assert written[0] == written[1] == written[2]


def test_emptied_columns_hold_nothing_found(context_data):
    posts = empty_context(load_dataset(context_data, split="test").remove_columns("images"))
    for column, feature in CONTEXT_FEATURES.items():
        assert posts.features[column] == feature
        assert all(value == ("" if column == "knowledge" else []) for value in posts[column])


@by_name
def test_a_stream_keeps_its_context(name, data, context_data, encoder_folders, tmp_path):
    streamed = (*TRAIN[:1], "--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no", "--streaming")
    predicted = run(name, context_data, tmp_path / "model", encoder_folders, *streamed)
    command = ["--model", str(tmp_path / "model"), "--do_predict", "--use_cpu", "--output_dir", str(tmp_path / "again")]
    main([*command, "--dataset", context_data])
    again = [json.loads(line) for line in (tmp_path / "again" / "predictions.jsonl").read_text().splitlines()]
    assert again == predicted
    for options in (["--ignore_images", "--streaming"], ["--ignore_images"]):
        main([*command, "--dataset", data, *options])
        written = (tmp_path / "again" / "predictions.jsonl").read_text()
        assert len(written.splitlines()) == 10
    with pytest.raises(ValueError, match=f"The system '{name}' reads the column"):
        main([*command, "--dataset", data, "--streaming"])


# Batches


@by_name
def test_a_batch_without_images_has_a_slot_of_padding_where_pixels_are_read(name, processor, context_data):
    posts = load_dataset(context_data, split="train")
    rows = [
        {**posts[row], "images": [], "objects": [], "regions": [], "captions": [], "image_text": []} for row in (0, 1)
    ]
    batch = SMCLDataCollator(processor_of(name, processor))(rows)
    assert ("image_mask" in batch) == (name in PIXELS)
    assert not batch.get("image_mask", torch.zeros(1)).any()
    model = make_system(name)
    inputs = processor_of(name, processor)(
        words=[row["tokens"] for row in rows],
        context={column: [row[column] for row in rows] for column in context_columns(SYSTEMS[name])},
    )
    assert difference(model(**batch).logits, model(**inputs).logits) < 1e-5


def test_lengths_count_what_is_appended(processor, context_data):
    posts = load_dataset(context_data, split="train")
    for name in NAMES:
        own = processor_of(name, processor)
        batch = SMCLDataCollator(own, max_length=512)(list(posts.select(range(4))))
        assert token_counts(posts.select(range(4)), own) == batch["attention_mask"].sum(dim=1).tolist(), name
    assert token_counts(posts, processor_of("ita", processor)) > token_counts(posts, processor_of("ocsga", processor))


@by_name
def test_posts_grouped_by_length_train(name, context_data, encoder_folders, tmp_path):
    grouped = run(name, context_data, tmp_path, encoder_folders, *TRAIN, "--train_sampling_strategy", "group_by_length")
    assert len(grouped) == 10


@by_name
def test_dry_run_tries_the_longest_context(name, context_data, encoder_folders, tmp_path, capsys):
    command = ["--dataset", context_data, "--system", name, "--text_model", encoder_folders[0], "--dry_run"]
    command += ["--vision_model", encoder_folders[1]] if name in PIXELS else []
    measured = main([*command, "--output_dir", str(tmp_path / "out"), "--use_cpu", "--disable_tqdm", "true", *TRAIN])
    assert measured["step_seconds"] > 0 and type(make_system(name)).__name__ in capsys.readouterr().out


# The pipeline


@by_name
def test_pipeline_names_what_a_post_lacks(name, processor, photo):
    pipe = pipe_of(name, processor)
    for column in context_columns(SYSTEMS[name]):
        post = make_post(name, [photo])
        del post[column]
        with pytest.raises(ValueError, match=f"The post 'joey.*`{column}`: not computed. Make it by .*enrich"):
            pipe(post)
        assert f"`{column}`" in pipe([post], on_error="return")[0]["error"]
    with pytest.raises(ValueError, match="Expected a post with the keys 'text', '.* got .*'colour'"):
        pipe(make_post(name, [photo], colour=1))
    with pytest.raises(ValueError, match="expected an entry for each of 2 images, got 1" if name != "pgim" else "text"):
        pipe(make_post(name, [photo]) | ({"images": [photo] * 2} if name != "pgim" else {"knowledge": [1]}))


@by_name
def test_pipeline_reads_the_first_image_and_no_other(name, processor, photo):
    pipe = pipe_of(name, processor)
    two = make_post(name, [photo, photo.rotate(90)])
    for column in set(two) & {"objects", "regions", "captions", "image_text"}:
        two[column] = [two[column][0], None]
    assert pipe(two, return_tags=True) == pipe(make_post(name, [photo]), return_tags=True)
    assert pipe(make_post(name, [])) is not None
    assert pipe({"text": "joey"} | ({"knowledge": ""} if name == "pgim" else {})) is not None


@pytest.mark.parametrize("name", PIXELS)
def test_an_image_that_can_not_be_read_goes_with_its_context(name, processor, photo):
    pipe = pipe_of(name, processor)
    post = make_post(name, ["no/such/file", photo])
    for column in context_columns(SYSTEMS[name]):
        # As `enrich` has it for a file that it can't read.
        post[column] = [None, post[column][1]]
    with pytest.raises(ValueError, match="not computed"):
        pipe(post)
    skipped = pipe(post, on_bad_image="skip", return_tags=True)
    assert len(skipped["skipped_images"]) == 1 and "no/such/file" in skipped["skipped_images"][0]
    expected = pipe(make_post(name, [photo]), return_tags=True)
    assert [skipped[key] for key in ("tags", "entities")] == [expected[key] for key in ("tags", "entities")]
    alone = {column: values[:1] for column, values in post.items() if column in context_columns(SYSTEMS[name])}
    none = pipe({"text": post["text"], "images": ["no/such/file"], **alone}, on_bad_image="skip", return_tags=True)
    assert none["tags"] == pipe(make_post(name, []), return_tags=True)["tags"]
    many = make_post(name, [photo] * 5)
    with pytest.raises(ValueError, match="has 5 images"):
        pipe(many)
    assert pipe(many, on_extra_images="first") == pipe(make_post(name, [photo]))


@pytest.mark.parametrize("name", ["ita", "pgim"])
@pytest.mark.parametrize("num_words", [1, 50, 62, 300])
def test_each_window_of_a_long_post_carries_the_context(name, num_words, processor, photo):
    pipe = pipe_of(name, processor)
    post = make_post(name, [photo], text=["and"] * num_words)
    post |= {"knowledge": "the " * 20} if name == "pgim" else {"captions": [["the " * 20]], "objects": [[]]}
    about, windows = pipe.read_post(post)
    counts = {int(window["inputs"]["context_mask"].sum()) for window in windows}
    lengths = [window["inputs"]["input_ids"].shape[1] for window in windows]
    assert len(counts) == 1 and counts.pop() >= 21 and max(lengths) <= 64
    assert len(windows) == (1 if num_words < 40 else len(windows)) and len(windows) >= num_words / 62
    assert len(pipe(post, return_tags=True)["tags"]) == num_words == len(about.words)


def test_a_context_of_any_length_leaves_half_a_window_to_words(processor, photo):
    pipe = pipe_of("pgim", processor)
    post = make_post("pgim", [photo], text=["and"] * 100, knowledge="the " * 500)
    _, windows = pipe.read_post(post)
    assert all(window["inputs"]["word_mask"].sum() >= 16 for window in windows)
    assert all(window["inputs"]["context_mask"].any() for window in windows)


# Explanations


@by_name
def test_an_explanation_takes_an_image_away_with_what_is_said_of_it(name, processor, photo):
    pipe = pipe_of(name, processor)
    post = make_post(name, [photo, photo.rotate(90), photo])
    explanation = pipe.explain(post)
    if not explanation.entities:
        pytest.fail("the random model finds nothing: take another seed")
    nothing = make_post(name, [], **({"knowledge": ""} if name == "pgim" else {}))
    second = make_post(name, [photo.rotate(90), photo], **({"knowledge": ""} if name == "pgim" else {}))
    for entity in explanation.entities:
        spans = [(*entity.entity["words"], entity.entity["entity_group"])]

        def score(other, spans=spans):
            emissions = torch.cat(
                [pipe._forward({"window": w, "is_last": True})["window"]["emissions"] for w in windows(other)]
            )
            return pipe.posteriors(emissions, spans)[0]

        def windows(other):
            about, read = pipe.read_post(other)
            return [{**window, "post": about} for window in read]

        assert entity.entity["score"] == pytest.approx(score(post), abs=1e-6)
        assert entity.score_without_images == pytest.approx(score(nothing), abs=1e-6)
        assert [image.score_without for image in entity.images] == pytest.approx(
            [score(second), *[score(post)] * 2], abs=1e-6
        )
    assert [image.size for image in explanation.images] == [photo.size, photo.rotate(90).size, photo.size]
    if name == "visualpt-moe":
        assert (explanation.guidance_attention[:, 0] > 0).all() and (explanation.guidance_attention[:, 1:] == 0).all()


@by_name
def test_where_nothing_is_known_of_the_second_image_it_does_not_stand_in(name, processor, photo):
    pipe = pipe_of(name, processor)
    post = make_post(name, [photo, photo])
    for column in set(post) & {"objects", "regions", "captions", "image_text"}:
        post[column] = [post[column][0], None]
    for entity in pipe.explain(post).entities:
        if name != "pgim":
            assert entity.images[0].score_without == entity.score_without_images
    assert pipe.explain(make_post(name, [])).images == []
    with pytest.raises(ValueError, match="`patch_grid` must be 0 for a"):
        pipe.explain(post, patch_grid=2)


# The rest of the house


@by_name
def test_files_are_tagged_with_their_columns(name, processor, context_data, tmp_path):
    pipe, posts = pipe_of(name, processor), load_dataset(context_data, split="test")
    source = Path(context_data) / "test-00000-of-00001.parquet"
    counts = predict_file(pipe, str(source), str(tmp_path / "out.jsonl"), disable_tqdm=True)
    assert counts == {"posts": 10, "errors": 0, "skipped_images": 0}
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    columns = context_columns(SYSTEMS[name])
    given = [{"text": post["tokens"], "images": post["images"]} | {key: post[key] for key in columns} for post in posts]
    assert [record["tags"] for record in written] == [pipe(post, return_tags=True)["tags"] for post in given]
    predict_file(pipe, str(source), str(tmp_path / "without.jsonl"), disable_tqdm=True, ignore_images=True)
    bare = [pipe.processor.with_image(post, None) for post in given]
    written = [json.loads(line) for line in (tmp_path / "without.jsonl").read_text().splitlines()]
    assert [record["tags"] for record in written] == [pipe(post, return_tags=True)["tags"] for post in bare]
    Dataset.from_parquet(str(source)).remove_columns(columns[0]).to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(ValueError, match=f"`{columns[0]}`, which the data set .*bare.parquet lacks .*enrich"):
        predict_file(pipe, str(tmp_path / "bare.parquet"), str(tmp_path / "bare.jsonl"), disable_tqdm=True)
    assert not list(tmp_path.glob("bare.jsonl*"))


@by_name
def test_export_to_onnx_is_refused_by_name(name, tmp_path):
    with pytest.raises(ValueError, match=f"A {SYSTEMS[name].__name__} can't be exported: it reads"):
        export_onnx(make_system(name), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize("name", [name for name in SYSTEMS if "lstm" not in name])
def test_inputs_that_a_system_does_not_have_are_refused(name):
    model, inputs = make_system(name), system_inputs(name)
    for part in (model, model.smcl):
        given = {key: x for key, x in inputs.items() if part is model or key not in ("word_mask", "labels")}
        with pytest.raises(TypeError, match="colour"):
            part(**given, colour=torch.zeros(1))
    others = {"object_ids", "object_mask", "caption_ids", "context_mask"} - set(model.smcl.context_inputs)
    if name == "smcl":
        assert others == {"object_ids", "object_mask", "caption_ids", "context_mask"}


def test_systems_without_context_read_none():
    assert {name for name in SYSTEMS if context_columns(SYSTEMS[name])} == set(NAMES)
    assert {name for name in SYSTEMS if SYSTEMS[name].base_class.context_inputs} == set(NAMES) - {"umgf"}


def test_prediction_cards_of_training_know_the_context(context_data, encoder_folders, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from smcl.train.prediction_cards import PredictionFigures

    posts = load_dataset(context_data, split="validation")
    for name in ("ocsga", "umgf"):
        text, vision = encoder_folders
        kind = SYSTEMS[name].processor_class
        pipe = MultiImageNERPipeline(make_system(name), kind.from_text_vision_pretrained(text, vision))
        shown = next(post for post in posts if post["images"])
        figure = PredictionFigures([], [shown], posts.features["ner_tags"].feature.names).draw(pipe, shown)
        assert isinstance(figure, Image.Image)
