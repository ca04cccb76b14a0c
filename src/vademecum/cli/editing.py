"""The verbs that write, change and remove facts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vademecum.cli.comparing import study
from vademecum.cli.texts import DEVICE

verbs = typer.Typer()
edit = typer.Typer(
    help="Write, change and remove facts of a pretrained model: an overlay file beside it, its weights never change.",
    no_args_is_help=True,
)
verbs.add_typer(edit, name="edit")

Model = Annotated[str, typer.Argument(help="Folder of a Transformers model with its tokenizer, or smollm2.")]
File = Annotated[Path, typer.Argument(help="Overlay file, such as facts.safetensors.")]
Facts = Annotated[
    Path | None, typer.Option("--facts", help="File of facts, one JSON object a line: subject, prompt, target, ...")
]
Subject = Annotated[str | None, typer.Option(help="What the fact is about, as it stands in the prompt.")]
Prompt = Annotated[str | None, typer.Option(help="Text that ends where the target begins.")]
Target = Annotated[str | None, typer.Option(help="How the model shall go on.")]
Spelling = Annotated[list[str] | None, typer.Option(help="Another way to write the subject; may be repeated.")]
Paraphrase = Annotated[list[str] | None, typer.Option(help="Another prompt that asks the same; may be repeated.")]
Into = Annotated[
    str | None,
    typer.Option(help="entries, or rows: those that the model's own memory has for a subject's last tokens."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Write changed rows without asking when their damage is shown.")]
Device = Annotated[str | None, typer.Option(help=DEVICE)]
Keep = Annotated[list[str] | None, typer.Option(help="Prompt whose continuation must stay; may be repeated.")]


def _written(model: str, overlay: Path, given: tuple[Any, ...], *, yes: bool, **how: Any) -> None:
    """Write the facts that options spell, and ask before rows are changed unless ``yes``."""
    from vademecum.editing import commands

    facts = commands.given(*given)
    commands.add(model, overlay, facts, echo=typer.echo, confirm=lambda: yes or _confirmed(), **how)


def _confirmed() -> bool:
    """The user's answer; where the input ends before there is one, no."""
    try:
        return typer.confirm("Write it?")
    except typer.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt("stopped; nothing was written.") from error
        return False


@edit.command()
def add(
    model: Model,
    overlay: File,
    facts: Facts = None,
    subject: Subject = None,
    prompt: Prompt = None,
    target: Target = None,
    spelling: Spelling = None,
    paraphrase: Paraphrase = None,
    keep: Keep = None,
    into: Into = None,
    yes: Yes = False,
    device: Device = None,
) -> None:
    """Write facts into an overlay, which is made if it is not there."""
    more = {"spellings": spelling or (), "paraphrases": paraphrase or (), "keep": keep or ()}
    _written(model, overlay, (facts, subject, prompt, target, more), yes=yes, into=into, device=device)


@edit.command()
def change(
    model: Model,
    overlay: File,
    facts: Facts = None,
    subject: Subject = None,
    prompt: Prompt = None,
    target: Target = None,
    spelling: Spelling = None,
    paraphrase: Paraphrase = None,
    keep: Keep = None,
    yes: Yes = False,
    device: Device = None,
) -> None:
    """Write facts in the place of what the overlay says to the same prompts."""
    more = {"spellings": spelling or (), "paraphrases": paraphrase or (), "keep": keep or ()}
    _written(model, overlay, (facts, subject, prompt, target, more), yes=yes, change=True, device=device)


@edit.command()
def remove(
    overlay: File,
    subject: Annotated[str, typer.Option(help="Whose entries go.")],
    prompt: Annotated[str | None, typer.Option(help="Only the one that answers this prompt.")] = None,
) -> None:
    """Take facts out; they stay in the file, silent, so that 'undo' can bring them back."""
    from vademecum.editing import commands

    commands.remove(overlay, subject, prompt, echo=typer.echo)


@edit.command()
def undo(overlay: File) -> None:
    """Take back the last change that stands; what speaks then is what spoke before it, byte for byte."""
    from vademecum.editing import commands

    commands.undo(overlay, echo=typer.echo)


@edit.command("list")
def list_(
    overlay: File,
    journal: Annotated[bool, typer.Option("--journal", help="What was done and when, instead of what holds.")] = False,
) -> None:
    """Print the facts of an overlay and whether they hold, or its journal."""
    from vademecum.editing import commands

    commands.listed(overlay, journal=journal, echo=typer.echo)


@edit.command()
def export(
    overlay: File,
    out: Annotated[Path | None, typer.Option(help="File to write; printed where not given.")] = None,
    small: Annotated[
        bool, typer.Option("--overlay", help="An overlay of what speaks alone, without journal, instead of facts.")
    ] = False,
) -> None:
    """Print the facts as JSON lines, ready for 'vademecum edit add --facts'."""
    from vademecum.editing import commands

    commands.export(overlay, out, small=small, echo=typer.echo)


@edit.command()
def ask(
    model: Model,
    overlay: File,
    prompt: Annotated[list[str], typer.Option(help="Text to go on from; may be repeated.")],
    tokens: Annotated[int, typer.Option(help="Longest continuation.")] = 12,
    device: Device = None,
) -> None:
    """Show how the model goes on without the overlay and with it."""
    from vademecum.editing import commands

    commands.ask(model, overlay, prompt, tokens, echo=typer.echo, device=device)


@study.command("editing")
def study_editing(
    out: Annotated[
        Path, typer.Option(help="Output folder; the same command goes on with a study that lies there.")
    ] = Path("runs/editing"),
    preset: Annotated[
        str,
        typer.Option(
            help="small (1 to 100 edits, hours), full (to 1,000, a day), smoke (entries and prompt alone, minutes), or "
            "cities: to 10,000 edits of a small host that is trained first."
        ),
    ] = "small",
    model: Annotated[str | None, typer.Option(help="Folder of a Transformers model, smollm2, or cities.")] = None,
    count: Annotated[list[int] | None, typer.Option(help="Edits in place at once. May be repeated.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="entries, finetune, lora, rank-one, prompt or host (not edited). May be repeated."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds; one gives no interval, and so no claim.")] = None,
    device: Device = None,
) -> None:
    """Facts written into a model by entries and by what is usual, and everything asked with all of them in place."""
    from vademecum.studies import editing as editing_study

    settings = editing_study.settings_of(preset, model=model, counts=count, methods=method, seeds=seeds)
    editing_study.run(settings, out, command=shlex.join(["vademecum", *sys.argv[1:]]), echo=typer.echo, device=device)
