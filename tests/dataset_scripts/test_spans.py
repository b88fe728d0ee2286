import random

import pytest

from smcl.dataset_scripts.spans import read_spans, split_text, tag_words, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Joey sleeps.", ["Joey", "sleeps", "."]),
        ("  a_b  c-d\n", ["a_b", "c", "-", "d"]),
        ("徐悲鸿 Xu 1936年", ["徐", "悲", "鸿", "Xu", "1936", "年"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("cafe\u0301!", ["cafe\u0301", "!"]),
        ("a👍🏽b", ["a", "👍", "🏽", "b"]),
        ("\u200b", ["\u200b"]),
        ("", []),
    ],
)
def test_texts_are_split_into_words(text, words):
    assert [text[start:end] for start, end in split_text(text)] == words


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([{"start": 0, "end": 4, "label": "PER"}], [(0, 4, "PER")]),
        ([[5, 9, "LOC"], (0, 4, "PER")], [(0, 4, "PER"), (5, 9, "LOC")]),
        ([{"start": 4, "end": 9, "labels": ["LOC"]}], [(5, 9, "LOC")]),
        ([{"start": 0, "end": 4, "entity_group": "PER", "word": "Joey"}], [(0, 4, "PER")]),
        (None, []),
    ],
)
def test_spans_of_many_tools_are_read(spans, expected):
    assert read_spans(spans, "Joey Rome") == expected


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ("PER", "Expected a list of spans"),
        ([{"start": 0, "end": 4}], "Expected spans such as"),
        ([{"start": "0", "end": 4, "label": "PER"}], "Expected spans such as"),
        ([[0, 4]], "Expected spans such as"),
        ([[0, 40, "PER"]], "lies outside the text, which has 9 characters"),
        ([[4, 4, "PER"]], "is empty"),
        ([[4, 5, "PER"]], "is empty"),
        ([[-2, 4, "PER"]], "lies outside"),
        ([[0, 4, "B-PER"]], "has a tag in place of a type"),
        ([[0, 4, "O"]], "has a tag in place of a type"),
        ([[0, 6, "PER"], [5, 9, "LOC"]], "overlap"),
        ([{"start": 0, "end": 4, "label": "PER", "text": "Rome"}], "'Joey' stands there"),
    ],
)
def test_spans_that_can_not_be_used_are_refused(spans, message):
    with pytest.raises(ValueError, match=message):
        read_spans(spans, "Joey Rome")


def test_offsets_that_count_emoji_as_two_are_read_where_the_text_agrees():
    text = "👍👍 Rome 👍"
    assert read_spans([{"start": 5, "end": 9, "label": "LOC", "text": "Rome"}], text) == [(3, 7, "LOC")]
    assert read_spans([{"start": 10, "end": 12, "label": "X", "text": "👍"}], text) == [(8, 9, "X")]


def test_words_are_cut_at_the_borders_of_entities():
    assert words_of("unRomed", [[2, 6, "LOC"]]) == (["un", "Rome", "d"], ["O", "B-LOC", "O"], 2)


def test_random_spans_come_back_from_tags():
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice("ab c徐.👍") for _ in range(20))
        places = sorted(rng.sample(range(21), 4))
        spans = [(places[0], places[1], "X"), (places[2], places[3], "Y")]
        spans = [span for span in spans if text[span[0] : span[1]].strip()]
        words, tags, _ = words_of(text, spans)
        assert "".join(words) == "".join(text.split())
        found = {}
        for word, tag in zip(words, tags, strict=True):
            if tag != "O":
                found[tag[2:]] = found.get(tag[2:], "") + word
        assert found == {name: "".join(text[start:end].split()) for start, end, name in spans}


def test_a_span_between_words_is_refused():
    with pytest.raises(ValueError, match="holds no word"):
        tag_words([(0, 4)], [(5, 6, "X")])
