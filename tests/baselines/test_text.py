import copy
import json

import pytest
import torch
from datasets import Dataset
from factories import LABELS, TEXT_SIZE
from huggingface_hub.errors import StrictDataclassError
from systems import (
    FROM_POSTS,
    LENGTHS,
    TOKENS,
    add_context,
    context_of,
    make_context,
    make_system,
    one_post,
    system_inputs,
)
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoProcessor,
    BertConfig,
    ConvBertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    MPNetConfig,
    OpenAIGPTConfig,
    T5Config,
    TrainerCallback,
    ViTConfig,
    pipeline,
)
from transformers.utils import logging

from smcl import MultiImageNERPipeline, SMCLForTokenClassification
from smcl.baselines import SYSTEMS, check_switches, context_columns, needed_encoders, reads_images, reads_pixels
from smcl.baselines.bilstm_crf import WordProcessor, run_lstm
from smcl.baselines.hbilstm_crf import CharacterLSTMConfig, CharacterProcessor
from smcl.baselines.text_only import TextProcessor
from smcl.baselines.word_vectors import read_word_vectors
from smcl.dataset_scripts.schema import FEATURES
from smcl.run_ner_multiimage import main
from smcl.train.arguments import SMCLTrainingArguments
from smcl.train.collator import SMCLDataCollator
from smcl.train.trainer import SMCLTrainer

CONTEXT = ["ocsga", "ita", "pgim"]
NAMES = ["bilstm-crf", "hbilstm-crf", "bert", "bert-crf", *CONTEXT]
POSTS = [["Joey", "and", "Niko", "rest", "in", "Verona"], ["niko", "rests"], ["and", "Joey", ",", "Joey"]]


def text_inputs(name: str, seed: int = 0, **kwargs) -> dict:
    return system_inputs(name, seed, (0, 0, 0), **kwargs)


def make_processor(name: str, tokenizer) -> TextProcessor:
    processor_class = SYSTEMS[name].processor_class
    return processor_class.from_posts(POSTS * 2) if name in FROM_POSTS else processor_class(tokenizer)


def make_fitting(name: str, tokenizer):
    """A tiny model and the processor whose vocabulary it has."""
    processor = make_processor(name, tokenizer)
    model = make_system(name)
    if name in FROM_POSTS:
        sizes = {"embedding_size": 12, "hidden_size": 32} | processor.text_sizes()
        config_class = SYSTEMS[name].config_class
        text_config = config_class.sub_configs_defaults["text_config"].config_class(**sizes)
        torch.manual_seed(0)
        model = SYSTEMS[name](config_class(text_config=text_config, id2label=dict(enumerate(LABELS)))).eval()
    return model, processor


@pytest.fixture(scope="module")
def posts() -> Dataset:
    tags = {"Joey": "B-PER", "Niko": "B-PER", "niko": "B-PER", "Verona": "B-LOC"}
    rows = [
        {"id": str(i), "tokens": words, "ner_tags": [tags.get(w, "O") for w in words], "images": [], "source": "test"}
        for i, words in enumerate(POSTS * 4)
    ]
    return add_context(Dataset.from_list([FEATURES.encode_example(row) for row in rows], features=FEATURES))


by_name = pytest.mark.parametrize("name", NAMES)


@by_name
def test_every_parameter_is_trained(name):
    model = make_system(name).train()
    loss = model(**text_inputs(name, labels=True)).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


@by_name
def test_saved_folder_loads_by_the_auto_class_bit_for_bit_and_holds_no_code(name, tmp_path):
    model, inputs = make_system(name), text_inputs(name, labels=True)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert type(loaded) is SYSTEMS[name] and type(AutoConfig.from_pretrained(tmp_path)) is SYSTEMS[name].config_class
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in model.state_dict().items())
    # Weights lie in memory as in the file, where an LSTM's sums may run in another order: a copy is aligned again.
    outputs, again = model(**inputs), copy.deepcopy(loaded)(**inputs)
    assert torch.equal(outputs.logits, again.logits) and torch.equal(outputs.loss, again.loss)
    assert torch.equal(
        model.decode(outputs.logits, inputs["word_mask"]), loaded.decode(again.logits, inputs["word_mask"])
    )
    trainable = [[n for n, p in m.named_parameters() if p.requires_grad] for m in (model, loaded)]
    assert trainable[0] == trainable[1]
    assert not list(tmp_path.glob("*.py")) and "auto_map" not in (tmp_path / "config.json").read_text()


