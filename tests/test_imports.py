from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vademecum

ROOT = Path(vademecum.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# Rooms from the ground up. A room imports its own floor and those below; the top of the package is the public surface.
FLOORS = (
    {"files", "devices", "interrupts", "hosts", "ops", "lookup", "history"},
    {"stores"},
    {"memory"},
    {"experts", "recording"},
    {"kinds", "attached", "surgery", "grafting", "naming", "tabulating"},
    {"state", "roles", "rows", "saving", "sharding", "about", "converting"},
    {"vademecum"},
    {"training", "analysis", "pages", "editing"},
    {"images"},
    {"compare"},
    {"studies", "inspection"},
    {"cli", "__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    below = path.relative_to(ROOT).with_suffix("").parts
    return "vademecum" if below == ("__init__",) else below[0]


def imported(path: Path) -> Iterator[str]:
    """Rooms of this package that a module imports, anywhere in it; 'vademecum' is its public surface."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            whole = node.module == "vademecum"
            names = [f"vademecum.{alias.name}" for alias in node.names] if whole else [node.module]
        else:
            continue
        for parts in (name.split(".") for name in names):
            if parts[0] == "vademecum":
                known = len(parts) > 1 and ((ROOT / parts[1]).is_dir() or (ROOT / f"{parts[1]}.py").is_file())
                yield parts[1] if known else "vademecum"


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_a_module_imports_only_its_own_floor_and_those_below(path: Path) -> None:
    room = room_of(path)
    if room == "data":
        allowed = {"data", "files"}
    else:
        assert room in FLOOR, f"{room} is a new room: give it a floor in this test and in the docs"
        allowed = {other for other, floor in FLOOR.items() if floor <= FLOOR[room]}
        allowed |= {"data"} if FLOOR[room] >= FLOOR["training"] else set()
    assert set(imported(path)) <= allowed


def test_the_way_imports_are_read_finds_every_form_of_them(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        "import vademecum as vm\nimport vademecum.files\nfrom vademecum import data, hosts\n"
        "def f():\n    from vademecum.kinds.move import MoVE\n    import os\n"
    )
    assert list(imported(path)) == ["vademecum", "files", "data", "hosts", "kinds"]


def test_attach_knows_no_kind_by_name() -> None:
    assert "kinds" not in set(imported(ROOT / "surgery.py"))


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_no_module_is_longer_than_400_lines_or_imports_by_star_or_relatively(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 400
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    assert not any(node.level or any(alias.name == "*" for alias in node.names) for node in nodes)


IMPORTING = """
import json, logging, os, random, socket, subprocess, sys, threading, warnings
import numpy, torch, transformers.modeling_utils

def refuse(*args, **kwargs):
    raise RuntimeError("something was started at import")

def state():
    return {
        "python": hash(random.getstate()),
        "numpy": numpy.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state().tolist(),
        "threads": [torch.get_num_threads(), threading.active_count()],
        "dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cuda": torch.cuda.is_initialized(),
        "logging": [repr(logging.root.handlers), logging.root.level],
        "warnings": repr(warnings.filters),
        "environment": dict(os.environ),
        "hooks": [repr(sys.excepthook), repr(sys.stdout)],
        "files": sorted(os.listdir(".")),
    }

before = state()
socket.socket.connect = subprocess.Popen = refuse
torch.cuda.is_available = torch.cuda.device_count = refuse
import vademecum
after = state()
print(json.dumps({
    "changed": [key for key in before if before[key] != after[key]],
    "loaded": [name for name in ("matplotlib", "typer", "tqdm.auto", "vademecum.cli", "vademecum.training",
               "vademecum.compare", "vademecum.data") if name in sys.modules],
}))
"""


def test_importing_the_package_has_no_side_effect_and_loads_no_command_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTING], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.strip().splitlines()[-1])
    assert report["changed"] == []
    assert not [name for name in report["loaded"] if name.startswith("vademecum.")]
    assert "typer" not in report["loaded"]
    assert list(tmp_path.iterdir()) == []


def test_importing_the_package_prints_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", "import vademecum"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
