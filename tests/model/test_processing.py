import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from factories import make_model
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast, RobertaTokenizer
from transformers.utils import logging

from smcl import MultiImageNERPipeline, SMCLProcessor
from smcl.processing_smcl import logger as processing_logger
from smcl.train.collator import SMCLDataCollator

WORDS = [["Joey", "and", "Niko"], ["hello"]]


def test_word_mask_marks_each_words_first_token(processor):
    batch = processor(words=WORDS)
    assert batch["word_mask"].sum(dim=1).tolist() == [3, 1]
    first = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0][batch["word_mask"][0]])
    assert first == ["j", "and", "n"]
    assert not batch["word_mask"][~batch["attention_mask"].bool()].any()


def test_labels_stand_at_word_starts(processor):
    batch = processor(words=WORDS, labels=[[1, 0, 7], [3]])
    assert batch["labels"][batch["word_mask"]].tolist() == [1, 0, 7, 3]
    assert (batch["labels"][~batch["word_mask"]] == -100).all()


@pytest.mark.parametrize("word", ["\u200b", "", "\u200d\ufe0f", "日本", "\u0301", "\x00"])
def test_no_word_is_lost_whatever_the_tokenizer_thinks_of_it(processor, word):
    words = [[word, "hello", word, word]]
    batch = processor(words=words, labels=[[1, 2, 3, 4]])
    assert batch["labels"][batch["word_mask"]].tolist() == [1, 2, 3, 4]


def test_words_are_split_from_text_with_their_offsets(processor):
    text = "Joey's  café 😀\u200b naïve #NBA\n"
    batch = processor(text=[text], return_word_offsets=True)
    words = [text[start:end] for start, end in batch["word_offsets"][0]]
    assert words == ["Joey", "'", "s", "café", "😀\u200b", "naïve", "#", "NBA"]
    assert batch["word_mask"].sum() == len(words)
    assert processor.split_words(text)[0] == words


def test_images_are_padded_to_the_batchs_own_largest_count(processor, photo):
    batch = processor(words=WORDS, images=[[photo, photo], []])
    assert batch["pixel_values"].shape == (2, 2, 3, 16, 16)
    assert batch["image_mask"].tolist() == [[True, True], [False, False]]
    assert (batch["pixel_values"][1] == 0).all()
    stock = processor.image_processor([photo], return_tensors="pt")["pixel_values"][0]
    assert torch.equal(batch["pixel_values"][0, 1], stock)


def test_images_keep_their_order(processor):
    colours = [Image.new("RGB", (9, 9), colour) for colour in ("red", "lime", "blue")]
    batch = processor(words=WORDS, images=[colours[:1], colours[1:]])
    assert batch["pixel_values"][0, 0].mean(dim=(1, 2)).argmax() == 0
    assert [image.mean(dim=(1, 2)).argmax().item() for image in batch["pixel_values"][1]] == [1, 2]


@pytest.mark.parametrize("images", [None, [[], []], [None, None]])
def test_posts_without_images_have_no_pixel_values(processor, images):
    assert set(processor(words=WORDS, images=images)) == {*processor.tokenizer.model_input_names, "word_mask"}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F", "YCbCr", "HSV"])
def test_images_of_any_mode_are_converted(processor, mode):
    batch = processor(words=WORDS, images=[[Image.new(mode, (7, 5))], []])
    assert torch.isfinite(batch["pixel_values"]).all()


