"""Tiny random models of the systems of Table 2, and what they read."""

import torch
from datasets import Dataset, Features
from factories import make_config, make_inputs

from smcl.baselines import SYSTEMS, processor_class
from smcl.baselines.bilstm_crf import WordLSTMConfig
from smcl.baselines.hbilstm_crf import CharacterLSTMConfig
from smcl.dataset_scripts.context import CONTEXT_FEATURES

# Systems with encoders of their own, made for the words of training posts.
FROM_POSTS = ["bilstm-crf", "hbilstm-crf"]
LSTM_SIZE = {"vocab_size": 100, "embedding_size": 12, "hidden_size": 32}
LENGTHS = (9, 6, 8)
# Inputs with a place for each token.
TOKENS = {"input_ids", "attention_mask", "token_type_ids", "word_mask", "labels", "character_ids", "context_mask"}


def make_system(name: str, seed: int = 0, **kwargs):
    """A tiny random model whose weights are large enough to matter, in evaluation mode."""
    base, config_class = make_config(), SYSTEMS[name].config_class
    settings = {key: getattr(base, key) for key in config_class.sub_configs_defaults}
    if name == "bilstm-crf":
        settings["text_config"] = WordLSTMConfig(**LSTM_SIZE)
    if name == "hbilstm-crf":
        settings["text_config"] = CharacterLSTMConfig(**LSTM_SIZE, num_characters=30, num_hidden_layers=2)
    if name == "umgf":
        settings |= {"graph_size": 32, "num_graph_layers": 2}
    torch.manual_seed(seed)
    model = SYSTEMS[name](config_class(**({"id2label": base.id2label} | settings | kwargs))).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("weight") and parameter.dim() == 2:
                parameter.mul_(8 if "vision_config" in settings else 4)
    return model


def system_inputs(name: str, seed: int = 0, image_counts=(3, 1, 0), lengths=LENGTHS, labels: bool = False) -> dict:
    """Random inputs of posts, with all that the system's processor would add."""
    inputs = make_inputs(seed, image_counts, lengths, labels)
    generator = torch.Generator().manual_seed(seed)
    batch_size, num_tokens = inputs["input_ids"].shape
    if name == "hbilstm-crf":
        shape = batch_size, num_tokens, 7
        characters = torch.randint(1, 30, shape, generator=generator)
        # As the processor has it: none for tokens that start no word.
        counts = torch.randint(1, 8, shape[:2], generator=generator) * inputs["word_mask"]
        inputs["character_ids"] = characters * (torch.arange(7) < counts[..., None])
    asked = SYSTEMS[name].base_class.context_inputs
    if "context_mask" in asked:
        # The last two tokens of the first posts do not belong to them.
        ends = torch.tensor(lengths)[:, None]
        places = torch.arange(num_tokens)
        inputs["context_mask"] = (places >= ends - 2) & (places < ends) & (torch.arange(batch_size) < 2)[:, None]
        inputs["word_mask"] = inputs["word_mask"] & ~inputs["context_mask"]
        if labels:
            inputs["labels"] = inputs["labels"].masked_fill(inputs["context_mask"], -100)
    shapes = {"ocsga": {"object": (4, 5)}, "visualpt-moe": {"object": (16,), "caption": (16,)}}.get(name, {})
    for kind, shape in shapes.items():
        inputs[f"{kind}_ids"] = torch.randint(5, 100, (batch_size, *shape), generator=generator)
        # The last post has none.
        counts = torch.tensor([shape[0] // 2, 1, 0])[:batch_size]
        inputs[f"{kind}_mask"] = torch.arange(shape[0]) < counts[:, None]
    return inputs


def one_post(inputs: dict, row: int, length: int, count: int = 0) -> dict:
    """A post of a batch by itself, without padding."""
    alone = {key: x[row : row + 1] for key, x in inputs.items()}
    of_tokens = TOKENS & alone.keys()
    alone |= {key: alone[key][:, :length] for key in of_tokens}
    return alone | {key: alone[key][:, :count] for key in ("pixel_values", "image_mask") if key in alone}


def own_processor(name: str, processor):
    """The system's own processor, with the parts of another."""
    return processor_class(SYSTEMS[name])(processor.image_processor, processor.tokenizer)


def context_of(name: str, images: list[list]) -> dict:
    """Columns of context for posts with such images, as the keyword argument of a processor, if it takes any."""
    columns = processor_class(SYSTEMS[name]).context_columns
    return {"context": make_context(columns, [len(post) for post in images])} if columns else {}


def make_context(columns, counts) -> dict[str, list]:
    """Columns of context of posts with so many images each."""
    box = [0.0, 0.25, 0.5, 1.0]
    made = {
        "objects": [{"label": "traffic light", "score": 0.75, "box": box}, {"label": "dog", "score": 0.5, "box": box}],
        "regions": [{"query": "person", "score": 0.5, "box": box}, {"query": "location", "score": 0.25, "box": box}],
        "captions": ["a dog and the light"],
        "image_text": ["stop", "here"],
    }
    context = {column: [[made[column]] * count for count in counts] for column in columns if column in made}
    if "knowledge" in columns:
        context["knowledge"] = ["Niko is a person." if count else "" for count in counts]
    return context


def add_context(posts: Dataset) -> Dataset:
    """Posts with all columns of context."""
    context = make_context(CONTEXT_FEATURES, [len(images) for images in posts["images"]])
    context["knowledge"] = ["Niko is a person." if row % 2 else "" for row in range(len(posts))]
    features = Features({**posts.features, **CONTEXT_FEATURES})
    return Dataset.from_dict(posts.with_format("arrow")[:].to_pydict() | context, features=features)


def logits_of(model, inputs: dict, **changes) -> torch.Tensor:
    return model(**(inputs | changes)).logits


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()
