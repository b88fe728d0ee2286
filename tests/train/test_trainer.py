from contextlib import nullcontext

import pytest
import torch
from datasets import concatenate_datasets
from factories import LABELS, make_model
from transformers import TrainerCallback, TrainingArguments

from smcl import SMCLForTokenClassification
from smcl.train.arguments import SMCLTrainingArguments
from smcl.train.collator import SMCLDataCollator
from smcl.train.image_cache import ImageFeatures, ImagePixels
from smcl.train.metrics import entity_metrics
from smcl.train.samplers import token_counts
from smcl.train.trainer import SMCLTrainer, build_compute_metrics, word_tags


@pytest.fixture
def trainer_for(posts, processor, tmp_path):
    def build(model, folder="run", features=None, dataset=None, callbacks=None, **arguments) -> SMCLTrainer:
        defaults = {
            "output_dir": str(tmp_path / folder),
            "per_device_train_batch_size": 4,
            "num_train_epochs": 2,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        dataset = dataset or posts
        optimizer = {name: arguments.pop(name) for name in list(arguments) if name.startswith("optimizer")}
        return SMCLTrainer(
            model=model,
            args=SMCLTrainingArguments(**(defaults | arguments)),
            data_collator=SMCLDataCollator(processor, features),
            train_dataset=dataset,
            eval_dataset=dataset,
            processing_class=processor,
            compute_metrics=build_compute_metrics(LABELS),
            callbacks=callbacks,
            **optimizer,
        )

    return build


def assert_same_weights(model, expected):
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(state[name], expected[name])] == []


class StopAfter(TrainerCallback):
    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.steps


@pytest.mark.parametrize(("order", "steps"), [("random", 3), ("group_by_length", 3), ("group_by_length", 4)])
def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(trainer_for, order, steps):
    settings = {"load_best_model_at_end": False, "train_sampling_strategy": order}
    settings |= {"eval_strategy": "no", "save_strategy": "steps", "save_steps": steps}
    whole = make_model()
    trainer_for(whole, "whole", **settings).train()
    trainer_for(make_model(), "halved", callbacks=[StopAfter(steps)], **settings).train()
    resumed = make_model(seed=1)
    trainer_for(resumed, "halved", **settings).train(resume_from_checkpoint=True)
    assert_same_weights(resumed, whole.state_dict())


def test_batches_grouped_by_length_hold_each_post_once_in_an_order_that_changes(trainer_for, posts):
    many = concatenate_datasets([posts] * 12)
    trainer = trainer_for(make_model(), dataset=many, train_sampling_strategy="group_by_length")
    sampler, lengths = trainer._get_train_sampler(), token_counts(many, trainer.data_collator.processor)
    first, again = list(sampler), list(trainer._get_train_sampler())
    sampler.set_epoch(1)
    assert first == again != list(sampler)
    assert sorted(first) == list(range(len(many)))
    inputs = [batch["input_ids"] for batch in trainer.get_train_dataloader()]
    grouped = sum(ids.numel() for ids in inputs)
    in_order = sum(max(lengths[i : i + 4]) * 4 for i in range(0, len(many), 4))
    assert sum(lengths) <= grouped < sum(lengths) + 0.5 * (in_order - sum(lengths))
    evaluated = [row for batch in trainer.get_eval_dataloader() for row in batch["input_ids"]]
    assert [int((row != 0).sum()) for row in evaluated] == lengths


@pytest.mark.parametrize("kept", [False, True])
def test_worker_processes_give_the_same_weights(trainer_for, posts, processor, tmp_path, kept):
    weights = []
    for workers in (0, 2):
        features = ImagePixels(processor, tmp_path / "kept") if kept else None
        dataset = features.replace_images(posts) if kept else posts
        model = make_model()
        trainer_for(model, f"run-{workers}", features, dataset, dataloader_num_workers=workers).train()
        weights.append(model.state_dict())
    assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []


def test_best_checkpoint_is_restored_with_every_tensor(trainer_for):
    class Record(TrainerCallback):
        def __init__(self):
            self.states = []

        def on_evaluate(self, args, state, control, model=None, **kwargs):
            self.states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

    record, model = Record(), make_model()
    # The first epoch is the best one when a higher loss counts as better and training lowers it.
    settings = {"metric_for_best_model": "eval_loss", "greater_is_better": True, "num_train_epochs": 3}
    trainer = trainer_for(model, callbacks=[record], **settings)
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best.endswith("checkpoint-3"), trainer.state.log_history
    assert_same_weights(model, record.states[0])
    vision = [n for n in record.states[0] if "vision_model" in n]
    assert any(not torch.equal(record.states[0][name], record.states[-1][name]) for name in vision)


