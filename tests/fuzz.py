"""Random mutations of a small valid data set: each must end in a right result, or in an error that names the culprit.

    make fuzz
    python tests/fuzz.py --mutations 500 --seed 0

Every mutation knows what should come of it: posts that mean the same, or words that the error must hold. The gate is
asked about the data set as a whole, as a stream, from its Parquet files, and row by row. Each seventeenth data set is
given to the command line, dry and in earnest.
"""

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    LargeList,
    List,
    Value,
    disable_progress_bars,
)
from factories import make_config
from PIL import Image as Picture
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertModel, PreTrainedTokenizerFast, ViTImageProcessorPil, ViTModel
from transformers.utils import logging

from smcl.dataset_scripts.columns import parse_columns
from smcl.dataset_scripts.gate import prepare_posts
from smcl.dataset_scripts.rows import read_post
from smcl.images_smcl import load_image
from smcl.run_ner_multiimage import main as main_of_run
from smcl.train.data import load_posts

NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
# Tags of the four posts, by name.
TAGS = [["B-PER", "I-PER", "O"], ["O"], ["O", "B-LOC"], ["B-LOC", "B-PER", "I-PER", "O"]]
SPLITS = ("train", "validation", "test")


def encode(mode: str, image_format: str) -> bytes:
    file = io.BytesIO()
    Picture.linear_gradient("L").resize((8, 6)).convert(mode).save(file, image_format)
    return file.getvalue()


