"""Rows read straight from a safetensors file, and written into one: a bank larger than memory."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from vademecum import files
from vademecum.stores import tables
from vademecum.stores.base import Store
from vademecum.stores.cache import RowCache

_REFUSAL = (
    "it is read in place from {path} and stays as it is; load it with bank_folder=FOLDER to train a copy of it there, "
    "or with bank='ram'."
)
#: Moves bytes between memory and the file at an offset.
Move = Callable[[memoryview, int], None]

#: Bytes of rows kept in memory where nothing else is said.
CAP = 2**30
#: Reads that are under way at once: they wait for the disk, not for a core.
THREADS = 8
#: Runs of adjacent rows from which on reading is spread over threads; fewer are read before a thread wakes up.
MANY = 64


class Disk(Store):
    """The rows of one tensor of a safetensors file.

    Distinct, ascending rows are read in runs of adjacent ones, many runs by several threads, with positioned reads and
    not through a mapping, so that what is read counts against ``cap`` and not against the process.

    Attributes:
        path: the file.
        name: the tensor in it.
        cache: rows that are kept in memory; its ``hits`` and ``misses`` count.
        bytes_read: bytes read from the file so far, prefetched ones included.
        bytes_written: bytes written to it so far.
    """

    place = "disk"

    def __init__(self, path: Path, name: str, *, cap: int = CAP, writable: bool = False) -> None:
        """Open a table.

        Args:
            path: a safetensors file; it must not change under a reader.
            name: of a tensor ``[rows, ...]`` in it.
            cap: bytes of rows that may be kept in memory.
            writable: whether :meth:`write` may change the file.

        Raises:
            KeyError: the file has no such tensor.
            files.Damaged: the file is not what its header says.
            ValueError: ``cap`` is below zero.
            OSError: the system has no positioned reads (Windows).
        """
        if not hasattr(os, "pread"):
            raise OSError("a bank on disk needs positioned reads, which this system has not; use bank='ram'.")
        if cap < 0:
            raise ValueError(f"a cap of {cap} bytes was given for the rows of {path}; expected 0 or more.")
        entry = tables.find(path, name)
        self.path, self.name, self.writable = Path(path), name, writable
        self.rows, self.row_shape, self.dtype = entry.shape[0], entry.shape[1:], entry.dtype
        self.cap, self._offset = cap, entry.offset
        self.refusal = "" if writable else _REFUSAL.format(path=path)
        self._begin(os.open(path, os.O_RDWR if writable else os.O_RDONLY))

    def _begin(self, file: int) -> None:
        self._file = file
        self._closed = weakref.finalize(self, os.close, file)
        self._seen = _state_of(file)
        if hasattr(os, "posix_fadvise"):
            # Neighbours of a row are no likelier to be asked for next: reading ahead would only fill memory.
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        self.bytes_read = self.bytes_written = 0
        self.cache = RowCache(self.cap, self.rows, self.row_shape, self.dtype)
        self._lock = threading.Lock()
        self._readers: ThreadPoolExecutor | None = None
        self._ahead: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None
        self._written: set[int] = set()

    @classmethod
    def create(
        cls, path: Path, name: str, rows: int, row_shape: tuple[int, ...], dtype: torch.dtype, *, cap: int = CAP
    ) -> Disk:
        """Make a file with a writable table of zeros, replacing the file that may be there.

        Raises:
            ValueError: another table is being written in that file.
            OSError: there is no room; nothing is left behind.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            # Held by whoever writes it, until that store is gone.
            with open(path, "rb") as old:
                _lock(old.fileno(), path)
            path.unlink()
        try:
            tables.create(path, name, dtype, (rows, *row_shape))
            made = cls(path, name, cap=cap, writable=True)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        _lock(made._file, path)
        return made

    def recap(self, cap: int) -> None:
        """From now on keep at most ``cap`` bytes of rows in memory; those that are kept now go."""
        with self._lock:
            self.cap = cap
            self.cache = RowCache(cap, self.rows, self.row_shape, self.dtype)

    @property
    def resident_bytes(self) -> int:
        return self.cache.nbytes

    def require_room(self, count: int) -> None:
        needed = count * self.row_bytes
        if needed > self.cap:
            raise ValueError(
                f"a forward needs {count:,} rows of {self.path} at once, {needed:,} bytes, where {self.cap:,} may be "
                f"in memory; give a bank_cap {needed / max(1, self.cap):.3g} times as large, or smaller batches."
            )

    def gather(self, ids: Tensor) -> Tensor:
        if not self.writable and _state_of(self._file) != self._seen:
            raise files.Damaged(f"{self.path} was changed while rows were read from it; load the memory again.")
        out = torch.empty(len(ids), *self.row_shape, dtype=self.dtype)
        wanted = ids.tolist()
        with self._lock:
            missing = self.cache.take(wanted, out)
        if missing:
            rows = [wanted[position] for position in missing]
            read = out if len(rows) == len(wanted) else torch.empty(len(rows), *self.row_shape, dtype=self.dtype)
            self._read(rows, read)
            if read.is_floating_point() and not bool(torch.isfinite(read).all()):
                bad = rows[int((~torch.isfinite(read).flatten(1).all(1)).nonzero()[0])]
                raise files.Damaged(
                    f"row {bad} of {self.name!r} in {self.path} is not finite; go on from an earlier save."
                )
            if read is not out:
                out[torch.tensor(missing)] = read
            with self._lock:
                self.cache.put(rows, read)
        return out

    def write(self, ids: Tensor, values: Tensor) -> None:
        if self.refusal:
            raise ValueError(self.refusal)
        rows, values = ids.tolist(), values.to("cpu", self.dtype).contiguous()
        # The file first: what a prefetch reads from now on is new, and what it read before is marked as old.
        self._write(rows, values)
        with self._lock:
            if self._running is not None and not self._running.done():
                self._written.update(rows)
            self.cache.update(rows, values)

    def prefetch(self, ids: Tensor) -> None:
        if self._running is not None and not self._running.done():
            return
        with self._lock:
            wanted = self.cache.missing(ids.tolist())
            self._written.clear()
        wanted = wanted[: self.cache.capacity]
        if not wanted:
            return
        if self._ahead is None:
            self._ahead = ThreadPoolExecutor(1, thread_name_prefix="vademecum-prefetch")
        self._running = self._ahead.submit(self._fetch, wanted)

    def chunks(self) -> Iterator[Tensor]:
        # Past the cache: whoever reads everything once would only push out what is read often.
        for piece in self.slices():
            out = torch.empty(piece.stop - piece.start, *self.row_shape, dtype=self.dtype)
            self._read(range(piece.start, piece.stop), out)
            yield out

    def close(self) -> None:
        for pool in (self._ahead, self._readers):
            if pool is not None:
                pool.shutdown()
        self._closed()

    def discard(self) -> None:
        self.close()
        if self.writable:
            self.path.unlink(missing_ok=True)

    def __deepcopy__(self, memo: object) -> Disk:
        if self.writable:
            raise ValueError(
                f"a model whose bank is trained in {self.path} cannot be copied: two would write one file; save it "
                "with vm.save and load the copy from there."
            )
        twin = object.__new__(Disk)
        twin.__dict__.update(self.__dict__)
        # The same open file, whatever lies under its name by now.
        twin._begin(os.dup(self._file))
        return twin

    def __reduce__(self) -> Any:
        raise ValueError(f"a bank that lies in {self.path} cannot be pickled; save the memory with vm.save.")

    def _fetch(self, rows: Sequence[int]) -> None:
        read = torch.empty(len(rows), *self.row_shape, dtype=self.dtype)
        self._read(rows, read)
        with self._lock:
            # A row that was written since this began may have been read before: it is left out.
            fresh = [position for position, row in enumerate(rows) if row not in self._written]
            if len(fresh) == len(rows):
                self.cache.put(rows, read)
            elif fresh:
                self.cache.put([rows[position] for position in fresh], read[torch.tensor(fresh)])

    def _read(self, rows: Sequence[int], out: Tensor) -> None:
        """Fill ``out`` with ``rows``, which ascend."""
        if not rows or not self.row_bytes:
            return
        self._each(rows, out, self._pread)
        self.bytes_read += len(rows) * self.row_bytes

    def _write(self, rows: Sequence[int], values: Tensor) -> None:
        if not rows or not self.row_bytes:
            return
        self._each(rows, values, self._pwrite)
        self.bytes_written += len(rows) * self.row_bytes

    def _each(self, rows: Sequence[int], tensor: Tensor, move: Move) -> None:
        array: Any = tensor.view(-1).view(torch.uint8).numpy()
        view = memoryview(array)
        size = self.row_bytes
        runs = [
            (view[first * size : (last + 1) * size], self._offset + rows[first] * size) for first, last in _runs(rows)
        ]
        if len(runs) < MANY:
            _all(move, runs)
            return
        if self._readers is None:
            self._readers = ThreadPoolExecutor(THREADS, thread_name_prefix="vademecum-rows")
        share = -(-len(runs) // THREADS)
        pieces = [runs[start : start + share] for start in range(0, len(runs), share)]
        for _ in self._readers.map(lambda piece: _all(move, piece), pieces):
            pass

    def _pread(self, view: memoryview, offset: int) -> None:
        while view:
            read = os.pread(self._file, len(view), offset)
            if not read:
                raise files.Damaged(f"{self.path} ended at byte {offset}, inside its table {self.name!r}.")
            view[: len(read)] = read
            view, offset = view[len(read) :], offset + len(read)

    def _pwrite(self, view: memoryview, offset: int) -> None:
        while view:
            try:
                count = os.pwrite(self._file, view, offset)
            except OSError as error:
                raise OSError(error.errno, os.strerror(error.errno or 0), str(self.path)) from error
            view, offset = view[count:], offset + count


def _state_of(file: int) -> tuple[int, int]:
    """What changes when somebody writes into an open file: its length and the time."""
    found = os.fstat(file)
    return found.st_size, found.st_mtime_ns


def _lock(file: int, path: Path) -> None:
    """Take an open file for this store, where the system has such locks.

    Raises:
        ValueError: another has it.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f"a bank is being trained in {path} already; give another bank_folder, or let go of the other model first."
        ) from error


def opened(path: Path, as_tables: Collection[str] = ()) -> dict[str, Tensor | Disk]:
    """The tensors of a safetensors file; those named in ``as_tables`` are not read, but given as tables of the file."""
    with safe_open(str(path), "pt") as file:
        names = list(file.keys())
        tensors: dict[str, Tensor | Disk] = {name: file.get_tensor(name) for name in names if name not in as_tables}
    return tensors | {name: Disk(path, name, cap=0) for name in names if name in as_tables}


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """First and last position of every run of adjacent rows."""
    breaks = [position for position in range(1, len(rows)) if rows[position] != rows[position - 1] + 1]
    return list(zip([0, *breaks], [*(position - 1 for position in breaks), len(rows) - 1], strict=True))


def _all(move: Move, runs: Sequence[tuple[memoryview, int]]) -> None:
    for view, offset in runs:
        move(view, offset)
