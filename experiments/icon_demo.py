r"""The embedded demo: train a tiny SMCL from scratch on icon posts and show that it reads the images.

    python -m smcl.experiments.icon_demo [--output demo] [--setting default] [--train 4000] [--epochs 8] [--seed 0] \
        [--threads 1]

Makes the data, a word-level tokenizer, an untrained BERT and a ViT that has learned to tell icons apart; then trains,
reloads and tests by the command line of `run_ner_multiimage.py`, and prints a table, which `results.txt` keeps.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import load_dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    set_seed,
)

from smcl.dataset_scripts.command_line import CommandParser, positive, run_main, say
from smcl.dataset_scripts.icon_difficulty import SETTINGS
from smcl.dataset_scripts.icons import KINDS, convert, draw_icon
from smcl.run_ner_multiimage import main as run_ner
from smcl.train.metrics import entity_metrics

from .image_dependent import read_predictions
from .threads import choose_threads

WIDTH = 128
IMAGE_SIZE = 48


def make_tokenizer(
    posts: Sequence[Sequence[str]], max_length: int = 64, least_count: int = 1
) -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer of the words in `posts`, with BERT's special tokens; see `save_text_encoder`."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    counts = Counter(word for post in posts for word in post)
    words = sorted(word for word, count in counts.items() if count >= least_count)
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **names)


def save_text_encoder(
    posts: Sequence[Sequence[str]], folder: Path, max_length: int = 64, least_count: int = 1, num_heads: int = 4
) -> None:
    """Save an untrained two-layer BERT and its tokenizer.

    Args:
        posts (`Sequence[Sequence[str]]`): Posts whose words it knows.
        folder (`Path`): Where to save both.
        max_length (`int`, *optional*, defaults to 64): Its positions: most tokens of a post, with the special ones.
        least_count (`int`, *optional*, defaults to 1): Rarer words are unknown; with 2, training meets unknown ones.
        num_heads (`int`, *optional*, defaults to 4): Attention heads of each layer.
    """
    tokenizer = make_tokenizer(posts, max_length, least_count)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=num_heads,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=max_length,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_vision_encoder(folder: Path, seed: int, steps: int = 700, batch_size: int = 64) -> float:
    """Teach a three-layer ViT to name single icons and save it.

    Args:
        folder (`Path`): Where to save it with its image processor.
        seed (`int`): Seed of the icons.
        steps (`int`, *optional*, defaults to 700): Training steps.
        batch_size (`int`, *optional*, defaults to 64): Icons in each step.

    Returns:
        `float`: the share of icons named right over the last 20 steps, each on new icons.
    """
    config = ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        image_size=IMAGE_SIZE,
        patch_size=8,
        num_labels=len(KINDS),
    )
    model = ViTForImageClassification(config)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    image_processor = ViTImageProcessorPil(size=size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps)
    rng = random.Random(f"{seed} warm-up")
    right = []
    for _ in tqdm(range(steps), desc="Teaching the image encoder", unit="step"):
        kinds = [rng.randrange(len(KINDS)) for _ in range(batch_size)]
        icons = [draw_icon(KINDS[kind], rng, IMAGE_SIZE) for kind in kinds]
        targets = torch.tensor(kinds)
        logits = model(image_processor(icons, return_tensors="pt")["pixel_values"]).logits
        F.cross_entropy(logits, targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        right.append((logits.argmax(dim=-1) == targets).float().mean().item())
    model.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return sum(right[-20:]) / 20


def score(posts: list[dict]) -> float:
    """Return the strict entity-level F1 of predicted posts."""
    return entity_metrics([post["gold"] for post in posts], [post["predicted"] for post in posts])["f1"]


def format_results(with_images: list[dict], without_images: list[dict], kinds: dict[str, list[str]]) -> str:
    """Lay out the table of scores and three posts with their images' kinds and the tags given."""
    by_names = {
        count: [post for post in with_images if sum(tag.startswith("B-") for tag in post["gold"]) == count]
        for count in (1, 2)
    }
    rows = [
        ("with images", with_images),
        ("images taken away", without_images),
        ("with images, posts of one name", by_names[1]),
        ("with images, posts of two names", by_names[2]),
    ]
    lines = ["", f"{'Icon posts, test split':<34}{'posts':>6}{'F1':>8}"]
    lines += [f"{name:<34}{len(posts):>6}{score(posts):>8.3f}" for name, posts in rows]
    for post in (*by_names[1][:1], *by_names[2][:2]):
        lines += ["", f"{post['id']}, images: {', '.join(kinds[post['id']])}"]
        tagged = zip(post["tokens"], post["predicted"], strict=True)
        lines.append("  " + " ".join(word if tag == "O" else f"{word}/{tag}" for word, tag in tagged))
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = CommandParser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="the folder to write to (%(default)s)")
    parser.add_argument("--setting", choices=SETTINGS, default="default", help="how hard the posts are (%(default)s)")
    parser.add_argument("--train", type=int, help="number of training posts (4000, or that of another setting)")
    parser.add_argument("--epochs", type=int, default=8, help="training epochs (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (%(default)s)")
    parser.add_argument("--threads", type=positive, help="threads of PyTorch (default: the fastest in a few steps)")
    arguments = parser.parse_args(argv)
    folders = {name: arguments.output / name for name in ("data", "text", "vision", "model", "without_images")}
    train, difficulty = SETTINGS[arguments.setting]
    # Easy posts are cheap to learn from, and twice as many show what images can do.
    train = arguments.train or (4000 if arguments.setting == "default" else train)
    convert(folders["data"], train=train, seed=arguments.seed, difficulty=difficulty)
    set_seed(arguments.seed)
    save_text_encoder(load_dataset(str(folders["data"]), split="train")["tokens"], folders["text"])
    torch.set_num_threads(arguments.threads or choose_threads(str(folders["text"]), batch_size=32))
    accuracy = save_vision_encoder(folders["vision"], arguments.seed)
    say(f"The image encoder names {accuracy:.1%} of new icons right.\n")
    common = ["--dataset", str(folders["data"]), "--do_predict", "--seed", str(arguments.seed)]
    common += ["--per_device_eval_batch_size", "32"]
    training = ["--text_model", str(folders["text"]), "--vision_model", str(folders["vision"]), "--do_train"]
    training += ["--freeze_vision", "--learning_rate", "1e-3", "--per_device_train_batch_size", "32"]
    training += ["--num_train_epochs", str(arguments.epochs), "--warmup_steps", "0.1"]
    run_ner([*common, *training, "--output_dir", str(folders["model"]), "--overwrite_output_dir"])
    reloaded = ["--model", str(folders["model"]), "--ignore_images", "--output_dir", str(folders["without_images"])]
    run_ner([*common, *reloaded])
    kinds = json.loads((folders["data"] / "image_kinds.json").read_text(encoding="utf-8"))
    predictions = [read_predictions(folders[name] / "predictions.jsonl") for name in ("model", "without_images")]
    results = format_results(*predictions, kinds)
    (arguments.output / "results.txt").write_text(results.lstrip("\n"), encoding="utf-8")
    say(results)


if __name__ == "__main__":
    run_main(main)
