"""A memory on disk: ``memory.json`` says what it is, ``memory.safetensors`` holds it, a manifest proves it whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vademecum import about, files, hosts, kinds
from vademecum.attached import ROOT, Memories
from vademecum.memory import placing
from vademecum.memory.bank import Bank
from vademecum.state import Rows, load_memory_state_dict, memory_state_dict, require_memory_fit
from vademecum.stores import coded, tables
from vademecum.stores.base import Store
from vademecum.stores.coded import Coded
from vademecum.stores.disk import Disk, opened
from vademecum.stores.placement import Placement
from vademecum.stores.ram import Ram
from vademecum.surgery import assemble, detach, keys_of, memories

Model = TypeVar("Model", bound=nn.Module)


def save(model: nn.Module, folder: str | Path) -> Path:
    """Write the memory of ``model``, and nothing of the host, into ``folder``.

    The folder appears whole or not at all, replacing an older save of the same name. It holds the model's own memory:
    the entries of an edit are left out, which are kept in the edit's own file. Rows of a bank that an edit lies over
    are saved as they are, edit and all, and are the memory's own where they are loaded; undo the edit first to save
    them without it.

    Returns:
        The folder.

    Raises:
        ValueError: nothing is attached, or nothing but edits, or a bank is compressed.
    """
    root = memories(model)
    own = root.own()
    if root.kinds and not own:
        raise ValueError(
            f"this {type(model).__name__} has no memory of its own, only what edits put on it; save those with "
            f"edit.save(path)."
        )
    said = about.About(
        tuple(kind.to_dict() for kind in own.values()),
        root.shape.to_dict(),
        tables={name: bank.rows for name, bank in root.banks().items() if not bank.by_token},
    )
    tensors = memory_state_dict(model)
    for name, one in tensors.items():
        if isinstance(one, Coded):
            raise ValueError(
                f"{name} is compressed ({one.form.name}), and its rows would be written in full; copy the folder it "
                "was loaded from, or decode that with 'vademecum convert FOLDER --out NEW --bank fp32'."
            )

    def fill(aside: Path) -> None:
        (aside / about.DESCRIPTION).write_text(said.to_json(), encoding="utf-8")
        tables.write(aside / about.TENSORS, tensors)

    target = Path(folder)
    files.write_folder(target, fill)
    return target


def load(
    model: Model,
    folder: str | Path,
    *,
    host: hosts.Family | None = None,
    bank: str = "auto",
    bank_folder: str | Path | None = None,
    bank_cap: int | str | None = None,
) -> Model:
    """Attach the memory in ``folder`` to ``model``, or fill a memory of the same kinds that is attached already.

    With ``bank="disk"`` rows are read straight from the file in ``folder``, which must stay as it is while the model is
    in use; they cannot be trained unless ``bank_folder`` says where a copy of them may be.

    Args:
        model: a host of the numbers that the memory was made for; its vocabulary may have grown since, the new ids'
            rows then start like those of a fresh memory.
        folder: what :func:`save` wrote.
        host: names of the host's modules, for families that ``vademecum.hosts`` does not know.
        bank: where the rows of banks live, as in :func:`vademecum.attach`; a memory that is attached already keeps
            its place.
        bank_folder: where a copy of a bank on disk may be trained.
        bank_cap: bytes of rows of a bank on disk that may be kept in memory, such as ``"4GB"``.

    Raises:
        FileNotFoundError: there is no such folder.
        files.Damaged: a file is missing, truncated or changed.
        ValueError: the memory was made for another host or other kinds, or the model is compiled. The model is then
            unchanged.
    """
    hosts.require_uncompiled(model)
    source = Path(folder)
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder; give load a folder that vm.save wrote.")
    files.verify_folder(source)
    said = about.read(source)
    placement = Placement.of(bank, bank_folder, bank_cap)
    if placement.folder is not None and source.resolve() in (
        placement.folder.resolve(),
        *placement.folder.resolve().parents,
    ):
        raise ValueError(f"bank_folder={str(bank_folder)!r} lies in {source}, which must stay as it is; give another.")
    _require_same_host(model, said.host, source, host)
    wanted = [kinds.from_dict(kind) for kind in said.kinds]
    fresh = getattr(model, ROOT, None) is None
    own = {} if fresh else memories(model).own()
    if not (fresh or own) and memories(model).kinds:
        raise ValueError(
            f"this {type(model).__name__} has no memory of its own to fill, only what edits put on it; undo the edits, "
            f"load, and apply them again."
        )
    if fresh:
        assemble(model, tuple(wanted), host)
    elif said.banks:
        raise ValueError(
            f"{source} holds a compressed memory, which cannot be put into an attached one; call vm.detach(model) "
            "first."
        )
    elif own != keys_of(tuple(wanted)):
        raise ValueError(
            f"{source} holds {', '.join(kind.name for kind in wanted)} with other settings than are attached to this "
            f"{type(model).__name__}; call vm.detach(model) first, load attaches what the folder holds."
        )
    try:
        compressed = {name: form.to_dict() for name, form in said.banks.items()}
        tensors = _tensors(source / about.TENSORS, memories(model), compressed, placement)
        if fresh:
            take(model, tensors, placement, rows=said.vocabulary)
        else:
            load_memory_state_dict(model, _grown(tensors, model, said.vocabulary))
    except BaseException:
        if fresh:
            detach(model)
        raise
    return model


def _tensors(
    file: Path, root: Memories, compressed: Mapping[str, Mapping[str, Any]], placement: Placement
) -> dict[str, Rows]:
    """What lies in ``file``; rows of banks as tables, those that were compressed as what they stand for."""
    banks = root.banks()
    pieces = {f"{name}{ending}" for name in compressed for ending in (coded.CODES, coded.INDEX)}
    found = opened(file, {*banks, *pieces})
    tensors: dict[str, Rows] = {name: one for name, one in found.items() if name not in pieces}
    sizes = sum(one.nbytes for name, one in found.items() if name in pieces)
    device = next((bank.device for bank in banks.values()), torch.device("cpu"))
    on_disk = placement.decide(sizes, device) == "disk"
    for name, store in coded.opened(file, compressed, on_disk=on_disk, cap=placement.cap).items():
        # In the type that the bank would have uncompressed, so that the rest of the model does not notice.
        store.dtype = banks[name].dtype if name in banks else store.dtype
        tensors[name] = store
    return tensors


def take(model: nn.Module, tensors: Mapping[str, Rows], placement: Placement, *, rows: int | None = None) -> None:
    """Place the banks of a model that was only assembled, and fill its memory.

    Args:
        model: see :func:`vademecum.surgery.assemble`.
        tensors: by the names of :func:`vademecum.state.memory_state_dict`; rows of banks may be tables.
        placement: where the banks are to live. On disk without a folder they are read in place, where they lie.
        rows: size of the vocabulary that ``tensors`` were made for, where the host's may have grown since.

    Raises:
        ValueError: the tensors do not fit, or a bank that has grown cannot be read in place.
    """
    root = memories(model)
    banks = root.banks()
    for name, bank in banks.items():
        # As it was saved, in every place: the same model, not one that was rounded on the way.
        bank.dtype = tensors[name].dtype if name in tensors else bank.dtype
    read_in_place = placement.folder is None and placing.decide(banks, placement) == "disk"
    stay: dict[str, Rows] = {}
    for name, bank in banks.items():
        found = tensors.get(name)
        if isinstance(found, Coded) or (read_in_place and isinstance(found, Disk)):
            _require_rows(name, bank, found)
            stay[name] = _in_place(bank, found, placing.share(bank, banks, placement.cap))
    root.scratch = placing.place({name: bank for name, bank in banks.items() if name not in stay}, placement)
    given = {**tensors, **stay}
    load_memory_state_dict(model, given if rows is None else _grown(given, model, rows))
    placing.tell(banks)


def _in_place(bank: Bank, saved: Disk | Coded, cap: int) -> Store:
    store = saved if isinstance(saved, Coded) else Disk(saved.path, saved.name, cap=cap)
    bank.put(store)
    return store


def _require_rows(name: str, bank: Bank, saved: Store) -> None:
    if saved.shape != (bank.rows, *bank.row_shape):
        raise ValueError(
            f"the file has {list(saved.shape)} under {name!r} where this host needs "
            f"{[bank.rows, *bank.row_shape]}, so it cannot be read in place; give bank_folder= for a copy that "
            "fits, or bank='ram'; a compressed bank does not grow."
        )


def _grown(tensors: dict[str, Rows], model: nn.Module, rows: int) -> dict[str, Rows]:
    """``tensors`` with the rows that a vocabulary of more than ``rows`` ids needs, as a fresh memory has them."""
    have = memory_state_dict(model)
    growing = {
        name: have[name]
        for name, given in tensors.items()
        if isinstance(given, Store)
        and name in have
        and given.row_shape == tuple(have[name].shape[1:])
        and given.rows == rows < have[name].shape[0]
    }
    grown = tensors | growing
    require_memory_fit(model, grown)
    for name, wanted in growing.items():
        given, table = tensors[name], Ram(wanted) if isinstance(wanted, Tensor) else wanted
        assert isinstance(given, Store)
        for piece, chunk in zip(given.slices(), given.chunks(), strict=True):
            table.write(torch.arange(piece.start, piece.stop), chunk)
    return grown


def _require_same_host(model: nn.Module, saved: Mapping[str, Any], source: Path, family: hosts.Family | None) -> None:
    root = getattr(model, ROOT, None)
    shape = (root.shape if root is not None else hosts.find(model, family).shape).to_dict()
    grown = {"vocabulary": shape["vocabulary"]} if saved.get("vocabulary", 0) < shape["vocabulary"] else {}
    different = [
        f"{key} {saved.get(key)!r} (this host: {value!r})"
        for key, value in shape.items()
        if {**saved, **grown}.get(key) != value
    ]
    if different:
        raise ValueError(
            f"the memory in {source} was made for another host: {', '.join(different)}; "
            f"load it onto a host with the numbers it was made for."
        )