@by_name
def test_weights_that_a_checkpoint_lacks_are_initialised(name, tmp_path):
    from safetensors.torch import save_file

    model = make_system(name)
    model.config.save_pretrained(tmp_path)
    save_file({"classifier.bias": model.classifier.bias.detach()}, tmp_path / "model.safetensors", {"format": "pt"})
    torch.manual_seed(0)
    loaded = SYSTEMS[name].from_pretrained(tmp_path)
    for parameter_name, tensor in loaded.state_dict().items():
        assert torch.isfinite(tensor).all() and tensor.abs().max() < 10, parameter_name
    assert torch.equal(loaded.crf.legal_transitions, model.crf.legal_transitions)
    assert name != "bert" or not loaded.crf.transitions.any()
    words = loaded.get_input_embeddings().weight
    assert 0.5 < words[1:].std() / loaded.config.initializer_range < 2


@by_name
def test_a_post_alone_has_the_logits_it_has_in_a_batch(name):
    model, inputs = make_system(name), text_inputs(name)
    logits = model(**inputs).logits
    for row, length in enumerate((9, 6, 8)):
        assert (model(**one_post(inputs, row, length)).logits[0] - logits[row, :length]).abs().max() < 1e-5


@by_name
def test_shuffling_a_batch_changes_no_logits(name):
    model, inputs = make_system(name), text_inputs(name)
    order = torch.tensor([2, 0, 1])
    shuffled = model(**{key: tensor[order] for key, tensor in inputs.items()}).logits
    real = inputs["attention_mask"].bool()[order]
    assert (model(**inputs).logits[order] - shuffled)[real].abs().max() < 1e-5


# BERT counts positions from the first token, padding or not.
@pytest.mark.parametrize(
    ("name", "side"), [*((name, "right") for name in NAMES), ("bilstm-crf", "left"), ("hbilstm-crf", "left")]
)
def test_padding_changes_no_logits(name, side):
    model, inputs = make_system(name), text_inputs(name)
    amount = (0, 4) if side == "right" else (4, 0)
    padded = {
        key: F.pad(tensor, amount if tensor.dim() == 2 else (0, 0, *amount), value=3 if key.endswith("_ids") else 0)
        for key, tensor in inputs.items()
        if key in TOKENS
    }
    padded = inputs | padded
    real, kept = inputs["attention_mask"].bool(), slice(4, None) if side == "left" else slice(None, -4)
    assert (model(**padded).logits[:, kept] - model(**inputs).logits)[real].abs().max() < 1e-5


@by_name
def test_images_are_ignored(name, tokenizer, photo):
    model, inputs = make_system(name), system_inputs(name, image_counts=(2, 1, 0), labels=True)
    assert {"pixel_values", "image_mask"} <= set(inputs)
    without = {key: tensor for key, tensor in inputs.items() if key not in ("pixel_values", "image_mask")}
    assert torch.equal(model(**inputs).logits, model(**without).logits)
    assert torch.equal(model(**inputs).loss, model(**without).loss)
    processor = make_processor(name, tokenizer)
    images = [[photo] * 9, [], ["no/file"]]
    context = context_of(name, images)
    batch, expected = processor(words=POSTS, images=images, **context), processor(words=POSTS, **context)
    assert batch.keys() == expected.keys() == set(processor.model_input_names)
    assert all(torch.equal(batch[key], expected[key]) for key in batch)


@by_name
def test_loss_falls_under_the_trainer(name, tokenizer, posts, tmp_path):
    model, processor = make_fitting(name, tokenizer)
    batch = SMCLDataCollator(processor)(list(posts))
    before = model(**batch).loss.item()
    settings = {"num_train_epochs": 8, "learning_rate": 2e-2, "head_learning_rate": 3e-2, "save_strategy": "no"}
    trainer = make_trainer(model, processor, posts, tmp_path, **settings)
    trainer.train()
    assert model.eval()(**batch).loss.item() < before / 2
    assert all("task_loss" in entry for entry in trainer.state.log_history if "loss" in entry)
    rates = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))


