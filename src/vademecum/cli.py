"""The command line: thin verbs over plain functions, which are imported inside the verbs to keep ``--help`` quick."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from vademecum.compare.plan import Plan

HOST = (
    "Host preset (qwen3, llama, gpt2, olmo2, nanochat, deepseek_v3 with latent attention; with experts of their own "
    "deepseek_v3_moe, mixtral, olmoe, qwen3_moe)"
)
SIZE = "Size dial: n layers, hidden width 32 n."
DATA = "Text: one that 'vademecum data' lists, such as factbook or domains, or your own .txt, .jsonl or folder."


class _Stopped(Exception):
    """Ctrl-C, on its way past the command parser, which would drop its message."""


class _Verbs(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Stopped(str(error) or "stopped.") from error


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


study = typer.Typer(help="Studies: a question, the arms that answer it over seeds, one page.", no_args_is_help=True)
app.add_typer(study, name="study")
inspect = typer.Typer(help="Who learned what: seven domains of text, one page with figures.", no_args_is_help=True)
app.add_typer(inspect, name="inspect")

Inspected = Annotated[Path, typer.Argument(help="Folder of a run, a comparison (then say which --arm) or a model.")]
OfArm = Annotated[str | None, typer.Option("--arm", help="Arm of a comparison, such as moe.")]
PerDomain = Annotated[int, typer.Option(help="Tokens read from each domain.")]
PageFolder = Annotated[Path | None, typer.Option(help="Folder of the page; one inside the run where not given.")]
DrawSeed = Annotated[int, typer.Option(help="Seed of the shuffles and of which passages are shown.")]


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


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on with a run that lies there.")],
    data: Annotated[str, typer.Option(help=DATA)] = "factbook",
    text_field: Annotated[str, typer.Option(help="Field of .jsonl files that holds the text.")] = "text",
    host: Annotated[str, typer.Option(help=f"{HOST}, or a folder with a Transformers model.")] = "qwen3",
    size: Annotated[int, typer.Option(help=SIZE)] = 4,
    vocab_size: Annotated[int, typer.Option(help="Tokens of the vocabulary that is trained for a preset.")] = 4096,
    memory: Annotated[
        list[str] | None,
        typer.Option(help="Kind to attach, such as move:slots=8 or moe:experts=8,top_k=2; may be repeated."),
    ] = None,
    freeze_host: Annotated[bool, typer.Option("--freeze-host", help="Train and save the memory alone.")] = False,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 1000,
    batch: Annotated[int, typer.Option(help="Sequences per step.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens per sequence.")] = 256,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Highest learning rate, from which each role's follows; 0.006 for a preset, 0.0003 for a folder."
        ),
    ] = None,
    optimizer: Annotated[str, typer.Option(help="adamw or muon (for matrices).")] = "adamw",
    dtype: Annotated[str, typer.Option(help="fp32 or bf16 (autocast).")] = "fp32",
    accumulate: Annotated[int, typer.Option(help="Batches per optimizer step.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of initialisation and data order.")] = 0,
    eval_every: Annotated[int, typer.Option(help="Steps between evaluations; 0 for the end only.")] = 100,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints; 0 for the end only.")] = 200,
    keep: Annotated[int, typer.Option(help="Checkpoints to keep.")] = 2,
    fall_back: Annotated[
        bool, typer.Option("--fall-back", help="Go on from the last good checkpoint where the latest is damaged.")
    ] = False,
    tracker: Annotated[str | None, typer.Option(help="tensorboard or trackio, beside metrics.jsonl.")] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda; the GPU where there is one.")] = None,
) -> None:
    """Train a host with memories, from scratch or from a model folder. Ctrl-C saves; the same command goes on."""
    from vademecum.training import Recipe, commands

    recipe = Recipe.for_host(
        pretrained=commands.model_folder(host) is not None,
        lr=lr,
        steps=steps,
        batch=batch,
        length=length,
        optimizer=optimizer,
        dtype=dtype,
        accumulate=accumulate,
        seed=seed,
        eval_every=eval_every,
        checkpoint_every=checkpoint_every,
        keep=keep,
    )
    commands.train(
        out=out,
        data_source=data,
        text_field=text_field,
        host=host,
        size=size,
        vocab_size=vocab_size,
        memory=memory or (),
        freeze_host=freeze_host,
        recipe=recipe,
        fall_back=fall_back,
        tracker=tracker,
        device=device,
        echo=typer.echo,
    )


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of a comparison (then say which --arm).")],
    prompt: Annotated[str, typer.Option(help="Text to go on from; empty starts a new document.")] = "",
    arm: Annotated[str | None, typer.Option(help="Arm of a comparison, such as move.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest continuation.")] = 100,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token every time.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Share of the probability to sample from.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
) -> None:
    """Stream text from a trained run or from an arm of a comparison."""
    from vademecum.training import commands

    if (run / "plan.json").is_file():
        from vademecum.compare import commands as comparing

        run = comparing.find_run(run, arm)
    # The prompt is shown with the first piece: before it, nobody knows whether there is a run to speak from.
    waiting = [prompt]

    def write(piece: str) -> None:
        sys.stdout.write("".join([*waiting, piece]))
        sys.stdout.flush()
        waiting.clear()

    commands.generate(run, prompt, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, write=write)
    write("\n")


@app.command()
def compare(
    out: Annotated[
        Path, typer.Option(help="Output folder; the same command goes on with a comparison that lies there.")
    ] = Path("runs/compare"),
    preset: Annotated[
        str,
        typer.Option(
            help="standard (about half an hour), demo (minutes), hour, hybrid (latent attention with experts and "
            "memory, and questions to them), or smoke and hybrid-smoke (seconds); what follows changes it."
        ),
    ] = "standard",
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="Arm to run: dense, lave, lave-half, move, moe, move+moe, lave+moe, dense-wide, move-1 ..., share-0, "
            "share-20, share-40, share-100 (of the sparse parameters in memory), or kinds such as "
            "move:slots=4+moe:top_k=2. May be repeated."
        ),
    ] = None,
    data: Annotated[list[str] | None, typer.Option(help=f"{DATA} May be repeated.")] = None,
    host: Annotated[str | None, typer.Option(help=f"{HOST}.")] = None,
    size: Annotated[int | None, typer.Option(help=SIZE)] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds; one gives no interval, and so no claim.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of the dense arm.")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences per step.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens per sequence.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate, the same for all arms.")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32 or bf16.")] = None,
    match: Annotated[str | None, typer.Option(help="What all arms get the same of: tokens, flops or seconds.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    fall_back: Annotated[
        bool, typer.Option("--fall-back", help="Go on from the last good checkpoint where the latest is damaged.")
    ] = False,
) -> None:
    """Train arms x seeds side by side at matched cost and write a report. Ctrl-C saves; the same command goes on."""
    from vademecum.compare import commands

    plan = commands.plan_of(
        preset,
        arms=arm,
        data=data,
        seeds=seeds,
        host=host,
        size=size,
        match=match,
        device=device,
        recipe={"steps": steps, "batch": batch, "length": length, "lr": lr, "dtype": dtype},
    )
    _run(plan, out, fall_back)


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Output folder.")] = Path("runs/demo")) -> None:
    """The main job in minutes: dense, experts, memory, both; one report. Short for 'compare --preset demo'."""
    from vademecum.compare import commands

    _run(commands.plan_of("demo"), out, fall_back=False)


def _run(plan: Plan, out: Path, fall_back: bool) -> None:
    from vademecum.compare import commands

    commands.run(plan, out, command=shlex.join(["vademecum", *sys.argv[1:]]), fall_back=fall_back, echo=typer.echo)


@study.command("collapse")
def study_collapse(
    out: Annotated[
        Path, typer.Option(help="Output folder; the same command goes on with a study that lies there.")
    ] = Path("runs/collapse"),
    preset: Annotated[
        str, typer.Option(help="small (a quarter of an hour), full (hours), or smoke (seconds).")
    ] = "small",
    data: Annotated[str | None, typer.Option(help=DATA)] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds; one gives no interval, and so no claim.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of every arm.")] = None,
    size: Annotated[int | None, typer.Option(help=SIZE)] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    fall_back: Annotated[
        bool, typer.Option("--fall-back", help="Go on from the last good checkpoint where the latest is damaged.")
    ] = False,
) -> None:
    """What goes wrong with experts and slots, and what cures it: load, drops, slots and quality over training."""
    from vademecum.studies import collapse

    plan = collapse.plan_of(preset, data=data, seeds=seeds, recipe={"steps": steps}, size=size, device=device)
    collapse.run(plan, out, command=shlex.join(["vademecum", *sys.argv[1:]]), fall_back=fall_back, echo=typer.echo)


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


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Output folder of a comparison.")],
) -> None:
    """Draw figures and report.html again from results.json."""
    from vademecum.compare import report as page

    typer.echo(str(page.write(run)))


@app.command("data")
def list_data() -> None:
    """List the texts there are: size, licence, and whether they are on this machine."""
    from vademecum import data

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


@app.command("kinds")
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
    if isinstance(error, (_Stopped, KeyboardInterrupt)):
        print(f"\n{error}", file=sys.stderr)
        return 130
    if hasattr(error, "format_message"):
        print(f"vademecum: {error.format_message()} See vademecum --help.", file=sys.stderr)
        return 2
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    if isinstance(error, (ValueError, OSError)) or type(error).__module__.startswith("vademecum."):
        print(f"vademecum: {_sentence(error)}", file=sys.stderr)
        return 2
    raise error


def _sentence(error: BaseException) -> str:
    import errno

    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        place = f" while writing {error.filename}" if error.filename else ""
        return f"the disk is full{place}: what was saved before is whole; make room and give the same command again."
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
