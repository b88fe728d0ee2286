import random
import subprocess
import sys

import evaluate
import pytest
from factories import LABELS
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from smcl.experiments.significance import count_posts, entities_of
from smcl.train import metrics
from smcl.train.metrics import StrictEntityF1, entity_metrics


def test_entity_metrics_are_strict_and_micro_averaged():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O", "B-PER", "O"]]
    predicted = [["B-PER", "O", "O", "B-LOC"], ["B-MISC", "O", "B-PER", "O"]]
    scores = entity_metrics(gold, predicted)
    assert (scores["precision"], scores["recall"], scores["f1"]) == (0.5, 0.5, 0.5)
    assert (scores["PER_f1"], scores["LOC_f1"], scores["ORG_f1"], scores["MISC_precision"]) == (0.5, 1, 0, 0)
    assert (scores["PER_support"], scores["MISC_support"]) == (2, 0)


def test_entity_metrics_of_nothing_are_zero():
    assert entity_metrics([["O", "O"]], [["O", "O"]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert entity_metrics([["O"]], [["B-PER"]])["precision"] == 0


def random_posts(seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """Gold and predicted tags of posts, legal or not; some posts have no words."""
    rng = random.Random(seed)
    lengths = [rng.randint(0, 12) for _ in range(rng.randint(1, 30))]
    gold = [rng.choices(LABELS, k=length) for length in lengths]
    return gold, [[tag if rng.random() < 0.6 else rng.choice(LABELS) for tag in tags] for tags in gold]


@pytest.mark.parametrize("seed", range(8))
def test_scores_are_those_of_seqeval(seed):
    gold, predicted = random_posts(seed)
    scores = entity_metrics(gold, predicted)
    strict = {"mode": "strict", "scheme": IOB2, "zero_division": 0}
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert scores[name] == score(gold, predicted, **strict)
        types = sorted({tag[2:] for tags in (*gold, *predicted) for tag in tags if tag != "O"})
        of_types = score(gold, predicted, average=None, **strict)
        found = [scores[f"{entity_type}_{name}"] for entity_type in types if f"{entity_type}_{name}" in scores]
        assert found == pytest.approx(list(of_types))


@pytest.mark.parametrize("keep_in_memory", [True, False])
def test_batches_and_single_posts_add_up(tmp_path, keep_in_memory):
    gold, predicted = random_posts(9)
    metric = StrictEntityF1(keep_in_memory=keep_in_memory, cache_dir=str(tmp_path))
    for start in range(0, len(gold), 4):
        metric.add_batch(predictions=predicted[start : start + 4], references=gold[start : start + 4])
    whole = metric.compute()
    assert whole == entity_metrics(gold, predicted)
    for one, other in zip(predicted, gold, strict=True):
        metric.add(prediction=one, reference=other)
    assert metric.compute() == whole
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".arrow"]


def test_metrics_are_combined():
    class Texts(StrictEntityF1):
        def _compute(self, predictions, references):
            return {"texts": len(references), "f1": 0.0}

    gold, predicted = random_posts(10)
    combined = evaluate.combine([StrictEntityF1(keep_in_memory=True), Texts(keep_in_memory=True)])
    combined.add_batch(predictions=predicted, references=gold)
    scores, expected = combined.compute(), entity_metrics(gold, predicted)
    assert scores["texts"] == len(gold)
    assert scores["strict_entity_f1_f1"] == expected["f1"]
    assert scores["precision"] == expected["precision"]


def test_metrics_of_several_processes_do_not_collide(tmp_path):
    gold, predicted = random_posts(11)
    metrics_at_work = [StrictEntityF1(cache_dir=str(tmp_path)) for _ in range(3)]
    for number, metric in enumerate(metrics_at_work):
        metric.add_batch(predictions=predicted[: number + 1], references=gold[: number + 1])
    for number, metric in enumerate(metrics_at_work):
        assert metric.compute() == entity_metrics(gold[: number + 1], predicted[: number + 1])


def test_nothing_scores_zero():
    assert entity_metrics([], []) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert entity_metrics([[]], [[]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


@pytest.mark.parametrize(
    ("gold", "predicted", "message"),
    [
        ([["O", "B-PER"]], [["O"]], "got 1 and 2 tags for text 0"),
        ([["O"], ["O"]], [["O"]], "Mismatch in the number of predictions"),
        ([["O"], ["B-PER"]], [["O"], ["PER"]], "Expected IOB2 tags, .* got 'PER' in text 1"),
        ([["S-PER"]], [["O"]], "got 'S-PER' in text 0"),
        ([["B-"]], [["O"]], "got 'B-'"),
    ],
)
def test_tags_that_do_not_fit_are_refused(gold, predicted, message):
    with pytest.raises(ValueError, match=message):
        entity_metrics(gold, predicted)


def test_file_of_the_metric_loads_by_itself(tmp_path):
    gold, predicted = random_posts(12)
    folder = tmp_path / "strict_entity_f1"
    folder.mkdir()
    (folder / "strict_entity_f1.py").write_bytes(open(metrics.__file__, "rb").read())
    metric = evaluate.load(str(folder), keep_in_memory=True)
    assert metric.compute(predictions=predicted, references=gold) == entity_metrics(gold, predicted)
    assert "seqeval" in metric.citation


def test_prediction_does_without_the_library_of_metrics():
    program = "import smcl, smcl.predict.predict_file, smcl.pipeline_smcl, sys; sys.exit('evaluate' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(
    ("gold", "predicted", "expected"),
    [
        # As (right, predicted, gold) entities: those with a word that nobody tagged are not judged.
        (["B-PER", None, "I-PER"], ["B-PER", "B-PER", "I-PER"], (1, 1, 1)),
        (["B-PER", None, "I-PER"], ["B-PER", "I-PER", "I-PER"], (0, 0, 1)),
        ([None, "B-PER", "O"], ["B-LOC", "B-PER", "B-LOC"], (1, 2, 1)),
        (["B-PER", "I-PER", None], ["B-PER", "I-PER", "B-PER"], (1, 1, 1)),
        ([None, "I-PER"], ["B-PER", "I-PER"], (0, 0, 0)),
        ([None, None], ["B-PER", "I-PER"], (0, 0, 0)),
    ],
)
def test_words_that_nobody_tagged_are_part_of_no_entity(gold, predicted, expected):
    scores = entity_metrics([gold, ["B-X"]], [predicted, ["B-X"]])
    right, found, wanted = (number + 1 for number in expected)
    assert (scores["precision"], scores["recall"]) == (right / found, right / wanted)


def test_types_are_told_apart_by_their_very_names():
    scores = entity_metrics([["B-PER-", "B-a avg", "B-micro avg", "B--"]], [["B-PER", "B-a avg", "B-micro avg", "B--"]])
    assert scores["f1"] == 0.75
    assert scores["PER-_support"] == 1 and scores["PER_support"] == 0
    assert scores["a avg_f1"] == scores["micro avg_f1"] == scores["-_f1"] == 1


def test_what_is_scored_can_be_scored_again():
    gold, found = [["B-PER", None], ["B-LOC"]], [["B-PER", "I-PER"], ["B-LOC"]]
    written = [[one and tag for tag, one in zip(metrics.judged(*pair)[1], pair[0], strict=True)]
               for pair in zip(gold, found, strict=True)]  # fmt: skip
    assert entity_metrics(gold, written) == entity_metrics(gold, found)
    counts = count_posts([{"gold": one, "predicted": other} for one, other in zip(gold, written, strict=True)])
    assert counts.sum(axis=0).tolist() == [1, 1, 2]
    assert entities_of(["B-PER", None, "I-PER"]) == {(0, 1, "PER")}
