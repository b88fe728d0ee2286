"""What hostile strings must leave as it is in a card."""

import re


def shape(text: str) -> tuple[list[str], list[int]]:
    """Return a card's headings, and the number of cells of each row of its tables."""
    lines = text.splitlines()
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
    return [line for line in lines if line.startswith("#")], cells
