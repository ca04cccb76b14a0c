"""Every kind on a CUDA device against the same kind on the CPU: logits, loss and all gradients, and cached decoding.

No timing. Self-contained and under two minutes; prints one line and stops where there is no CUDA device.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from common import file_result, llama

import vademecum as vm

VOCABULARY, LENGTH, BATCH = 61, 24, 3


def compared(kind: Any, device: torch.device) -> dict[str, Any]:
    """Largest difference over the largest value, of logits and of gradients; and whether both decode alike."""
    torch.manual_seed(0)
    model = llama(2, vocabulary=VOCABULARY, length=64)
    torch.manual_seed(1)
    vm.attach(model, kind)
    for parameter in model.parameters():  # away from neutral starts, where most gradients are 0
        parameter.data += 0.02 * torch.randn_like(parameter)
    ids = torch.randint(1, VOCABULARY, (BATCH, LENGTH))
    other = copy.deepcopy(model).to(device)
    found: dict[str, Any] = {}
    results = []
    for each, given in ((model, ids), (other, ids.to(device))):
        each.train(False)
        output = each(input_ids=given, labels=given, use_cache=False)
        output.loss.backward()
        results.append((output.logits.detach().cpu(), {n: p.grad for n, p in each.named_parameters()}))
    (logits, gradients), (there, theirs) = results
    found["logits"] = float((logits - there).abs().max() / logits.abs().max())
    apart = {
        name: float((grad.to_dense() - theirs[name].cpu().to_dense()).abs().max() / grad.to_dense().abs().max())
        for name, grad in gradients.items()
        if grad is not None and theirs[name] is not None and grad.to_dense().abs().max() > 0
    }
    found["gradients"] = max(apart.values())
    found["same_gradients_exist"] = all((g is None) == (theirs[n] is None) for n, g in gradients.items())
    with torch.no_grad():
        made = [m.generate(i[:, :8], max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None)
                for m, i in ((model, ids), (other, ids.to(device)))]  # fmt: skip
    found["same_tokens"] = bool((made[0] == made[1].cpu()).all())
    return found


def main() -> None:
    """All kinds and their examples; a kind that cannot run there says why."""
    if not torch.cuda.is_available():
        print("There is no CUDA device: nothing is checked.")
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    device, found = torch.device("cuda"), {}
    for name, kind in vm.kinds.all().items():
        for number, example in enumerate(kind.examples()):
            try:
                found[f"{name} {number}"] = compared(example, device)
            except Exception as error:
                found[f"{name} {number}"] = {"failed": f"{type(error).__name__}: {error}"[:300]}
            print(name, number, found[f"{name} {number}"], flush=True)
    file_result("gpu_kinds", {"kinds": found})


if __name__ == "__main__":
    main()
