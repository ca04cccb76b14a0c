"""How much of dense's training speed is left beside a bank, and what a step costs as the bank grows.

First, tokens per second of whole training steps (forward, backward, clipping, the optimizers of the training loop) on
real text: a host of 6 layers and width 256 with MoVE of 3 slots (half as many as layers) and 12, against the bare host.
Second, reading the bank and stepping its optimizer, at 10^4 to 10^7 rows, for the same 1,600 ids and for ids that are
spread over all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers as tf
from common import file_result, interleaved, ratio

import vademecum as vm
from vademecum import data
from vademecum.lookup import Frame, Lookup
from vademecum.memory.bank import Bank
from vademecum.memory.base import Kind
from vademecum.memory.ledger import Ledger
from vademecum.rows import RULES
from vademecum.training import Recipe
from vademecum.training.optimizer import Optimizer

BATCH, LENGTH, VOCABULARY, LAYERS, WIDTH = 32, 256, 8192, 6, 256
ARMS: Mapping[str, Kind] = {"dense": vm.NoMemory(), "move_3": vm.MoVE(slots=3), "move_12": vm.MoVE(slots=12)}
TABLE = {"slots": 1, "heads": 4, "dim": 64}
READ = 1600


def host() -> tf.PreTrainedModel:
    """6 layers, width 256, 4 heads of 64, gated feed-forward of 704."""
    return tf.Qwen3ForCausalLM(
        tf.Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=704,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=64,
            max_position_embeddings=LENGTH,
            tie_word_embeddings=False,
        )
    )


def training_step(kind: Kind, text: data.Corpus) -> Callable[[], None]:
    """One step of the training loop on the next batch of ``text``."""
    torch.manual_seed(0)
    recipe = Recipe(batch=BATCH, length=LENGTH)
    model = vm.attach(host(), kind).train()
    optimizer = Optimizer(model, recipe)
    made = iter(range(10**6))

    def step() -> None:
        window = torch.from_numpy(data.batch(text.train, seed=0, step=next(made), batch=BATCH, length=LENGTH))
        ids, targets = window[:, :-1], window[:, 1:].contiguous()
        model(input_ids=ids, labels=targets, shift_labels=targets, use_cache=False).loss.backward()
        norms = {role: float(norm) for role, norm in optimizer.grad_norms().items()}
        optimizer.step(factor=1.0, norms=norms)
        optimizer.zero_grad()

    return step


def training(text: data.Corpus) -> dict[str, Any]:
    """Speed of every arm over dense."""
    steps = {name: training_step(kind, text) for name, kind in ARMS.items()}
    taken = interleaved(steps, rounds=12)
    return {name: ratio(taken, name, "dense") for name in ARMS}


def bank_step(rows: int, ids: torch.Tensor) -> Callable[[], None]:
    """Rows read as a leaf, a gradient brought back, the row optimizer's step written; nothing else of a model."""
    bank = Bank(rows, **TABLE, std=0.0, dtype=torch.float32, device=torch.device("cpu"))
    bank.place("ram", None, 0)  # type: ignore[arg-type]
    bank.store.tensor.fill_(0.01)  # every page is really there
    bank.ledger = Ledger()
    rule, table = RULES["rms"], bank.table()
    state = {name: bank.beside(name, shape(bank.row_shape)) for name, shape in rule.state.items()}
    for one in state.values():
        one.tensor.fill_(1.0)
    frame = Frame(lookup=Lookup.of(ids.view(1, -1)))

    @torch.no_grad()
    def stepped() -> None:
        found, grads = bank.ledger.merge()
        mine = {name: one.gather(found) for name, one in state.items()}
        direction = rule.direction(grads.view(len(found), *bank.row_shape), mine, 1)
        table.write(found, table.gather(found).sub_(direction, alpha=1e-3))
        for name, one in state.items():
            one.write(found, mine[name])
        bank.ledger.clear()

    def step() -> None:
        leaf = bank.read(frame)
        leaf.backward(torch.ones_like(leaf))
        stepped()

    return step


def growth() -> dict[str, Any]:
    """Time of a bank's step at every size over that at 10^4 rows."""
    sizes = [10**4, 10**5, 10**6, 10**7]
    generator = torch.Generator().manual_seed(0)
    same = torch.randperm(10**4, generator=generator)[:READ].sort().values
    found = {}
    for name, spread in (("same_ids", False), ("spread_ids", True)):
        # Adjacent pages are as far apart as the table allows where ids are spread: that is the memory's doing.
        steps = {str(rows): bank_step(rows, same * (rows // 10**4) if spread else same) for rows in sizes}
        taken = interleaved(steps, rounds=40, warm_up=5)
        found[name] = {rows: ratio(taken, "10000", rows) for rows in steps}
        steps.clear()  # ten gigabytes, before the next ten
    return found


def main() -> None:
    """Measure and file."""
    text = data.prepare("factbook", vocab_size=VOCABULARY)
    file_result(
        "bank_training",
        {
            "targets": "move_3 0.96 and move_12 0.90 of dense; 1.1 times the step at 10^7 rows",
            "tokens_per_step": BATCH * LENGTH,
            "training_speed_over_dense": training(text),
            "bank_step_time_over_10000_rows": growth(),
        },
    )


if __name__ == "__main__":
    main()
