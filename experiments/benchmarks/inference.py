"""Compare inference at base size with its floor, the two bare encoders, and with encoding of all image slots.

    python -m smcl.experiments.benchmarks.inference --text_model TEXT [--posts 16] [--threads 1] [--output FOLDER]

Weights are random, of BERT-base's and ViT-base's size; TEXT gives the tokenizer. Posts have 12 to 36 words and
photographs of noise, about as many as in MNER-MI and MNER-MI-Plus. *Floor*: one forward pass of the stock text encoder
and one of the stock ViT over the real images. *SMCL*: inputs to tags. *All slots*: what systems do that encode four
image slots for each post and pad text to 64 tokens: the two stock encoders so, a linear layer, and pytorch-crf's
decoding.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F
from torchcrf import CRF

from smcl.configuration_smcl import SMCLConfig
from smcl.dataset_scripts.command_line import run_main
from smcl.experiments.runs import circumstances
from smcl.experiments.tables import markdown, written
from smcl.modeling_smcl import SMCLForTokenClassification

from .measure import (
    DTYPES,
    IMAGE_COUNTS,
    BareEncoders,
    Memory,
    Posts,
    add_posts_arguments,
    base_config,
    base_processor,
    circumstances_line,
    floor_inputs,
    image_counts,
    make_posts,
    memory_of,
    save,
    summarise,
    take_turns,
    timing_parser,
    to_inputs,
)

FLOOR, SMCL, PROCESSOR, SLOTS = "floor", "SMCL", "SMCL with processor", "all slots"
TOKENS = 64


def pad_slots(inputs: dict, max_images: int) -> dict:
    """Pad text to 64 tokens and images to all slots; as many slots then count as real images."""
    padded = {
        name: F.pad(inputs[name], (0, TOKENS - inputs[name].shape[1])) for name in ("input_ids", "attention_mask")
    }
    slots = F.pad(inputs["pixel_values"], (0,) * 7 + (max_images - inputs["pixel_values"].shape[1],))
    return padded | {"images": slots.flatten(0, 1)}


def make_systems(
    config: SMCLConfig, processor, posts: Posts, dtype: torch.dtype, names: Sequence[str]
) -> dict[str, Callable[[], object]]:
    """Return the systems as functions without arguments, on the same posts."""
    inputs = to_inputs(processor, posts, dtype)
    systems: dict[str, Callable[[], object]] = {}
    if {FLOOR, SLOTS} & set(names):
        bare = BareEncoders(config, dtype).eval()
        real = floor_inputs(inputs)
        systems[FLOOR] = lambda: bare(**real)
    if SLOTS in names:
        slots, crf = pad_slots(inputs, config.max_images), CRF(config.num_labels, batch_first=True)
        head = torch.nn.Linear(config.text_config.hidden_size, config.num_labels, dtype=dtype)
        systems[SLOTS] = lambda: crf.decode(head(bare(**slots)[0]).float(), slots["attention_mask"].bool())
    if {SMCL, PROCESSOR} & set(names):
        model = SMCLForTokenClassification._from_config(config, dtype=dtype).eval()
        unlabelled = {name: posts[name] for name in ("words", "images")}
        inputs.pop("labels")

        def run(inputs: dict) -> torch.Tensor:
            return model.decode(model(**inputs).logits, inputs["word_mask"])

        systems[SMCL] = lambda: run(inputs)
        systems[PROCESSOR] = lambda: run(to_inputs(processor, unlabelled, dtype))
    return {name: torch.no_grad()(systems[name]) for name in names}


def make_system(text_model: str, counts: Sequence[int], dtype: str, name: str) -> Callable[[], object]:
    """Return one system, in a process of its own whose memory is measured."""
    processor = base_processor(text_model)
    return make_systems(base_config(), processor, make_posts(processor, counts), DTYPES[dtype], [name])[name]


def compare(text_model: str, num_posts: int, threads: int, repeats: int) -> dict:
    """Time all systems on posts of both kinds in both types of numbers, then measure their memory."""
    results = circumstances(threads) | {"posts": num_posts, "repeats": repeats, "runs": []}
    torch.set_num_threads(threads)
    processor, config = base_processor(text_model), base_config()
    for dtype, torch_dtype in DTYPES.items():
        for data in IMAGE_COUNTS:
            counts = image_counts(data, num_posts)
            posts = make_posts(processor, counts)
            systems = make_systems(config, processor, posts, torch_dtype, (FLOOR, SMCL, PROCESSOR, SLOTS))
            row = {"data": data, "dtype": dtype, "images": sum(counts)}
            row["systems"] = summarise(take_turns(systems, repeats), FLOOR)
            del systems
            row["memory"] = {name: memory_of(make_system, text_model, counts, dtype, name) for name in (FLOOR, SMCL)}
            results["runs"].append(row)
    return results


def table(results: dict) -> str:
    """Return the results as a Markdown table."""
    heads = ["posts like", "numbers", "images", "floor, posts/s", "SMCL / floor", "in processor time"]
    heads += ["with processor / floor", "all slots / SMCL", "peak memory, MB: floor", "SMCL", "ratio"]
    heads += ["of these for the run: floor", "SMCL"]
    rows = []
    for row in results["runs"]:
        systems = row["systems"]
        floor, smcl = (Memory(*row["memory"][name]) for name in (FLOOR, SMCL))
        slots = systems[SLOTS]["ratio"]["median"] / systems[SMCL]["ratio"]["median"]
        cells = [row["data"], row["dtype"], f"{row['images']} of {4 * results['posts']}"]
        cells += [f"{results['posts'] / systems[FLOOR]['seconds']['median']:.2f}"]
        cells += [written(systems[SMCL][ratio], 3) for ratio in ("ratio", "processor_ratio")]
        cells += [written(systems[PROCESSOR]["ratio"]), f"{slots:.2f}"]
        cells += [f"{floor.peak:.0f}", f"{smcl.peak:.0f}", f"{smcl.peak / floor.peak:.2f}"]
        cells += [f"{floor.of_run:.0f}", f"{smcl.of_run:.0f}"]
        rows.append(cells)
    remark = f"\n{results['posts']} posts. Peak memory is that of a whole process, weights included, from its start. "
    return markdown(heads, rows) + remark + circumstances_line(results)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `inference.json` and print a table.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = timing_parser(__doc__)
    add_posts_arguments(parser, num_posts=16)
    arguments = parser.parse_args(argv)
    results = compare(arguments.text_model, arguments.posts, arguments.threads, arguments.repeats)
    save(results, arguments.output, "inference", table)


if __name__ == "__main__":
    run_main(main)
