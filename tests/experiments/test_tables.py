import itertools
import json
import math

import numpy as np
import pytest

from smcl.baselines import SYSTEMS
from smcl.experiments import (
    errors,
    figure6,
    figures_5_7,
    image_dependent,
    mendings,
    paper,
    report,
    significance,
    table2,
    table3,
    table6,
    tables,
)
from smcl.experiments.plan import make_plan, plan_parser, read_mentions, to_argv
from smcl.experiments.runs import cell_folder, code_digest, measure, settings_of, write
from smcl.train.arguments import parse_arguments

TAGS = {"P": "B-PER", "p": "I-PER", "L": "B-LOC", "l": "I-LOC", "O": "O", "G": "B-ORG"}


def tags(text):
    return [TAGS[letter] for letter in text]


def post(gold, predicted, post_id="1"):
    return {"id": post_id, "tokens": list("abcdefgh"[: len(gold)]), "gold": tags(gold), "predicted": tags(predicted)}


def posts(*pairs):
    return [post(gold, predicted, str(row)) for row, (gold, predicted) in enumerate(pairs)]


def test_mcnemar_is_the_exact_binomial_test_of_the_disagreements():
    first = [True] * 9 + [False] * 1 + [True] * 30 + [False] * 4
    second = [False] * 9 + [True] * 1 + [True] * 30 + [False] * 4
    test = significance.mcnemar(first, second)
    assert (test.only_first, test.only_second) == (9, 1)
    # Two tails of Binomial(10, 1/2): 0, 1, 9 and 10.
    assert test.p == pytest.approx(2 * (1 + 10) / 2**10)
    assert significance.mcnemar([True, False], [True, False]).p == 1
    with pytest.raises(ValueError):
        significance.mcnemar([True], [])


def test_f1_over_posts_equals_the_scores_of_training():
    from smcl.train.metrics import entity_metrics

    run = posts(("PpOL", "PpOG"), ("OLlO", "OLlO"), ("OO", "PO"), ("PO", "OO"))
    expected = entity_metrics([p["gold"] for p in run], [p["predicted"] for p in run])["f1"]
    assert significance.f1_of(significance.count_posts(run).sum(axis=0)) == pytest.approx(expected)
    assert significance.f1_of(np.zeros(3)) == 0


def test_types_that_differ_in_a_dash_are_told_apart_as_scores_do():
    assert significance.entities_of(["B-PER-", "I-PER", "B-a-b", None]) == {(0, 1, "PER-"), (2, 3, "a-b")}
    run = [{"id": "1", "gold": ["B-PER-", "I-PER-", "O"], "predicted": ["B-PER", "I-PER", "O"]}]
    assert significance.f1_of(significance.count_posts(run).sum(axis=0)) == 0
    assert significance.right_entities(run) == [False]


def test_bootstrap_equals_all_samples_of_two_posts():
    right, wrong = posts(("P", "P"), ("L", "L")), posts(("P", "P"), ("L", "G"))
    gap = significance.bootstrap_difference([right], [wrong], samples=20000)
    # Of two posts, four samples are equally probable: F1 of the second system is 1, 0.5, 0.5 or 0.
    assert gap.value == pytest.approx(0.5)
    assert (gap.low, gap.high) == (0, 1)
    assert gap.p == pytest.approx(2 * 0.25, abs=0.03)
    same = significance.bootstrap_difference([right], [right])
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_bootstrap_takes_the_mean_over_runs_and_only_the_same_posts():
    right, wrong = posts(("P", "P")), posts(("P", "G"))
    assert significance.bootstrap_difference([right, wrong], [wrong, wrong]).value == pytest.approx(0.5)
    with pytest.raises(ValueError, match="not of the same test posts"):
        significance.bootstrap_difference([right], [posts(("P", "P"), ("L", "L"))])
    with pytest.raises(ValueError, match="of the same seeds, got 1 and 0"):
        significance.bootstrap_difference([right], [])
    with pytest.raises(ValueError, match="of the same seeds, got 2 and 1"):
        significance.bootstrap_difference([right, right], [right])


