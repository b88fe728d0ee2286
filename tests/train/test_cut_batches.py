"""Batches that something else dispatches, cuts or joins along their first dimension."""

import pytest
import torch
from accelerate.data_loader import DataLoaderDispatcher
from datasets import Dataset, Image, List, load_dataset
from factories import LABELS, make_config, make_inputs, make_model
from transformers import TrainerCallback

from smcl.baselines.tpm_mi import TPMMIConfig, TPMMIForTokenClassification
from smcl.baselines.umt_mi import UMTMIConfig, UMTMIForTokenClassification
from smcl.losses_smcl import real_image_indices
from smcl.train.arguments import SMCLTrainingArguments
from smcl.train.collator import SMCLDataCollator
from smcl.train.trainer import SMCLTrainer, build_compute_metrics

SYSTEMS = ["smcl", "umt-mi", "tpm-mi"]


@pytest.fixture(scope="module")
def posts(data) -> Dataset:
    """Icon posts with 0 to 4 images each, in no order of their number, and tags that the model has."""
    posts = load_dataset(data, split="train").select(range(10))
    return posts.map(lambda post, row: {"images": (post["images"] * 4)[: row % 5]}, with_indices=True)


def make_system(name: str):
    if name == "smcl":
        return make_model()
    config_class, system = {
        "umt-mi": (UMTMIConfig, UMTMIForTokenClassification),
        "tpm-mi": (TPMMIConfig, TPMMIForTokenClassification),
    }[name]
    config = make_config()
    torch.manual_seed(0)
    fields = {"text_config": config.text_config, "vision_config": config.vision_config, "id2label": config.id2label}
    return system(config_class(**fields)).eval()


