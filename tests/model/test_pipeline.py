import itertools
import json
from collections import UserDict
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, load_dataset
from factories import LABELS, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.scheme import IOB2, Entities
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset
from transformers.utils import logging

from smcl import MultiImageNERPipeline
from smcl.dataset_scripts.icons import convert
from smcl.pipeline_smcl import find_entities, logger
from smcl.predict.inputs import read_row
from smcl.predict.predict_file import predict_rows
from smcl.processing_smcl import split_into_windows
from smcl.run_ner_multiimage import main

quick = settings(derandomize=True, deadline=None, max_examples=60, database=None)


def test_entities_are_those_of_the_models_own_decoding(pipe, processor, posts):
    for post in posts:
        inputs = processor(text=[post["text"]], images=[post["images"]])
        logits = pipe.model(**inputs).logits
        tags = pipe.model.decode(logits, inputs["word_mask"])[inputs["word_mask"]].tolist()
        result = pipe(post, return_tags=True)
        assert result["tags"] == [LABELS[tag] for tag in tags]
        found = [(*entity["words"], entity["entity_group"]) for entity in result["entities"]]
        assert found == find_entities(result["tags"])
    assert sum(len(pipe(post)) for post in posts) > 3


@pytest.mark.parametrize("task", [None, "multi-image-ner", "token-classification", "ner"])
def test_every_name_brings_the_pipeline_that_reads_images(pipe, posts, tmp_path, task):
    pipe.save_pretrained(str(tmp_path))
    loaded = pipeline(task, model=str(tmp_path), trust_remote_code=True)
    assert type(loaded).__name__ == "MultiImageNERPipeline"
    assert loaded(posts) == pipe(posts)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        pipeline(task, model=str(tmp_path), trust_remote_code=None if task is None else False)


def test_a_loaded_model_is_taken_under_the_pipelines_own_name(pipe, processor, posts):
    loaded = pipeline("multi-image-ner", model=pipe.model, processor=processor)
    assert type(loaded) is MultiImageNERPipeline
    assert loaded(posts) == pipe(posts)


@pytest.mark.parametrize("task", ["token-classification", "ner"])
def test_where_transformers_takes_its_own_pipeline_the_model_says_once_what_is_lost(pipe, processor, task, caplog):
    model_logger = logging.get_logger("smcl.modeling_smcl")
    model_logger.warning_once.cache_clear()
    stock = pipeline(task, model=pipe.model, tokenizer=processor.tokenizer)
    stock(["joey and niko", "joey"])
    stock("niko")
    said = [record.getMessage() for record in caplog.records if "without the CRF" in record.getMessage()]
    assert len(said) == 1 and "reads no images" in said[0] and "MultiImageNERPipeline(model, processor)" in said[0]


def test_nothing_is_said_of_lost_images_where_none_are(pipe, processor, posts, caplog):
    model_logger = logging.get_logger("smcl.modeling_smcl")
    model_logger.warning_once.cache_clear()
    pipe(posts)
    pipe.explain(posts[0])
    pipe.model(**processor(text=["joey"]))
    pipe.model(**processor(words=[["joey"]], labels=[[0]]))
    assert caplog.records == []


def test_pipeline_equals_the_trainers_predictions_in_batches_of_any_size(pipe, tmp_path):
    convert(tmp_path / "data", train=2, validation=2, test=40)
    pipe.save_pretrained(str(tmp_path / "model"))
    arguments = ["--model", str(tmp_path / "model"), "--dataset", str(tmp_path / "data"), "--use_cpu"]
    main([*arguments, "--do_predict", "--output_dir", str(tmp_path / "out"), "--disable_tqdm", "true"])
    expected = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").open(encoding="utf-8")]
    dataset = load_dataset(str(tmp_path / "data"), split="test")
    posts = [{"text": post["tokens"], "images": post["images"]} for post in dataset]
    for batch_size in (1, 16):
        tags = [result["tags"] for result in pipe(posts, return_tags=True, batch_size=batch_size)]
        assert tags == [post["predicted"] for post in expected]
    assert len({tag for row in tags for tag in row}) > 2