def test_bootstrap_draws_seeds_and_posts_together():
    # Two seeds of two posts: the first system is right by seed 0 alone, the second on the first post alone.
    gold = ("PO", "LG")
    first = [posts(*zip(gold, said, strict=True)) for said in (("PO", "LG"), ("OO", "LO"))]
    second = [posts(*zip(gold, said, strict=True)) for said in (("PO", "GG"), ("PO", "OP"))]
    gap = significance.bootstrap_difference(first, second, samples=40000)

    def f1(run, drawn):
        counts = significance.count_posts([run[row] for row in drawn]).sum(axis=0)
        return 2 * counts[0] / (counts[1] + counts[2])

    pairs = list(itertools.product(range(2), repeat=2))
    # Four samples of seeds times four of posts are equally probable.
    every = [
        np.mean([f1(first[seed], drawn) - f1(second[seed], drawn) for seed in seeds])
        for seeds, drawn in itertools.product(pairs, pairs)
    ]
    assert gap.value == pytest.approx(np.mean([f1(first[s], (0, 1)) - f1(second[s], (0, 1)) for s in range(2)]))
    assert (gap.low, gap.high) == pytest.approx((min(every), max(every)))
    tails = np.mean(np.less_equal(every, 0)), np.mean(np.greater_equal(every, 0))
    assert gap.p == pytest.approx(min(1, 2 * min(tails)), abs=0.02)
    assert 0 < gap.p < 1 and len(set(np.round(every, 6))) > 4


def test_bootstrap_of_a_sum_over_runs_and_posts_equals_all_samples():
    values = np.array([[3.0, -1.0], [0.0, 5.0]])
    gap = significance.bootstrap_sum(values, samples=40000)
    pairs = list(itertools.product(range(2), repeat=2))
    every = [np.mean([values[s, list(drawn)].sum() for s in seeds]) for seeds, drawn in itertools.product(pairs, pairs)]
    assert gap.value == values.sum() / 2
    assert (gap.low, gap.high) == (min(every), max(every))
    assert gap.p == pytest.approx(2 * np.mean(np.less_equal(every, 0)), abs=0.02)


def test_bootstrap_of_a_sum():
    values = np.array([[1.0] * 50 + [0.0] * 50])
    gap = significance.bootstrap_sum(values, samples=5000)
    deviation = math.sqrt(100 * 0.25)
    assert gap.value == 50
    assert gap.low == pytest.approx(50 - 1.96 * deviation, abs=1.5)
    assert gap.high == pytest.approx(50 + 1.96 * deviation, abs=1.5)


@pytest.mark.parametrize(
    ("gold", "predicted", "blind", "kinds"),
    [
        ("PpO", "PpO", "PpO", set()),
        ("PpO", "POO", "POO", {"boundary"}),
        ("PpO", "LOO", "LOO", {"boundary"}),
        ("PpO", "LlO", "LlO", {"type confusion"}),
        ("PpO", "OOO", "OOO", {"missed"}),
        ("OOO", "OOP", "OOO", {"spurious"}),
        # The images misled it, whatever it says with them.
        ("PpO", "LlO", "PpO", {"modality conflict"}),
        ("PpO", "POO", "PpO", {"modality conflict"}),
        ("PpO", "OOO", "PpO", {"modality conflict"}),
        # The reverse is no error.
        ("PpO", "PpO", "LlO", {"rescued"}),
        # One gold entity, one error: the wrong prediction beside it is the same.
        ("PpOL", "POOL", "POOL", {"boundary"}),
        ("POL", "LOO", "LOL", {"type confusion", "modality conflict"}),
    ],
)
def test_errors_are_told_apart(gold, predicted, blind, kinds):
    counts = errors.classify(*(significance.entities_of(tags(text)) for text in (gold, predicted, blind)))
    assert {name for name, count in counts.items() if count} == kinds
    assert all(count <= 1 for count in counts.values())


def test_errors_add_up_to_the_gold_entities_not_found():
    letters = "PpLO"
    for gold, predicted in itertools.product(itertools.product(letters, repeat=3), repeat=2):
        run = [post("".join(gold), "".join(predicted))]
        counts = dict(zip(errors.COUNTS, errors.count_errors(run)[0], strict=True))
        right, _, golds = significance.count_posts(run)[0]
        assert (
            sum(counts[name] for name in ("boundary", "type confusion", "modality conflict", "missed")) == golds - right
        )
        assert counts["modality conflict"] == counts["rescued"] == 0
    with pytest.raises(ValueError, match="not of the same posts"):
        errors.count_errors([post("P", "P")], [post("P", "P", "other")])


