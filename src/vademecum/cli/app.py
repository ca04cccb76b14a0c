"""The parser: all verbs under one name, and what every one of them takes."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vademecum.cli import comparing, converting, editing, looking, picturing, training


class Stopped(Exception):
    """Ctrl-C, on its way past the command parser, which would drop its message."""


class _Verbs(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped(str(error) or "stopped.") from error


app = typer.Typer(
    name="vademecum",
    cls=_Verbs,
    help="Attach memories and mixtures of experts to Transformers models, train them, compare them with dense.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _group in (training, comparing, looking, converting, editing, picturing):
    app.add_typer(_group.verbs)


def _version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        typer.echo(f"vademecum {metadata.version('vademecum')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Options before the verb; ``--debug`` is read in :func:`main`, where errors arrive."""