def test_checkpoint_that_lacks_weights_is_refused(trainer_for, tmp_path):
    trainer = trainer_for(make_model())
    make_model(use_fusion=False).save_pretrained(tmp_path / "other")
    make_model().config.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="lacks the weights.*smcl.fusion"):
        trainer._restore(str(tmp_path / "other"))


def test_log_holds_each_part_of_the_loss(trainer_for):
    trainer = trainer_for(make_model())
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 6
    for entry in logs:
        expected = entry["task_loss"] + 0.3 * entry["similarity_loss"] + 0.2 * entry["difference_loss"]
        assert entry["loss"] == pytest.approx(expected, rel=1e-3)


def test_gradient_accumulation_divides_the_loss(trainer_for):
    norms = []
    for batch_size, steps in ((12, 1), (3, 4)):
        model = make_model(dropout=0.0, similarity_weight=0, difference_weight=0)
        settings = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": steps, "max_steps": 1}
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer = trainer_for(
            model,
            f"accumulated-{steps}",
            **settings,
            max_grad_norm=1e9,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
        )
        trainer.train()
        norms.append(next(entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry))
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


@pytest.mark.parametrize("vision", [None, 1e-5])
@pytest.mark.parametrize("head", [None, 1e-2])
def test_encoders_and_new_layers_have_their_own_learning_rates(trainer_for, head, vision):
    model = make_model()
    trainer = trainer_for(model, learning_rate=1e-4, head_learning_rate=head, vision_learning_rate=vision)
    rates = {}
    for group in trainer.create_optimizer().param_groups:
        rates.update({id(parameter): group["lr"] for parameter in group["params"]})
    expected = {"smcl.text_model.": 1e-4, "smcl.vision_model.": vision or 1e-4, "": head or 1e-4}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == next(rate for part, rate in expected.items() if name.startswith(part)), name


def test_what_has_no_rate_of_its_own_keeps_that_of_the_optimizer(trainer_for):
    model, kind = make_model(), (torch.optim.SGD, {"lr": 0.5})
    trainer = trainer_for(model, learning_rate=1e-4, optimizer_cls_and_kwargs=kind)
    assert {group["lr"] for group in trainer.create_optimizer().param_groups} == {0.5}
    trainer = trainer_for(model, learning_rate=1e-4, vision_learning_rate=1e-5, optimizer_cls_and_kwargs=kind)
    encoder = {id(parameter) for parameter in model.smcl.vision_model.parameters()}
    for group in trainer.create_optimizer().param_groups:
        assert {id(p) in encoder for p in group["params"]} == {group["lr"] == 1e-5}, group["lr"]
    own = torch.optim.SGD(model.parameters(), lr=0.5)
    for name in ("head_learning_rate", "vision_learning_rate"):
        with pytest.raises(ValueError, match=f"`optimizers` brings .* so `{name}` can't be honoured"):
            trainer_for(model, optimizers=(own, None), **{name: 1e-5})
    assert trainer_for(model, optimizers=(own, None)).create_optimizer() is own


def test_a_rate_for_a_frozen_image_encoder_is_refused(trainer_for):
    model = make_model()
    model.smcl.vision_model.requires_grad_(False)
    with pytest.raises(ValueError, match="`--vision_learning_rate` is .* this one is frozen"):
        trainer_for(model, vision_learning_rate=1e-5).create_optimizer()


def test_evaluation_keeps_decoded_tags_only(trainer_for, posts):
    trainer = trainer_for(make_model(), per_device_eval_batch_size=5)
    output = trainer.predict(posts)
    assert output.predictions.shape == output.label_ids.shape
    assert ((output.predictions == -100) == (output.label_ids == -100)).all()
    assert output.predictions.max() < len(LABELS)
    assert {"test_f1", "test_PER_f1", "test_MISC_support"} <= set(output.metrics)


def test_predictions_do_not_depend_on_the_evaluation_batch(trainer_for, posts):
    predictions = []
    for batch_size in (1, 5, 12):
        output = trainer_for(make_model(), per_device_eval_batch_size=batch_size).predict(posts)
        predictions.append([row[row != -100].tolist() for row in output.predictions])
    assert predictions[0] == predictions[1] == predictions[2]