@pytest.fixture
def make_cell(tmp_path):
    """Writes finished cells of made-up predictions; returns the command line that finds them."""
    (tmp_path / "data").mkdir()
    splits = {name: {"sha256": name} for name in ("train", "validation", "test")}
    (tmp_path / "data" / "report.json").write_text(json.dumps({"splits": splits}))
    argv = ["--dataset", str(tmp_path / "data"), "--results", str(tmp_path / "results"), "--no_run"]
    argv += ["--text_model", "text", "--vision_model", "vision", "--seeds", "0", "1"]
    plan = make_plan("table2", *plan_parser("").parse_known_args(argv))

    def make(cell, seed, run, without_images=None, f1=0.5, code=None):
        folder = cell_folder(plan, cell, seed)
        for name, predicted in (("run", run), ("without_images", without_images)):
            if predicted is not None:
                (folder / name).mkdir(parents=True)
                lines = "".join(json.dumps(p) + "\n" for p in predicted)
                (folder / name / "predictions.jsonl").write_text(lines)
        scores = {"test": {"precision": f1, "recall": f1, "f1": f1}}
        record = {"seed": seed, "settings": settings_of(plan, cell), "scores": scores, "seconds": 1, "epochs": 1}
        record |= {"versions": {"torch": "0"}, "device": "CPU", "threads": 1, "resumed": False}
        record["code"] = code or code_digest(cell.system)
        write(record, folder / "cell.json")

    return make, argv, plan


def rows(text):
    lines = [line.strip("| ").split(" | ") for line in text.split("\n") if line.startswith("|")]
    return {line[0]: line[1:] for line in lines}


def test_cells_that_were_not_measured_are_called_so(make_cell, capsys):
    make, argv, plan = make_cell
    good, bad = posts(("P", "P"), ("L", "L")), posts(("P", "P"), ("L", "O"))
    for seed, f1 in ((0, 0.7), (1, 0.8)):
        make(table2.system_cell("smcl"), seed, good, bad, f1)
    make(table2.system_cell("bert-crf"), 0, bad, f1=0.6)
    table2.main(argv)
    printed = capsys.readouterr().out
    found = rows(printed)
    assert found["SMCL"] == [
        "all images", *["75.00 ± 7.07"] * 3, "", "+33.33 [+0.00, +100.00]", "2", "79.76", "85.14"
    ]  # fmt: skip
    assert found["BERT-CRF"][3:] == ["60.00", "-33.33 [-100.00, +0.00]", "", "1", "72.85", "79.33"]
    for name in ("UMT-MI", "OCSGA"):
        assert found[name][1:7] == [*["not measured"] * 5, "0"]
    table = json.loads((plan.folder / "table.json").read_text())
    assert table["rows"]["UMT-MI"]["seeds"] == [] and table["rows"]["UMT-MI"]["differences"] == {"": None}
    assert [seed["scores"]["test"]["f1"] for seed in table["rows"]["SMCL"]["seeds"]] == [0.7, 0.8]
    # Table 3 shares SMCL's cell.
    table3.main(argv)
    found = rows(capsys.readouterr().out)
    assert found["SMCL"][2] == "75.00 ± 7.07" and found["w/o SFM"][2] == "not measured"


