"""How fast does a mixture of experts train, and what does balancing cost?

Eight experts, top-1, each as wide as the host's own feed-forward, over the dense host; then the same training with
every balance over the one without.
"""

from __future__ import annotations

from common import file_result, training_speeds

import vademecum as vm

ARMS = {
    "dense": vm.NoMemory(),
    "top1_of_8": vm.MoE(experts=8, top_k=1),
    "top2_of_8_half_width": vm.MoE(experts=8, top_k=2),
    "top4_of_16_quarter_width": vm.MoE(experts=16, top_k=4),
}
BALANCES = {
    "unbalanced": vm.MoE(balance=None, z_weight=0.0),
    "aux": vm.MoE(balance="aux", z_weight=0.0),
    "aux_global": vm.MoE(balance="aux", balance_scope="global", z_weight=0.0),
    "aux_and_z": vm.MoE(balance="aux"),
    "bias": vm.MoE(balance="bias", z_weight=0.0),
}


def main() -> None:
    """Measure and file."""
    file_result(
        "moe_training",
        {
            "target": "top1_of_8 at least 0.6 of dense; every balance at least 0.97 of unbalanced",
            "speed_over_dense": training_speeds(ARMS),
            "speed_over_unbalanced": training_speeds(BALANCES, base="unbalanced", rounds=16),
        },
    )


if __name__ == "__main__":
    main()
