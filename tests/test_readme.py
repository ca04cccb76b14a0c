"""The README does what it says: its code runs, its commands exist, its table is the kinds' own."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import vademecum as vm

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition("#")[0].strip()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if line.strip()
]


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_every_python_block_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, timeout=300)
    assert done.returncode == 0


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_every_make_command_is_a_target(command: str) -> None:
    planned = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert planned.stdout


@pytest.mark.network
def test_the_first_run_of_the_readme_trains_and_generates(tmp_path: Path) -> None:
    quick = [c for c in COMMANDS if "runs/first" in c or c == "vademecum kinds"]
    assert len(quick) == 3
    for command in quick:
        arguments = shlex.split(command)[1:]
        subprocess.run([sys.executable, "-m", "vademecum", *arguments], cwd=tmp_path, check=True, timeout=300)
    assert (tmp_path / "runs/first/final").is_dir()


def test_every_option_of_the_longer_commands_exists() -> None:
    longer = [c for c in COMMANDS if c.startswith("vademecum ") and "runs/first" not in c and c != "vademecum kinds"]
    assert longer
    for command in longer:
        verb, *rest = shlex.split(command)[1:]
        verbs = [verb, rest[0]] if verb in ("study", "inspect", "edit", "image") else [verb]
        shown = subprocess.run(
            [sys.executable, "-m", "vademecum", *verbs, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for option in (word for word in rest if word.startswith("--")):
            assert option in shown, command


def test_the_table_of_kinds_is_generated_from_the_kinds() -> None:
    shown = re.search(r"<!-- kinds: .*? -->\n(.*?)\n<!-- /kinds -->", README, flags=re.DOTALL)
    assert shown is not None
    assert shown.group(1) == vm.kinds.table()


def test_every_file_the_readme_points_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
