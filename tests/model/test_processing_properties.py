import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from smcl import SMCLProcessor

SPECIAL = ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>"]
ODD = [
    "\u200b",
    "\u200d",
    "\ufe0f",
    "\u0301",
    "\u202e",
    "\ufeff",
    "\x00",
    "\x1c",
    "\x85",
    "\u3000",
    "👨\u200d👩\u200d👧",
]
# Any character but lone surrogates, with what has broken tokenizers before more often than by chance.
characters = st.one_of(st.characters(codec="utf-8"), st.sampled_from([*"ab #'@ \t\n▁Ġ", *ODD, *SPECIAL]))
texts = st.lists(characters, max_size=25).map("".join)
posts = st.lists(texts, max_size=8)
batches = st.lists(posts, min_size=1, max_size=4)
# What no normaliser takes away, though several change its length.
lasting = st.lists(
    st.sampled_from([*"abC éÜßİǅ日本語京한국,.'#!1½ﬁ…①℃Ａ　", "e\u0301", "n\u0303", "👩\u200d👧", "  "]), max_size=25
).map("".join)
quick = settings(derandomize=True, deadline=None, max_examples=80, database=None)


def word_piece(names):
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*names, *letters, *(f"##{x}" for x in letters), "#", "[", "]", "'"]
    backend = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend


def byte_level(names):
    vocabulary = {token: i for i, token in enumerate([*names, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return backend


def metaspace(names):
    pieces = [*names, "▁", *"abcdefghijklmnopqrstuvwxyz", "▁a", "▁the"]
    backend = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=3))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return backend


def decomposed(names):
    """Without BERT's normaliser: accents are parted from their letters, then stripped."""
    backend = word_piece(names)
    backend.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()])
    return backend


def as_it_stands(names):
    """Without any normaliser."""
    backend = word_piece(names)
    backend.normalizer = None
    return backend


@pytest.fixture(scope="module", params=[word_piece, byte_level, metaspace, decomposed, as_it_stands])
def any_processor(request, image_processor) -> SMCLProcessor:
    """Processors of the families of tokenizers: BERT's, RoBERTa's, XLM-RoBERTa's and two rarer ones."""
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    backend = request.param(names)
    backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    special = dict(zip(("pad_token", "cls_token", "sep_token", "unk_token", "mask_token"), names, strict=True))
    return SMCLProcessor(image_processor, PreTrainedTokenizerFast(tokenizer_object=backend, **special))


@quick
@given(batch=batches)
def test_as_many_words_come_out_as_go_in(any_processor, batch):
    tags = [[number % 9 for number in range(len(post))] for post in batch]
    encoded = any_processor(words=batch, labels=tags)
    assert encoded["word_mask"].sum(dim=1).tolist() == [len(post) for post in batch]
    for row, post_tags in enumerate(tags):
        assert encoded["labels"][row][encoded["word_mask"][row]].tolist() == post_tags
    assert not encoded["word_mask"][~encoded["attention_mask"].bool()].any()


@quick
@given(text=texts)
def test_offsets_slice_back_to_the_words_and_lose_no_character(any_processor, text):
    words, offsets = any_processor.split_words(text)
    assert [text[start:end] for start, end in offsets] == words
    assert all(word and word == word.strip() for word in words)
    assert all(0 <= start < end <= len(text) for start, end in offsets)
    assert all(end <= start for (_, end), (start, _) in zip(offsets, offsets[1:], strict=False))
    covered = {position for start, end in offsets for position in range(start, end)}
    lost = [character for position, character in enumerate(text) if position not in covered]
    assert all(character.isspace() for character in lost)


@quick
@given(text=lasting)
def test_words_of_a_raw_text_are_those_of_the_whole_tokenizer(any_processor, text):
    encoding = any_processor.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    expected = []
    for word in sorted(set(encoding.word_ids())):
        start, end = encoding.word_to_chars(word)
        piece = text[start:end]
        if piece.strip():
            start += len(piece) - len(piece.lstrip())
            # Of one character, several words can be made; it is kept whole.
            if not expected or expected[-1] != start:
                expected.append(start)
    assert [start for start, _ in any_processor.split_words(text)[1]] == expected


