import inspect
from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig

from smcl.experiments import icon_demo, plan, threads
from smcl.experiments.threads import choose_threads, fastest_threads, training_step

SMALL = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)


@pytest.mark.parametrize(("most", "tried", "fastest"), [(1, [1], 1), (2, [1, 2], 2), (6, [1, 2, 4, 6], 4)])
def test_the_fastest_number_of_threads_is_found_and_nothing_stays_set(most, tried, fastest, monkeypatch):
    before, clock = torch.get_num_threads(), [0.0]
    slow = {1: 0.03, 2: 0.02, 4: 0.005, 6: 0.04}

    def step():
        clock[0] += slow[torch.get_num_threads()]

    monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    chosen, seconds = fastest_threads(step, most, steps=2)
    assert chosen == fastest
    assert seconds == pytest.approx({number: slow[number] for number in tried})
    assert clock[0] == pytest.approx(3 * sum(seconds.values()))
    assert torch.get_num_threads() == before


def test_a_step_trains_the_encoder_and_draws_no_random_number_of_the_callers():
    state = torch.get_rng_state()
    step = training_step(SMALL, batch_size=3)
    step()
    assert (torch.get_rng_state() == state).all()
    model = inspect.getclosurevars(step).nonlocals["model"]
    assert model.training and all(p.grad is not None for p in model.encoder.parameters())


def test_threads_are_chosen_by_the_text_encoder_and_told(tmp_path, monkeypatch, capsys):
    SMALL.save_pretrained(tmp_path)
    monkeypatch.setattr(threads, "count_cores", lambda: 2)
    monkeypatch.setattr(threads, "fastest_threads", lambda step, most: (step(), (2, {1: 0.5, 2: 0.25}))[1])
    assert choose_threads(str(tmp_path), 4) == 2
    told = "Threads: 2 (a step of the text encoder takes with 1: 500 ms, 2: 250 ms; --threads sets them)\n"
    assert capsys.readouterr().err == told
    monkeypatch.setattr(threads, "count_cores", lambda: 1)
    assert choose_threads("nowhere", 4) == 1


def parse(*arguments):
    encoders = ["--text_model", "text", "--vision_model", "vision"]
    return plan.parse_plan("table2", plan.plan_parser(""), ["--dataset", "data", *encoders, *arguments])[0].threads


def test_only_runs_of_the_small_preset_that_name_no_threads_measure(monkeypatch):
    asked = []
    monkeypatch.setattr(plan, "choose_threads", lambda *about: asked.append(about) or 7)
    assert parse() == 7
    assert parse("--per_device_train_batch_size", "8") == 7
    assert asked == [("text", 16), ("text", 8)]
    assert (parse("--threads", "3"), parse("--no_run"), parse("--preset", "paper")) == (3, 1, 1)
    assert len(asked) == 2


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_threads_that_are_no_number_of_threads_are_refused(number, monkeypatch, capsys):
    for command in (parse, lambda *arguments: icon_demo.main(arguments)):
        with pytest.raises(SystemExit):
            command("--threads", number)
        assert "argument --threads" in capsys.readouterr().err.splitlines()[-1]


def test_a_text_encoder_that_is_not_there_ends_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr(threads, "count_cores", lambda: 2)
    monkeypatch.setattr(plan, "choose_threads", choose_threads)
    with pytest.raises(SystemExit):
        parse()
    assert "Traceback" not in capsys.readouterr().err
