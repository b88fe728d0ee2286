import torch
from systems import difference, logits_of, make_system, system_inputs

from smcl.baselines import SYSTEMS
from smcl.baselines.pgim import PGIMProcessor
from smcl.baselines.text_only import TextProcessor

WORDS = [["joey", "and", "niko"], ["niko", "rests"]]


def test_it_is_bert_crf_on_a_longer_input_and_has_no_parameter_more(tokenizer):
    model, base = make_system("pgim"), make_system("bert-crf")
    assert model.state_dict().keys() == base.state_dict().keys()
    base.load_state_dict(model.state_dict())
    plain = TextProcessor(tokenizer)(words=WORDS)
    empty = PGIMProcessor(tokenizer)(words=WORDS, context={"knowledge": ["", " "]})
    assert torch.equal(model(**empty).logits, base(**plain).logits)
    told = PGIMProcessor(tokenizer)(words=WORDS, context={"knowledge": ["Niko is a person.", ""]})
    words = told["word_mask"][0]
    assert difference(model(**told).logits[0, words], base(**plain).logits[0, plain["word_mask"][0]]) > 1e-3


def test_what_stands_at_the_answers_tokens_changes_neither_loss_nor_tags():
    model, inputs = make_system("pgim"), system_inputs("pgim", image_counts=(0, 0, 0), labels=True)
    logits = logits_of(model, inputs)
    changed = torch.where(inputs["context_mask"][..., None], 1e3, logits)
    assert torch.equal(model.decode(changed, inputs["word_mask"]), model.decode(logits, inputs["word_mask"]))
    assert torch.equal(model.task_loss(changed, inputs["labels"]), model.task_loss(logits, inputs["labels"]))


def test_knowledge_is_read_whole_where_the_released_answers_fit(tokenizer):
    processor = PGIMProcessor(tokenizer)
    tokenizer_limit, tokenizer.model_max_length = tokenizer.model_max_length, 512
    batch = processor(words=WORDS, context={"knowledge": ["the " * 211, ""]})
    tokenizer.model_max_length = tokenizer_limit
    assert batch["context_mask"][0].sum() == 212
    assert SYSTEMS["pgim"].processor_class is PGIMProcessor
