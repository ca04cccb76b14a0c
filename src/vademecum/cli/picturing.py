"""The verbs for pictures: train, sample, compare."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from vademecum.cli.texts import DEVICE, HOST, SIZE

verbs = typer.Typer()
image = typer.Typer(
    help="Pictures: train a decoder with memories on them, draw new ones, compare arms.", no_args_is_help=True
)
verbs.add_typer(image, name="image")

SOURCE = "animals, mnist, digits, or a folder with one sub-folder of pictures for each class."
CODEC = (
    "How pictures become tokens: learned (8x8x8 codes, a quarter as fine), such as learned:8x5x5x5,shrink=2, or raw "
    "pixels, grey:levels=4."
)
GUIDANCE = "Classifier-free guidance: 1 is none, 2 leans on the class; needs a model trained with --drop above 0."
SEED = "Seed of the draws; equal seeds, equal pictures."


@image.command("train")
def image_train(
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on with a run that lies there.")],
    data: Annotated[str, typer.Option(help=SOURCE)] = "animals",
    codec: Annotated[str, typer.Option(help=CODEC)] = "learned",
    side: Annotated[int | None, typer.Option(help="Side in pixels of a folder's pictures; 28 if not given.")] = None,
    grey: Annotated[
        bool | None, typer.Option("--grey/--colour", help="Form of a folder's pictures; what they are, if not given.")
    ] = None,
    drop: Annotated[float, typer.Option(help="Share of training pictures whose class is hidden, for guidance.")] = 0.1,
    host: Annotated[str, typer.Option(help=f"{HOST}.")] = "qwen3",
    size: Annotated[int, typer.Option(help=SIZE)] = 4,
    memory: Annotated[
        list[str] | None,
        typer.Option(help="Kind to attach, such as move:slots=8 or moe:experts=8,top_k=2; may be repeated."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 2000,
    batch: Annotated[int, typer.Option(help="Pictures per step.")] = 32,
    lr: Annotated[float, typer.Option(help="Highest learning rate, from which each role's follows.")] = 3e-3,
    dtype: Annotated[str, typer.Option(help="fp32 or bf16 (autocast).")] = "fp32",
    seed: Annotated[int, typer.Option(help="Seed of initialisation and data order.")] = 0,
    eval_every: Annotated[int, typer.Option(help="Steps between evaluations; 0 for the end only.")] = 200,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints; 0 for the end only.")] = 200,
    sample_every: Annotated[int, typer.Option(help="Steps between grids of samples; 0 for the end only.")] = 500,
    guidance: Annotated[float, typer.Option(help=GUIDANCE)] = 1.0,
    fall_back: Annotated[
        bool, typer.Option("--fall-back", help="Go on from the last good checkpoint where the latest is damaged.")
    ] = False,
    device: Annotated[str | None, typer.Option(help=DEVICE)] = None,
) -> None:
    """Train on pictures; grids of samples by class and step land beside the run. Ctrl-C saves; the same goes on."""
    from vademecum.images import commands
    from vademecum.images.sampling import Sampling
    from vademecum.training import Recipe

    def recipe(length: int) -> Recipe:
        return Recipe(
            steps=steps,
            batch=batch,
            length=length,
            lr=lr,
            dtype=dtype,
            seed=seed,
            eval_every=eval_every,
            eval_tokens=0,
            checkpoint_every=checkpoint_every,
        )

    commands.train(
        out=out,
        source=data,
        codec=codec,
        side=side,
        grey=grey,
        drop=drop,
        host=host,
        size=size,
        memory=memory or (),
        recipe=recipe,
        sample_every=sample_every,
        sampling=Sampling(guidance=guidance),
        fall_back=fall_back,
        device=device,
        echo=typer.echo,
    )


@image.command("sample")
def image_sample(
    run: Annotated[Path, typer.Argument(help="Folder of a run on pictures, finished or not.")],
    out: Annotated[Path | None, typer.Option(help="PNG file; samples/ in the run's folder if not given.")] = None,
    name: Annotated[
        list[str] | None, typer.Option("--class", help="Class to draw; may be repeated; all if none.")
    ] = None,
    count: Annotated[int, typer.Option(help="Pictures of each class.")] = 8,
    guidance: Annotated[float, typer.Option(help=GUIDANCE)] = 1.0,
    temperature: Annotated[float, typer.Option(help="Lower is more likely.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw from so many of the likeliest tokens; 0 for all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens of this much probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help=SEED)] = 0,
    batch: Annotated[int, typer.Option(help="Pictures at a time.")] = 64,
    complete: Annotated[
        str | None, typer.Option(help=f"Complete held-out pictures of a source instead of drawing new ones: {SOURCE}")
    ] = None,
    given: Annotated[float, typer.Option(help="Share of a picture's rows that is given to be completed.")] = 0.5,
    scale: Annotated[int, typer.Option(help="Pixels of the PNG for each pixel of a picture.")] = 2,
    device: Annotated[str | None, typer.Option(help=DEVICE)] = None,
) -> None:
    """Draw pictures by class, or complete half-given ones, as one PNG grid."""
    from vademecum.images import commands
    from vademecum.images.sampling import Sampling

    commands.sample(
        run,
        out=out,
        classes=name or (),
        count=count,
        sampling=Sampling(guidance=guidance, temperature=temperature, top_k=top_k, top_p=top_p),
        seed=seed,
        batch=batch,
        complete=complete,
        given=given,
        scale=scale,
        device=device,
        echo=typer.echo,
    )


@image.command("compare")
def image_compare(
    out: Annotated[
        Path, typer.Option(help="Output folder; the same command goes on with a comparison that lies there.")
    ] = Path("runs/image-compare"),
    preset: Annotated[
        str, typer.Option(help="standard (hours), small (under an hour), latent (an MLA host), or smoke (a minute).")
    ] = "small",
    arm: Annotated[
        list[str] | None,
        typer.Option(help="Arm to run: dense, lave, move-1 ..., moe, move+moe, or kinds; may be repeated."),
    ] = None,
    data: Annotated[str | None, typer.Option(help=SOURCE)] = None,
    codec: Annotated[str | None, typer.Option(help=CODEC)] = None,
    host: Annotated[str | None, typer.Option(help=f"{HOST}.")] = None,
    size: Annotated[int | None, typer.Option(help=SIZE)] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds; one gives no interval, and so no claim.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of the dense arm.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate, the same for all arms.")] = None,
    match: Annotated[str | None, typer.Option(help="What all arms get the same of: tokens, flops or seconds.")] = None,
    side: Annotated[int | None, typer.Option(help="Side in pixels of a folder's pictures.")] = None,
    grey: Annotated[bool | None, typer.Option("--grey/--colour", help="Form of a folder's pictures.")] = None,
    drop: Annotated[float | None, typer.Option(help="Share of training pictures whose class is hidden.")] = None,
    samples: Annotated[int | None, typer.Option(help="Pictures that are drawn from each model and judged.")] = None,
    guidance: Annotated[float | None, typer.Option(help=GUIDANCE)] = None,
    temperature: Annotated[float | None, typer.Option(help="Lower is more likely.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many of the likeliest tokens; 0 for all.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest tokens of this much probability.")
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(help="TorchScript file of another extractor, such as Inception, for the Frechet distance."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    fall_back: Annotated[
        bool, typer.Option("--fall-back", help="Go on from the last good checkpoint where the latest is damaged.")
    ] = False,
) -> None:
    """Train arms x seeds on pictures side by side, judge what they draw, write a report. Ctrl-C saves."""
    from vademecum.compare import commands, picturing

    plan = picturing.plan_of(
        preset,
        arms=arm,
        source=data,
        medium={
            "codec": codec,
            "side": side,
            "grey": grey,
            "drop": drop,
            "samples": samples,
            "guidance": guidance,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "features": None if features is None else str(features),
        },
        host=host,
        size=size,
        seeds=seeds,
        match=match,
        device=device,
        recipe={"steps": steps, "batch": batch, "lr": lr},
    )
    commands.run(plan, out, command=shlex.join(["vademecum", *sys.argv[1:]]), fall_back=fall_back, echo=typer.echo)
