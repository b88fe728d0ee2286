"""Word vectors in GloVe's text format."""

from array import array
from dataclasses import dataclass

import torch

LARGEST = torch.finfo(torch.float32).max


@dataclass
class WordVectors:
    """Words and their vectors.

    Attributes:
        rows (`dict[str, int]`): Row of each word.
        vectors (`torch.FloatTensor` of shape `(num_words, size)`): The vectors.
        num_repeated (`int`): Lines left out because their word had come before.
    """

    rows: dict[str, int]
    vectors: torch.Tensor
    num_repeated: int = 0

    def row(self, word: str) -> int | None:
        """Return the row of a word as it stands, else in lower case, else none."""
        return self.rows.get(word, self.rows.get(word.lower()))


def read_word_vectors(path: str) -> WordVectors:
    """Read a file in GloVe's text format: a word and its numbers in each line, parted by single spaces.

    Args:
        path (`str`): The file, in UTF-8.

    Returns:
        [`WordVectors`].

    Raises:
        ValueError: if the file can't be read, is empty, or a line is not as it must be; names the line.
    """
    rows: dict[str, int] = {}
    numbers, size, num_repeated = array("f"), 0, 0
    try:
        # Only at "\n": words may hold other characters that end a line in unicode.
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                # fastText ends its lines with a space.
                fields = line.rstrip("\r\n ").split(" ")
                size = size or len(fields) - 1
                # Words may hold spaces: the vector is what stands at the end.
                word, vector = " ".join(fields[: len(fields) - size]), _floats(fields[len(fields) - size :])
                if vector is None or len(fields) <= size or size < 2:
                    raise ValueError(
                        f"`word_vectors`: line {number} of {path} must be a word and {max(size, 2)} or more finite "
                        f"numbers, as many as in the first line, parted by single spaces, got {ascii(line)[:80]}. "
                        "Remove a header line if there is one."
                    )
                if word in rows:
                    num_repeated += 1
                    continue
                rows[word] = len(rows)
                numbers.extend(vector)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"`word_vectors` must be a text file in GloVe's format, got {path}: {error}") from error
    if not rows:
        raise ValueError(f"`word_vectors` must be a text file in GloVe's format, got {path}, which is empty.")
    return WordVectors(rows, torch.tensor(numbers).unflatten(0, (-1, size)), num_repeated)


def _floats(fields: list[str]) -> list[float] | None:
    """Parse numbers; nothing if one is none."""
    try:
        values = [float(field) for field in fields]
    except ValueError:
        return None
    # As they are kept, in 32 bits.
    return values if all(abs(value) <= LARGEST for value in values) else None


__all__ = ["WordVectors", "read_word_vectors"]
