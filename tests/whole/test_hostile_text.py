import copy
import json
import time

import numpy as np
import pytest
import torch
from factories import make_model
from transformers.utils import logging

from smcl import SMCLProcessor
from smcl.dataset_scripts.mner_mi import parse_record
from smcl.dataset_scripts.schema import DataError

HALF = "\ud83d"
SPECIAL = ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"]


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def warnings_of_processor(caplog):
    logger = logging.get_logger(SMCLProcessor.__module__)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("text", ["", " ", " \t\r\n\u3000\xa0\u2028"])
def test_a_post_without_a_word_has_no_tags_and_disturbs_nothing(processor, model, text):
    inputs = processor(text=[text, "joey"], return_word_offsets=True)
    assert inputs.pop("word_offsets")[0] == []
    assert inputs["word_mask"].sum(dim=1).tolist() == [0, 1]
    logits = model(**inputs).logits
    tags = model.decode(logits, inputs["word_mask"])
    assert torch.isfinite(logits).all()
    assert (tags[0] == -100).all()
    assert (tags[1] >= 0).sum() == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\u200b\u200d\ufeff", ["\u200b\u200d\ufeff"]),
        ("👨\u200d👩\u200d👧\u200d👦 rest", ["👨\u200d👩\u200d👧\u200d👦", "rest"]),
        ("👍🏽🇧🇷", ["👍🏽🇧🇷"]),
        ("שלום \u202eעולם\u202c", ["שלום", "\u202eעולם\u202c"]),
        ("e\u0301te\u0301 " + "a" + "\u0301" * 50, ["e\u0301te\u0301", "a" + "\u0301" * 50]),
        ("\u0301", ["\u0301"]),
        ("a\x00b \x00", ["a\x00b", "\x00"]),
        ("日本 x", ["日", "本", "x"]),
    ],
)
def test_odd_words_are_kept_whole_with_their_offsets(processor, model, text, words):
    inputs = processor(text=text, return_word_offsets=True)
    offsets = inputs.pop("word_offsets")[0]
    assert [text[start:end] for start, end in offsets] == words
    assert inputs["word_mask"].sum() == len(words)
    assert (model.decode(model(**inputs).logits, inputs["word_mask"]) >= 0).sum() == len(words)


@pytest.mark.parametrize("form", ["words", "text"])
def test_ten_thousand_words_are_cut_and_counted(processor, model, warnings_of_processor, form):
    words = ["joey"] * 10_000
    begin = time.monotonic()
    inputs = processor(words=[["a"], words]) if form == "words" else processor(text=["a", " ".join(words)])
    assert time.monotonic() - begin < 10
    kept = inputs["word_mask"].sum(dim=1).tolist()
    assert inputs["input_ids"].shape[1] == processor.tokenizer.model_max_length
    assert kept[0] == 1
    assert f"{10_000 - kept[1]} words of 1 posts lie beyond `max_length` = 64 tokens" in warnings_of_processor.text
    assert torch.isfinite(model(**inputs).logits).all()


def test_one_word_of_a_million_letters_is_one_word(processor):
    batch = processor(words=[["a", "x" * 1_000_000, "b"]], labels=[[1, 2, 3]])
    assert batch["labels"][batch["word_mask"]].tolist() == [1, 2, 3]


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("form", ["{}", "a{}b", " {} ", "{0}{0}"])
def test_a_special_token_in_a_post_is_text(processor, special, form):
    word = form.format(special)
    batch = processor(words=[["joey", word, "niko"]], labels=[[1, 2, 3]])
    assert batch["labels"][batch["word_mask"]].tolist() == [1, 2, 3]
    names = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert names[0] == "[CLS]" and names[-1] == "[SEP]"
    assert not {"[CLS]", "[SEP]", "[PAD]", "[MASK]"} & set(names[1:-1])


