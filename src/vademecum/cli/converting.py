"""The verb that makes saved memories smaller, and the study of what that costs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from vademecum.cli.comparing import study
from vademecum.cli.texts import DATA

verbs = typer.Typer()


@verbs.command()
def convert(
    folder: Annotated[Path, typer.Argument(help="Folder of a memory: what vm.save wrote, or final/memory of a run.")],
    out: Annotated[Path, typer.Option(help="New folder for the result; vm.load reads it like the old one.")],
    bank: Annotated[
        str,
        typer.Option(
            help="Format of the rows: int8, int4, int3, int2 (1.06, 0.56, 0.44 and 0.31 bytes per value), bf16 or fp32."
        ),
    ],
    fold: Annotated[
        bool, typer.Option("--fold", help="Store rows of equal bytes once; nothing that is read changes.")
    ] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Drop rows of zeros, or all but those that the next options name; they read as zeros."
        ),
    ] = False,
    keep_ids: Annotated[Path | None, typer.Option(help="File with the ids whose rows stay.")] = None,
    read_by: Annotated[Path | None, typer.Option(help="Text file; rows that it reads stay. Needs --tokenizer.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="tokenizer.json of the model, for --read-by.")] = None,
) -> None:
    """Write a memory with its banks in fewer bytes, for the disk and for inference; says what it costs in error."""
    from vademecum.converting import commands

    commands.run(
        folder,
        out,
        bank=bank,
        fold=fold,
        prune=prune,
        keep_ids=keep_ids,
        read_by=read_by,
        tokenizer=tokenizer,
        echo=typer.echo,
    )


@study.command("compression")
def study_compression(
    run: Annotated[Path, typer.Argument(help="Folder of a run, a comparison (then say which --arm) or a model.")],
    arm: Annotated[str | None, typer.Option(help="Arm of a comparison, such as move; all its seeds are read.")] = None,
    data: Annotated[str | None, typer.Option(help=f"{DATA} What the run was trained on where not given.")] = None,
    tokens: Annotated[int, typer.Option(help="Held-out tokens that are read.")] = 30_000,
    out: Annotated[Path | None, typer.Option(help="Folder of the page; one inside the run where not given.")] = None,
) -> None:
    """What fewer bits cost: bits against divergence and bits per byte, for a bank's rows and for the host's weights."""
    from vademecum.studies import compression

    command = shlex.join(["vademecum", *sys.argv[1:]])
    compression.run(run, out, arm=arm, text=data, tokens=tokens, command=command, echo=typer.echo)
