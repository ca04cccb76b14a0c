"""How fast does a mixture of experts train? Eight experts, top-1, each as wide as the host's own feed-forward."""

from __future__ import annotations

import torch
from common import file_result, interleaved, llama, ratio, training_step, zipf_ids

import vademecum as vm

ARMS = {
    "dense": vm.NoMemory(),
    "top1_of_8": vm.MoE(experts=8, top_k=1),
    "top2_of_8_half_width": vm.MoE(experts=8, top_k=2),
    "top1_of_8_bias": vm.MoE(experts=8, top_k=1, balance="bias"),
}


def main() -> None:
    """Measure and file."""
    results = {}
    for size, batch in ((4, 16), (8, 8)):
        steps = {}
        for name, kind in ARMS.items():
            torch.manual_seed(0)
            model = vm.attach(llama(size), kind)
            steps[name] = training_step(
                model, zipf_ids(batch * 256, 4096).view(batch, 256), vm.param_groups(model, lr=1e-3)
            )
        taken = interleaved(steps, rounds=8)
        results[f"width_{32 * size}"] = {name: ratio(taken, name, "dense") for name in ARMS}
    file_result("moe_training", {"target": "top1_of_8 at least 0.6", "speed_over_dense": results})


if __name__ == "__main__":
    main()
