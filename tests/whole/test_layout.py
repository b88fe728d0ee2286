"""The house: what may import what, and where names stand."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import smcl
from smcl import baselines

ROOT = Path(smcl.__file__).parent
TRAVELLING = {"configuration", "crf", "images", "layers", "losses", "modeling", "pipeline", "processing"}
# From the ground up: a floor imports from itself and from those below it. The files that travel are the ground, and
# `smcl` is the front door.
FLOORS = (
    "_smcl",
    "dataset_scripts",
    "baselines",
    "predict",
    "smcl",
    "train",
    "publish",
    "run_ner_multiimage",
    "experiments",
    "experiments.benchmarks",
    "examples",
)
ROOMS = {floor.split(".")[0] for floor in FLOORS} - {"_smcl", "smcl", "run_ner_multiimage"}
House = dict[str, str]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["smcl", *(part for part in parts if part != "__init__")])


def read_house() -> House:
    """Return the source of each module of the package by its name, `"smcl.train.trainer"`."""
    paths = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
    return {module_name(path): path.read_text(encoding="utf-8") for path in paths}


def imports(name: str, house: House) -> set[str]:
    """Find the modules of the package that one imports anywhere in its text, also late, inside functions."""
    is_package = any(other.startswith(f"{name}.") for other in house)
    # What a relative import starts from, by its number of dots.
    places = [*name.split("."), *([""] if is_package else [])]
    found = set()
    for node in ast.walk(ast.parse(house[name])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = places[: -node.level] if node.level else []
            source = ".".join([*parts, *([node.module] if node.module else [])])
            modules = {f"{source}.{alias.name}" for alias in node.names}
            found |= {module if module in house else source for module in modules}
    return {module for module in found if module.split(".")[0] == "smcl"}


def floor_of(name: str) -> int:
    """Return how high a module stands."""
    short = name.removeprefix("smcl.")
    if short.endswith("_smcl") and "." not in short:
        return FLOORS.index("_smcl")
    homes = [floor for floor in FLOORS if f"{short}.".startswith(f"{floor}.")]
    return FLOORS.index(max(homes, key=len))


def upward(house: House) -> set[tuple[str, str]]:
    """Find the imports that go up."""
    pairs = {(name, other) for name in house for other in imports(name, house)}
    return {(name, other) for name, other in pairs if floor_of(other) > floor_of(name)}


def circle(house: House) -> list[str]:
    """Find modules that import one another in a circle, as far as there are any."""
    try:
        TopologicalSorter({name: imports(name, house) - {name} for name in house}).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def classes_of(house: House) -> set[str]:
    """Name the classes of all systems of baselines/."""
    trees = [ast.parse(source) for name, source in house.items() if name.startswith("smcl.baselines.")]
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def named_baselines(house: House) -> set[tuple[str, str]]:
    """Find what modules outside baselines/ take from there other than by the names it offers for all systems."""
    classes, found = classes_of(house), set()
    for name, source in house.items():
        if name.startswith("smcl.baselines"):
            continue
        found |= {(name, module) for module in imports(name, house) if module.startswith("smcl.baselines.")}
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1] == "baselines":
                found |= {(name, alias.name) for alias in node.names if alias.name not in baselines.__all__}
            words = {getattr(node, field, None) for field in ("id", "attr", "name")}
            found |= {(name, word) for word in words if isinstance(word, str) and word in classes}
    return found


@pytest.fixture(scope="module")
def house() -> House:
    found = read_house()
    assert len(found) > 60
    return found


def test_nothing_imports_in_a_circle(house):
    assert circle(house) == []


def test_files_that_travel_import_only_one_another(house):
    for name in TRAVELLING:
        others = imports(f"smcl.{name}_smcl", house)
        assert others <= {f"smcl.{other}_smcl" for other in TRAVELLING}, name


def test_rooms_import_only_downwards(house):
    assert upward(house) == set()


def test_the_root_has_the_eight_files_that_travel_the_front_door_and_the_script():
    names = {path.stem for path in ROOT.glob("*.py")}
    assert names == {*(f"{name}_smcl" for name in TRAVELLING), "__init__", "run_ner_multiimage"}


def test_no_other_name_ends_like_those_that_travel():
    places = [path for room in (*ROOMS, "tests", "docs") for path in (ROOT / room).rglob("*")]
    assert [path for path in places if path.stem.endswith("_smcl")] == []


def test_every_room_that_is_installed_has_its_floor():
    packages = re.findall(r'"smcl\.(\w+)[\w.]*",', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {*packages, "examples"} == ROOMS


def test_a_baseline_is_named_by_its_own_room_alone(house):
    assert {"UMTConfig", "BertCRFForTokenClassification"} <= classes_of(house)
    assert named_baselines(house) == set()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import smcl.train.trainer", "smcl.train.trainer"),
        ("from ..crf_smcl import LinearChainCRF", "smcl.crf_smcl"),
        ("from . import collator", "smcl.train.collator"),
        ("from .. import crf_smcl", "smcl.crf_smcl"),
        ("from smcl import SMCLConfig", "smcl"),
        ("def late():\n    from .collator import Collator", "smcl.train.collator"),
        ("import torch", None),
    ],
)
def test_the_check_of_imports_sees_all_their_forms(source, expected):
    house = dict.fromkeys(("smcl", "smcl.crf_smcl", "smcl.train", "smcl.train.collator", "smcl.train.trainer"), "")
    assert imports("smcl.train.trainer", house | {"smcl.train.trainer": source}) == {expected} - {None}


def test_imports_of_a_room_itself_are_relative_to_it():
    house = {"smcl": "", "smcl.train": "from .trainer import SMCLTrainer", "smcl.train.trainer": ""}
    assert imports("smcl.train", house) == {"smcl.train.trainer"}


def test_the_checks_of_the_house_find_what_they_are_for():
    house = {
        "smcl": "",
        "smcl.crf_smcl": "def late():\n    from .train.trainer import SMCLTrainer",
        "smcl.baselines": "from .umt import UMT",
        "smcl.baselines.umt": "class UMT:\n    pass",
        "smcl.train.trainer": "import smcl.baselines\nfrom ..crf_smcl import LinearChainCRF\nsmcl.baselines.UMT()",
        "smcl.experiments.tables": "from .benchmarks.crf import table",
        "smcl.experiments.benchmarks.crf": "from smcl.baselines import UMT, SYSTEMS",
    }
    assert upward(house) == {
        ("smcl.crf_smcl", "smcl.train.trainer"),
        ("smcl.experiments.tables", "smcl.experiments.benchmarks.crf"),
    }
    assert set(circle(house)) == {"smcl.crf_smcl", "smcl.train.trainer"}
    assert named_baselines(house) == {
        ("smcl.train.trainer", "UMT"),
        ("smcl.experiments.benchmarks.crf", "UMT"),
    }
