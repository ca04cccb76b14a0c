"""A bank of 20 GB, trained and read by a process whose resident set stays under 4 GB.

The shape is that of Qwen3 (151,936 tokens, 8 key-value heads of 128) with 32 slots in fp32: 19.9 GB on disk, its rows
of 128 kB each. The process may allocate 4 GB and no more (its limit on private memory is set), its peak resident set is
read from the kernel when it is done, and the benchmark fails if that passed 4 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from common import file_result, zipf_ids

import vademecum as vm

LIMIT = 4 * 10**9
ROWS, SLOTS, HEADS, DIM = 151_936, 32, 8, 128
STEPS, TOKENS, NEW = 12, 1024, 64


def peak_bytes() -> int:
    """Largest resident set of this process so far."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("the kernel says no VmHWM")


def host() -> tf.PreTrainedModel:
    """A small host with the vocabulary and values of a large one."""
    return tf.Qwen3ForCausalLM(
        tf.Qwen3Config(
            vocab_size=ROWS,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=4,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            head_dim=DIM,
            tie_word_embeddings=True,
        )
    )


def work(folder: Path) -> dict[str, Any]:
    """Train and generate; runs in a process of its own."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    torch.manual_seed(0)
    model = vm.attach(host(), vm.MoVE(slots=SLOTS), bank="disk", bank_folder=folder, bank_cap="1GB").train()
    (bank,) = vm.memories(model).banks().values()
    rows = vm.RowOptimizer(model, lr=1e-3)
    others = torch.optim.AdamW(vm.param_groups(model, lr=1e-3), fused=True)
    # Frequent ids lie anywhere in the table.
    names = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    seconds, losses = [], []
    for step in range(STEPS):
        ids = names[zipf_ids(TOKENS, ROWS, seed=step)].view(4, -1)
        vm.prefetch(model, names[zipf_ids(TOKENS, ROWS, seed=step + 1)])
        start = time.perf_counter()
        # The loss of a few positions: the head's logits over 151,936 tokens are the host's own matter.
        loss = model(input_ids=ids, use_cache=False, logits_to_keep=8).logits.float().logsumexp(-1).mean()
        loss.backward()
        others.step()
        rows.step()
        others.zero_grad()
        rows.zero_grad()
        seconds.append(time.perf_counter() - start)
        losses.append(float(loss))
    trained = peak_bytes()
    rows.release()
    model.eval()
    prompt = names[:8].view(1, -1)
    start = time.perf_counter()
    model.generate(input_ids=prompt, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0)
    generated = time.perf_counter() - start
    store = bank.store
    return {
        "bank_bytes": bank.nbytes,
        "private_memory_limit_bytes": LIMIT,
        "peak_resident_bytes_training": trained,
        "peak_resident_bytes": peak_bytes(),
        "cache_bytes": store.resident_bytes,
        "cache_hits": store.cache.hits,
        "cache_misses": store.cache.misses,
        "bytes_read": store.bytes_read,
        "bytes_written": store.bytes_written,
        "seconds_per_step_median": statistics.median(seconds[2:]),
        "tokens_per_step": TOKENS,
        "generated_tokens_per_second": NEW / generated,
        "losses": losses,
    }


def main() -> None:
    """Run in a child, check the peak, file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, help="where 20 GB of disk are free; the system's temporary folder if not given"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(work(given.folder)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        command = [sys.executable, __file__, "--child", "--folder", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    if found["peak_resident_bytes"] > LIMIT:
        raise SystemExit(f"the resident set reached {found['peak_resident_bytes']:,} bytes: {found}")
    file_result("bank_larger_than_memory", found)


if __name__ == "__main__":
    main()
