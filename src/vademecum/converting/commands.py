"""The verb ``convert`` as a plain function; the command line binds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vademecum.about import TENSORS
from vademecum.converting.banks import Converted, convert
from vademecum.converting.ids import ids_of_text, read_ids
from vademecum.converting.kept import NoSuchRow
from vademecum.stores.placement import size


def run(
    folder: Path,
    out: Path,
    *,
    bank: str,
    fold: bool = False,
    prune: bool = False,
    keep_ids: Path | None = None,
    read_by: Path | None = None,
    tokenizer: Path | None = None,
    echo: Callable[[str], None] = print,
) -> list[Converted]:
    """:func:`vademecum.converting.convert` with a progress bar; says what each bank cost before and costs now.

    Raises:
        ValueError: ``keep_ids`` and ``read_by`` were both given, or one of ``read_by`` and ``tokenizer`` alone; and
            what ``convert``, ``read_ids`` and ``ids_of_text`` raise.
    """
    if (read_by is None) != (tokenizer is None):
        raise ValueError(
            "--read-by and --tokenizer go together: the text, and the tokenizer.json that makes ids of it."
        )
    if keep_ids is not None and read_by is not None:
        raise ValueError("--keep-ids and --read-by were both given; give one list of the rows that stay.")
    keep = read_ids(keep_ids) if keep_ids is not None else None
    if read_by is not None and tokenizer is not None:
        keep = ids_of_text(read_by, tokenizer)
    with _Bar() as bar:
        try:
            done = convert(folder, out, bank=bank, fold=fold, prune=prune, keep=keep, progress=bar)
        except NoSuchRow as error:
            raise ValueError(f"{keep_ids or tokenizer} does not fit {folder}: {error}") from error
    for one in done:
        echo(_sentence(one, bank))
    before, after = ((place / TENSORS).stat().st_size for place in (folder, out))
    echo(f"{folder / TENSORS}: {size(before)}. {out / TENSORS}: {size(after)}, {before / after:.2f} times smaller.")
    return done


def _sentence(one: Converted, bank: str) -> str:
    kept = "" if one.stored == one.rows else f" ({one.stored:,} stored)"
    lost = f", {one.lost:,} rows that were not zero are gone" if one.lost else ""
    error = (
        f"relative error {one.mean_error:.2%} on average, {one.worst_error:.2%} at worst"
        if one.worst_error
        else "no error"
    )
    return (
        f"{one.name}: {one.rows:,} rows{kept}, {size(one.before)} -> {size(one.after)} in {bank}, "
        f"{one.ratio:.2f} times smaller, {error}{lost}."
    )


class _Bar:
    """A bar per pass over a bank."""

    def __init__(self) -> None:
        self._what = ""
        self._bar: Any = None

    def __call__(self, what: str, rows: int) -> None:
        from tqdm import tqdm

        if what != self._what:
            self._end()
            self._what, self._bar = what, tqdm(desc=what, unit=" rows", dynamic_ncols=True, mininterval=0.5)
        self._bar.update(rows - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