@quick
@given(text=texts)
def test_what_the_normaliser_removes_moves_no_offset(any_processor, text):
    words, offsets = any_processor.split_words(f"a {text} b")
    assert (words[0][0], words[-1][-1]) == ("a", "b")
    assert (offsets[0][0], offsets[-1][1]) == (0, len(text) + 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("我爱北京NBA和Tom", ["我", "爱", "北", "京", "NBA", "和", "Tom"]),
        ("東京タワー!", ["東", "京", "タワー", "!"]),
        ("日\u200b本", ["日\u200b", "本"]),
        ("\u200b日本", ["\u200b日", "本"]),
        ("日 \u200b 本", ["日", "\u200b", "本"]),
        ("ab\x0bcd\x00 e\u0301", ["ab\x0bcd\x00", "e\u0301"]),
        ("İSTANBUL’da Ünlü", ["İSTANBUL", "’", "da", "Ünlü"]),
        (" \t\u3000 ", []),
    ],
)
def test_berts_tokenizers_make_each_chinese_character_a_word(processor, text, words):
    assert processor.split_words(text)[0] == words
    batch = processor(text=text)
    assert batch["word_mask"].sum() == len(words)


@quick
@given(batch=st.lists(texts, min_size=1, max_size=3))
def test_raw_posts_give_what_their_words_give(any_processor, batch):
    raw = any_processor(text=batch, return_word_offsets=True)
    words = [[text[start:end] for start, end in post] for text, post in zip(batch, raw["word_offsets"], strict=True)]
    assert raw["word_mask"].sum(dim=1).tolist() == [len(post) for post in words]
    assert torch.equal(raw["input_ids"], any_processor(words=words)["input_ids"])


@quick
@given(batch=batches, max_length=st.integers(3, 12))
def test_a_cut_keeps_the_first_words_and_never_moves_a_tag(any_processor, batch, max_length):
    tags = [list(range(len(post))) for post in batch]
    encoded = any_processor(words=batch, labels=tags, max_length=max_length)
    assert encoded["input_ids"].shape[1] <= max_length
    for row in range(len(batch)):
        kept = encoded["labels"][row][encoded["word_mask"][row]].tolist()
        assert kept == tags[row][: len(kept)]


@quick
@given(batch=batches)
def test_words_of_one_post_do_not_depend_on_the_others(any_processor, batch):
    together = any_processor(words=batch)
    for row, post in enumerate(batch):
        alone = any_processor(words=[post])
        real = together["attention_mask"][row].bool()
        assert torch.equal(together["input_ids"][row][real], alone["input_ids"][0])
        assert torch.equal(together["word_mask"][row][real], alone["word_mask"][0])


@quick
@given(batch=batches)
def test_no_word_becomes_a_special_token_but_the_unknown_one(any_processor, batch):
    tokenizer = any_processor.tokenizer
    encoded = any_processor(words=batch)
    allowed = set(range(len(tokenizer))) - set(tokenizer.all_special_ids) | {tokenizer.unk_token_id}
    for row in range(len(batch)):
        ids = encoded["input_ids"][row][encoded["attention_mask"][row].bool()].tolist()
        assert [ids[0], ids[-1]] == [tokenizer.cls_token_id, tokenizer.sep_token_id]
        assert set(ids[1:-1]) <= allowed


@quick
@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_image_slots_match_the_images(processor, photo_file, counts):
    batch = processor(words=[["a"]] * len(counts), images=[[photo_file] * count for count in counts])
    if max(counts) == 0:
        assert "pixel_values" not in batch
    else:
        assert batch["image_mask"].tolist() == [[slot < count for slot in range(max(counts))] for count in counts]
        assert batch["pixel_values"].shape[:2] == batch["image_mask"].shape
        assert (batch["pixel_values"][~batch["image_mask"]] == 0).all()


@pytest.fixture(scope="module")
def photo_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.new("RGB", (4, 4), "red").save(path)
    return path