@pytest.mark.parametrize("cached", [False, True])
def test_training_step_and_decoding_never_wait_for_an_accelerator(
    posts, processor, trainer_for, tmp_path, monkeypatch, cached
):
    """On the device "meta", which has no numbers, whatever needs one on the host raises an error."""
    # It has no autocast, which only tells kernels apart.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    features = ImageFeatures(make_model(), processor, tmp_path) if cached else None
    posts = features.replace_images(posts) if cached else posts
    trainer = trainer_for(make_model(), features=features, dataset=posts)
    batch = trainer._prepare_inputs(trainer.data_collator(list(posts.select(range(4)))))
    model, batch = make_model().train().to("meta"), {name: tensor.to("meta") for name, tensor in batch.items()}
    loss, outputs = trainer.compute_loss(model, batch, return_outputs=True)
    loss.backward()
    tags = model.decode(outputs["logits"], batch["word_mask"])
    assert tags.shape == batch["word_mask"].shape
    assert all(x.grad is not None for x in model.smcl.encoders.parameters())


def test_frozen_image_encoder_trains_on_cached_features_and_stays_as_it_is(posts, processor, trainer_for):
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.smcl.vision_model.state_dict().items()}
    model.smcl.vision_model.requires_grad_(False)
    features = ImageFeatures(model, processor)
    trainer_for(model, features=features, dataset=features.replace_images(posts)).train()
    assert_same_weights(model.smcl.vision_model, before)


def test_saved_training_output_is_a_whole_model(trainer_for, tmp_path):
    trainer = trainer_for(make_model())
    trainer.save_model(str(tmp_path / "saved"))
    loaded = SMCLForTokenClassification.from_pretrained(tmp_path / "saved")
    assert_same_weights(loaded, trainer.model.state_dict())
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"modeling_smcl.py", "processing_smcl.py", "processor_config.json", "tokenizer.json"} <= names


def test_words_that_are_cut_off_count_in_evaluations_as_in_tests(trainer_for, posts, processor):
    trainer = trainer_for(make_model(), dataset=posts, per_device_eval_batch_size=4)
    trainer.data_collator.max_length = 5
    gold = [[LABELS[tag] for tag in post["ner_tags"]] for post in posts]
    tags = word_tags(trainer.predict(posts).predictions, LABELS)
    assert any(map(len, gold)) and [len(row) for row in tags] == [len(row) for row in gold]
    kept = SMCLDataCollator(processor, max_length=5)(list(posts))["word_mask"].sum(dim=1).tolist()
    assert all(set(row[n:]) <= {"O"} for row, n in zip(tags, kept, strict=True)) and kept != [len(row) for row in gold]
    scores, expected = trainer.evaluate(), entity_metrics(gold, tags)
    assert {name: scores[f"eval_{name}"] for name in expected} == pytest.approx(expected)
    # Training takes no such tags.
    assert "cut_labels" not in next(iter(trainer.get_train_dataloader()))


def test_arguments_of_the_plain_trainer_are_refused(posts, processor, tmp_path):
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, remove_unused_columns=False)
    with pytest.raises(ValueError, match="`args` must be SMCLTrainingArguments, got TrainingArguments"):
        SMCLTrainer(make_model(), arguments, data_collator=SMCLDataCollator(processor), train_dataset=posts)


def test_a_model_wrapped_for_adapters_is_refused(trainer_for):
    model = make_model()
    model.get_base_model = lambda: model
    with pytest.raises(ValueError, match="`model` must be a whole model"):
        trainer_for(model)


def test_a_calibrated_model_that_is_trained_on_starts_with_a_temperature_of_1(trainer_for, caplog):
    model = make_model(temperature=3.0)
    trainer_for(model, max_steps=1, eval_strategy="no", save_strategy="no").train()
    assert model.config.temperature == 1
    assert "it is 1 again" in caplog.text


def test_a_calibrated_model_of_a_search_starts_with_a_temperature_of_1_in_each_trial(trainer_for):
    trainer = trainer_for(make_model(), max_steps=1, eval_strategy="no", save_strategy="no")
    # As transformers does on a search.
    trainer.model_init, trainer.model = lambda: make_model(temperature=3.0), None
    trainer.train()
    assert trainer.model.config.temperature == 1
