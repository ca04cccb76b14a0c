"""The editable memory: facts are planned, applied, undone and kept in a file, and the host's weights never change."""

from __future__ import annotations

from vademecum.editing.edit import Edit, open_edit
from vademecum.editing.facts import Fact
from vademecum.editing.planning import plan

__all__ = ["Edit", "Fact", "open_edit", "plan"]
