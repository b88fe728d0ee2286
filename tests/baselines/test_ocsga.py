import torch
from systems import difference, logits_of, make_system, system_inputs
from torch.nn import functional as F

from smcl.baselines.ocsga import OCSGAProcessor


def make_inputs(**kwargs) -> dict:
    return system_inputs("ocsga", image_counts=(0, 0, 0), **kwargs)


def attend(attention, queries, states):
    """Attention of one post's `(length, size)` states, head by head."""
    parts = []
    for head in range(attention.num_heads):
        size = queries.shape[1] // attention.num_heads
        rows = slice(head * size, (head + 1) * size)
        query, key, value = (
            F.linear(x, layer.weight[rows], layer.bias[rows])
            for layer, x in ((attention.query, queries), (attention.key, states), (attention.value, states))
        )
        parts.append((query @ key.T * size**-0.5).softmax(dim=-1) @ value)
    return torch.cat(parts, dim=-1)


def test_logits_are_those_of_the_equations():
    model, inputs = make_system("ocsga"), make_inputs()
    logits, smcl = logits_of(model, inputs), model.smcl
    for row in range(3):
        length = inputs["attention_mask"][row].sum()
        words = smcl.text_model(inputs["input_ids"][row : row + 1, :length]).last_hidden_state[0]
        names = inputs["object_ids"][row][inputs["object_mask"][row]]
        answers = torch.zeros_like(words)
        if len(names):
            objects = smcl.object_projection(smcl.get_input_embeddings()(names).mean(dim=1))
            objects = smcl.object_norm(objects + smcl.object_output(attend(smcl.object_attention, objects, objects)))
            asking = smcl.word_layer(words[None], torch.ones(1, length, dtype=torch.bool))[0]
            answers = smcl.attention_norm(smcl.word_output(attend(smcl.word_attention, asking, objects)))
            answers = smcl.feed_forward_norm(smcl.feed_forward(answers))
        expected = model.classifier(smcl.output_norm(words + answers))
        torch.testing.assert_close(logits[row, :length], expected, atol=1e-3, rtol=1e-4)


def test_the_order_of_objects_changes_nothing():
    model, inputs = make_system("ocsga"), make_inputs()
    order = [2, 0, 3, 1]
    shuffled = {name: inputs[name][:, order] for name in ("object_ids", "object_mask")}
    assert difference(logits_of(model, inputs, **shuffled), logits_of(model, inputs)) < 1e-4


def test_objects_matter_and_slots_without_one_may_hold_anything():
    model, inputs = make_system("ocsga"), make_inputs()
    names = inputs["object_ids"]
    changed = torch.where(inputs["object_mask"][..., None], names, 7)
    assert torch.equal(logits_of(model, inputs, object_ids=changed), logits_of(model, inputs))
    other = logits_of(model, inputs, object_ids=names.flip(0))
    assert difference(other[0], logits_of(model, inputs)[0]) > 1e-3


def test_a_post_without_objects_is_its_normalised_text():
    model, inputs = make_system("ocsga"), make_inputs()
    text = model.smcl.text_model(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    expected = model.classifier(model.smcl.output_norm(text))
    torch.testing.assert_close(logits_of(model, inputs)[2], expected[2])
    bare = {key: x for key, x in inputs.items() if not key.startswith("object")}
    torch.testing.assert_close(logits_of(model, bare), expected)


def test_no_gradient_reaches_the_word_embeddings_through_names():
    model, inputs = make_system("ocsga"), make_inputs(labels=True)
    used = set(inputs["input_ids"].flatten().tolist())
    inputs["object_ids"] = torch.full_like(inputs["object_ids"], next(i for i in range(5, 100) if i not in used))
    model(**inputs).loss.backward()
    gradient = model.get_input_embeddings().weight.grad
    assert gradient[inputs["object_ids"][0, 0, 0]].abs().max() == 0 < gradient.abs().max()


def test_the_first_four_objects_are_read_with_repeats_and_names_stay_whole(tokenizer):
    processor = OCSGAProcessor(tokenizer)
    names = ["dog", "dog", "traffic light", "x" * 30, "cat", "bus"]
    found = [{"label": name, "score": 0.5, "box": [0.0, 0.0, 1.0, 1.0]} for name in names]
    context = {"objects": [[found], [[]], [found[:1]], []]}
    batch = processor(words=[["joey"]] * 4, context=context)
    assert batch["object_mask"].sum(dim=1).tolist() == [4, 0, 1, 0]
    names = [tokenizer.convert_ids_to_tokens(ids[ids >= 0]) for ids in batch["object_ids"][0]]
    assert ["".join(name).replace("##", "") for name in names] == ["dog", "dog", "trafficlight", "x" * 16]
    fifth = [*found[:4], {**found[4], "label": "elephant"}, *found[5:]]
    again = processor(words=[["joey"]] * 4, context={"objects": [[fifth], *context["objects"][1:]]})
    assert torch.equal(again["object_ids"], batch["object_ids"])
