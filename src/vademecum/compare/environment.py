"""Where numbers were measured: machine, versions, date, commit."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from vademecum.training.run_file import versions


def describe(device: str) -> dict[str, str]:
    """One line per fact, for the report."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        "accelerator": torch.cuda.get_device_name() if device != "cpu" and torch.cuda.is_available() else "none used",
        "system": f"{platform.system()} {platform.release()}",
        "vademecum": f"{_version()}{_commit()}",
        **versions(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _version() -> str:
    try:
        return metadata.version("vademecum")
    except metadata.PackageNotFoundError:
        return "from source"


def _commit() -> str:
    """The commit of the checkout that is running, where it is one and this file belongs to it."""
    here = Path(__file__).resolve()
    # An installed copy may lie inside somebody else's repository, whose commit is not ours.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return ""
    commit = _git(here.parent, "rev-parse", "--short=12", "HEAD")
    changed = _git(here.parent, "status", "--porcelain", "--untracked-files=no", "--", ".", "..")
    return f", commit {commit}{'-dirty' if changed else ''}" if commit else ""


def _git(folder: Path, *words: str) -> str | None:
    """What git says in ``folder``; None where it fails or is not there."""
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
