"""The verbs that train a model and let it speak."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vademecum.cli.texts import BANK, BANK_CAP, DATA, DEVICE, HOST, SIZE

verbs = typer.Typer()


@verbs.command()
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
    device: Annotated[str | None, typer.Option(help=DEVICE)] = None,
    bank: Annotated[str, typer.Option(help=BANK)] = "auto",
    bank_cap: Annotated[str | None, typer.Option(help=BANK_CAP)] = None,
    bank_rule: Annotated[
        str, typer.Option(help="Steps of a bank's rows: rms (a number per slot), or adam (two per value).")
    ] = "rms",
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
        bank_rule=bank_rule,
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
        bank=bank,
        bank_cap=bank_cap,
        echo=typer.echo,
    )


@verbs.command()
def generate(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of a comparison (then say which --arm).")],
    prompt: Annotated[str, typer.Option(help="Text to go on from; empty starts a new document.")] = "",
    arm: Annotated[str | None, typer.Option(help="Arm of a comparison, such as move.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest continuation.")] = 100,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token every time.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Share of the probability to sample from.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    bank: Annotated[str, typer.Option(help=BANK)] = "auto",
    bank_cap: Annotated[str | None, typer.Option(help=BANK_CAP)] = None,
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

    commands.generate(
        run,
        prompt,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        bank=bank,
        bank_cap=bank_cap,
        write=write,
    )
    write("\n")