def test_batches_change_nothing(pipe, posts):
    alone = [pipe(post) for post in posts]
    for batch_size in (2, 5):
        together = pipe(posts, batch_size=batch_size)
        for first, second in zip(alone, together, strict=True):
            scores = [[entity.pop("score") for entity in map(dict, found)] for found in (first, second)]
            assert scores[1] == pytest.approx(scores[0], abs=1e-5)
            assert [{**a, "score": 0} for a in first] == [{**b, "score": 0} for b in second]


def test_scores_are_the_crfs_probabilities_of_exactly_that_entity(pipe, posts):
    found = [entity for post in posts for entity in pipe(post)]
    assert all(0 < entity["score"] <= 1 for entity in found)
    post = posts[0]
    about, [window] = pipe.read_post(post)
    emissions = pipe._forward({"window": {**window, "post": about}, "is_last": True})["window"]["emissions"].double()
    crf, totals, all_paths = pipe.crf, {}, 0.0
    for tags in itertools.product(range(len(LABELS)), repeat=len(emissions)):
        names = [LABELS[tag] for tag in tags]
        if any(b[0] == "I" and a[2:] != b[2:] for a, b in itertools.pairwise(["O", *names])):
            continue
        score = crf.start_transitions[tags[0]] + crf.end_transitions[tags[-1]]
        score = score + sum(emissions[word, tag] for word, tag in enumerate(tags))
        weight = (score + sum(crf.transitions[a, b] for a, b in itertools.pairwise(tags))).exp().item()
        all_paths += weight
        for span in find_entities(names):
            totals[span] = totals.get(span, 0.0) + weight
    entities = pipe(post)
    expected = [totals[(*entity["words"], entity["entity_group"])] / all_paths for entity in entities]
    assert [entity["score"] for entity in entities] == pytest.approx(expected, abs=1e-6)
    assert expected


def test_temperature_changes_scores_and_no_tag(pipe, posts):
    before = pipe(posts[3], return_tags=True)
    pipe.model.config.temperature = 4.0
    after = pipe(posts[3], return_tags=True)
    pipe.model.config.temperature = 1.0
    assert after["tags"] == before["tags"]
    assert all(b["score"] < a["score"] for a, b in zip(before["entities"], after["entities"], strict=True))


@quick
@given(text=st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("ab  \n\u200d\u0301👩")), max_size=30))
def test_offsets_slice_back_to_the_words_whatever_the_text(pipe, text):
    result = pipe({"text": text}, return_tags=True)
    assert len(result["tags"]) == len(result["words"])
    for entity in result["entities"]:
        first, last = entity["words"]
        assert text[entity["start"] : entity["end"]] == entity["word"]
        assert entity["word"].startswith(result["words"][first]) and entity["word"].endswith(result["words"][last])


@quick
@given(words=st.lists(st.text(st.characters(codec="utf-8"), max_size=4), max_size=8))
def test_offsets_of_listed_words_slice_the_words_joined_by_spaces(pipe, words):
    result = pipe({"text": words}, return_tags=True)
    assert result["words"] == words and len(result["tags"]) == len(words)
    for entity in result["entities"]:
        first, last = entity["words"]
        assert entity["word"] == " ".join(words[first : last + 1])
        assert " ".join(words)[entity["start"] : entity["end"]] == entity["word"]


@quick
@given(tags=st.lists(st.sampled_from(LABELS), max_size=8))
def test_entities_of_tags_are_those_of_strict_bio2(tags):
    expected = [(entity.start, entity.end - 1, entity.tag) for entity in Entities([tags], IOB2).entities[0]]
    assert find_entities(tags) == expected