def test_image_dependent_mentions_are_compared_apart(make_cell, tmp_path, capsys):
    make, argv, plan = make_cell
    # The first word is image-dependent: BERT-CRF has it wrong, and the other mention right where SMCL has it wrong.
    blind = posts(*[("POL", "OOG")] * 3)
    make(table2.system_cell("smcl"), 0, posts(*[("POL", "POO")] * 3), blind)
    make(table2.system_cell("umt"), 0, blind)
    make(table2.system_cell("bert-crf"), 0, posts(*[("POL", "OOL")] * 3))
    mentions = tmp_path / "image_dependent.json"
    mentions.write_text(json.dumps({str(row): [[0, 1]] for row in range(3)}))
    table2.main([*argv, "--mentions", str(mentions)])
    found = rows(capsys.readouterr().out)
    worse, better = "-100.00 [-100.00, -100.00]", "+100.00 [+100.00, +100.00]"
    assert found["BERT-CRF"][4:10] == ["+0.00 [+0.00, +0.00]", "0.00", worse, "", "100.00", better]
    # SMCL owes these mentions to images; of UMT nobody looked.
    assert found["SMCL"][4:10] == ["", "100.00", "", better, "0.00", ""]
    assert found["UMT"][7] == "not measured"
    table = json.loads((plan.folder / "table.json").read_text())["rows"]
    assert table["SMCL"]["without_images"]["value"] == 1 and table["UMT"]["without_images"] is None
    report.main(["--results", str(plan.results), "--output", str(tmp_path / "results.md")])
    text = (tmp_path / "results.md").read_text()
    assert "F1 of image-dependent mentions, by the 95 % intervals: below SMCL: BERT-CRF, UMT." in text
    assert "F1 of other mentions, by the 95 % intervals: above SMCL: BERT-CRF; not told apart" in text


def test_every_system_and_ablation_of_the_paper_has_a_row(make_cell, capsys):
    _, argv, _ = make_cell
    table2.main(argv)
    printed = capsys.readouterr().out
    assert set(paper.TABLE_2) <= set(rows(printed))
    assert "BiLSTM-CRF and HBiLSTM-CRF are trained at the rate 1e-3" in printed
    table3.main(argv)
    assert set(paper.TABLE_3) <= set(rows(capsys.readouterr().out))


def test_systems_whose_columns_are_missing_are_skipped_and_named(
    data, context_data, encoders, make_cell, monkeypatch, tmp_path, capsys
):
    ran = []
    make_cell[0](table2.system_cell("umt"), 0, posts(("P", "P")))
    (measured,) = measure(make_cell[2], table2.system_cell("umt"))

    def pretend(plan, cells, asked):
        ran.extend((cell.system, plan.run and key in asked) for key, cell in cells.items())
        return {key: [measured] if cell.system == "umt" else [] for key, cell in cells.items()}

    monkeypatch.setattr("smcl.experiments.run_all.measure_all", pretend)
    common = [*encoders, "--results", str(tmp_path / "other"), "--systems", "umgf", "ita", "umt"]
    table2.main(["--dataset", data, *common])
    printed = capsys.readouterr()
    expected = "UMGF needs column `regions`; ITA needs columns `objects` and `captions` and `image_text`. Make them by"
    assert f"not measured: {expected} `python -m smcl.dataset_scripts.enrich --input {data} " in printed.err
    assert f"Not measured: {expected}" in printed.out and data not in printed.out
    assert [name for name, runs in ran if runs] == ["umt"] and {name for name, _ in ran} == set(SYSTEMS)
    ran.clear()
    table2.main(["--dataset", context_data, *common])
    assert {name for name, runs in ran if runs} == {"umgf", "ita", "umt"}
    assert "ot measured:" not in capsys.readouterr().err


def test_a_system_that_the_paper_does_not_have_gets_a_row_too(monkeypatch):
    monkeypatch.setitem(SYSTEMS, "newcomer", SYSTEMS["bert"])
    monkeypatch.setattr(table2, "NAMES", (*table2.NAMES, "newcomer"))
    *papers, row = table2.make_rows(["newcomer"])
    assert [r.title for r in papers] == [*paper.TABLE_2, "SMCL as printed"] and not any(r.run for r in papers)
    assert (row.title, row.cell.arguments, row.group, row.run) == ("newcomer", {"system": "newcomer"}, "text", True)


def test_smcl_has_a_row_as_printed_that_both_tables_share():
    *_, row = table2.make_rows(["smcl"])
    assert (row.title, row.cell.system, row.cell.arguments, row.run) == (
        "SMCL as printed",
        "smcl",
        {"as_printed": "true"},
        True,
    )
    assert table3.SWITCHES[row.title] == row.cell.arguments


