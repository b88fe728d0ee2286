import json
import time

import pytest
from chat_server import KEY
from huggingface_hub import constants

from smcl.dataset_scripts import knowledge
from smcl.dataset_scripts.knowledge import Examples, Knowledge, make_examples, read_examples
from smcl.dataset_scripts.schema import DataError

TYPES = ["PER", "LOC"]


def post(post_id, words, captions=()):
    return {"id": post_id, "tokens": words.split(), "captions": list(captions)}


TRAIN = [
    post("1", "Messi scores in Paris", [["a football player"]]),
    post("2", "Paris is rainy", [[]]),
    post("3", "my cat sleeps"),
    post("4", "Messi scores in Paris", [["a stadium"]]),
]
SPLITS = {"train": TRAIN, "validation": [post("5", "hello world")], "test": [post("6", "my dog sleeps")]}
ANSWERS = [("1", "Messi: PER; Paris: LOC"), ("2", "Paris: LOC"), ("3", "No named entities.")]
NO_EXAMPLES = Examples([], SPLITS, 5)


def test_an_endpoint_is_asked_as_the_protocol_says(endpoint, monkeypatch):
    monkeypatch.setenv("SMCL_API_KEY", KEY)
    source = Knowledge("some-model", TYPES, NO_EXAMPLES, endpoint.url)
    assert source.annotate(TRAIN[:1]) == ["Messi: PER"]
    ((path, authorization, body),) = endpoint.seen
    assert (path, authorization) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("some-model", 0, 200)
    assert body["messages"] == [{"role": "user", "content": source.prompt(TRAIN[0])}]
    assert KEY not in json.dumps(source.about)


@pytest.mark.parametrize("key", ["schlüssel-1", "two\nlines"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(endpoint, monkeypatch, key):
    monkeypatch.setenv("SMCL_API_KEY", key)
    with pytest.raises(DataError, match="SMCL_API_KEY: expected a key of ASCII letters") as error:
        Knowledge("m", TYPES, NO_EXAMPLES, endpoint.url)
    assert key not in str(error.value)


def test_the_users_hugging_face_token_goes_to_no_endpoint(endpoint, monkeypatch):
    monkeypatch.delenv("SMCL_API_KEY", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    Knowledge("some-model", TYPES, NO_EXAMPLES, endpoint.url).annotate(TRAIN[:1])
    assert "hf_mine" not in endpoint.seen[0][1]


@pytest.mark.parametrize("behaviour", [429, 500, 503, 408, "cut", "closed", "<html>", "{}", '{"choices": []}', "[]"])
def test_what_may_pass_is_tried_again(endpoint, behaviour):
    endpoint.script = [behaviour]
    assert Knowledge("m", TYPES, NO_EXAMPLES, endpoint.url).annotate(TRAIN[:1]) == ["Messi: PER"]
    assert (len(endpoint.seen), endpoint.waits) == (2, [1])


@pytest.mark.parametrize("behaviour", [503, "cut", "no JSON"])
def test_what_does_not_pass_stops_after_five_more_tries_with_doubling_waits(endpoint, behaviour):
    endpoint.script = [behaviour] * 9
    with pytest.raises(DataError, match="run the same command again"):
        Knowledge("m", TYPES, NO_EXAMPLES, endpoint.url).annotate(TRAIN[:1])
    assert (len(endpoint.seen), endpoint.waits) == (6, [1, 2, 4, 8, 16])


def test_a_refused_key_stops_at_once_and_is_not_repeated(endpoint, monkeypatch):
    monkeypatch.setenv("SMCL_API_KEY", KEY)
    endpoint.script = [401]
    with pytest.raises(DataError, match="401") as error:
        Knowledge("m", TYPES, NO_EXAMPLES, endpoint.url).annotate(TRAIN[:1])
    assert KEY not in str(error.value)
    assert len(endpoint.seen) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_post_that_the_endpoint_refuses_costs_that_post_only(endpoint, status, monkeypatch):
    monkeypatch.setenv("SMCL_API_KEY", KEY)
    endpoint.script = [status]
    with pytest.raises(ValueError, match="refused it") as error:
        Knowledge("m", TYPES, NO_EXAMPLES, endpoint.url).annotate(TRAIN[:1])
    assert not isinstance(error.value, DataError)
    assert KEY not in str(error.value)


def test_an_empty_answer_is_no_knowledge(endpoint):
    endpoint.answer = ""
    with pytest.raises(ValueError, match="the answer is empty"):
        Knowledge("m", TYPES, NO_EXAMPLES, endpoint.url).annotate(TRAIN[:1])


def test_several_requests_at_once_keep_their_order(endpoint):
    source = Knowledge("m", TYPES, NO_EXAMPLES, endpoint.url, requests=3)
    assert source.annotate(TRAIN[:3]) == ["Messi: PER"] * 3
    asked = {body["messages"][0]["content"] for _, _, body in endpoint.seen}
    assert asked == {source.prompt(post) for post in TRAIN[:3]}


def test_without_a_network_the_reason_is_told(endpoint, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        Knowledge("m", TYPES, NO_EXAMPLES, endpoint.url).annotate(TRAIN[:1])


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "ftp://h/v1", "http://", "http://me:pw@h/v1", "http://h/v1?key=x"]
)
def test_a_url_that_is_none_or_holds_a_secret_is_refused(url):
    with pytest.raises(DataError, match="SMCL_API_KEY") as error:
        Knowledge("m", TYPES, NO_EXAMPLES, url)
    assert "pw" not in str(error.value)


def test_a_prompt_shows_the_nearest_examples_and_never_the_post_itself():
    examples = Examples(ANSWERS, SPLITS, 1)
    source = Knowledge("m", TYPES, examples, "http://127.0.0.1:9/v1")
    prompt = source.prompt(post("6", "rainy Paris", [["clouds", "a street"]]))
    assert prompt.startswith("Name the named entities in a post, with the type of each: PER, LOC.")
    assert prompt.endswith("Post: rainy Paris\nPicture: clouds; a street\nAnswer:")
    assert "Post: Paris is rainy\nPicture: no caption\nAnswer: Paris: LOC" in prompt
    assert "Messi" not in prompt
    # The post with the same words under another id is the same post.
    for own in (TRAIN[0], TRAIN[3]):
        assert "Messi: PER" not in source.prompt(own)
    assert source.prompt(post("7", "cat")).endswith("Post: cat\nPicture: no picture\nAnswer:")


def test_a_post_whose_image_has_no_caption_yet_is_not_asked_about():
    source = Knowledge("m", TYPES, NO_EXAMPLES, "http://127.0.0.1:9/v1")
    for captions in ([None], None):
        with pytest.raises(ValueError, match="its first image has no caption"):
            source.key(post("8", "hi") | {"captions": captions})


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([("6", "x")], "1 of the 1 examples are not in the train split, by id or by words: 6"),
        ([("1", "x"), ("99", "x")], "1 of the 2 examples are not in the train split, by id or by words: 99"),
        ([("2", "x")], "1 of the 1 examples also stand in another split, by id or by words: 2"),
        ([("3", "x")], "1 of the 1 examples also stand in another split, by id or by words: 3"),
    ],
)
def test_examples_from_validation_or_test_are_refused(answers, message):
    splits = SPLITS | {"test": [post("6", "my dog sleeps"), post("2", "another post"), post("66", "my cat sleeps")]}
    with pytest.raises(DataError, match=message):
        Examples(answers, splits, 5)