def test_threshold_leaves_out_entities_and_no_tag(pipe, posts):
    post = {"text": "joey and niko rest " * 4, "images": posts[3]["images"]}
    everything = pipe(post, return_tags=True)
    scores = sorted(entity["score"] for entity in everything["entities"])
    assert scores[0] < scores[-1]
    result = pipe(post, threshold=scores[-1], return_tags=True)
    assert [entity["score"] for entity in result["entities"]] == [scores[-1]]
    assert result["tags"] == everything["tags"]
    by_default = MultiImageNERPipeline(pipe.model, pipe.processor, threshold=scores[-1])
    assert by_default(post) == result["entities"]


# What may go in


def test_lists_tuples_generators_and_data_sets_are_taken(pipe, posts):
    expected = [pipe(post) for post in posts]
    assert pipe(posts) == pipe(tuple(posts)) == expected
    assert pipe([]) == list(pipe(iter([]))) == []
    assert list(pipe(post for post in posts)) == list(pipe(map(dict, posts))) == expected
    dataset = Dataset.from_list([{"text": post["text"]} for post in posts])
    assert list(pipe(dataset)) == [pipe({"text": post["text"]}) for post in posts]


def test_generators_are_read_as_results_are_asked_for(pipe):
    taken = []
    results = pipe(({"text": "niko"} for number in range(1000) if not taken.append(number)), batch_size=2)
    next(iter(results))
    assert len(taken) < 10


def test_images_may_be_paths_bytes_and_pil(pipe, photos, tmp_path):
    photos[0].save(tmp_path / "photo.png")
    path, data = str(tmp_path / "photo.png"), (tmp_path / "photo.png").read_bytes()
    results = [pipe({"text": "joey", "images": [image]}) for image in (photos[0], path, data)]
    assert results[0] == results[1] == results[2]
    assert pipe({"text": "joey", "images": photos[0]}) == results[0]


def test_posts_may_be_strings_or_records_with_one_image_or_several(pipe, photos):
    expected = [pipe({"text": "joey and niko", "images": images}) for images in ([], photos[:1], photos[:2])]
    assert pipe("joey and niko") == expected[0]
    assert pipe(["joey and niko"] * 2) == expected[:1] * 2
    assert list(pipe("joey and niko" for _ in range(2))) == expected[:1] * 2
    assert pipe({"text": "joey and niko", "image": photos[0]}) == expected[1]
    assert pipe({"text": "joey and niko", "image": None, "images": photos[:2]}) == expected[2]
    record = {"id": "7", "tokens": ["joey", "and", "niko"], "ner_tags": [1, 0, 1], "images": photos[:2], "source": "x"}
    assert pipe(record) == expected[2]
    assert pipe({"tokens": record["tokens"], "text": None, "image": photos[0]}) == expected[1]


def test_records_of_a_data_set_are_taken_as_they_are(pipe, data):
    dataset = load_dataset(data, split="test")
    expected = pipe([{"text": post["tokens"], "images": post["images"]} for post in dataset])
    assert list(pipe(dataset)) == expected
    assert list(pipe(dataset.to_iterable_dataset())) == expected


NOWHERE = "nowhere.png"
ROWS = [
    {"text": "joey and niko"},
    {"text": ""},
    {"text": ["joey", "niko"]},
    {"tokens": ["joey", "niko"]},
    {"tokens": ("joey", "niko")},
    {"tokens": np.array(["joey", "niko"])},
    {"tokens": []},
    {"tokens": ["joey"], "text": "joey and niko"},
    {"tokens": [], "text": "joey and niko"},
    {"tokens": [], "text": ["joey", "niko"]},
    {"tokens": np.array([]), "text": np.array(["joey", "niko"])},
    {"tokens": None, "text": "joey and niko"},
    {"tokens": ["joey"], "text": None},
    {"tokens": ["joey"], "id": "7", "ner_tags": [1], "source": "x", "image_id": "5"},
    {"text": "joey", "images": None},
    {"text": "joey", "images": []},
    {"text": "joey", "images": ["PHOTO"]},
    {"text": "joey", "images": ("PHOTO", "PHOTO")},
    {"text": "joey", "images": "PHOTO"},
    {"text": "joey", "images": {"bytes": None, "path": "PHOTO"}},
    {"text": "joey", "images": [{"bytes": None, "path": "PHOTO"}]},
    {"tokens": ["joey"], "images": ["PHOTO"], "photo": "PHOTO"},
]
REFUSED = [
    {"text": None},
    {"text": 5},
    {"tokens": None},
    {"tokens": 5},
    {"tokens": "joey niko"},
    {"tokens": ["joey", None]},
    {"tokens": ["joey", 5]},
    {"tokens": ["\ud83d"]},
    {"images": ["PHOTO"]},
    {"text": "joey", "images": 5},
    {"text": "joey", "images": ""},
    {"text": "joey", "images": [None]},
    {"text": "joey", "images": [["PHOTO"]]},
    {"text": "joey", "images": [NOWHERE]},
    {"text": "joey", "photo": "PHOTO"},
    {"tokens": ["joey"], "photo": "PHOTO"},
    {"tokens": ["joey"], "image_path": "PHOTO"},
    {"tokens": ["joey"], "images": None, "img_urls": ["PHOTO"]},
    {"tokens": ["joey"], "Pictures": ["PHOTO"]},
]


