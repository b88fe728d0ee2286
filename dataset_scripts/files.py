"""Files that are written whole or not at all, and the check that an output can be written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file that takes its name when it is complete: a run that ends before leaves what was there.

    Args:
        path (`str` or `os.PathLike`): The file.

    Yields:
        `Path`: where to write it, a hidden name beside it, which readers of folders pass over.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def is_same_folder(name: str | os.PathLike | None, folder: str | os.PathLike) -> bool:
    """Tell whether a name, of a folder or of something on the Hub, is that of a folder which is there."""
    return name is not None and Path(name).is_dir() and Path(folder).is_dir() and Path(folder).samefile(name)


def check_writable(folder: str | os.PathLike, argument: str) -> None:
    """Refuse a folder that could not be made or written to, without making it.

    Args:
        folder (`str` or `os.PathLike`): The folder, which need not exist.
        argument (`str`): The argument that names it, for the message.

    Raises:
        ValueError: if it can't be written to.
    """
    path = Path(folder).absolute()
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if "\0" in str(folder):
        reason = "a path holds no null character"
    elif not there.is_dir():
        reason = f"found a file in the way, {there}"
    elif not os.access(there, os.W_OK | os.X_OK):
        reason = f"nothing may be written in {there}"
    else:
        return
    raise ValueError(
        f"`{argument}` is {folder}, which is no folder that can be written to: {reason}. Choose another place."
    )


__all__ = ["check_writable", "write_whole"]