def test_added_tokens_that_are_not_special_keep_their_meaning(image_processor, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<url>"])
    batch = SMCLProcessor(image_processor, tokenizer)(words=["joey", "<url>"])
    assert tokenizer.convert_tokens_to_ids("<url>") in batch["input_ids"][0]


@pytest.mark.parametrize("arguments", [{"words": [["a"], ["b", f"x{HALF}"]]}, {"text": ["a", f"b x{HALF}"]}])
def test_half_a_surrogate_pair_is_refused_by_post(processor, arguments):
    with pytest.raises(ValueError, match=r"Post 1 of the batch: '.*x\\ud83d' holds half of a surrogate pair.*Write"):
        processor(**arguments)


def test_half_a_surrogate_pair_is_refused_by_the_converters_with_its_line():
    record = json.dumps({"id": 1, "text": ["Hi", HALF], "images": [], "label": ["O", "O"]})
    with pytest.raises(DataError, match=r"train\.txt:3: '\\ud83d' holds half of a surrogate pair"):
        parse_record(record, "train.txt:3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": [["a"], None]}, "Post 1 of the batch: expected a list of words, got NoneType"),
        ({"words": [["a"], "joey"]}, "Post 1 of the batch: expected a list of words, got str.*as `text`"),
        ({"words": [["a"], ["b", None]]}, "Post 1 of the batch: expected words as strings, got None"),
        ({"words": [["a"], ["b", b"c"]]}, "Post 1 of the batch: expected words as strings, got b'c'"),
        ({"text": ["a", 3]}, "Post 1 of the batch: expected words as strings, got 3"),
        ({"words": {"a": 1}}, "`words` must be a list with a list of words for each post, got dict"),
        ({"words": 3}, "`words` must be a list .* got int"),
        ({"words": np.array(3)}, "`words` must be a list .* got ndarray"),
        ({"words": (["a"] for _ in "ab")}, "`words` must be a list .* got generator"),
        ({"words": [["a"]], "labels": 3}, "Expected `labels` for 1 posts, got int"),
        ({"text": {"a": 1}}, "`text` must be a string or a list of strings, got dict"),
        ({"words": [["a"]], "max_length": 2}, "`max_length` must be a whole number of at least 3 tokens, got 2"),
        ({"words": [["a"]], "max_length": -1}, "`max_length` .* got -1"),
        ({"words": [["a"], ["b", "c"]], "padding": False}, "different numbers of tokens: expected `padding=True`"),
    ],
)
def test_texts_that_are_none_are_named(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


@pytest.mark.parametrize(
    "setting",
    [
        {"return_overflowing_tokens": True},
        {"stride": 2},
        {"text_pair": [["b"]]},
        {"text_pair_target": [["b"]]},
        {"is_split_into_words": False},
        {"text_kwargs": {"return_overflowing_tokens": True}},
        {"text_kwargs": {"max_lenght": 9}},
        {"max_lenght": 9},
    ],
)
def test_settings_that_would_part_rows_from_posts_and_misspelt_ones_are_refused(processor, setting):
    name = next(iter(setting.get("text_kwargs", setting)))
    with pytest.raises(TypeError, match=f"keyword arguments \\['{name}'\\], which nothing here takes"):
        processor(words=[["joey"] * 100], **setting)


@pytest.mark.parametrize("tags", [["O"], [None], [1.5], [-1], [2**63], None])
def test_labels_that_are_no_tag_ids_are_refused_by_post(processor, tags):
    with pytest.raises(ValueError, match=r"Post 1 of the batch: expected label ids 0, 1, 2, .*config\.label2id"):
        processor(words=[["a"], ["b"]], labels=[[0], tags])


def test_a_word_may_be_without_a_label(processor):
    batch = processor(words=["a", "b"], labels=[-100, 3])
    assert batch["labels"][batch["word_mask"]].tolist() == [-100, 3]


def test_a_tokenizer_without_an_unknown_token_says_what_it_lacks(processor, image_processor, tokenizer, monkeypatch):
    monkeypatch.setitem(tokenizer._special_tokens_map, "unk_token", None)
    with pytest.raises(ValueError, match=r"Post 0 of the batch: the tokenizer gives no token for \['\\u200b'\]"):
        processor(words=["a", "\u200b"])
