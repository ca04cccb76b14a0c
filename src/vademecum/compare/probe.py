"""Peak memory of one arm, in a process of its own that reads its job as JSON from standard input.

Within the comparison itself several models lie in memory at once, so their peaks cannot be told apart there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vademecum.compare.arms import Arm
    from vademecum.compare.plan import Plan

STEPS = 3


def peak_memory(plan: Plan, arm: Arm, ffn_width: int | None) -> int | None:
    """Bytes that three steps of ``arm`` need above the imported libraries; None where the system does not tell.

    A probe that fails warns and is None too: a comparison does not end for want of a number.

    On a GPU it is the device memory that torch held at most.
    """
    job = json.dumps({"plan": plan.to_dict(), "arm": arm.to_dict(), "ffn_width": ffn_width})
    done = subprocess.run([sys.executable, "-m", __name__], input=job, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        warnings.warn(
            f"The peak memory of {arm.name} could not be measured ({last}); its cell stays empty.", stacklevel=2
        )
        return None
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return None if found is None else int(found)


def _status(field: str) -> int | None:
    """A field of Linux's /proc/self/status in bytes. ``ru_maxrss`` would not do: a child inherits its parent's peak."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _forget_peak() -> None:
    """Let Linux start VmHWM anew, so that reading the text does not count; elsewhere it counts."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _load_compiled_loops() -> None:
    """Have the value memory's loops compiled and loaded: they are library, not what an arm needs."""
    import torch

    from vademecum.lookup import Lookup
    from vademecum.ops.mix import kernels, mix_slots

    for width in (1, *kernels.WIDTHS):
        gates, rows = torch.ones(1, 1, 1, requires_grad=True), torch.ones(1, 1, 1, width, requires_grad=True)
        mix_slots(gates, rows, Lookup.of(torch.zeros(1, 1, dtype=torch.long))).sum().backward()  # type: ignore[no-untyped-call]


def main() -> None:
    """Reads a job, trains three steps on the plan's first source, prints the peak in bytes, or null."""
    import torch

    from vademecum.compare import arms
    from vademecum.compare.plan import Plan
    from vademecum.training import Run

    job = json.load(sys.stdin)
    plan, arm = Plan.from_dict(job["plan"]), arms.Arm.from_dict(job["arm"])
    corpus = plan.medium.material(plan, plan.data[0])
    _load_compiled_loops()
    _forget_peak()
    baseline = _status("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        run = Run.open(
            Path(folder) / "run",
            build=lambda: arms.build(arm, plan, seed=plan.seeds[0], ffn_width=job["ffn_width"]),
            corpus=corpus,
            recipe=plan.recipe,
            description={},
        )
        run.advance(min(STEPS, plan.recipe.steps - 1) or 1)
    if plan.device != "cpu":
        print(torch.cuda.max_memory_allocated())
        return
    peak = _status("VmHWM")
    print("null" if peak is None or baseline is None else peak - baseline)


if __name__ == "__main__":
    main()
