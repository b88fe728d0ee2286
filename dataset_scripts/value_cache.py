"""What was computed of images and posts, kept by their content in files of JSON lines."""

import json
import uuid
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_ASSETS_CACHE

from .schema import DataError

DEFAULT_FOLDER = Path(HF_ASSETS_CACHE, "smcl", "context")


class ValueCache:
    """Values by key, in a folder that any number of processes may read and write at once.

    Each process only ever appends to a file of its own, a line `{"key": ..., "value": ...}` at a time. A line that a
    killed process left unfinished is dropped, so a new run goes on where it ended.

    Args:
        folder (`Path`, *optional*): A folder for values of one kind, made when there is something to keep. Without one,
            values are kept in memory only.

    Raises:
        DataError: if the folder can't be read.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        # As text: small, and the same whether it was computed now or read.
        self._values: dict[str, str] = {}
        self._file = None
        try:
            for path in sorted(folder.glob("*.jsonl")) if folder else []:
                self._read(path)
        except OSError as error:
            raise self._error(error) from error

    def _read(self, path: Path) -> None:
        with path.open("rb") as lines:
            for line in lines:
                try:
                    record = json.loads(line)
                    self._values.setdefault(record["key"], json.dumps(record["value"]))
                except (ValueError, TypeError, KeyError):
                    continue

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        return json.loads(self._values[key])

    def __enter__(self) -> "ValueCache":
        return self

    def __exit__(self, *_) -> None:
        if self._file:
            self._file.close()

    def add(self, values: dict[str, Any]) -> None:
        """Keep values.

        Args:
            values (`dict[str, Any]`): JSON values by their keys.

        Raises:
            DataError: if they can't be written.
        """
        self._values |= {key: json.dumps(value) for key, value in values.items()}
        if self.folder is None or not values:
            return
        lines = [json.dumps({"key": key, "value": value}) + "\n" for key, value in values.items()]
        try:
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = (self.folder / f"{uuid.uuid4().hex}.jsonl").open("ab")
            self._file.write("".join(lines).encode("ascii"))
            self._file.flush()
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> DataError:
        return DataError(
            f"Keeping values in {self.folder} failed: {error}. Make room there, or choose another folder by --cache."
        )