def test_images_come_from_paths_too(processor, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    batch = processor(words=WORDS[:1], images=[[str(tmp_path / "photo.png")]])
    assert torch.equal(batch["pixel_values"], processor(words=WORDS[:1], images=[[photo]])["pixel_values"])


def test_single_post_is_a_batch_of_one(processor, photo):
    single = processor(words=WORDS[0], images=[photo], labels=[1, 0, 1])
    batch = processor(words=WORDS[:1], images=[[photo]], labels=[[1, 0, 1]])
    assert all(torch.equal(single[name], batch[name]) for name in batch)
    assert processor(text="Joey and Niko")["word_mask"].sum() == 3


def test_words_cut_off_are_counted_in_a_warning(processor, caplog):
    logger = logging.get_logger(SMCLProcessor.__module__)
    logger.addHandler(caplog.handler)
    batch = processor(words=[["a", "b", "\u200b", "c", "d"], ["a"]], max_length=5, labels=[[1, 2, 3, 4, 5], [6]])
    logger.removeHandler(caplog.handler)
    assert batch["labels"][0, 1:4].tolist() == [1, 2, 3]
    assert "2 words of 1 posts" in caplog.text and "cut off" in caplog.text


def test_post_without_words_is_kept(processor):
    batch = processor(words=[["hello"], []], labels=[[1], []])
    assert batch["word_mask"].sum(dim=1).tolist() == [1, 0]


def test_extra_images_are_an_error_or_cut_on_demand(processor, photo):
    images = [[photo], [photo] * 5]
    with pytest.raises(ValueError, match="Post 1 of the batch has 5 images, but `max_images` is 4.*on_extra_images"):
        processor(words=WORDS, images=images)
    assert processor(words=WORDS, images=images, on_extra_images="first")["image_mask"].sum().item() == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of `words` and `text`"),
        ({"words": WORDS, "text": ["a"]}, "exactly one of `words` and `text`"),
        ({"words": []}, "at least one post"),
        ({"words": WORDS, "labels": [[0, 0, 0]]}, "`labels` for 2 posts, got 1"),
        ({"words": WORDS, "labels": [[0, 0, 0], [0, 0]]}, "Post 1 of the batch has 1 words but 2 labels.*hello"),
        ({"words": WORDS, "images": [[]]}, "for each of 2 posts, got 1"),
        ({"words": WORDS, "on_extra_images": "last"}, "`on_extra_images` must be 'error' or 'first', got 'last'"),
        ({"words": WORDS, "return_tensors": "tf"}, "`return_tensors` must be 'pt' or 'np', got 'tf'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


def test_numpy_is_returned_on_demand(processor, photo):
    batch = processor(words=WORDS, images=[[photo], []], return_tensors="np")
    tensors = processor(words=WORDS, images=[[photo], []])
    assert all((batch[name] == tensors[name].numpy()).all() for name in tensors)


def test_processor_comes_back_from_disk_with_its_arguments(processor, image_processor, tokenizer, photo, tmp_path):
    SMCLProcessor(image_processor, tokenizer, max_images=2).save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is SMCLProcessor
    assert loaded.max_images == 2
    batch, expected = loaded(words=WORDS, images=[[photo], []]), processor(words=WORDS, images=[[photo], []])
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_processor_is_joined_from_the_encoders_folders(encoder_folders, processor):
    joined = SMCLProcessor.from_text_vision_pretrained(*encoder_folders, max_images=3)
    assert joined.max_images == 3
    assert torch.equal(joined(words=WORDS)["input_ids"], processor(words=WORDS)["input_ids"])


SEQUENCES = {
    "tuples": lambda values: tuple(tuple(row) for row in values),
    "NumPy": lambda values: _objects([np.array(row, dtype=None if row else object) for row in values]),
    "pandas": lambda values: pd.Series([pd.Series(row, dtype=None if row else object) for row in values]),
    "Arrow": pa.array,
    "a column of datasets": lambda values: Dataset.from_dict({"column": values})["column"],
    "a formatted column": lambda values: Dataset.from_dict({"column": values}).with_format("numpy")["column"],
}


def _objects(rows) -> np.ndarray:
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array


def test_words_given_as_text_are_refused_by_name(processor):
    with pytest.raises(ValueError, match="post 1 is a list: pass words as `words`"):
        processor(text=["joey rests", ["niko", "rests"]])


@pytest.mark.parametrize("kind", SEQUENCES)
def test_any_sequence_that_is_no_text_is_a_list(processor, photo, tmp_path, kind):
    photo.save(tmp_path / "a.png")
    given = {
        "words": [["Joey", "and"], ["the"], ["a", "b"]],
        "images": [[str(tmp_path / "a.png")] * 2, [], [str(tmp_path / "a.png")]],
        "labels": [[1, 0], [-100], [3, 4]],
    }
    expected = processor(**given)
    batch = processor(**{name: SEQUENCES[kind](values) for name, values in given.items()})
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["NumPy", "pandas", "Arrow"])
def test_any_sequence_of_raw_texts_is_a_list(processor, kind):
    make = {"NumPy": np.array, "pandas": pd.Series, "Arrow": pa.array}[kind]
    texts = ["Joey and the", "a b"]
    assert torch.equal(processor(text=make(texts))["input_ids"], processor(text=texts)["input_ids"])


@pytest.mark.parametrize("has_class", [False, True])
def test_words_are_read_with_the_spaces_that_part_them(image_processor, tmp_path, caplog, has_class):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {token: number for number, token in enumerate([*names, *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    # As RoBERTa's, and as EuroBERT's, in which a space in front of all that is split would part off commas, too.
    plain, split = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Split(Regex(r"\s?\w+|,"), "isolated"),
    )
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = plain if has_class else pre_tokenizers.Sequence([split, by_bytes])
    special = dict(zip(("pad_token", "cls_token", "sep_token", "unk_token"), names, strict=True))
    kind = RobertaTokenizer if has_class else PreTrainedTokenizerFast
    tokenizer = kind(**({"vocab": vocabulary, "merges": []} if has_class else {"tokenizer_object": backend}), **special)
    for part in (tokenizer, image_processor):
        part.save_pretrained(tmp_path)
    processor = SMCLProcessor.from_text_vision_pretrained(tmp_path, tmp_path)
    processor.save_pretrained(tmp_path / "joined")
    for one in (processor, AutoProcessor.from_pretrained(tmp_path / "joined")):
        inputs = one(words=[["I", "a,"]], add_special_tokens=False)
        assert one.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]) == [*"ĠIĠa,"]
        assert one.split_words(" I a, ") == (["I", "a", ","], [(1, 2), (3, 4), (4, 5)])
    assert "as if no space" not in caplog.text
    processing_logger.warning_once.cache_clear()
    SMCLProcessor(image_processor, tokenizer)
    assert "as if no space" in caplog.text


def test_settings_that_a_tokenizer_was_saved_with_cut_no_words(image_processor, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_length": 6, "stride": 1}))
    processor = SMCLProcessor(image_processor, AutoTokenizer.from_pretrained(tmp_path))
    # As transformers' processors do, where they are called by themselves.
    assert processor(words=WORDS)["input_ids"].shape[1] == 6
    usual = SMCLProcessor(image_processor, tokenizer)
    post = {"tokens": WORDS[0], "ner_tags": [0] * len(WORDS[0]), "images": []}
    trained, expected = (SMCLDataCollator(one)([post]) for one in (processor, usual))
    assert torch.equal(trained["input_ids"], expected["input_ids"])
    model = make_model()
    predicted, expected = (
        MultiImageNERPipeline(model, one)({"text": WORDS[0]}, return_tags=True) for one in (processor, usual)
    )
    assert predicted == expected and len(predicted["tags"]) == len(WORDS[0])
