"""What all commands share: help, errors in one line, and how they ask for packages that only some of them need."""

import argparse
import difflib
import importlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

# What a person can mend: a wrong value, a file or a model that can't be had, a package that is missing, a rate at which
# weights are no longer finite.
MENDABLE = (ValueError, OSError, ImportError, FloatingPointError)


class OneLineErrors:
    """Makes an `argparse.ArgumentParser` tell what is wrong in one line, and which argument was probably meant."""

    # Further arguments, by name without dashes, that the command hands on.
    passes_on: Sequence[str] = ()

    def parse_known_args(self, args=None, namespace=None):
        """Parse as `argparse` does, but refuse arguments that nobody has before any other fault is told."""
        args = sys.argv[1:] if args is None else list(args)
        self._check_names(args)
        return super().parse_known_args(args, namespace)

    def _check_names(self, args: list[str]) -> None:
        names = dict(_names(self)) | dict.fromkeys(self.passes_on, True)
        for part in args[: args.index("--")] if "--" in args else args:
            found = re.fullmatch(r"(--?)([A-Za-z][\w-]*)(=.*)?", part, re.DOTALL)
            if found is None or found[1] == "-" and found[2] == "h":
                continue
            name = found[2].replace("-", "_")
            is_short = self.allow_abbrev and any(known.startswith(name) for known in names)
            if found[1] == "-" or name not in names and not is_short:
                shown = [known for known, is_shown in names.items() if is_shown]
                meant = did_you_mean(name, shown)
                if found[1] == "-" and name not in names:
                    meant += f" A value that begins with a dash is given as --name={part}."
                self.error(f"there is no argument {found[1]}{found[2]}.{meant}")

    def error(self, message: str) -> NoReturn:
        """End with a message of one line, and status 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")

    @contextmanager
    def errors_in_one_line(self) -> Iterator[None]:
        """Tell errors that a person can mend in one line, in place of a traceback.

        Raises:
            SystemExit: with status 2; with status 130 if the process is interrupted.
        """
        try:
            yield
        except MENDABLE as error:
            self.error(describe(error))
        except KeyboardInterrupt:
            self.exit(128 + signal.SIGINT, f"{self.prog}: interrupted\n")


class CommandParser(OneLineErrors, argparse.ArgumentParser):
    """The parser of a command.

    Args:
        description (`str`, *optional*): The module's docstring, which is the help as it stands.
        passes_on (`Sequence[str]`, *optional*): Arguments, by name without dashes, that the command hands on.
        **options: Those of `argparse.ArgumentParser`.
    """

    def __init__(self, description: str | None = None, passes_on: Sequence[str] = (), **options: Any):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(description=description, **options)
        self.passes_on = passes_on

    def parse_args(self, args=None, namespace=None):
        """Parse the arguments, those of the process by default."""
        options, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return options


def run_main(main: Callable[[], Any]) -> None:
    """Run a command as a program: what a person can mend is told in one line, wherever it turns up.

    Args:
        main (`Callable`): Runs it with the arguments of the process.
    """
    with CommandParser().errors_in_one_line():
        main()


def _names(parser: argparse.ArgumentParser) -> Iterator[tuple[str, bool]]:
    """Name the arguments of a parser and of its commands, as `passes_on` does, and whether `--help` shows them."""
    for action in parser._actions:
        for text in action.option_strings:
            yield text.lstrip("-").replace("-", "_"), action.help is not argparse.SUPPRESS
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _names(command)


def did_you_mean(name: str, names: Iterable[str], form: str = "--{}") -> str:
    """Ask whether another argument was meant.

    Args:
        name (`str`): What there is not, without dashes.
        names (`Iterable[str]`): What there is.
        form (`str`, *optional*, defaults to `"--{}"`): How to write a name.

    Returns:
        `str`: a question with a space before it, or an empty string if nothing is near.
    """
    names = sorted({*names})
    near = difflib.get_close_matches(name, names, 1, cutoff=0.8)
    near = near or [known for known in names if name in known][:3] or difflib.get_close_matches(name, names, 1)
    return f" Did you mean {' or '.join(map(form.format, near))}?" if near else ""


def describe(error: BaseException) -> str:
    """Return what an error says, in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def say(text: str) -> None:
    """Write to the standard output; end quietly if whoever read it has gone.

    Args:
        text (`str`): What to write, with its line ends.

    Raises:
        SystemExit: with status 141, that of a process which a closed pipe ends.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Else Python would tell of it once more in the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)


def positive(text: str) -> int:
    """Read a whole number of at least 1 from a command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def require(what: str, install: str, *packages: str) -> None:
    """Refuse to go on without packages that only some need, before anything is computed.

    Args:
        what (`str`): What needs them, as the beginning of a sentence.
        install (`str`): What brings them, as pip takes it, such as `"smcl[onnx]"`.
        *packages (`str`): Their names, as they are imported.

    Raises:
        ImportError: if one is missing.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(f'{what} needs {" and ".join(packages)}: run `pip install "{install}"`.') from error


def check_device(device: Any, what: str) -> None:
    """Refuse a device of PyTorch that there is not, before anything is loaded for it.

    Args:
        device (`str` or `torch.device`): The device.
        what (`str`): The argument with its value, for the message.

    Raises:
        ValueError: if it can't be used; says why.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{what} can't be used: {str(error).splitlines()[0]}") from error


__all__ = [
    "MENDABLE",
    "CommandParser",
    "OneLineErrors",
    "check_device",
    "describe",
    "did_you_mean",
    "positive",
    "require",
    "say",
]
