import re
import subprocess
import sys
from pathlib import Path

import pytest

import smcl
from smcl.dataset_scripts.command_line import CommandParser, describe, did_you_mean, require


def make_parser(**options) -> CommandParser:
    parser = CommandParser("What it does.", prog="tool", **options)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--batch_size", type=int)
    return parser


def fails(capsys, parser: CommandParser, *argv: str) -> str:
    """What a command line that can't be read ends with, after its name."""
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(argv)
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.startswith("tool: ") and message.count("\n") == 1
    return message[6:-1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--datset", "x"], "there is no argument --datset. Did you mean --dataset?"),
        (["--batch-sise=3"], "there is no argument --batch-sise. Did you mean --batch_size?"),
        (["-dataset", "x"], "there is no argument -dataset. Did you mean --dataset?"),
        (["--size", "3"], "there is no argument --size. Did you mean --batch_size?"),
        (["--xyz"], "there is no argument --xyz."),
        (["--dataset", "x", "--batch_size", "many"], "argument --batch_size: invalid int value: 'many'"),
        (["--dataset", "x", "more"], "unrecognized arguments: more"),
        ([], "the following arguments are required: --dataset"),
    ],
)
def test_what_is_wrong_with_arguments_is_told_in_one_line(capsys, argv, message):
    assert fails(capsys, make_parser(), *argv) == message


def test_arguments_that_are_right_are_read(monkeypatch):
    parser = make_parser()
    assert parser.parse_args(["--dataset=-- odd --values", "--batch", "-1"]).batch_size == -1
    monkeypatch.setattr(sys, "argv", ["tool", "--dataset", "x"])
    assert parser.parse_args().dataset == "x"


def test_arguments_of_another_program_are_handed_on(capsys):
    parser = make_parser(passes_on=["learning_rate"], allow_abbrev=False)
    options, rest = parser.parse_known_args(["--dataset", "x", "--learning_rate", "1"])
    assert rest == ["--learning_rate", "1"]
    assert fails(capsys, parser, "--learning_rat", "1").endswith("Did you mean --learning_rate?")


def test_commands_of_a_command_know_their_arguments(capsys):
    parser = CommandParser(prog="tool")
    parser.add_subparsers(dest="command").add_parser("export").add_argument("--posts")
    assert parser.parse_args(["export", "--posts", "x"]).posts == "x"
    assert fails(capsys, parser, "export", "--post_s", "x") == "there is no argument --post_s. Did you mean --posts?"


def test_the_nearest_name_comes_first_then_those_that_contain_it():
    names = ["per_device_train_batch_size", "graph_size", "learning_rate", "head_learning_rate"]
    assert did_you_mean("batch_size", names) == " Did you mean --per_device_train_batch_size?"
    assert did_you_mean("learning_rat", names, "{}") == " Did you mean learning_rate?"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("Expected a,\n  got b."), "Expected a, got b."),
        (FileNotFoundError(2, "No such file or directory", "x.json"), "x.json: No such file or directory"),
        (OSError(), "OSError"),
        (ImportError("needs a package"), "needs a package"),
    ],
)
def test_errors_are_told_in_one_line(capsys, error, message):
    assert describe(error) == message
    with pytest.raises(SystemExit), make_parser().errors_in_one_line():
        raise error
    assert capsys.readouterr().err == f"tool: {message}\n"


def test_errors_of_the_program_itself_keep_their_traceback():
    with pytest.raises(KeyError), make_parser().errors_in_one_line():
        raise KeyError("x")


def test_a_package_that_is_missing_is_named_with_what_brings_it(monkeypatch):
    require("This", "smcl[plot]", "json")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r'^This needs json and optuna: run `pip install "smcl\[search\]"`\.$'):
        require("This", "smcl[search]", "json", "optuna")


def test_all_extras_that_are_named_exist_and_one_brings_them_all():
    root = Path(smcl.__file__).parent
    section = (root / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
    extras = dict(re.findall(r"^(\w+) = \[(.*?)\]$", section.split("\n[")[0], re.MULTILINE | re.DOTALL))
    every = set(re.search(r"smcl\[([\w,]+)\]", extras["all"])[1].split(","))
    assert every == extras.keys() - {"all", "dev"} and "smcl[all]" in extras["dev"]
    places = [*root.glob("*.py"), *root.glob("*/*.py"), *root.glob("*/figures/*.py"), *root.glob("docs/*.md")]
    named = {name for path in places for name in re.findall(r"smcl\[(\w+)\]", path.read_text(encoding="utf-8"))}
    assert named and named <= extras.keys()


def test_an_interrupted_command_says_so_in_one_line(capsys):
    with pytest.raises(SystemExit) as end, make_parser().errors_in_one_line():
        raise KeyboardInterrupt
    assert end.value.code == 130 and capsys.readouterr().err == "tool: interrupted\n"


def test_a_reader_who_has_gone_ends_a_command_quietly():
    code = "from smcl.dataset_scripts.command_line import say\nfor _ in range(100_000): say('line\\n')"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141