@dataclass
class Case:
    """Splits as columns with features, how the gate is asked, and what should come of it."""

    rows: dict[str, dict[str, list]]
    features: dict[str, dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    finish: Callable[[Dataset], Dataset] = lambda posts: posts
    # One of these words stands in the error; none if there must be none.
    error: tuple[str, ...] = ()
    # Likewise in that of the command line, which reads images too.
    unread: tuple[str, ...] = ()
    # What becomes of the tags.
    expect: Callable[[str], str] = lambda tag: tag
    # What a stream tells only while it is read, or a file cannot hold.
    whole_only: bool = False


def make_case() -> Case:
    rows, features = {}, {}
    for split in SPLITS:
        words = [[f"w{row}{place}" for place in range(len(tags))] for row, tags in enumerate(TAGS)]
        images = [[{"bytes": encode("RGB", "PNG"), "path": f"{row}.png"}] * (row % 3) for row in range(len(TAGS))]
        ids = [[NAMES.index(tag) for tag in tags] for tags in TAGS]
        rows[split] = {"id": [f"{split}{row}" for row in range(4)], "tokens": words, "ner_tags": ids, "images": images}
        features[split] = {
            "id": Value("string"),
            "tokens": List(Value("string")),
            "ner_tags": List(ClassLabel(names=NAMES)),
            "images": List(Image()),
        }
    return Case(rows, features)


# Each mutation changes a case, of one split or of all, and says what should come of it.


def drop_column(case: Case, rng: random.Random, splits: list[str]) -> None:
    name = rng.choice(["tokens", "ner_tags", "id", "images"])
    for split in splits:
        del case.rows[split][name], case.features[split][name]
    if name in ("tokens", "ner_tags"):
        case.error = (name,)


def rename_column(case: Case, rng: random.Random, splits: list[str]) -> None:
    names = {
        "tokens": ["words", "Tokens", "sentence"],
        "ner_tags": ["tags", "labels", "NER"],
        "images": ["image", "Images", "IMG", "photo_paths", "pictures", "my_photo"],
        "id": ["post_id", "key"],
    }
    ours = rng.choice(list(names))
    theirs = rng.choice(names[ours])
    for split in splits:
        for columns in (case.rows[split], case.features[split]):
            columns[theirs] = columns.pop(ours)
    if ours != "id":
        case.error = (theirs, ours)
    if rng.random() < 0.5:
        case.options["columns"] = parse_columns(f"{ours}={theirs}")
        case.error = () if set(splits) == set(SPLITS) else (theirs,)


def rename_nothing(case: Case, rng: random.Random, splits: list[str]) -> None:
    case.options["columns"], case.error = rng.choice(
        [({"tokens": "gone"}, ("gone",)), ({"tokens": "id"}, ("tokens",)), ({"images": "image"}, ("image",))]
    )


def add_column(case: Case, rng: random.Random, splits: list[str]) -> None:
    name, values = rng.choice(
        [("lang", ["en"] * 4), ("image_count", [1] * 4), ("score", [0.5] * 4), ("split", [None] * 4)]
    )
    for split in splits:
        case.rows[split][name] = values
        case.features[split][name] = Value({"en": "string", 1: "int64", 0.5: "float64"}.get(values[0], "null"))


def retype_tokens(case: Case, rng: random.Random, splits: list[str]) -> None:
    kind = rng.choice(["text", "sentence", "numbers", "nested", "large", "null"])
    change = {
        "text": (lambda words: repr(words), Value("string")),
        "sentence": (lambda words: " ".join(words), Value("string")),
        "numbers": (lambda words: [1] * len(words), List(Value("int64"))),
        "nested": (lambda words: [words], List(List(Value("string")))),
        "large": (lambda words: words, LargeList(Value("large_string"))),
        "null": (lambda words: None, Value("null")),
    }[kind]
    _retype(case, splits, "tokens", *change)
    if kind != "large":
        case.error = ("tokens",)


def retype_tags(case: Case, rng: random.Random, splits: list[str]) -> None:
    kind = rng.choice(["names", "numbers", "text", "large", "floats"])
    change = {
        "names": (lambda tags: [NAMES[tag] for tag in tags], List(Value("string"))),
        "numbers": (lambda tags: tags, List(Value("int64"))),
        "text": (lambda tags: str(tags), Value("string")),
        "large": (lambda tags: tags, LargeList(ClassLabel(names=NAMES))),
        "floats": (lambda tags: [float(tag) for tag in tags], List(Value("float32"))),
    }[kind]
    _retype(case, splits, "ner_tags", *change)
    case.whole_only = kind == "names"
    if kind not in ("names", "large"):
        case.error = ("ner_tags",)


def retype_images(case: Case, rng: random.Random, splits: list[str]) -> None:
    kind = rng.choice(["bytes", "struct", "large", "undecoded", "null rows", "numbers", "nested", "text"])
    change = {
        "bytes": (lambda files: [file["bytes"] for file in files], List(Value("binary"))),
        "struct": (lambda files: files, List({"bytes": Value("binary"), "path": Value("string")})),
        "large": (lambda files: files, LargeList(Image())),
        "undecoded": (lambda files: files, List(Image(decode=False))),
        "null rows": (lambda files: files or None, List(Image())),
        "numbers": (lambda files: len(files), Value("int64")),
        "nested": (lambda files: [[1, 2]] * len(files), List(List(Value("uint8")))),
        "text": (lambda files: "['a.png']", Value("string")),
    }[kind]
    _retype(case, splits, "images", *change)
    if kind in ("numbers", "nested", "text"):
        case.error = ("images",)


def _retype(case: Case, splits: list[str], name: str, change: Callable, feature: Any) -> None:
    for split in splits:
        case.rows[split][name] = [change(value) for value in case.rows[split][name]]
        case.features[split][name] = feature


def permute_labels(case: Case, rng: random.Random, splits: list[str]) -> None:
    names = NAMES[:]
    while names == NAMES:
        rng.shuffle(names)
    for split in splits:
        tags = case.rows[split]["ner_tags"]
        case.rows[split]["ner_tags"] = [[names.index(NAMES[tag]) for tag in row] for row in tags]
        case.features[split]["ner_tags"] = List(ClassLabel(names=names))
    if set(splits) != set(SPLITS):
        case.error = ("has the labels",)


def rename_labels(case: Case, rng: random.Random, splits: list[str]) -> None:
    rename = rng.choice(
        [
            lambda name: name.replace("PER", "MISC"),
            lambda name: name.replace("B-", "S-"),
            lambda name: name.replace("-", "_"),
            lambda name: "-".join(reversed(name.split("-"))),
            lambda name: name.lower(),
        ]
    )
    names = [rename(name) for name in NAMES]
    for split in splits:
        case.features[split]["ner_tags"] = List(ClassLabel(names=names))
    is_bio2 = all(name == "O" or name[:2] in ("B-", "I-") for name in names)
    if set(splits) != set(SPLITS):
        case.error = ("has the labels",)
    elif not is_bio2:
        case.error = ("ner_tags", "--tag_scheme")
    else:
        case.expect = rename


# The tags of the posts in other schemes, and how they are spelled.
SCHEMES = {
    "iobes": [["B-PER", "E-PER", "O"], ["O"], ["O", "S-LOC"], ["S-LOC", "B-PER", "E-PER", "O"]],
    "bilou": [["B-PER", "L-PER", "O"], ["O"], ["O", "U-LOC"], ["U-LOC", "B-PER", "L-PER", "O"]],
    "bmes": [["B-PER", "E-PER", "O"], ["O"], ["O", "S-LOC"], ["S-LOC", "B-PER", "E-PER", "O"]],
    "iob1": [["I-PER", "I-PER", "O"], ["O"], ["O", "I-LOC"], ["I-LOC", "I-PER", "I-PER", "O"]],
    "io": [["PER", "PER", "O"], ["O"], ["O", "LOC"], ["LOC", "PER", "PER", "O"]],
    "ioe2": [["I-PER", "E-PER", "O"], ["O"], ["O", "E-LOC"], ["E-LOC", "I-PER", "E-PER", "O"]],
    "bio2": TAGS,
}
SPELLINGS = [
    lambda tag: tag,
    lambda tag: tag.replace("-", "_"),
    lambda tag: tag.replace("-", "\u2013"),
    lambda tag: "-".join(reversed(tag.split("-"))),
    lambda tag: f"{tag} ",
    lambda tag: tag[0].lower() + tag[1:] if "-" in tag else tag,
]


def spell_tags(case: Case, rng: random.Random, splits: list[str]) -> None:
    scheme, spell = rng.choice(list(SCHEMES)), rng.choice(SPELLINGS)
    tags = [[spell(tag) for tag in row] for row in SCHEMES[scheme]]
    names = sorted({tag for row in tags for tag in row})
    as_names = rng.random() < 0.5
    for split in SPLITS:
        case.rows[split]["ner_tags"] = tags if as_names else [[names.index(tag) for tag in row] for row in tags]
        case.features[split]["ner_tags"] = List(Value("string") if as_names else ClassLabel(names=names))
    case.whole_only = as_names
    if rng.random() < 0.8:
        case.options["tag_scheme"] = scheme
    elif not set(names) <= set(NAMES):
        case.error = ("ner_tags",)


def bring_a_model(case: Case, rng: random.Random, splits: list[str]) -> None:
    """Labels of a saved model: more, fewer, in another order."""
    labels = rng.sample([*NAMES, "B-ORG", "I-ORG"], 7)
    if rng.random() < 0.3:
        labels = [name for name in labels if not name.endswith(rng.choice(["PER", "LOC"]))]
    case.options["labels"] = labels
    if not set(NAMES) <= set(labels):
        case.error = ("but the model has",)


def number_posts(case: Case, rng: random.Random, splits: list[str]) -> None:
    """Ids that are the same, missing, empty or numbers."""
    values, feature = rng.choice(
        [
            (["a"] * 4, Value("string")),
            ([None, "b", "c", "c"], Value("string")),
            ([""] * 4, Value("string")),
            ([1, None, 3, 3], Value("int64")),
            ([1.5, 2, 3, 4], Value("float64")),
            ([True, False, True, True], Value("bool")),
        ]
    )
    for split in splits:
        case.rows[split]["id"], case.features[split]["id"] = values, feature
    if feature.dtype in ("float64", "bool"):
        case.error = ("`id`",)


def hide_images(case: Case, rng: random.Random, splits: list[str]) -> None:
    """Images in a column that has a name of its own."""
    name = rng.choice(["media", "attachments", "url", "data", "screens"])
    value, feature = rng.choice([("a.png", Value("string")), (encode("RGB", "JPEG"), Value("binary"))])
    several = rng.random() < 0.5
    for split in splits:
        del case.rows[split]["images"], case.features[split]["images"]
        case.rows[split][name] = [[value, value] if several else value] * 4
        case.features[split][name] = List(feature) if several else feature
    # Of a stream, and of single rows, nobody looks at what a column of another name holds.
    case.whole_only = True
    case.error = (name, "images")


def break_images(case: Case, rng: random.Random, splits: list[str]) -> None:
    """An image that only shows to be none when it is read."""
    split, row = rng.choice(splits), rng.choice([1, 2])
    fault = rng.choice(
        [
            {"bytes": encode("RGB", "PNG")[:30], "path": "cut.png"},
            {"bytes": b"<html>", "path": "a.jpg"},
            {"bytes": b"", "path": None},
        ]
    )
    case.rows[split]["images"] = [*case.rows[split]["images"]]
    case.rows[split]["images"][row] = [fault]
    case.unread, case.whole_only = (f"{split}{row}",), True


def break_values(case: Case, rng: random.Random, splits: list[str]) -> None:
    split, row = rng.choice(splits), rng.randrange(4)
    name, value = rng.choice(
        [
            ("ner_tags", [0] * (len(TAGS[row]) + 1)),
            ("ner_tags", None),
            ("tokens", None),
            ("tokens", [None] * len(TAGS[row])),
            ("images", [None]),
            ("images", [{"bytes": None, "path": None}]),
        ]
    )
    case.rows[split][name] = [*case.rows[split][name]]
    case.rows[split][name][row] = value
    case.error = (f"{split}{row}",)


def leave_untagged(case: Case, rng: random.Random, splits: list[str]) -> None:
    for split in splits:
        case.rows[split]["ner_tags"] = [
            [-100 if rng.random() < 0.5 else t for t in r] for r in case.rows[split]["ner_tags"]
        ]


def set_format(case: Case, rng: random.Random, splits: list[str]) -> None:
    kind = rng.choice(["numpy", "pandas", "arrow", "torch", "transform", "select", "shuffle back"])
    case.whole_only = True
    if kind == "transform":
        case.finish, case.error = (lambda posts: posts.with_transform(lambda rows: rows)), ("transform",)
    elif kind in ("select", "shuffle back"):
        case.finish = lambda posts: posts.select(range(3, -1, -1)).select(range(3, -1, -1))
    else:
        case.finish = lambda posts: posts.with_format(kind)


def swap_images(case: Case, rng: random.Random, splits: list[str]) -> None:
    mode, image_format = rng.choice(
        [("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG"), ("CMYK", "JPEG")]
        + [("L", "JPEG"), ("RGB", "WEBP"), ("RGB", "BMP"), ("P", "GIF"), ("I;16", "TIFF")]
    )
    file = {"bytes": encode(mode, image_format), "path": "other"}
    for split in splits:
        case.rows[split]["images"] = [[file] * len(files) for files in case.rows[split]["images"]]


MUTATIONS = [
    *(drop_column, rename_column, rename_nothing, add_column, retype_tokens, retype_tags, retype_images),
    *(permute_labels, rename_labels, break_values, leave_untagged, set_format, swap_images),
    *(spell_tags, bring_a_model, number_posts, hide_images, break_images),
]


def build(case: Case) -> DatasetDict:
    posts = {}
    for split in SPLITS:
        features = Features(case.features[split])
        # Values that `datasets` would not encode go in as they are stored.
        posts[split] = case.finish(Dataset.from_dict(case.rows[split], features=features))
    return DatasetDict(posts)


def check(case: Case, way: str, folder: Path) -> None:
    """Ask the gate; raises an `AssertionError` where it answers wrong."""
    posts = build(case)
    try:
        if way == "files":
            for split in SPLITS:
                posts[split].to_parquet(folder / f"{split}.parquet")
            out = load_posts(str(folder), SPLITS, **case.options)
        elif way == "stream":
            posts = type("Splits", (dict,), {})({split: part.to_iterable_dataset() for split, part in posts.items()})
            out = prepare_posts(posts, where="own", **case.options)
        else:
            out = prepare_posts(posts, where="own", **case.options)
        found = {split: [dict(row) for row in out[split]] for split in SPLITS}
    except ValueError as error:
        assert case.error, f"refused though it is right: {error}"
        assert any(word in str(error) for word in case.error), f"{case.error} not in: {error}"
        return
    assert not case.error, f"not refused, expected {case.error}"
    if case.unread:
        return
    compare(case, found, {split: out[split].features["ner_tags"].feature.names for split in SPLITS})


def save_encoders(folder: Path) -> tuple[str, str]:
    """Save tiny random encoders; return their folders."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{row}{place}" for row in range(4) for place in range(4))]
    backend = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)
    config, images = make_config(), ViTImageProcessorPil(size={"height": 16, "width": 16})
    parts = {"text": (BertModel(config.text_config), tokenizer), "vision": (ViTModel(config.vision_config), images)}
    for name, saved in parts.items():
        for part in saved:
            part.save_pretrained(folder / name)
    return str(folder / "text"), str(folder / "vision")


def compare(case: Case, found: dict[str, list[dict]], names: dict[str, list[str]]) -> None:
    assert len(set(map(tuple, names.values()))) == 1, f"other labels in other splits: {names}"
    column = case.options.get("columns", {}).get("images", "images")
    for split, rows in found.items():
        assert len(rows) == 4
        for row, post in enumerate(rows):
            place = f"{split} {row}"
            assert post["tokens"] == [f"w{row}{place}" for place in range(len(TAGS[row]))], place
            tags = [None if tag == -100 else names[split][tag] for tag in post["ner_tags"]]
            expected = [case.expect(tag) for tag in TAGS[row]]
            assert all(tag in (None, want) for tag, want in zip(tags, expected, strict=True)), (place, tags)
            assert len(post.get("images", ())) == (row % 3 if column in case.rows[split] else 0), place
            for image in post.get("images", ()):
                assert load_image(image).size == (8, 6), place


def check_rows(case: Case) -> None:
    """Ask the gate about single rows, as prediction of files does."""
    columns = case.options.get("columns")
    for split in SPLITS:
        rows = case.rows[split]
        for row in range(4):
            record = {name: values[row] for name, values in rows.items()}
            if row % 2:
                record = {n: np.array(v) if isinstance(v, list) and n == "tokens" else v for n, v in record.items()}
            try:
                post = read_post(record, columns=columns)
            except ValueError as error:
                assert case.error or case.unread, f"refused though it is right: {error}"
                continue
            assert isinstance(post["tokens"], list)
            if not case.error:
                assert post["tokens"] == rows[(columns or {}).get("tokens", "tokens")][row]


def check_command(case: Case, splits: list[str], folder: Path, encoders: tuple[str, str]) -> None:
    """Run the command line, dry and in earnest: both must come to what the case says."""
    for split, posts in build(case).items():
        (folder / "data").mkdir(exist_ok=True)
        posts.to_parquet(folder / "data" / f"{split}.parquet")
    argv = ["--dataset", str(folder / "data"), "--output_dir", str(folder / "out"), "--use_cpu", "--max_steps", "1"]
    argv += ["--text_model", encoders[0], "--vision_model", encoders[1], "--disable_tqdm", "true", "--do_predict"]
    argv += [
        "--do_train",
        "--do_eval",
        "--save_strategy",
        "no",
        "--eval_strategy",
        "no",
        "--per_device_train_batch_size",
        "2",
    ]
    if columns := case.options.get("columns"):
        argv += ["--columns", *(f"{ours}={theirs}" for ours, theirs in columns.items())]
    if scheme := case.options.get("tag_scheme"):
        argv += ["--tag_scheme", scheme]
    errors = []
    for extra in (["--dry_run"], []):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                main_of_run([*argv, *extra])
            errors.append(None)
        except ValueError as error:
            errors.append(str(error))
    if wanted := case.error or case.unread:
        # The run may come to another one of the posts first, and does not say whose images it can't encode.
        for error in errors:
            named = (*wanted, *splits)
            assert error and any(word in error for word in named), f"{named} not in: {error}; all: {errors}"
        assert errors[0] == errors[1] or case.unread, f"the dry run says {errors[0]}, the run {errors[1]}"
        return
    # `datasets` reads no folder whose splits have columns of types that can't be brought together.
    apart = set(splits) != set(SPLITS) and "found " in (errors[0] or "")
    assert errors == [None, None] or apart, f"refused though it is right: {errors}"
    if errors[0] is None:
        lines = (folder / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        for row, record in enumerate(map(json.loads, lines)):
            expected = [case.expect(tag) for tag in TAGS[row]]
            assert record["tokens"] == [f"w{row}{place}" for place in range(len(TAGS[row]))]
            assert all(tag in (None, want) for tag, want in zip(record["gold"], expected, strict=True)), record
            assert [tag is None for tag in record["predicted"]] == [tag is None for tag in record["gold"]], record
        assert len(lines) == 4


def run(mutations: int, seed: int, encoders: tuple[str, str] | None = None, every: int = 17) -> Counter:
    """Try mutations; ends the program with the first one that goes wrong.

    Args:
        mutations (`int`): How many.
        seed (`int`): Decides which.
        encoders (`tuple[str, str]`, *optional*): Folders of a text and an image encoder, to run the command line with.
        every (`int`, *optional*, defaults to 17): Each how many mutations it is run.

    Returns:
        `Counter`: how many of each kind were read, and refused.
    """
    counts = Counter()
    for number in range(mutations):
        rng = random.Random(f"{seed}.{number}")
        case, mutate = make_case(), MUTATIONS[number % len(MUTATIONS)]
        splits = list(SPLITS) if rng.random() < 0.5 else [rng.choice(SPLITS)]
        mutate(case, rng, splits)
        ways = ["whole"] if case.whole_only else ["whole", "stream", "files"]
        way = rng.choice(ways)
        # A format is no part of files, and no saved model is at hand.
        if encoders is not None and number % every == 0 and mutate not in (set_format, bring_a_model):
            way = "command"
        try:
            with tempfile.TemporaryDirectory() as folder:
                if way == "command":
                    check_command(case, splits, Path(folder), encoders)
                else:
                    check(case, way, Path(folder))
            check_rows(case)
        except Exception:
            traceback.print_exc()
            sys.exit(f"Mutation {number} of seed {seed} went wrong: {mutate.__name__} of {splits}, asked as {way}.")
        counts[f"{mutate.__name__}: {'refused' if case.error else 'read'}"] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    disable_progress_bars()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        counts = run(**vars(parser.parse_args()), encoders=save_encoders(Path(folder)))
    sys.stdout.write("".join(f"{name:28} {count:>4}\n" for name, count in sorted(counts.items())))
    sys.stdout.write(f"{counts.total()} mutations: each was read right, or refused by name.\n")


if __name__ == "__main__":
    main()
