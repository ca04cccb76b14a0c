"""What does ``attach`` cost where nothing is read? Forward with NoMemory over the bare host."""

from __future__ import annotations

import copy

import torch
from common import file_result, interleaved, llama, ratio, zipf_ids

import vademecum as vm


def main() -> None:
    """Measure and file."""
    torch.manual_seed(0)
    bare = llama(6).eval()
    attached = vm.attach(copy.deepcopy(bare), vm.NoMemory())
    ids = zipf_ids(4 * 256, 4096).view(4, 256)

    def forward(model: torch.nn.Module) -> None:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)

    taken = interleaved({"bare": lambda: forward(bare), "none": lambda: forward(attached)}, rounds=40)
    file_result("attach_overhead", {"target": "at least 0.98", "speed_of_none_over_bare": ratio(taken, "none", "bare")})


if __name__ == "__main__":
    main()