def with_photo(value, path):
    if isinstance(value, dict):
        return {key: with_photo(item, path) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(with_photo(item, path) for item in value)
    return path if isinstance(value, str) and value == "PHOTO" else value


@pytest.mark.parametrize("row", ROWS)
def test_files_and_calls_read_a_row_alike(pipe, photos, tmp_path, row):
    photos[0].save(tmp_path / "a.png")
    row = with_photo(row, str(tmp_path / "a.png"))
    (_, from_file), (_, called) = read_row(row, 0, str(tmp_path)), (None, row)
    (one, windows), (two, others) = pipe.read_post(from_file), pipe.read_post(called)
    assert one == two
    for window, other in zip(windows, others, strict=True):
        assert window["inputs"].keys() == other["inputs"].keys()
        assert all(torch.equal(window["inputs"][name], other["inputs"][name]) for name in window["inputs"])


@pytest.mark.parametrize("row", REFUSED)
def test_files_and_calls_refuse_the_same_rows(pipe, photos, tmp_path, row):
    photos[0].save(tmp_path / "a.png")
    row = with_photo(row, str(tmp_path / "a.png"))
    (record,) = predict_rows(pipe, [row], folder=str(tmp_path))
    assert record.keys() == {"id", "error"}
    with pytest.raises(ValueError, match="."):
        pipe(row)


@pytest.mark.parametrize(
    ("post", "message"),
    [
        (7, "or an iterable of posts, got int"),
        ({"images": []}, r"Expected a post with the keys 'text' and, if it has images, .*, got \['images'\]"),
        ({"text": "joey", "photo": []}, r"Expected a post .*got \['photo', 'text'\]"),
        ({"tokens": "['joey']"}, r"`tokens` must be a list of words, got .*joey"),
        ({"tokens": ["joey"], "photo": "a.png"}, r"Expected images as 'images', .* got \['photo'\]"),
        ({"text": "joey", "image": [b""]}, "Expected one image as 'image', or a list of them as 'images'"),
        ({"text": "joey", "image": b"", "images": [b""]}, "Expected one image as 'image', .* got a list or both"),
        ([["joey"]], "Expected a post .*, got list"),
        ({"text": 3}, "`text` must be a string or a list of words, got 3"),
        ({"text": ["joey", None]}, r"The post \['joey', None\]: expected words as strings, got None"),
        ({"text": "\ud83d joey"}, r"The post '\\ud83d joey': .* holds half of a surrogate pair"),
        ({"text": ["joey", "\ud83d"]}, r"The post \['joey', '\\ud83d'\]: .* holds half of a surrogate pair"),
        ({"text": "joey", "images": ["nowhere.jpg"]}, "The post 'joey', image 0: 'nowhere.jpg' can't be used"),
        ({"text": "joey", "images": [b""] * 5}, "The post 'joey' has 5 images, but `max_images` is 4"),
    ],
)
def test_posts_that_cannot_be_used_are_named(pipe, post, message):
    with pytest.raises(ValueError, match=message):
        pipe(post)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"treshold": 0.5}, "Got the argument 'treshold'.* It takes threshold, return_tags, on_bad_image"),
        ({"threshold": "0.5"}, "`threshold` must be a probability from 0 to 1, got '0.5'"),
        ({"threshold": True}, "`threshold` must be a probability from 0 to 1, got True"),
        ({"return_tags": "false"}, "`return_tags` must be True or False, got 'false'"),
        ({"threshold": 50}, "`threshold` must be a probability from 0 to 1, got 50"),
        ({"on_bad_image": "ignore"}, "`on_bad_image` must be one of 'error', 'skip', got 'ignore'"),
        ({"on_extra_images": "last"}, "`on_extra_images` must be one of 'error', 'first', got 'last'"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe({"text": "joey"}, **arguments)


def test_a_model_without_its_processor_is_refused():
    with pytest.raises(ValueError, match="`processor` must be the model's SMCLProcessor, got None"):
        MultiImageNERPipeline(make_model())


def test_bad_images_are_skipped_with_a_warning_where_that_is_asked_for(pipe, photos, monkeypatch):
    messages = []
    monkeypatch.setattr(logger, "warning", messages.append)
    post = {"text": "joey and niko", "images": [photos[0], b"no image", photos[1], "nowhere.png"]}
    result = pipe(post, on_bad_image="skip", return_tags=True)
    assert result["entities"] == pipe({**post, "images": photos[:2]})
    assert [text.split(":")[0] for text in result["skipped_images"]] == ["Image 1", "Image 3"]
    assert len(messages) == 1 and messages[0].startswith("2 images were left out. Image 1: ")


def test_extra_images_are_left_out_where_that_is_asked_for(pipe, photos):
    post = {"text": "joey and niko", "images": [*photos, b"is not even opened"]}
    assert pipe(post, on_extra_images="first") == pipe({**post, "images": photos})


@pytest.mark.parametrize("batch_size", [1, 3])
def test_errors_are_returned_in_place_where_that_is_asked_for(pipe, posts, batch_size):
    mixed = [posts[0], {"text": 3}, posts[3], {"text": "joey", "images": [b""]}]
    results = pipe(mixed, on_error="return", batch_size=batch_size)
    assert [isinstance(result, list) for result in results] == [True, False, True, False]
    assert len(results[0]) == len(pipe(posts[0])) and len(results[2]) == len(pipe(posts[3]))
    assert results[1] == {"error": "`text` must be a string or a list of words, got 3."}
    assert results[3]["error"].startswith("The post 'joey', image 0: the image of 0 bytes")


def test_scores_that_are_not_finite_give_an_error(processor):
    model = make_model()
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    with pytest.raises(ValueError, match="scores that are not finite"):
        MultiImageNERPipeline(model, processor)({"text": "joey"})


# Long texts


@quick
@given(counts=st.lists(st.integers(1, 12), max_size=60), limit=st.integers(4, 40))
def test_windows_answer_for_each_word_once_and_fit(counts, limit):
    answered = []
    for start, stop, core in split_into_windows(counts, limit):
        answered += range(start, stop)[core]
        # Only a word that is too long by itself may stand out, at the end.
        assert sum(counts[start:stop]) <= limit or sum(counts[start : stop - 1]) <= limit < counts[stop - 1]
        assert 0 <= core.start <= core.stop <= stop - start
    assert answered == list(range(len(counts)))


@quick
@given(length=st.integers(31, 200), limit=st.integers(16, 30))
def test_words_at_window_borders_are_read_with_words_on_both_sides(length, limit):
    windows = split_into_windows([1] * length, limit)
    assert len(windows) > 1
    for start, stop, core in windows:
        assert core.start == (0 if start == 0 else int(limit * 0.25))
        assert stop - start - core.stop == (0 if stop == length else int(limit * 0.25))


def test_no_word_of_a_long_text_is_dropped(pipe, photos):
    words = ["joey", "and", "niko", "a" * 200, "the"] * 40
    result = pipe({"text": words, "images": photos[:2]}, return_tags=True)
    assert result["words"] == words and len(result["tags"]) == 200
    ends = {entity["words"][1] for entity in result["entities"]}
    assert max(ends) > 150
    text = pipe({"text": " ".join(words), "images": photos[:2]}, return_tags=True)
    assert text["tags"] == result["tags"]


def test_windows_of_long_texts_may_share_batches_with_other_posts(pipe, posts):
    mixed = [posts[0], {"text": "joey and niko " * 40}, posts[3]]
    assert [len(found) for found in pipe(mixed, batch_size=4)] == [len(pipe(post)) for post in mixed]


def test_a_text_of_one_window_is_scored_without_a_cut(pipe, processor):
    words = ["the"] * 62
    inputs = processor(words=[words])
    assert inputs["input_ids"].shape == (1, 64)
    assert len(pipe.read_post({"text": words})[1]) == 1
    assert len(pipe.read_post({"text": [*words, "the"]})[1]) == 2


# Posts as others have them


def test_posts_may_be_rows_of_any_kind(pipe):
    text = "joey and niko rest"
    expected = pipe(text)
    assert expected
    rows = Dataset.from_dict({"text": [text]})
    words = rows.map(lambda row: {"found": [entity["word"] for entity in pipe(row)]})["found"][0]
    assert words == [entity["word"] for entity in expected]
    assert pipe(UserDict(text=text)) == expected and pipe([MappingProxyType({"text": text})]) == [expected]
    assert list(pipe(KeyDataset(rows, "text"), batch_size=2)) == [expected]
    assert list(pipe(TensorsOf([text, text]))) == [expected] * 2


class TensorsOf(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def test_tables_and_bytes_are_no_posts(pipe):
    with pytest.raises(ValueError, match=r"got DataFrame. Give its rows, by `.to_dict.'records'.`"):
        pipe(Dataset.from_dict({"text": ["joey"]}).to_pandas())
    with pytest.raises(ValueError, match="got bytes"):
        pipe(b"joey")


def test_rows_of_pandas_are_posts(pipe, photos, tmp_path):
    photos[0].save(tmp_path / "0.png")
    content = (tmp_path / "0.png").read_bytes()
    words = ["joey", "and", "niko", "rest"]
    expected = [pipe({"text": words, "images": [content]}), pipe("the")]
    images = [[{"bytes": content, "path": None}], None]
    pq.write_table(pa.table({"tokens": [words, ["the"]], "images": images}), tmp_path / "posts.parquet")
    # Lists come back as arrays.
    table = pd.read_parquet(tmp_path / "posts.parquet")
    assert isinstance(table["images"][0], np.ndarray)
    assert pipe(table.to_dict("records")) == expected
    assert [*pipe(row for _, row in table.iterrows())] == expected == [pipe(table.iloc[row]) for row in (0, 1)]
    named = table.rename(columns={"tokens": "text"}).assign(images=[table["images"][0], float("nan")])
    assert pipe(named.to_dict("records")) == expected
    assert [*pipe(pd.Series(["the", "the"]))] == [pipe("the")] * 2


@pytest.mark.parametrize("kind", ["PIL", "path", "array of files", "pixels"])
def test_images_of_any_kind_beside_tokens_are_not_passed_over_for_their_name(kind, pipe, photos):
    files = np.array([{"bytes": b"", "path": None}], dtype=object)
    value = {"PIL": photos[0], "path": Path("a.png"), "array of files": files, "pixels": np.zeros((4, 4, 3))}[kind]
    with pytest.raises(ValueError, match=r"got \['photo'\] beside 'tokens': rename it"):
        pipe({"tokens": ["joey"], "photo": value})
    # A number of images is none, and images that are read count.
    assert pipe({"tokens": ["joey"], "num_images": 3}) == pipe({"text": ["joey"]})
    pipe({"tokens": ["joey"], "photo": value, "image": photos[0]})
