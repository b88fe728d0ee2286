"""Measure the share of training that is spent waiting for data, with and without what shortens it.

    python -m smcl.experiments.benchmarks.data_path --text TWITTER2017 --photos FOLDER --text_model TEXT \
        --vision_model VISION
    python -m smcl.experiments.benchmarks.data_path ... --base_size --systems plain cached --name data_path_base

Posts are tweets with one to four photographs, about three. Each system trains one epoch a round, in turn, after a round
that warms up. Worker processes start anew for each epoch, and the wait for them counts. Ratios are taken within a
round. Processor time, that of the training process alone, tells more than the clock where other programs run beside.
BERT-CRF has the same text encoder and reads no images.
"""

import argparse
import itertools
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import PIL
import torch
from datasets import Dataset
from transformers import BertConfig, ViTConfig, ViTImageProcessorPil

from smcl import SMCLConfig, SMCLForTokenClassification, SMCLProcessor
from smcl.baselines import SYSTEMS as MODELS
from smcl.dataset_scripts.command_line import run_main
from smcl.dataset_scripts.gate import prepare_posts
from smcl.dataset_scripts.schema import FEATURES, LABELS
from smcl.dataset_scripts.twitter import read_posts
from smcl.experiments.runs import circumstances
from smcl.experiments.tables import markdown, spread, written
from smcl.processing_smcl import load_tokenizer
from smcl.train.arguments import SMCLTrainingArguments
from smcl.train.collator import SMCLDataCollator
from smcl.train.image_cache import CachedImages, ImageFeatures, ImagePixels
from smcl.train.trainer import SMCLTrainer

from .convert import add_photos_arguments, number_photograph, read_photographs, spread_images
from .measure import save, timing_parser


@dataclass
class System:
    """One way to get data to SMCL, or to BERT-CRF."""

    model: str = "smcl"
    cache: str | None = None
    workers: int = 0
    order: str = "random"


@dataclass
class Epoch:
    """Seconds of an epoch: in all, of these waiting for data, and of the processor."""

    seconds: float
    waited: float
    processor: float


SYSTEMS = {
    "plain": System(),
    "1-worker": System(workers=1),
    "2-workers": System(workers=2),
    "grouped": System(order="group_by_length"),
    "cached": System(cache="--cache_images"),
    "cached-1-worker": System(cache="--cache_images", workers=1),
    "frozen": System(cache="--freeze_vision"),
    "frozen-grouped": System(cache="--freeze_vision", order="group_by_length"),
    "bert-crf": System("bert-crf"),
    "bert-crf-grouped": System("bert-crf", order="group_by_length"),
}


def make_posts(text: Path, photographs: list[bytes], count: int, files: int) -> Dataset:
    """Join tweets with photographs, so many different files of them."""
    posts = list(itertools.islice(read_posts(text / "train.txt", "tweets"), count))
    number, rows = itertools.count(), []
    for post, images in zip(posts, spread_images(len(posts), 3 * len(posts), random.Random(0)), strict=True):
        numbers = [n % files for n in itertools.islice(number, images)]
        shown = [number_photograph(photographs[n % len(photographs)], n) for n in numbers]
        row = {"id": post.id, "tokens": post.tokens, "ner_tags": post.tags, "source": post.source}
        rows.append(row | {"images": [{"bytes": file, "path": None} for file in shown]})
    return Dataset.from_list([FEATURES.encode_example(row) for row in rows], features=FEATURES)


def build_model(arguments: argparse.Namespace) -> tuple[SMCLForTokenClassification, SMCLProcessor]:
    """Build the model from the encoders given, or one of the paper's size from random weights."""
    id2label = dict(enumerate(LABELS))
    if not arguments.base_size:
        encoders = arguments.text_model, arguments.vision_model
        model = SMCLForTokenClassification.from_text_vision_pretrained(*encoders, id2label=id2label)
        return model, SMCLProcessor.from_text_vision_pretrained(*encoders)
    tokenizer = load_tokenizer(arguments.text_model)
    parts = {"text_config": BertConfig(vocab_size=len(tokenizer)), "vision_config": ViTConfig()}
    model = SMCLForTokenClassification(SMCLConfig(**parts, id2label=id2label))
    return model, SMCLProcessor(ViTImageProcessorPil(), tokenizer)


def build_caches(
    names: set[str], model: SMCLForTokenClassification, processor: SMCLProcessor, posts: Dataset, folder: Path
) -> dict[str, tuple[CachedImages, Dataset, dict]]:
    """Fill caches, and open them again as a second run does.

    Returns:
        `dict`: of each cache the cache, the posts with their images replaced, and what it took.
    """
    caches = {}
    for name in sorted(names):
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            cache = (
                ImagePixels(processor, folder) if name == "--cache_images" else ImageFeatures(model, processor, folder)
            )
            replaced = cache.replace_images(posts)
            seconds.append(time.perf_counter() - start)
        size = sum(path.stat().st_size for path in cache.store.folder.iterdir())
        caches[name] = cache, replaced, {"seconds_first": seconds[0], "seconds_again": seconds[1], "bytes": size}
    return caches


def build_trainer(system: System, model, processor, posts: Dataset, caches: dict, batch_size: int) -> SMCLTrainer:
    """Build the trainer of a system."""
    cache, posts, _ = caches.get(system.cache, (None, posts, None))
    if system.model == "bert-crf":
        text = BertConfig(**model.config.text_config.to_dict())
        bert_crf = MODELS[system.model]
        model = bert_crf(bert_crf.config_class(text_config=text, id2label=model.config.id2label))
        posts = posts.remove_columns("images")
    arguments = SMCLTrainingArguments(
        output_dir=tempfile.gettempdir(),
        use_cpu=not torch.cuda.is_available(),
        per_device_train_batch_size=batch_size,
        dataloader_num_workers=system.workers,
        train_sampling_strategy=system.order,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
    )
    return SMCLTrainer(model, arguments, data_collator=SMCLDataCollator(processor, cache), train_dataset=posts)


