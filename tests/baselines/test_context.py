import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from systems import make_context, make_system, system_inputs
from tokenizers import processors
from transformers import AutoProcessor, PreTrainedTokenizerFast

from smcl.baselines.ita import ITAProcessor
from smcl.baselines.ocsga import OCSGAProcessor
from smcl.baselines.pgim import PGIMProcessor
from smcl.baselines.text_only import TextProcessor

WORDS = [["joey", "and", "niko"], ["niko", "rests", "in", "verona"]]


@pytest.fixture(params=["bert", "roberta"])
def tokenizer_of_kind(request, tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer with the pairs of BERT, and with those of RoBERTa: two separators, no types."""
    is_bert = request.param == "bert"
    other = PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer._tokenizer).from_str(tokenizer._tokenizer.to_str()),
        model_max_length=64,
        model_input_names=["input_ids", *["token_type_ids"][: int(is_bert)], "attention_mask"],
        **tokenizer.special_tokens_map,
    )
    if not is_bert:
        other.backend_tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))
    return other


def tokens(processor, batch, row=0) -> list[str]:
    return processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][row, batch["attention_mask"][row].bool()])


def test_context_stands_behind_the_post_in_the_form_of_a_pair(tokenizer_of_kind):
    processor = PGIMProcessor(tokenizer_of_kind)
    batch = processor(words=WORDS, context={"knowledge": ["the cab", ""]}, labels=[[0, 1, 2], [3, 4, 5, 6]])
    alone = TextProcessor(tokenizer_of_kind)(words=WORDS, labels=[[0, 1, 2], [3, 4, 5, 6]])
    num_own = int(alone["attention_mask"][0].sum())
    separators = ["[SEP]"] * (1 if "token_type_ids" in batch else 2)
    added = [*separators[1:], "the", "c", "##a", "##b", "[SEP]"]
    assert tokens(processor, batch) == tokens(processor, alone) + added
    own = alone["attention_mask"].bool()
    for name in alone:
        for row in range(2):
            assert torch.equal(batch[name][row, : own[row].sum()], alone[name][row, own[row]]), name
    assert batch["context_mask"][0].nonzero().flatten().tolist() == list(range(num_own, num_own + len(added)))
    assert not batch["context_mask"][1].any() and tokens(processor, batch, 1) == tokens(processor, alone, 1)
    assert (batch["labels"][batch["context_mask"]] == -100).all()
    assert not (batch["word_mask"] & batch["context_mask"]).any()
    if "token_type_ids" in batch:
        assert torch.equal(batch["token_type_ids"].bool(), batch["context_mask"])
    assert set(batch) - {"labels"} == set(processor.model_input_names)


def test_context_is_cut_at_its_end_and_words_never_are(tokenizer_of_kind):
    processor = PGIMProcessor(tokenizer_of_kind, max_context_tokens=6)
    fixed = tokenizer_of_kind.num_special_tokens_to_add(pair=True) - 2
    batch = processor(words=[["and"]], context={"knowledge": ["the # " * 9]})
    expected = ["the", "#", "the", "#", "the", "#"][: 6 - fixed]
    assert tokens(processor, batch)[2 + fixed : -1] == expected
    assert tokens(processor, batch)[-1] == "[SEP]" and batch["context_mask"].sum() == 6
    # "and" is one token: so many words leave room for so much context.
    for num_words in (40, 64 - 2 - fixed - 1, 64 - 2 - fixed, 64 - 2, 70):
        words = [["and"] * num_words]
        batch = processor(words=words, context={"knowledge": ["the " * 99]})
        num_context = min(6, 64 - 2 - num_words)
        assert batch["word_mask"].sum() == min(num_words, 62)
        assert batch["context_mask"].sum() == (num_context if num_context > fixed else 0)
    assert processor(words=[["and"]], context={"knowledge": ["the"]}, max_length=4)["input_ids"].shape == (1, 3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_on_the_right_whatever_the_tokenizers(tokenizer_of_kind, side):
    tokenizer_of_kind.padding_side = side
    processor, words = PGIMProcessor(tokenizer_of_kind), WORDS
    context = {"knowledge": ["the cab", ""]}
    plain = processor(words=words, context=context)
    batch = processor(words=words, context=context, pad_to_multiple_of=32)
    assert batch["input_ids"].shape[1] % 32 == 0
    for row in range(2):
        assert tokens(processor, batch, row) == tokens(processor, plain, row)
        for name in ("word_mask", "context_mask"):
            kept = [x[name][row, x["attention_mask"][row].bool()] for x in (batch, plain)]
            assert torch.equal(*kept), name
    assert batch["attention_mask"][:, 0].all() and not batch["attention_mask"][1, -1]
    assert processor(words=words, context=context, padding="max_length")["input_ids"].shape == (2, 64)


def test_special_tokens_in_a_context_are_text(tokenizer):
    processor = PGIMProcessor(tokenizer)
    batch = processor(words=[["joey"]], context={"knowledge": ["[SEP] [CLS]"]})
    assert (batch["input_ids"] == tokenizer.sep_token_id).sum() == 2
    object_ids = OCSGAProcessor(tokenizer).context_tensors([{"objects": [{"label": "[SEP] \u200b"}]}])["object_ids"]
    assert tokenizer.sep_token_id not in object_ids.tolist()[0][0]


def test_a_single_post_and_numpy_work_as_without_context(tokenizer):
    processor = PGIMProcessor(tokenizer)
    single = processor(words=["joey"], context={"knowledge": "the cab"}, labels=[1])
    batch = processor(words=[["joey"]], context={"knowledge": ["the cab"]}, labels=[[1]], return_tensors="np")
    assert single.keys() == batch.keys() and all((single[name].numpy() == batch[name]).all() for name in batch)
    raw = processor(text="joey rests", context={"knowledge": "the cab"}, return_word_offsets=True)
    assert raw["word_offsets"] == [[(0, 4), (5, 10)]]


def test_settings_come_back_from_disk(tokenizer, tmp_path):
    PGIMProcessor(tokenizer, max_context_tokens=7).save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is PGIMProcessor and loaded.max_context_tokens == 7
    assert not list(tmp_path.glob("*.py"))
    with pytest.raises(ValueError, match="`max_context_tokens` must not be negative, got -1"):
        PGIMProcessor(tokenizer, -1)


def test_the_first_image_alone_is_read_and_nothing_of_a_post_without_images(tokenizer):
    processor, photo = OCSGAProcessor(tokenizer), Image.new("RGB", (4, 4))
    context = make_context(["objects"], [2, 0])
    context["objects"][0][1] = None
    batch = processor(words=WORDS, images=[[photo, photo], []], context=context)
    assert batch["object_mask"].tolist() == [[True, True, False, False], [False] * 4]
    assert batch["object_ids"].shape == (2, 4, 16)
    again = processor(words=WORDS, images=[[photo] * 2, None], context={"objects": [context["objects"][0], None]})
    assert all(torch.equal(batch[name], again[name]) for name in batch)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (None, r"columns \['objects'\], which OCSGAProcessor reads, got \[\].*enrich --input DATA .* --objects"),
        ({"objects": None}, "which OCSGAProcessor reads, got"),
        ({"objects": [[[]]], "captions": [[[]]]}, r"got \['captions', 'objects'\]"),
        ({"objects": [[[]], [[]]]}, r"Expected `context` for 1 posts, got \{'objects': 2\}"),
        ({"objects": [None]}, "Post 0 of the batch, `objects`: not computed. Make it by"),
        ({"objects": [[None]]}, "Post 0 of the batch, `objects`: not computed"),
        ({"objects": [[[], []]]}, "expected an entry for each of 1 images, got 2"),
        ({"objects": ["dog"]}, "expected an entry for each of 1 images, got str"),
        ({"objects": [[["dog"]]]}, "Post 0 of the batch, `objects`: expected"),
    ],
)
def test_context_that_does_not_fit_is_named(context, message, tokenizer, photo):
    with pytest.raises(ValueError, match=message):
        OCSGAProcessor(tokenizer)(words=[["joey"]], images=[[photo]], context=context)


def test_knowledge_that_was_not_computed_is_an_error_even_without_images(tokenizer):
    with pytest.raises(ValueError, match="`knowledge`: not computed. Make it by .* --knowledge"):
        PGIMProcessor(tokenizer)(words=[["joey"]], images=[[]], context={"knowledge": [None]})
    with pytest.raises(ValueError, match="`knowledge`: expected a text, got list"):
        PGIMProcessor(tokenizer)(words=[["joey"]], context={"knowledge": [["a"]]})


def test_systems_without_context_take_none(tokenizer):
    with pytest.raises(TypeError, match="context"):
        TextProcessor(tokenizer)(words=[["joey"]], context={})


def test_ita_joins_captions_names_and_lines_in_this_order(tokenizer):
    processor = ITAProcessor(tokenizer)
    context = {
        "captions": ["a dog", "a big dog", *["a"] * 9],
        "objects": [{"label": "traffic light"}, {"label": "dog"}],
        "image_text": ["no", "way out"],
    }
    words = processor.context_text(context)
    assert " ".join(words) == "a dog . a big dog . a . a . a . traffic light dog . no way out"
    assert processor.context_text({"captions": [], "objects": [], "image_text": [" "]}) == []


def test_posts_may_be_any_sequences_and_what_is_none_is_refused_by_name(tokenizer):
    processor, two = PGIMProcessor(tokenizer), {"knowledge": ["the cab", ""]}
    expected = processor(words=WORDS, context=two)
    for words in (pd.Series(WORDS), tuple(map(tuple, WORDS)), pa.array(WORDS)):
        assert torch.equal(processor(words=words, context=two)["input_ids"], expected["input_ids"])
    texts = [" ".join(words) for words in WORDS]
    assert torch.equal(processor(text=np.array(texts), context=two)["input_ids"], expected["input_ids"])
    for words in (5, {"a": 1}, (words for words in WORDS)):
        with pytest.raises(ValueError, match="`words` must be a list"):
            processor(words=words, context=two)
    with pytest.raises(ValueError, match="`images` must be a list with a list for each post, got int"):
        processor(words=WORDS, images=5, context=two)


@pytest.mark.parametrize(
    "name", ["return_attention_mask", "return_special_tokens_mask", "return_offsets_mapping", "return_length"]
)
def test_tensors_that_would_stay_of_the_posts_width_are_refused(tokenizer, name):
    with pytest.raises(TypeError, match=name):
        PGIMProcessor(tokenizer)(words=WORDS, context={"knowledge": ["the cab", ""]}, **{name: False})


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("ocsga", "object_mask"),
        ("visualpt-moe", "caption_mask"),
        ("ita", "context_mask"),
        ("hbilstm-crf", "character_ids"),
    ],
)
def test_context_of_another_number_of_posts_is_refused_by_name(name, given):
    inputs = system_inputs(name, labels=True)
    with pytest.raises(ValueError, match=f"`{given}` must"):
        make_system(name)(**inputs | {given: inputs[given][:1]})