def test_each_difference_from_the_paper_is_looked_at_alone_from_both_ends(make_cell, capsys):
    make, argv, plan = make_cell
    cells = mendings.make_cells()
    right, wrong = posts(*[("P", "P")] * 3), posts(*[("P", "L")] * 3)
    for title, run in (
        ("SMCL", right),
        ("SMCL as printed", wrong),
        ("SMCL, head as printed", wrong),
        ("SMCL as printed, head mended", right),
        ("SMCL as printed, union mended", wrong),
    ):
        make(cells[title], 0, run, f1=float(run is right))
    assert cells["SMCL, head as printed"].arguments == {"as_printed": ["head"]}
    others = ["threshold", "union", "images", "order", "positions", "similarity", "difference"]
    assert cells["SMCL as printed, head mended"].arguments == {"as_printed": others}
    # What is not asked for, and what was measured before, stays in the table.
    mendings.main([*argv, "--parts", "union"])
    found = rows(capsys.readouterr().out)
    assert found["none"] == ["1", "100.00", "", "0.00"]
    minus, plus = "-100.00 [-100.00, -100.00]", "+100.00 [+100.00, +100.00]"
    assert found["head"] == ["1", "0.00", minus, "100.00", plus]
    assert found["union"] == ["0, 1", "not measured", "not measured", "0.00", "+0.00 [+0.00, +0.00]"]
    assert found["order"] == ["0", *["not measured"] * 4]
    # Each is one that the command line takes.
    for cell in cells.values():
        parse_arguments(["--output_dir", "x", *to_argv(cell.arguments)])


def test_error_table_compares_two_systems_and_names_its_tests(make_cell, capsys):
    make, argv, plan = make_cell
    gold = ("PpO", "LOO", "OPO", "OLl")
    run = {
        name: posts(*zip(gold, predicted, strict=True))
        for name, predicted in {
            "tpm": ("POO", "POO", "OOO", "OLl"),
            "smcl": ("PpO", "LOO", "OOO", "OPp"),
            "blind": ("OOO", "LOO", "OOO", "OLl"),
        }.items()
    }
    table6.main(argv)
    assert rows(capsys.readouterr().out)["boundary"][:3] == ["not measured"] * 3
    make(table2.system_cell("tpm-mi"), 0, run["tpm"], run["blind"])
    make(table2.system_cell("smcl"), 0, run["smcl"], run["blind"])
    table6.main(argv)
    printed = capsys.readouterr().out
    found = rows(printed)
    assert found["boundary"][:2] == ["1.0", "0.0"] and found["boundary"][3:5] == ["50.0", "0.0"]
    assert found["modality conflict"][:2] == ["1.0", "1.0"] and found["missed"][:2] == ["1.0", "1.0"]
    assert found["rescued"][:2] == ["0.0", "1.0"]
    assert found["type confusion"][5:] == ["35.7", "28.2", "33.9", "26.5"]
    assert "seed 0: 2 only by SMCL, 1 only by TPM-MI, p = 1" in printed
    assert json.loads((plan.results / "table6" / "data" / "table.json").read_text())["mcnemar"][0]["p"] == 1


def test_sensitivity_changes_one_variable_and_scales_learning_rates(make_cell, capsys):
    make, argv, plan = make_cell
    cells = dict(figure6.points(plan, "cmd_order"))
    assert [cell.arguments for cell in cells.values()] == [
        {"cmd_order": "2"},
        {},
        {"cmd_order": "4"},
        {"cmd_order": "5"},
    ]
    rates = dict(figure6.points(plan, "learning_rate"))[1e-5].arguments
    assert rates == {"learning_rate": "3.33e-05", "head_learning_rate": "0.000333"}
    make(table2.system_cell("smcl"), 0, posts(("P", "P")))
    make(cells[4], 0, posts(("P", "P")), f1=0.4)
    figure6.main([*argv, "--variables", "cmd_order"])
    lines = [line for line in capsys.readouterr().out.split("\n") if line.startswith("| K")]
    assert [line.split(" | ")[3] for line in lines] == ["not measured", "50.00", "40.00", "not measured"]
    assert (plan.results / "figure6" / "data" / "figure6.png").stat().st_size > 5000
    # The row of the paper's value would be of the one that is given.
    with pytest.raises(SystemExit):
        figure6.main([*argv, "--variables", "cmd_order", "--cmd_order", "4"])
    assert "Figure 6 changes --cmd_order itself, from the paper's 3: leave that out" in capsys.readouterr().err
    figure6.main([*argv, "--variables", "learning_rate", "--cmd_order", "4"])


