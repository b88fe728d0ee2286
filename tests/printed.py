"""Run what README and docs show with its output, and put what it prints now in place of what is stale.

    python tests/printed.py [--demo demo] [--pages README.md docs/predict.md]    # or `make docs`

Two kinds of output are looked at: a block without a language right after a block of Python, and in a block of `console`
what stands under each line that begins with `$ `. The Python blocks of a page share their names. All run in a folder
that has `demo`, the model of `make demo`, and the repository's own files. Ends with status 1 if anything was stale;
numbers that differ by no more than rounding elsewhere does (0.002) are not.
"""

import argparse
import contextlib
import difflib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOLERANCE = 0.002
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
LINES = r"(?:(?!```).*\n)*"
PYTHON = re.compile(rf"^```python\n(?P<code>{LINES})```\n\n```\n(?P<output>{LINES})```$", re.MULTILINE)
CONSOLE = re.compile(rf"^```console\n{LINES}```$", re.MULTILINE)
COMMAND = re.compile(r"^\$ (?P<command>(?:.*\\\n)*.*)\n(?P<output>(?:(?!\$ |```).*\n)*)", re.MULTILINE)


def is_same(shown: str, printed: str) -> bool:
    """Tell whether two outputs are the same but for the last digits of their numbers."""
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(abs(float(one) - float(other)) <= TOLERANCE for one, other in pairs)


def run_python(code: str, names: dict) -> str:
    """Run a block and return what it prints; an error is the block's, and ends all."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, names)
    return output.getvalue()


def run_command(command: str) -> str:
    """Run a line of a console and return what it prints; the programs of this environment come first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path}
    return subprocess.run(command, shell=True, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def refresh(page: str, run_code: Callable[[str, dict], str] = run_python) -> str:
    """Return a page with outputs as they are now, where they are not the same."""
    names: dict = {"__name__": "page"}

    def keep(found: re.Match, printed: str) -> str:
        if is_same(found["output"], printed):
            return found[0]
        start = found.start("output") - found.start()
        return found[0][:start] + printed + found[0][start + len(found["output"]) :]

    page = PYTHON.sub(lambda found: keep(found, run_code(found["code"], names)), page)
    return CONSOLE.sub(
        lambda block: COMMAND.sub(lambda found: keep(found, run_command(found["command"])), block[0]), page
    )


def make_folder(folder: Path, demo: Path) -> None:
    """Give a folder the repository's files and the demo, by links."""
    for path in ROOT.iterdir():
        if not path.name.startswith((".", "demo")):
            (folder / path.name).symlink_to(path)
    (folder / "demo").symlink_to(demo)


def main() -> None:
    """Refresh the pages in place, show what changed, and end with status 1 if anything did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="what `make demo` wrote (%(default)s)")
    parser.add_argument("--pages", type=Path, nargs="+", default=[ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))])
    arguments = parser.parse_args()
    demo = arguments.demo.resolve()
    if not (demo / "model" / "model.safetensors").is_file():
        parser.error(f"expected the demo in {demo}, found no model there: run `make demo`")
    pages, stale = [path.resolve() for path in arguments.pages], []
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), demo)
        os.chdir(folder)
        for path in pages:
            sys.stderr.write(f"{path.name}\n")
            old = path.read_text(encoding="utf-8")
            new = refresh(old)
            if new != old:
                stale.append(path.name)
                path.write_text(new, encoding="utf-8")
                sys.stdout.writelines(
                    difflib.unified_diff(old.splitlines(True), new.splitlines(True), path.name, "now")
                )
        os.chdir(ROOT)
    if stale:
        sys.exit(f"Stale until now: {', '.join(stale)}. Look at the changes and commit them.")


if __name__ == "__main__":
    main()
