"""The verbs that show: what a model learned, which texts and kinds there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

verbs = typer.Typer()


inspect = typer.Typer(help="Who learned what: seven domains of text, one page with figures.", no_args_is_help=True)
verbs.add_typer(inspect, name="inspect")

Inspected = Annotated[Path, typer.Argument(help="Folder of a run, a comparison (then say which --arm) or a model.")]
OfArm = Annotated[str | None, typer.Option("--arm", help="Arm of a comparison, such as moe.")]
PerDomain = Annotated[int, typer.Option(help="Tokens read from each domain.")]
PageFolder = Annotated[Path | None, typer.Option(help="Folder of the page; one inside the run where not given.")]
DrawSeed = Annotated[int, typer.Option(help="Seed of the shuffles and of which passages are shown.")]


@inspect.command("experts")
def inspect_experts(
    run: Inspected, arm: OfArm = None, tokens: PerDomain = 20_000, out: PageFolder = None, seed: DrawSeed = 0
) -> None:
    """Which experts take which domains and tokens: specialisation, co-activation, saturation, coloured text."""
    from vademecum.inspection import commands

    commands.inspect_experts(run, arm=arm, tokens=tokens, out=out, seed=seed, echo=typer.echo)


@inspect.command("slots")
def inspect_slots(
    run: Inspected, arm: OfArm = None, tokens: PerDomain = 20_000, out: PageFolder = None, seed: DrawSeed = 0
) -> None:
    """Which domains and tokens open which slots of a value memory, per layer and head, with coloured text."""
    from vademecum.inspection import commands

    commands.inspect_slots(run, arm=arm, tokens=tokens, out=out, seed=seed, echo=typer.echo)


@inspect.command("lookup")
def inspect_lookup(
    model: Annotated[
        str, typer.Argument(help="Folder of a run, a comparison (then say which --arm) or a model; or smollm2.")
    ],
    text: Annotated[str, typer.Option(help="Text that is read.")],
    overlay: Annotated[
        Path | None, typer.Option(help="File that 'vademecum edit' wrote for this model: what it changes is shown.")
    ] = None,
    arm: OfArm = None,
    out: PageFolder = None,
) -> None:
    """One text: which slots and entries speak at which token, by layer, and what comes next with and without them.

    With --overlay it is with and without what the overlay says, and what else the model remembers stays on.
    """
    from vademecum.inspection import commands

    commands.inspect_lookup(model, text, overlay=overlay, arm=arm, out=out, echo=typer.echo)


@verbs.command("data")
def list_data() -> None:
    """List the texts and pictures there are: size, licence, and whether they are on this machine."""
    from vademecum import data
    from vademecum.images import sources

    rows = [["name", "text", "download", "here", "licence", "what"]]
    for source in data.describe():
        rows.append(
            [
                source["name"],
                f"{source['text_mb']:.1f} MB",
                f"{source['download_mb']:.1f} MB",
                "yes" if source["cached"] else "no",
                source["licence"],
                source["what"],
            ]
        )
    _table(rows)
    typer.echo(f"\nPictures, for vademecum image:\n{sources.describe()}")


@verbs.command("kinds")
def list_kinds() -> None:
    """List the kinds of memory and experts, and the settings each takes."""
    import dataclasses

    from vademecum import kinds

    rows = [["kind", "what", "paper", "settings"]]
    for name, kind in kinds.all().items():
        settings = ", ".join(f"{field.name}={field.default}" for field in dataclasses.fields(kind))
        rows.append([name, kind.title, kind.paper, settings])
    _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
