import os
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
# Nobody's own cache.
os.environ["HF_ASSETS_CACHE"] = tempfile.mkdtemp()

import pytest
import torch
from datasets import load_dataset
from factories import make_config, noise
from PIL import Image
from systems import add_context
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, ViTImageProcessorPil, ViTModel

from smcl import SMCLProcessor
from smcl.dataset_scripts.icons import convert

# Threads cost more than they gain on models this small.
torch.set_num_threads(1)


def pytest_unconfigure():
    shutil.rmtree(os.environ["HF_ASSETS_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of letters, so that most words have several tokens."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters), "and", "the", "#"]
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, mask_token="[MASK]", **names)


@pytest.fixture(scope="session")
def image_processor():
    return ViTImageProcessorPil(size={"height": 16, "width": 16})


@pytest.fixture(scope="session")
def processor(image_processor, tokenizer) -> SMCLProcessor:
    return SMCLProcessor(image_processor, tokenizer)


@pytest.fixture(scope="session")
def encoder_folders(tmp_path_factory, tokenizer, image_processor) -> tuple[str, str]:
    """Folders of a saved text encoder and image encoder, as from_text_vision_pretrained takes them."""
    root = tmp_path_factory.mktemp("encoders")
    config = make_config()
    torch.manual_seed(7)
    text, vision = BertModel(BertConfig(**config.text_config.to_dict())), ViTModel(config.vision_config)
    for model, part, folder in ((text, tokenizer, "text"), (vision, image_processor, "vision")):
        model.save_pretrained(root / folder)
        part.save_pretrained(root / folder)
    return str(root / "text"), str(root / "vision")


@pytest.fixture(scope="session")
def encoders(encoder_folders) -> list[str]:
    """Those encoders as arguments of the command line."""
    return ["--text_model", encoder_folders[0], "--vision_model", encoder_folders[1]]


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> str:
    """A folder of icon posts as the converter writes them, for tests that only read it."""
    folder = tmp_path_factory.mktemp("icons")
    convert(folder, train=24, validation=6, test=10)
    return str(folder)


@pytest.fixture(scope="session")
def context_data(tmp_path_factory, data) -> str:
    """The same posts with columns of context."""
    folder = tmp_path_factory.mktemp("context")
    for split, posts in load_dataset(data).items():
        add_context(posts).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return str(folder)


@pytest.fixture
def photo() -> Image.Image:
    return noise((20, 30)).convert("RGB")
