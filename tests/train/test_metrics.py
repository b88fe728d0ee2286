from smcl.train.metrics import entity_metrics


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