def test_examples_are_read_from_a_file(tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_text('{"id": 1, "answer": "a"}\n\n{"id": "2", "answer": "ü"}\n', encoding="utf-8")
    assert read_examples(path) == [("1", "a"), ("2", "ü")]
    for line in ("no", "{}", '{"id": 1, "answer": 2}', '{"id": 1, "answer": "a"}\n{"id": 1, "answer": "a"}'):
        path.write_text(line)
        with pytest.raises(DataError, match=r"examples.jsonl:\d: expected"):
            read_examples(path)
    with pytest.raises(DataError, match="There is no file"):
        read_examples(tmp_path / "no.jsonl")


def test_examples_are_made_from_gold_mentions_and_repeat_with_the_seed():
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    posts = [
        {"id": str(i), "tokens": ["Leo", "Messi", "in", "Paris"], "ner_tags": [1, 2, 0, 3 if i else 0]}
        for i in range(9)
    ]
    made = make_examples(posts, names, 5, seed=3)
    assert made == make_examples(posts, names, 5, seed=3) != make_examples(posts, names, 5, seed=4)
    assert len(made) == 5
    untagged = {"id": "99", "tokens": ["Leo", "Messi", "in", "Paris"], "ner_tags": [1, -100, 0, 3]}
    assert "99" not in dict(make_examples([*posts, untagged], names, 99, seed=3))
    assert dict(make_examples(posts, names, 99, seed=0)) == {
        str(i): "Leo Messi: PER; Paris: LOC" if i else "Leo Messi: PER" for i in range(9)
    }


def test_a_language_model_writes_here_after_the_prompt(models, monkeypatch):
    monkeypatch.setattr(knowledge, "MAX_NEW_TOKENS", 5)
    source = Knowledge(models["language_model"], TYPES, NO_EXAMPLES)
    answers = source.annotate(TRAIN[:2])
    assert all(answers)
    assert answers == [source.annotate([item])[0] for item in TRAIN[:2]]
    assert not any("Name the named" in answer for answer in answers)
    assert source.about["model"] == "language_model"
    with pytest.raises(ValueError, match="leaves no room for an answer: the model takes 1024"):
        source.annotate([post("9", "word " * 2000)])


def test_an_endpoint_that_answers_on_and_on_is_given_up(endpoint, monkeypatch):
    monkeypatch.setattr(knowledge, "SECONDS_TO_ANSWER", 0.5)
    endpoint.script = ["drip"] * 9
    begin = time.monotonic()
    with pytest.raises(DataError, match="no answer within 0.5 seconds"):
        Knowledge("m", TYPES, NO_EXAMPLES, endpoint.url).annotate(TRAIN[:1])
    assert time.monotonic() - begin < 20


def test_an_answer_that_is_too_long_costs_that_post_only(endpoint):
    endpoint.answer = "Messi " * 10_000
    with pytest.raises(ValueError, match=r"the answer has 6\d{4} characters") as error:
        Knowledge("m", TYPES, NO_EXAMPLES, endpoint.url).annotate(TRAIN[:1])
    assert not isinstance(error.value, DataError) and len(endpoint.seen) == 1
