"""What an overlay puts on a model: entries beside its memories, or differences over rows of a memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn


class Content(ABC):
    """What is written for every fact of an overlay, by its number.

    Attributes:
        name: what it is called in files and by ``plan(into=...)``.
        spills: whether it speaks in texts without a subject too, so that its damage is to be measured.
    """

    name: ClassVar[str]
    spills: ClassVar[bool]

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything that is kept in a file as tensors."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Everything else, as plain data."""

    @classmethod
    @abstractmethod
    def of(cls, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """From what a file keeps."""

    @abstractmethod
    def said(self, number: int) -> bytes:
        """All that is said for one fact, in bytes that do not depend on its number."""

    @abstractmethod
    def joined(self, other: Self) -> Self:
        """This, and after it what ``other`` says.

        Raises:
            ValueError: they do not fit together.
        """

    @abstractmethod
    def kept(self, numbers: Sequence[int]) -> Self:
        """What is said for ``numbers`` alone, in their order."""

    @abstractmethod
    def put(self, model: nn.Module, overlay: Any) -> None:
        """Put what ``overlay`` (whose content this is) says on ``model``, under its digest.

        Raises:
            ValueError: it is there already or cannot be put there; the model is then unchanged.
        """

    @abstractmethod
    def take(self, model: nn.Module, overlay: Any) -> None:
        """Take off ``model`` what lies there under the digest of ``overlay``; nothing happens where nothing does.

        It may be another model than was given to :meth:`put`, such as a copy of it.

        Raises:
            ValueError: it cannot be taken off; the model is then unchanged.
        """

    @abstractmethod
    def again(self) -> dict[str, Any]:
        """How :func:`vademecum.editing.plan` is asked for more that goes into the same overlay."""

    @property
    def facts(self) -> int:
        """For how many facts something is said."""
        return len(next(iter(self.tensors().values())))

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(one.nbytes for one in self.tensors().values())


def bytes_of(tensor: Tensor) -> bytes:
    """The bits of ``tensor``."""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
