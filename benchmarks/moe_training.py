"""How fast does a mixture of experts train? Eight experts, top-1, each as wide as the host's own feed-forward."""

from __future__ import annotations

from common import file_result, training_speeds

import vademecum as vm

ARMS = {
    "dense": vm.NoMemory(),
    "top1_of_8": vm.MoE(experts=8, top_k=1),
    "top2_of_8_half_width": vm.MoE(experts=8, top_k=2),
    "top1_of_8_bias": vm.MoE(experts=8, top_k=1, balance="bias"),
}


def main() -> None:
    """Measure and file."""
    file_result("moe_training", {"target": "top1_of_8 at least 0.6", "speed_over_dense": training_speeds(ARMS)})


if __name__ == "__main__":
    main()