def test_cases_are_posts_that_one_has_right_and_the_other_not(photo):
    first = posts(("PpO", "PpO"), ("LOO", "LOO"), ("OPO", "OPO"), ("OLl", "OOO"), ("OOO", "OOO"))
    second = posts(("PpO", "LlO"), ("LOO", "LOO"), ("OPO", "OOO"), ("OLl", "OLl"), ("OOO", "POO"))
    assert figures_5_7.pick_cases(first, second, 5) == [0, 2]
    assert figures_5_7.pick_cases(first, second, 1) == [0]
    first[0]["tokens"][0] = "<script>"
    page = figures_5_7.case_page(["A", "B & C"], [(first[0], second[0], [photo, photo])])
    assert "<script" not in page and "&lt;script&gt; b" in page
    assert (
        page.count("data:image/png;base64,") == 2
        and "B &amp; C" in page
        and "http" not in page.replace("http-equiv", "")
    )


def test_report_holds_what_was_measured_and_names_what_was_not(make_cell, tmp_path, capsys):
    make, argv, plan = make_cell
    output = tmp_path / "docs" / "results.md"
    with pytest.raises(SystemExit):
        report.main(["--results", str(plan.results), "--output", str(output)])
    assert not output.exists()
    good, bad = posts(*[("P", "P")] * 30), posts(*[("P", "P"), ("P", "O"), ("P", "O")] * 10)
    make(table2.system_cell("smcl"), 0, good)
    make(table2.system_cell("bert-crf"), 0, bad)
    table2.main(argv)
    figure6.main([*argv, "--variables", "cmd_order"])
    (plan.results / "remarks.md").write_text("Measured in the dark.\n")
    folder = plan.results / "robustness" / "data"
    folder.mkdir(parents=True)
    (folder / "table.json").write_text('{"made_by": "0ld0c0de"}')
    (folder / "table.md").write_text("### Robustness, data")
    folder = plan.results / "figures" / "data"
    folder.mkdir(parents=True)
    for name, content in (("table.json", "{}"), ("table.md", "### Figures 5 and 7, data"), ("figure5.png", "a post")):
        (folder / name).write_text(content)
    report.main(["--results", str(plan.results), "--output", str(output)])
    text = output.read_text()
    assert "## data" in text and "### Table 2: systems, data" in text
    assert "\n\nMeasured in the dark.\n\n## data" in text
    assert "### Robustness, data\n\nMeasured by an earlier state of the code of this experiment" in text
    assert "\nNot measured on data: Table 3, ablations; Table 5, cost; " in text
    assert "F1 of all mentions, by the 95 % intervals: below SMCL: BERT-CRF." in text
    assert "![Figure 6, sensitivity](results/data-figure6.png)" in text
    assert (output.parent / "results" / "data-figure6.png").exists()
    assert "### Figures 5 and 7, data" in text and not list(output.parent.glob("results/*figure5*"))


def test_a_table_of_nothing_does_not_replace_one_that_tells_something(make_cell, capsys):
    make, argv, plan = make_cell
    make(table2.system_cell("smcl"), 0, posts(("P", "P")))
    table2.main(argv)
    before = (plan.folder / "table.md").read_text()
    table2.main([*argv, "--num_train_epochs", "9"])
    assert "the earlier table is left at" in capsys.readouterr().out
    assert (plan.folder / "table.md").read_text() == before