class Gradients(TrainerCallback):
    """Notes the gradients of each step, before they are used."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None})


def make_trainer(model, posts, processor, folder, **arguments) -> SMCLTrainer:
    defaults = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "logging_steps": 1, "max_steps": 3}
    defaults |= {"use_cpu": True, "disable_tqdm": True, "eval_strategy": "no", "load_best_model_at_end": False}
    defaults |= {"save_strategy": "no", "train_sampling_strategy": "sequential"}
    return SMCLTrainer(
        model=model,
        args=SMCLTrainingArguments(output_dir=str(folder), **(defaults | arguments)),
        data_collator=SMCLDataCollator(processor),
        train_dataset=posts,
        eval_dataset=posts,
        compute_metrics=build_compute_metrics(LABELS),
    )


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_stream_of_posts_trains_and_scores_as_the_posts_themselves(posts, processor, tmp_path, name):
    results = []
    for kind in (posts, posts.to_iterable_dataset()):
        model, gradients = make_system(name), Gradients()
        trainer = make_trainer(model, kind, processor, tmp_path)
        trainer.add_callback(gradients)
        before = trainer.evaluate()
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        results.append((before, losses, gradients.steps, trainer.evaluate(), trainer.predict(kind).predictions))
        is_stream = kind is not posts
        assert isinstance(trainer.get_eval_dataloader(), DataLoaderDispatcher) == is_stream
    (before, losses, steps, after, tags), streamed = results
    assert len(steps) == len(losses) == 3
    assert streamed[1] == losses
    for step, other in zip(steps, streamed[2], strict=True):
        assert step.keys() == other.keys()
        assert all(torch.equal(step[key], other[key]) for key in step)
    assert (streamed[4] == tags).all()
    for mine, theirs in ((before, streamed[0]), (after, streamed[3])):
        scores = [key for key in mine if "time" not in key and "per_second" not in key]
        assert {key: mine[key] for key in scores} == {key: theirs[key] for key in scores}
    assert any("vision_model" in key and step[key].any() for step in steps for key in step)


def test_a_stream_without_an_end_trains_for_so_many_steps(posts, processor, tmp_path):
    trainer = make_trainer(make_model(), posts.to_iterable_dataset().repeat(None), processor, tmp_path, max_steps=7)
    trainer.train()
    assert trainer.state.global_step == 7
    with pytest.raises(ValueError, match="max_steps"):
        make_trainer(make_model(), posts.to_iterable_dataset(), processor, tmp_path, max_steps=-1)


def test_a_bad_image_of_a_stream_is_named_by_its_post(posts, processor, tmp_path):
    posts = posts.cast_column("images", List(Image(decode=False)))
    odd = posts.map(lambda post: {"images": [{"bytes": b"GIF89a", "path": None}]}).cast(posts.features)
    stream = odd.cast_column("images", List(Image())).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"Post 0 of the batch, image 0: .* is no image.* ids \["):
        make_trainer(make_model(), stream, processor, tmp_path).train()


def test_a_stream_is_not_scored_in_several_processes(posts, processor, tmp_path, monkeypatch):
    trainer = make_trainer(make_model(), posts.to_iterable_dataset(), processor, tmp_path)
    monkeypatch.setattr(SMCLTrainingArguments, "world_size", 2)
    with pytest.raises(ValueError, match="got a stream and 2 processes"):
        trainer.evaluate()


def test_no_tensor_of_a_batch_has_another_first_dimension(posts, processor):
    for rows in (posts, posts.select([0]), posts.select([0, 5]), posts.select([4])):
        batch = SMCLDataCollator(processor)(list(rows))
        assert {name: len(tensor) for name, tensor in batch.items()} == dict.fromkeys(batch, len(rows))


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("rows", [slice(0, 5), slice(5, 10), slice(3, 4), slice(0, None, 3)])
def test_rows_cut_from_a_batch_get_their_own_logits(posts, processor, name, rows):
    model, batch = make_system(name), SMCLDataCollator(processor)(list(posts))
    with torch.no_grad():
        whole, part = model(**batch).logits, model(**{key: tensor[rows] for key, tensor in batch.items()}).logits
    torch.testing.assert_close(part, whole[rows], atol=1e-5, rtol=1e-5)


def test_joined_batches_give_the_logits_of_both(posts, processor):
    batch = SMCLDataCollator(processor)(list(posts))
    parts = [{key: tensor[rows] for key, tensor in batch.items()} for rows in (slice(7, 10), slice(0, 7))]
    model, joined = make_model(), {key: torch.cat([part[key] for part in parts]) for key in batch}
    with torch.no_grad():
        expected = torch.cat([model(**part).logits for part in parts])
        torch.testing.assert_close(model(**joined).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda indices: indices[:3],
        lambda indices: torch.cat([indices, indices[-1:]]),
        lambda indices: indices + 1,
        lambda indices: indices.flip(0),
        lambda indices: indices + 100,
        lambda indices: indices[None],
        lambda indices: indices[:0],
    ],
)
def test_indices_that_do_not_fit_the_mask_are_refused(change):
    inputs = make_inputs()
    inputs["image_indices"] = change(real_image_indices(inputs["image_mask"]))
    with pytest.raises(ValueError, match=r"`image_indices` must be the places of the 4 real images .*\[0, 1, 2, 3\]"):
        make_model()(**inputs)


def test_indices_that_fit_change_no_logit():
    model, inputs = make_model(), make_inputs()
    expected = model(**inputs).logits
    inputs["image_indices"] = real_image_indices(inputs["image_mask"])
    assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize("kept", [[0, 1], [0, 1, 2], []])
def test_where_indices_can_not_be_compared_a_missing_image_gives_no_number(kept, monkeypatch):
    """As on an accelerator, whose host would have to wait for the comparison."""
    monkeypatch.setattr("smcl.modeling_smcl._check_image_indices", lambda *args: None)
    model, inputs = make_model(), make_inputs()
    logits = model(**inputs, image_indices=torch.tensor(kept, dtype=torch.long)).logits
    assert logits[1].isnan().any()
    with pytest.raises(ValueError, match="not finite"):
        model.decode(logits, inputs["word_mask"])
    # One too many, of a slot of padding, does nothing.
    more = model(**inputs, image_indices=torch.tensor([0, 1, 2, 3, 8])).logits
    torch.testing.assert_close(more, model(**inputs).logits, atol=1e-5, rtol=1e-5)
