"""The verbs that compare arms over seeds: comparisons, the demo, studies."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vademecum.cli.texts import DATA, HOST, SIZE

if TYPE_CHECKING:
    from vademecum.compare.plan import Plan

verbs = typer.Typer()


@verbs.command()
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


@verbs.command()
def demo(out: Annotated[Path, typer.Option(help="Output folder.")] = Path("runs/demo")) -> None:
    """The main job in minutes: dense, experts, memory, both; one report. Short for 'compare --preset demo'."""
    from vademecum.compare import commands

    _run(commands.plan_of("demo"), out, fall_back=False)


@verbs.command()
def report(
    run: Annotated[Path, typer.Argument(help="Output folder of a comparison.")],
) -> None:
    """Draw figures and report.html again from results.json."""
    from vademecum.compare import report as page

    typer.echo(str(page.write(run)))


def _run(plan: Plan, out: Path, fall_back: bool) -> None:
    from vademecum.compare import commands

    commands.run(plan, out, command=shlex.join(["vademecum", *sys.argv[1:]]), fall_back=fall_back, echo=typer.echo)


study = typer.Typer(help="Studies: a question, the arms that answer it over seeds, one page.", no_args_is_help=True)
verbs.add_typer(study, name="study")


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


@study.command("locality")
def study_locality(
    out: Annotated[
        Path, typer.Option(help="Output folder; the same command goes on with a study that lies there.")
    ] = Path("runs/locality"),
    preset: Annotated[
        str, typer.Option(help="small (about an hour), full (hours), or smoke (a minute or two).")
    ] = "small",
    data: Annotated[str | None, typer.Option(help=DATA)] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds; one gives no interval, and so no claim.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of every arm.")] = None,
    budget: Annotated[
        list[float] | None,
        typer.Option(help="Memory as a share of the parameters in the file, such as 0.1. May be repeated."),
    ] = None,
    passages: Annotated[int | None, typer.Option(help="Passages of held-out text that are measured.")] = None,
    fall_back: Annotated[
        bool, typer.Option("--fall-back", help="Go on from the last good checkpoint where the latest is damaged.")
    ] = False,
) -> None:
    """What a bounded memory has to move: rows of a bank against experts, both in files, at equal bytes of cache."""
    from vademecum.studies import locality

    settings = locality.settings_of(preset, seeds=seeds, data=data, steps=steps, budgets=budget, passages=passages)
    locality.run(settings, out, command=shlex.join(["vademecum", *sys.argv[1:]]), fall_back=fall_back, echo=typer.echo)


@study.command("memory")
def study_memory(
    out: Annotated[
        Path, typer.Option(help="Output folder; the same command goes on with a study that lies there.")
    ] = Path("runs/memory"),
    preset: Annotated[str, typer.Option(help="small (about an hour), full (hours), or smoke (a minute).")] = "small",
    arm: Annotated[
        list[str] | None,
        typer.Option(help="Arm to run: one of the study's own, or kinds such as move:slots=8. May be repeated."),
    ] = None,
    data: Annotated[str | None, typer.Option(help=DATA)] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds; one gives no interval, and so no claim.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps on text.")] = None,
    fall_back: Annotated[
        bool, typer.Option("--fall-back", help="Go on from the last good checkpoint where the latest is damaged.")
    ] = False,
) -> None:
    """Every kind on one host: text at equal compute and equal parameters, facts known by heart, and a graph."""
    from vademecum.studies import memory

    settings = memory.settings_of(preset, arms=arm, seeds=seeds, data=data, steps=steps)
    memory.run(settings, out, command=shlex.join(["vademecum", *sys.argv[1:]]), fall_back=fall_back, echo=typer.echo)
