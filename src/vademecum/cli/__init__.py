"""The command line: thin verbs over plain functions, which are imported inside the verbs to keep ``--help`` quick."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from vademecum.cli.app import Stopped, app

__all__ = ["app", "main"]


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, 2 for a user's error (one line on standard error), 130 after Ctrl-C.

    ``vademecum --debug VERB`` shows tracebacks.
    """
    given = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in given
    given = [arg for arg in given if arg != "--debug"]
    try:
        result: Any = app(args=given, standalone_mode=False)
    except typer.Abort:
        return 130
    except BaseException as error:
        return _explain(error, debug)
    return int(result or 0)


def _explain(error: BaseException, debug: bool) -> int:
    """What to print for ``error``, and the exit code. Anything that is not a user's error goes on as it is."""
    if isinstance(error, BrokenPipeError):
        # The reader left (as in "| head"); a second failure while Python closes the stream would be noise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if debug:
        traceback.print_exception(error)
    if isinstance(error, (Stopped, KeyboardInterrupt)):
        print(f"\n{error}", file=sys.stderr)
        return 130
    if hasattr(error, "format_message"):
        print(f"vademecum: {error.format_message()} See vademecum --help.", file=sys.stderr)
        return 2
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    # Where Python itself misses a module the error has its name; ours says what to install.
    missing = isinstance(error, ModuleNotFoundError) and error.name is None
    if missing or isinstance(error, (ValueError, OSError)) or type(error).__module__.startswith("vademecum."):
        print(f"vademecum: {_sentence(error)}", file=sys.stderr)
        return 2
    raise error


def _sentence(error: BaseException) -> str:
    import errno

    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        place = f" while writing {error.filename}" if error.filename else ""
        return f"the disk is full{place}: what was saved before is whole; make room and give the same command again."
    return " ".join(str(error).split()) or type(error).__name__
