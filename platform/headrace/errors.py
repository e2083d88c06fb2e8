"""Errors that are sentences for the person at the terminal."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Something the user gave cannot work. The message says what was wrong, the value, and what to do.

    Raised before anything expensive starts; the entry points print it as one line and exit with 2.
    """


class RunError(RuntimeError):
    """A run that had started cannot go on. The message says why and what to do."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return the end of an error sentence: the nearest valid name, or all of them."""
    choices = sorted(valid)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(choices)}"


def final_sentence(error: BaseException | None) -> str | None:
    """Return the sentence of the UserError or RunError from which an error came, if it came from one.

    Errors that crossed processes carry where they came from as `cause`, or only in their text.
    """
    while error is not None:
        if isinstance(error, (UserError, RunError)):
            return str(error)
        for line in reversed(str(error).splitlines()):
            for kind in (UserError, RunError):
                _, found, sentence = line.partition(f"{kind.__name__}: ")
                if found:
                    return sentence.strip()
        error = error.__cause__ or getattr(error, "cause", None)
    return None


def exit_with_sentence(main: Callable[[], int | None]) -> None:
    """Run an entry point: a UserError becomes one line on stderr and exit code 2, a RunError code 1."""
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except RunError as error:
        print(f"stopped: {error}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.exit(code or 0)