def test_cells_of_older_code_are_left_out_and_counted(make_cell, tmp_path, capsys):
    make, argv, plan = make_cell
    output = tmp_path / "results.md"
    good = posts(("P", "P"))
    make(table2.system_cell("smcl"), 0, good, f1=0.7)
    make(table2.system_cell("smcl"), 1, good, f1=0.9, code="0ld0c0de")
    make(table2.system_cell("bert-crf"), 0, good, code="0ld0c0de")
    table2.main(argv)
    printed = capsys.readouterr().out
    assert rows(printed)["SMCL"][1] == "70.00" and rows(printed)["BERT-CRF"][1] == "not measured"
    assert "2 cells of older code were left out" in printed
    report.main(["--results", str(plan.results), "--output", str(output)])
    assert "70.00" in output.read_text() and "2 cells of older code were left out" in output.read_text()
    # Code that changed after the table was written.
    table = json.loads((plan.folder / "table.json").read_text())
    table["rows"]["SMCL"]["seeds"][0]["code"] = "0ld0c0de"
    (plan.folder / "table.json").write_text(json.dumps(table))
    report.main(["--results", str(plan.results), "--output", str(output)])
    assert "not measured by the present code: 1 of 1 cells are of older code" in output.read_text()
    assert "70.00" not in output.read_text()


def test_cells_are_counted_wherever_a_table_has_them():
    now = code_digest("bert-crf")
    cell = {"code": now, "settings": {"arguments": {"system": "bert-crf"}}}
    assert report.older_cells({"rows": {"a": {"seeds": [cell, cell | {"code": "c"}]}}}) == (1, 2)
    gone = cell | {"settings": {"arguments": {"system": "gone"}}}
    assert report.older_cells({"variables": {"K": {"3": {"seeds": [gone]}}}}) == (1, 1)
    assert report.older_cells({"about": {"code": {"bert-crf": now, "bert": "c"}}}) == (1, 2)
    assert report.older_cells({"code": {"gone": now}}) == (1, 1) and report.older_cells({"types": [1, "x"]}) == (0, 0)


def test_numbers_are_written_with_their_spread():
    assert tables.mean_and_deviation([0.5, 0.6, 0.7]) == "60.00 ± 10.00"
    assert tables.mean_and_deviation([0.5]) == "50.00"
    assert tables.mean_and_deviation([]) == "not measured"
    assert tables.interval(significance.Difference(0.01, -0.02, 0.03, 0.4)) == "+1.00 [-2.00, +3.00]"


def test_the_papers_numbers_agree_with_each_other():
    for systems, place in ((paper.TABLE_2, slice(1, 3)), (paper.TABLE_3, slice(0, 2))):
        for row in systems.values():
            for precision, recall, f1 in row[place]:
                assert f1 == pytest.approx(2 * precision * recall / (precision + recall), abs=0.3)
    assert paper.TABLE_3["SMCL"] == paper.TABLE_2["SMCL"][1:]
    assert sum(paper.TABLE_6["TPM-MI"][0]) == pytest.approx(100)
    # Table 4.
    ranges = {
        "cmd_order": (2, 5),
        "similarity_weight": (0.1, 0.5),
        "difference_weight": (0.1, 0.4),
        "learning_rate": (1e-5, 7e-5),
    }
    assert {variable: (min(values), max(values)) for variable, values in figure6.VALUES.items()} == ranges
    for variable in ranges:
        assert paper.FIGURE_6[variable][paper.BASELINE[variable]] == (79.76, 85.14)


@pytest.mark.parametrize(
    ("found", "entities"),
    [
        (["B-PER", None, "I-PER", "O"], {(0, 1, "PER")}),
        ([None, "B-PER", None], {(1, 2, "PER")}),
        ([None, None], set()),
    ],
)
def test_words_that_nobody_tagged_are_part_of_no_entity_and_end_one(found, entities, tmp_path):
    assert significance.entities_of(found) == entities
    post = {"id": "1", "tokens": ["a"] * len(found), "gold": found, "predicted": found}
    right = [[len(entities)] * 3]
    assert significance.count_posts([post]).tolist() == right
    assert errors.count_errors([post]).sum() == 0
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(post) + "\n", encoding="utf-8-sig")
    for spans, name in (([(0, len(found))], "image-dependent"), ([], "others")):
        scores = image_dependent.score(path, {"1": spans})
        assert scores[name]["f1"] == scores["all"]["f1"] == float(bool(entities))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_mentions_may_begin_with_a_byte_order_mark(encoding, tmp_path):
    (tmp_path / "mentions.json").write_text('{"1": [[0, 2]]}', encoding=encoding)
    assert [tuple(span) for span in read_mentions(tmp_path / "mentions.json")["1"]] == [(0, 2)]