class StopAfter(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= 2


def make_trainer(model, processor, posts, folder, callbacks=None, **arguments) -> SMCLTrainer:
    defaults = {"output_dir": str(folder), "per_device_train_batch_size": 6, "num_train_epochs": 2}
    defaults |= {"learning_rate": 5e-3, "logging_steps": 1, "use_cpu": True, "disable_tqdm": True}
    defaults |= {"load_best_model_at_end": False, "eval_strategy": "no"}
    arguments = SMCLTrainingArguments(**(defaults | arguments))
    return SMCLTrainer(
        model=model,
        args=arguments,
        data_collator=SMCLDataCollator(processor),
        train_dataset=posts,
        processing_class=processor,
        callbacks=callbacks,
    )


@by_name
def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(name, tokenizer, posts, tmp_path):
    whole, processor = make_fitting(name, tokenizer)
    settings = {"save_strategy": "steps", "save_steps": 2}
    make_trainer(whole, processor, posts, tmp_path / "whole", **settings).train()
    halved, _ = make_fitting(name, tokenizer)
    make_trainer(halved, processor, posts, tmp_path / "halved", [StopAfter()], **settings).train()
    resumed, _ = make_fitting(name, tokenizer)
    with torch.no_grad():
        resumed.classifier.weight.add_(1)
    make_trainer(resumed, processor, posts, tmp_path / "halved", **settings).train(resume_from_checkpoint=True)
    state = resumed.state_dict()
    assert [key for key, tensor in whole.state_dict().items() if not torch.equal(tensor, state[key])] == []
    assert not torch.equal(halved.classifier.weight, whole.classifier.weight)


@by_name
def test_pipeline_predicts_from_a_saved_folder_whatever_the_batch(name, tokenizer, photo, tmp_path):
    model, processor = make_fitting(name, tokenizer)
    MultiImageNERPipeline(model, processor).save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is type(processor)
    tagger = pipeline("multi-image-ner", model=str(tmp_path), device="cpu")
    assert type(tagger.model) is SYSTEMS[name] and type(tagger.processor) is type(processor)
    text = "Joey's niko, in Verona!"
    asked = [{"text": text, "images": [photo] * 7}, {"text": POSTS[0] * 30}, {"text": ""}, {"text": ["", "\u200b"]}]
    columns = processor.context_columns
    for post in asked:
        post |= {key: value[0] for key, value in make_context(columns, [len(post.get("images", []))]).items()}
    alone = [tagger(post, return_tags=True) for post in asked]
    together = tagger(asked, return_tags=True, batch_size=4)
    assert [result["tags"] for result in alone] == [result["tags"] for result in together]
    assert alone[0]["words"] == ["Joey", "'", "s", "niko", ",", "in", "Verona", "!"]
    assert [len(result["tags"]) for result in alone] == [8, 180, 0, 2]
    assert all(text[e["start"] : e["end"]] == e["word"] for e in alone[0]["entities"])
    if not columns:
        with pytest.raises(ValueError, match="`explain` tells what images do, but a .* reads none"):
            tagger.explain({"text": text})


def test_bert_is_a_softmax_over_the_tags_of_each_word():
    model, inputs = make_system("bert"), text_inputs("bert", labels=True)
    outputs = model(**inputs)
    sums = F.cross_entropy(outputs.logits.transpose(1, 2), inputs["labels"], reduction="none").sum(dim=1)
    torch.testing.assert_close(outputs.loss, sums.mean())
    best = outputs.logits.argmax(dim=-1).masked_fill(~inputs["word_mask"], -100)
    assert torch.equal(model.decode(outputs.logits, inputs["word_mask"]), best)
    probabilities = outputs.logits.softmax(dim=-1) * inputs["word_mask"][..., None]
    torch.testing.assert_close(model.marginals(outputs.logits, inputs["word_mask"]), probabilities)
    assert not any(name.startswith("crf.") for name, _ in model.named_parameters())


def test_bert_crf_is_the_stock_encoder_below_a_crf():
    model, inputs = make_system("bert-crf"), text_inputs("bert-crf", labels=True)
    stock = model.smcl.text_model(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    assert torch.equal(model.classifier(stock), model(**inputs).logits)
    assert model.crf.transitions.requires_grad
    model(**inputs).loss.backward()
    assert model.crf.transitions.grad.abs().sum() > 0
    hidden = model(**inputs, output_hidden_states=True).hidden_states
    assert len(hidden) == TEXT_SIZE["num_hidden_layers"] + 1


def test_lstm_reads_both_directions_and_nothing_but_real_steps():
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(4, 3, batch_first=True, bidirectional=True)
    states = torch.randn(3, 5, 4)
    mask = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    outputs, last = run_lstm(lstm, states.masked_fill(~mask[..., None], float("nan")), mask)
    expected, (hidden, _) = lstm(states[:1, 1:4])
    torch.testing.assert_close(outputs[0, 1:4], expected[0])
    torch.testing.assert_close(last[:, 0], hidden[:, 0])
    torch.testing.assert_close(outputs[1], lstm(states[1:2])[0][0])
    assert (outputs[~mask] == 0).all()


@pytest.mark.parametrize("name", ["bilstm-crf", "hbilstm-crf"])
def test_words_on_both_sides_reach_a_words_scores(name):
    model, inputs = make_system(name), text_inputs(name)
    before = model(**inputs).logits[1, 3]
    for position in (1, 5):
        changed = dict(inputs, input_ids=inputs["input_ids"].clone())
        changed["input_ids"][1, position] = 99 - changed["input_ids"][1, position]
        assert (model(**changed).logits[1, 3] - before).abs().max() > 1e-4


def test_a_word_is_its_embedding_and_the_ends_of_both_directions_over_its_characters():
    model, inputs = make_system("hbilstm-crf"), text_inputs("hbilstm-crf")
    layers = model.smcl.text_model
    inputs["character_ids"][0, 1] = torch.tensor([5, 6, 7, 8, 0, 0, 0])
    embeds = layers.embed(inputs["input_ids"], inputs["character_ids"])
    outputs, _ = layers.character_lstm(layers.character_embeddings(torch.tensor([[5, 6, 7, 8]])))
    half = layers.character_lstm.hidden_size
    expected = layers.embeddings(inputs["input_ids"][0, 1]), outputs[0, -1, :half], outputs[0, 0, half:]
    torch.testing.assert_close(embeds[0, 1], torch.cat(expected))
    assert (embeds[0, 0, -2 * half :] == 0).all()
    before = model(**inputs).logits
    inputs["character_ids"][0, 1, :4] = inputs["character_ids"][0, 1, :4].flip(0)
    after = model(**inputs).logits
    assert (after - before)[0, 1].abs().max() > 1e-4
    assert torch.equal(after[1:], before[1:])


def test_width_of_the_characters_changes_no_logits():
    model, inputs = make_system("hbilstm-crf"), text_inputs("hbilstm-crf")
    wider = dict(inputs, character_ids=F.pad(inputs["character_ids"], (0, 9)))
    assert (model(**wider).logits - model(**inputs).logits).abs().max() < 1e-5


def test_characters_are_needed_with_words():
    model, inputs = make_system("hbilstm-crf"), text_inputs("hbilstm-crf")
    del inputs["character_ids"]
    with pytest.raises(ValueError, match="either `input_ids` and `character_ids`, or `inputs_embeds`"):
        model(**inputs)
    with pytest.raises(ValueError, match="exactly one of `input_ids` and `inputs_embeds`"):
        make_system("bilstm-crf")(attention_mask=inputs["attention_mask"])


def test_each_word_is_one_token_known_as_it_stands_or_in_lower_case():
    processor = WordProcessor.from_posts([["@Joey's", "Rest", "once"], ["@Joey's", "rest", "rest"]])
    batch = processor(words=[["@Joey's", "Rest", "REST", "once", "", "[PAD]", "two words"]])
    tokens = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert tokens == ["[CLS]", "@Joey's", "rest", "rest", *["[UNK]"] * 4, "[SEP]"]
    assert batch["word_mask"][0].tolist() == [False, *[True] * 7, False]


def test_characters_are_those_of_the_word_as_it_stands_cut_at_the_width():
    processor = CharacterProcessor.from_posts([["abcc", "aBb"], ["ab"]])
    assert processor.characters == "abc"
    short = CharacterProcessor(processor.tokenizer, processor.characters, max_characters=3)
    batch = short(words=[["cab", "Babbb", ""], ["c"]], labels=[[0, 1, 2], [3]])
    a, b, c = 2, 3, 4
    rows = [[0, 0, 0], [c, a, b], [1, a, b], [0, 0, 0], [0, 0, 0]]
    assert batch["character_ids"].tolist() == [rows, [rows[0], [c, 0, 0], *[rows[0]] * 3]]
    with pytest.raises(ValueError, match="`max_characters` must be at least 1, got 0"):
        CharacterProcessor(processor.tokenizer, "ab", max_characters=0)


def test_character_vocabulary_comes_back_from_disk(tmp_path):
    processor = CharacterProcessor.from_posts([["né😀", "né😀", "\u2028\u2028"]])
    CharacterProcessor(processor.tokenizer, processor.characters, max_characters=5).save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert (loaded.characters, loaded.max_characters) == (processor.characters, 5)
    batch = loaded(words=[["né😀?"]])
    assert batch["character_ids"][0, 1].tolist() == [*(2 + processor.characters.index(c) for c in "né😀"), 1, 0]


@pytest.fixture
def vectors(tmp_path):
    lines = ["rest 1 2 3", "verona -1 0.5 2e-1", ". . . 7 8 9", "rest 4 4 4", "Paris 5 5 5"]
    (tmp_path / "vectors.txt").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "vectors.txt")


@pytest.mark.parametrize("name", ["bilstm-crf", "hbilstm-crf"])
def test_embeddings_start_from_word_vectors_and_the_words_found_are_counted(name, vectors, caplog):
    logger = logging.get_logger("smcl.baselines.bilstm_crf")
    logger.addHandler(caplog.handler)
    model, processor = SYSTEMS[name].from_posts(POSTS * 2, vectors, id2label=dict(enumerate(LABELS)))
    logger.removeHandler(caplog.handler)
    weight, ids = model.get_input_embeddings().weight, processor.tokenizer.get_vocab()
    for word, vector in {"Verona": [-1, 0.5, 0.2], "rest": [1, 2, 3], "Paris": [5, 5, 5], ". . .": [7, 8, 9]}.items():
        assert weight[ids[word]].tolist() == pytest.approx(vector), word
    assert weight[ids["Joey"]].abs().max() < 1 and weight.requires_grad
    assert "vectors of 4 words, among them 2 of the 9 different words" in caplog.text
    assert "1 of these only in lower case. 1 lines" in caplog.text
    inputs = processor(words=POSTS, labels=[[0] * len(post) for post in POSTS])
    assert torch.isfinite(model(**inputs).loss)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "which is empty"),
        ("3 2\na 1 2\n", "line 1 of .*Remove a header line"),
        ("a 1 2\nb 1 x\n", "line 2 of .*'b 1 x"),
        ("a 1 2\nb 1\n", "line 2 of .* a word and 2"),
        ("a 1 nan\n", "line 1 of .*finite"),
    ],
)
def test_word_vectors_that_can_not_be_read_are_named(tmp_path, text, message):
    (tmp_path / "vectors.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_word_vectors(str(tmp_path / "vectors.txt"))
    with pytest.raises(ValueError, match="must be a text file in GloVe's format"):
        read_word_vectors(str(tmp_path / "nothing"))


def test_registry_tells_what_each_system_is_built_from():
    assert {name: needed_encoders(SYSTEMS[name]) for name in [*NAMES, "smcl"]} == {
        "bilstm-crf": (),
        "hbilstm-crf": (),
        "bert": ("text",),
        "bert-crf": ("text",),
        "ocsga": ("text",),
        "ita": ("text",),
        "pgim": ("text",),
        "smcl": ("text", "vision"),
    }
    assert [name for name in [*NAMES, "smcl"] if reads_images(SYSTEMS[name])] == [*CONTEXT, "smcl"]
    assert [name for name in [*NAMES, "smcl"] if reads_pixels(SYSTEMS[name])] == ["smcl"]
    check_switches(SYSTEMS["smcl"], {"use_fusion": False, "dropout": 0.2})
    with pytest.raises(ValueError, match="no `--use_fusion`, `--cmd_order`: leave that out"):
        check_switches(SYSTEMS["bert"], {"use_fusion": False, "dropout": 0.2, "cmd_order": 3})


def test_smcl_without_image_encoder_is_refused(encoder_folders):
    with pytest.raises(ValueError, match="`vision_model_name_or_path` must name the image encoder"):
        SMCLForTokenClassification.from_text_vision_pretrained(encoder_folders[0])


def test_bert_crf_takes_the_weights_of_its_encoder(encoder_folders):
    from transformers import BertModel

    model = SYSTEMS["bert-crf"].from_text_vision_pretrained(encoder_folders[0], id2label=dict(enumerate(LABELS)))
    stock = BertModel.from_pretrained(encoder_folders[0], add_pooling_layer=False).state_dict()
    state = model.smcl.text_model.state_dict()
    assert state.keys() == stock.keys() and all(torch.equal(state[key], stock[key]) for key in stock)


@pytest.mark.parametrize("sizes", [{"hidden_size": 7}, {"character_hidden_size": 0}])
def test_sizes_without_a_half_for_each_direction_are_refused(sizes):
    with pytest.raises(StrictDataclassError, match=f"`{next(iter(sizes))}` must be even"):
        CharacterLSTMConfig(**sizes)


TRAINING = ["--do_train", "--num_train_epochs", "1", "--use_cpu", "--disable_tqdm", "true", "--learning_rate", "1e-3"]


def encoder_arguments(name, encoder_folders):
    return [] if name in FROM_POSTS else ["--text_model", encoder_folders[0]]


@by_name
def test_run_trains_reloads_and_tags_a_file(name, data, context_data, encoder_folders, tmp_path, monkeypatch):
    def refuse(*args):
        raise AssertionError("an image was encoded")

    monkeypatch.setattr("smcl.train.build.ImageFeatures", refuse)
    model, again = tmp_path / "model", tmp_path / "again"
    common = ["--dataset", context_data if name in CONTEXT else data, "--do_predict", "--use_cpu"]
    new = ["--system", name, *encoder_arguments(name, encoder_folders), "--freeze_vision", "--output_dir", str(model)]
    new += ["--vision_model", "left/unread"]
    main([*common, *new, *TRAINING, "--head_learning_rate", "1e-2", "--dropout", "0.3"])
    assert json.loads((model / "config.json").read_text())["dropout"] == 0.3
    assert not list(model.glob("*.py"))
    main([*common, "--model", str(model), "--system", name, "--output_dir", str(again)])
    assert (again / "predictions.jsonl").read_bytes() == (model / "predictions.jsonl").read_bytes()
    tagged = tmp_path / "tagged.jsonl"
    lines = [{"tokens": POSTS[0], "images": ["a.png"] * 6}, {"text": "Joey rests, so far."}]
    context = make_context(context_columns(SYSTEMS[name]), [6, 0])
    lines = [line | {column: context[column][row] for column in context} for row, line in enumerate(lines)]
    (tmp_path / "posts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    files = ["--input", str(tmp_path / "posts.jsonl"), "--output", str(tagged)]
    counts = main(["--model", str(model), "--do_predict", "--use_cpu", *files])
    assert counts == {"posts": 2, "errors": 0, "skipped_images": 0}
    assert [len(json.loads(line)["tags"]) for line in tagged.read_text().splitlines()] == [6, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--system", "bart"], "`--system` must be one of bilstm-crf, .*, got 'bart'"),
        (["--system", "bert-crf"], r"Expected `--model` \(a saved model\), or `--text_model` of a new bert-crf"),
        (["--system", "bert", "--use_fusion", "false"], "The system 'bert' has no `--use_fusion`"),
        (["--system", "bert", "--text_model", "TEXT", "--word_vectors", "x"], "'bert' has no `--word_vectors`"),
        (["--model", "x", "--word_vectors", "x"], "`--model` brings its own encoders: .* `--word_vectors`"),
        (["--model", "TEXT"], "Expected the model .* to be saved by one of the systems .* type 'bert'"),
        (["--model", "SAVED", "--system", "bert"], "systems .*, and by bert, got a model of type 'smcl-bert-crf'"),
        (["--model", "SAVED", "--max_images", "2"], "The system 'bert-crf' has no `--max_images`"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message, data, encoder_folders, tmp_path):
    if "SAVED" in arguments:
        make_system("bert-crf").save_pretrained(tmp_path / "saved")
    places = {"TEXT": encoder_folders[0], "SAVED": str(tmp_path / "saved")}
    arguments = [places.get(argument, argument) for argument in arguments]
    with pytest.raises(ValueError, match=message):
        main(["--dataset", data, "--do_train", "--use_cpu", "--output_dir", str(tmp_path / "out"), *arguments])


def test_a_new_system_without_pretrained_parts_asks_for_training_posts(data, tmp_path):
    arguments = ["--system", "bilstm-crf", "--do_predict", "--dry_run", "--use_cpu", "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="takes its words from the training split: expected `--do_train`"):
        main(["--dataset", data, *arguments])


def test_word_vectors_of_fasttext_are_read_and_infinite_ones_refused(tmp_path):
    path = tmp_path / "vectors.vec"
    path.write_text("joey 0.1 0.2 0.3 \nniko 0.3 0.4 0.5 \n")
    assert read_word_vectors(str(path)).vectors.shape == (2, 3)
    path.write_text("joey 0.1 1e39 0.3\n")
    with pytest.raises(ValueError, match="line 1 of .*finite"):
        read_word_vectors(str(path))


def test_posts_longer_than_the_text_encoder_are_said_or_cut_in_windows(tokenizer):
    model = make_system("bert-crf")
    limit = model.max_tokens
    with pytest.raises(ValueError, match=f"Posts have {limit + 1} tokens, .* has positions for {limit}"):
        model(input_ids=torch.ones(1, limit + 1, dtype=torch.long))
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = int(1e30)
    found = MultiImageNERPipeline(model, TextProcessor(tokenizer))("joey " * 100, return_tags=True)
    assert len(found["tags"]) == 100


@pytest.mark.parametrize("name", ["bilstm-crf", "bert-crf"])
def test_masks_and_labels_that_do_not_fit_are_named(name):
    model, inputs = make_system(name), system_inputs(name, labels=True)
    with pytest.raises(ValueError, match="`attention_mask` must have the shape"):
        model(**inputs | {"attention_mask": inputs["attention_mask"][:1]})
    with pytest.raises(ValueError, match="`labels` must be a tensor of the shape"):
        model(**inputs | {"labels": inputs["labels"][:1]})


TEXT = {"vocab_size": 100, "max_position_embeddings": 64, **TEXT_SIZE}


@pytest.mark.parametrize("name", ["bert-crf", "umt", "smcl"])
@pytest.mark.parametrize(
    ("text_config", "message"),
    [
        (BertConfig(is_decoder=True, **TEXT), "is_decoder=True"),
        (GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100, n_positions=64), "'gpt2' is or has a decoder"),
        (LlamaConfig(**TEXT), "'llama' is or has a decoder"),
        (T5Config(d_model=32, d_kv=8, num_layers=2, num_heads=4, vocab_size=100, d_ff=64), "'t5' is or has a decoder"),
        (OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=4, vocab_size=100, n_positions=64), "hides from each word"),
        (ConvBertConfig(embedding_size=32, **TEXT), "'convbert' reads padding"),
        (ViTConfig(image_size=16, patch_size=8, **TEXT_SIZE), "'vit' reads no text"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_text_encoders_that_hide_words_or_read_padding_are_refused_by_name(name, text_config, message):
    with pytest.raises(ValueError, match=f"{message}|can't be guided" if name == "smcl" else message):
        make_system(name, text_config=text_config)


@pytest.mark.parametrize("name", ["bert-crf", "umt", "umgf"])
@pytest.mark.parametrize(
    "text_config",
    [MPNetConfig(**TEXT), DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=100)],
    ids=lambda config: config.model_type,
)
def test_a_post_alone_has_the_logits_it_has_in_a_batch_by_other_text_encoders(name, text_config):
    model, inputs = make_system(name, text_config=text_config), system_inputs(name)
    in_batch = model(**inputs).logits[1, : LENGTHS[1]]
    torch.testing.assert_close(model(**one_post(inputs, 1, LENGTHS[1], 1)).logits[0], in_batch, atol=1e-4, rtol=1e-4)