def train_epoch(trainer: SMCLTrainer, freeze_vision: bool) -> Epoch:
    """Train an epoch."""
    model = trainer.model.train()
    if isinstance(model, SMCLForTokenClassification):
        model.base_model.vision_model.requires_grad_(not freeze_vision)
    trainer.current_gradient_accumulation_steps = 1
    optimizer = trainer.optimizer or trainer.create_optimizer()
    loader = trainer.get_train_dataloader()
    start, start_of_processor = time.perf_counter(), time.process_time()
    asked, waited = start, 0.0
    for batch in loader:
        waited += time.perf_counter() - asked
        trainer.training_step(model, batch)
        optimizer.step()
        optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        asked = time.perf_counter()
    end = time.perf_counter()
    return Epoch(end - start, waited + end - asked, time.process_time() - start_of_processor)


def compare(arguments: argparse.Namespace) -> dict:
    """Train by each system in turn."""
    about = circumstances(arguments.threads, use_gpu=torch.cuda.is_available())
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    photographs = read_photographs(arguments.photos, arguments.side)
    posts = make_posts(arguments.text, photographs, arguments.posts, arguments.files)
    model, processor = build_model(arguments)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as root:
        needed = {SYSTEMS[name].cache for name in arguments.systems} - {None}
        caches = build_caches(needed, model, processor, posts, Path(root))
        trainers = {
            name: build_trainer(SYSTEMS[name], model, processor, posts, caches, arguments.batch_size)
            for name in arguments.systems
        }
        rounds: dict[str, list[Epoch]] = {name: [] for name in trainers}
        for round_number in range(arguments.repeats + 1):
            for name, trainer in trainers.items():
                epoch = train_epoch(trainer, SYSTEMS[name].cache == "--freeze_vision")
                if round_number:
                    rounds[name].append(epoch)
    about["versions"]["pillow"] = PIL.__version__
    settings = {name: getattr(arguments, name) for name in ("side", "files", "base_size", "batch_size", "repeats")}
    return {
        "posts": len(posts),
        "images": sum(map(len, prepare_posts(posts)["images"])),
        **settings,
        **about,
        "caches": {name: cost for name, (_, _, cost) in caches.items()},
        "systems": summarise(rounds, len(posts)),
    }


def summarise(rounds: dict[str, list[Epoch]], num_posts: int) -> dict:
    """Return each system's share of waiting, its time for a post, and its speed beside the first system's."""
    first, bert_crf = next(iter(rounds.values())), rounds.get("bert-crf")
    systems = {}
    for name, epochs in rounds.items():
        systems[name] = {
            **asdict(SYSTEMS[name]),
            "waiting_share": spread([epoch.waited / epoch.seconds for epoch in epochs]),
            "milliseconds_post": spread([epoch.seconds / num_posts * 1000 for epoch in epochs]),
            "speed_ratio": spread([a.seconds / b.seconds for a, b in zip(first, epochs, strict=True)]),
            "processor_ratio": spread([a.processor / b.processor for a, b in zip(first, epochs, strict=True)]),
        }
        if bert_crf is not None:
            over = [a.processor / b.processor for a, b in zip(epochs, bert_crf, strict=True)]
            systems[name]["processor_time_over_bert_crf"] = spread(over)
    return systems


def table(results: dict) -> str:
    """Return the results as a Markdown table."""
    columns = {"waiting_share": 3, "speed_ratio": 2, "processor_ratio": 2, "processor_time_over_bert_crf": 2}
    rows = []
    for name, row in results["systems"].items():
        cells = [written(row[column], digits) if column in row else "" for column, digits in columns.items()]
        rows.append([name, f"{row['milliseconds_post']['median']:.1f}", *cells])
    parts = [markdown(["", "ms a post", *(name.replace("_", " ") for name in columns)], rows)]
    for name, row in results["caches"].items():
        parts.append(
            f"`{name}`: {row['seconds_first']:.1f} s to fill, {row['seconds_again']:.1f} s in a second run, "
            f"{row['bytes'] / 1e6:.0f} MB.\n"
        )
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `data_path.json`, and print a table.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = timing_parser(__doc__)
    parser.add_argument("--text", type=Path, required=True, help="folder of Twitter-2017 in UMT's CoNLL files")
    add_photos_arguments(parser)
    parser.add_argument("--text_model", required=True, help="text encoder; only its tokenizer with --base_size")
    parser.add_argument("--vision_model", help="image encoder")
    parser.add_argument("--base_size", action="store_true", help="encoders of the paper's size, with random weights")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="what to compare")
    parser.add_argument("--posts", type=int, default=320, help="posts of an epoch")
    parser.add_argument("--files", type=int, default=10**6, help="most different files that the photographs make")
    parser.add_argument("--batch_size", type=int, default=16, help="posts of a batch")
    parser.add_argument("--name", default="data_path", help="name of the JSON file, without its ending")
    arguments = parser.parse_args(argv)
    if not arguments.base_size and arguments.vision_model is None:
        parser.error("expected --vision_model, or --base_size")
    results = compare(arguments)
    save(results, arguments.output, arguments.name, table)


if __name__ == "__main__":
    run_main(main)
