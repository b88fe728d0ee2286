import itertools
import json
import math

import numpy as np
import pytest
import torch
from factories import make_model

from smcl import MultiImageNERPipeline, SMCLConfig
from smcl.crf_smcl import LinearChainCRF
from smcl.dataset_scripts.icons import convert
from smcl.run_ner_multiimage import main
from smcl.train.calibration import EntityConfidences, expected_calibration_error, fit_temperature

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def make_crf() -> LinearChainCRF:
    torch.manual_seed(0)
    return LinearChainCRF(LABELS)


def sample_tags(crf, emissions, temperature) -> list[int]:
    """Draw tags from the CRF's distribution over all legal paths."""
    paths = [
        path
        for path in itertools.product(range(len(LABELS)), repeat=len(emissions))
        if crf.legal_starts[path[0]] and all(crf.legal_transitions[a, b] for a, b in itertools.pairwise(path))
    ]
    index = torch.tensor(paths)
    scores = crf.start_transitions[index[:, 0]] + crf.end_transitions[index[:, -1]]
    scores = scores + emissions[torch.arange(len(emissions)), index].sum(dim=1)
    scores = scores + crf.transitions[index[:, :-1], index[:, 1:]].sum(dim=1)
    return paths[torch.multinomial((scores / temperature).softmax(dim=0), 1).item()]


def make_posts(crf, temperature, count=300) -> list:
    generator = torch.Generator().manual_seed(1)
    emissions = 3 * torch.randn(count, 4, len(LABELS), generator=generator)
    return [(row, list(sample_tags(crf, row, temperature))) for row in emissions]


def test_calibration_error_is_the_mean_gap_over_bins():
    scores, correct = np.array([0.05, 0.91, 0.93, 1.0]), np.array([False, True, False, True])
    # Bins 0-0.1 and 0.9-1.0: gaps |0.05 - 0| and |2.84 / 3 - 2 / 3|.
    assert expected_calibration_error(scores, correct) == pytest.approx((0.05 + (2.84 - 2)) / 4)
    assert expected_calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0
    assert math.isnan(expected_calibration_error(np.zeros(0), np.zeros(0, bool)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_fitted_temperature_is_the_one_that_the_gold_tags_were_drawn_at(temperature):
    crf = make_crf()
    confidences = EntityConfidences(crf, make_posts(crf, temperature))
    assert len(confidences.correct) > 300
    found = fit_temperature(confidences)
    assert found == pytest.approx(temperature, rel=0.25)
    assert confidences.error(found) < 0.06
    if temperature != 1:
        assert confidences.error(1.0) > confidences.error(found) + 0.05


def test_a_model_that_predicts_no_entity_cannot_be_calibrated():
    with pytest.raises(ValueError, match="predicts no entity in the validation posts: train it before `--calibrate`"):
        fit_temperature(EntityConfidences(make_crf(), [(torch.tensor([[9.0, 0, 0, 0, 0]]), [0])]))


def test_command_line_stores_the_temperature_and_changes_no_tag(processor, tmp_path):
    convert(tmp_path / "data", train=2, validation=40, test=40)
    # It gives tuples, which makes no difference.
    model = make_model(return_dict=False)
    with torch.no_grad():
        model.classifier.weight.mul_(8)
        model.classifier.bias[2::2] = -60
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    common = ["--dataset", str(tmp_path / "data"), "--use_cpu", "--disable_tqdm", "true"]
    for name, extra in (("plain", []), ("calibrated", ["--calibrate"])):
        out = ["--output_dir", str(tmp_path / name)]
        main([*common, "--model", str(tmp_path / "model"), "--do_predict", *out, *extra])
    plain, calibrated = (tmp_path / name for name in ("plain", "calibrated"))
    assert (plain / "predictions.jsonl").read_bytes() == (calibrated / "predictions.jsonl").read_bytes()
    results = json.loads((calibrated / "all_results.json").read_text())
    temperature = results["temperature"]
    # A random model is far too sure of itself.
    assert temperature > 1.5
    for split in ("validation", "test"):
        assert results[f"{split}_ece"] < results[f"{split}_ece_before"]
    assert SMCLConfig.from_pretrained(calibrated).temperature == temperature
    loaded = type(model).from_pretrained(calibrated)
    post = {"text": "joey and niko rest"}
    sure, modest = (MultiImageNERPipeline(part, processor)(post) for part in (model, loaded))
    assert sure and [e["words"] for e in sure] == [e["words"] for e in modest]
    assert modest[0]["score"] < sure[0]["score"]
