"""The strict entity score as a repository of its own, a Space, which `evaluate.load` finds."""

import shutil
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData

TEMPLATE = Path(__file__).with_suffix(".md")
CODE = Path(__file__).parents[1] / "train" / "metrics.py"
REQUIREMENTS = ("datasets", "evaluate>=0.4.6", "seqeval>=1.2.2")
# What people see who open the Space; there is no application.
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<h1>{title}</h1>
<p>Strict precision, recall and F1 of named entities. In Python: <code>evaluate.load("{name}")</code></p>
<p>More in the card, README.md of this Space.</p>
</html>
"""


def write_metric(output: Path, name: str) -> SpaceCard:
    """Write code, requirements and page of the metric.

    Args:
        output (`Path`): An empty folder. If it has the last part of the name, `evaluate.load` reads it as well.
        name (`str`): `"namespace/name"` on the Hub.

    Returns:
        `SpaceCard`: its card, for `README.md`.
    """
    title = name.rpartition("/")[2]
    # The name by which `evaluate.load` looks for the code.
    shutil.copyfile(CODE, output / f"{title}.py")
    (output / "requirements.txt").write_text("".join(f"{package}\n" for package in REQUIREMENTS), encoding="utf-8")
    (output / "index.html").write_text(PAGE.format(name=name, title=title), encoding="utf-8")
    data = SpaceCardData(title=title, sdk="static", license="apache-2.0", tags=["evaluate", "metric"], pinned=False)
    return SpaceCard.from_template(data, template_path=str(TEMPLATE), name=name, title=title)


__all__ = ["write_metric"]
