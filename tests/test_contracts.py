"""What every kind must keep on every host: one file, run over all discovered kinds and all families."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import StaticCache

import vademecum as vm
from tests import tiny
from vademecum.lookup import Frame, Lookup
from vademecum.memory.bank import Bank
from vademecum.memory.base import Kind
from vademecum.state import host_state_dict, memory_state_dict

KINDS = vm.kinds.all()
EXAMPLES = [example for kind in KINDS.values() for example in kind.examples()]


def _fits(kind: Kind, host: str) -> bool:
    return not kind.needs & tiny.LACKS.get(host, frozenset())


def _examples(host: str) -> list[Kind]:
    """Every example on one host, the first that fits of each kind on the others."""
    if host == "qwen3":
        return EXAMPLES
    firsts = (next((one for one in kind.examples() if _fits(one, host)), None) for kind in KINDS.values())
    return [one for one in firsts if one is not None]


def _mixes(host: str) -> list[tuple[Kind, ...]]:
    """One of every kind beside all others that want nothing it takes from a layer, in as few mixes as that allows."""
    firsts = [next((one for one in kind.examples() if _fits(one, host)), None) for kind in KINDS.values()]
    examples, mixes = [one for one in firsts if one is not None], []
    for example in examples:
        if not any(example in mix for mix in mixes):
            mix = [example]
            for other in examples:
                if other is not example and not any(other.takes & one.takes for one in mix):
                    mix.append(other)
            mixes.append(tuple(mix))
    return mixes


CASES = [
    pytest.param(host, kinds, id=f"{host}-{'+'.join(kind.name for kind in kinds)}{number}")
    for host in tiny.HOSTS
    for number, kinds in enumerate([(example,) for example in _examples(host)] + _mixes(host))
]
every_case = pytest.mark.parametrize(("name", "kinds"), CASES)


def attached(name: str, kinds: tuple[Kind, ...], *, shaken: bool = True) -> torch.nn.Module:
    model = tiny.host(name)
    vm.attach(model, *kinds)
    if shaken:
        tiny.shake(model)
    return model


def logits(model: torch.nn.Module, ids: torch.Tensor, **kwargs: object) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **kwargs).logits


@every_case
def test_attaching_value_memories_leaves_logits_bitwise_equal(name: str, kinds: tuple[Kind, ...]) -> None:
    model = tiny.host(name)
    before = logits(model, tiny.ids())
    vm.attach(model, *kinds)
    promised = all(kind.neutral for kind in kinds)
    assert torch.equal(before, logits(model, tiny.ids())) == promised


@every_case
def test_detaching_after_training_gives_the_frozen_host_back(name: str, kinds: tuple[Kind, ...]) -> None:
    model = tiny.host(name)
    before, weights = logits(model, tiny.ids()), copy.deepcopy(model.state_dict())
    names = [name for name, _ in model.named_modules()]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    vm.attach(model, *kinds)
    if any(p.requires_grad for p in model.parameters()):
        optimizer = torch.optim.AdamW(vm.param_groups(model, lr=1e-2))
        for step in range(2):
            model(input_ids=tiny.ids(seed=step), labels=tiny.ids(seed=step)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert not torch.equal(before, logits(model, tiny.ids()))
    vm.detach(model)
    assert torch.equal(before, logits(model, tiny.ids()))
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(weights[key], tensor) for key, tensor in model.state_dict().items())


@every_case
def test_later_tokens_do_not_change_earlier_outputs(name: str, kinds: tuple[Kind, ...]) -> None:
    model, ids = attached(name, kinds), tiny.ids()
    changed = ids.clone()
    changed[:, 6] = (changed[:, 6] % (tiny.VOCABULARY - 1)) + 1
    before, after = logits(model, ids), logits(model, changed)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before[:, 6:], after[:, 6:], rtol=1e-3, atol=1e-3)


@every_case
def test_decoding_token_by_token_equals_one_pass(name: str, kinds: tuple[Kind, ...]) -> None:
    model, ids = attached(name, kinds), tiny.ids()
    whole, cache, steps = logits(model, ids), None, []
    with torch.no_grad():
        for t in range(ids.shape[1]):
            out = model(input_ids=ids[:, t : t + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-4)


@every_case
def test_beams_and_greedy_search_with_a_cache_equal_those_without(name: str, kinds: tuple[Kind, ...]) -> None:
    model, ids = attached(name, kinds), tiny.ids(length=4)
    for beams in (1, 3):
        settings = {"max_new_tokens": 5, "num_beams": beams, "do_sample": False, "pad_token_id": 0}
        cached = model.generate(input_ids=ids, use_cache=True, **settings)
        assert torch.equal(cached, model.generate(input_ids=ids, use_cache=False, **settings))


@every_case
def test_a_static_cache_equals_one_pass(name: str, kinds: tuple[Kind, ...]) -> None:
    model, ids = attached(name, kinds), tiny.ids()
    cache = StaticCache(config=model.config, max_cache_len=16)
    with torch.no_grad():
        first = model(input_ids=ids[:, :6], past_key_values=cache, use_cache=True).logits
        rest = [
            model(
                input_ids=ids[:, t : t + 1],
                past_key_values=cache,
                use_cache=True,
                position_ids=torch.tensor([[t]]).expand(ids.shape[0], 1),
            ).logits
            for t in range(6, ids.shape[1])
        ]
    torch.testing.assert_close(torch.cat([first, *rest], 1), logits(model, ids), rtol=1e-4, atol=1e-4)


@every_case
def test_left_padded_rows_with_a_static_cache_go_on_as_the_rows_alone_do(name: str, kinds: tuple[Kind, ...]) -> None:
    """``generate`` then hands the model masks of four dimensions, some hosts a mapping of them."""
    model, long, short = attached(name, kinds), tiny.ids(1, 6, seed=3), tiny.ids(1, 4, seed=4)
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.long), short], 1)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, :2] = 0
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "cache_implementation": "static"}
    told = {"output_scores": True, "return_dict_in_generate": True}

    def scores(ids: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return torch.stack(model.generate(input_ids=ids, attention_mask=given, **settings, **told).scores)

    both = scores(torch.cat([long, padded]), mask)
    torch.testing.assert_close(both[:, :1], scores(long, mask[:1]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[:, 1:], scores(short, mask[:1, :4]), rtol=1e-4, atol=1e-4)


@every_case
def test_a_silenced_memory_decodes_as_it_answers_in_one_pass(name: str, kinds: tuple[Kind, ...]) -> None:
    model, ids = attached(name, kinds), tiny.ids(length=4)
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    with vm.knocked_out(model):
        cached = model.generate(input_ids=ids, use_cache=True, **settings)
        assert torch.equal(cached, model.generate(input_ids=ids, use_cache=False, **settings))


@every_case
def test_left_padded_rows_equal_the_rows_run_alone(name: str, kinds: tuple[Kind, ...]) -> None:
    model, long, short = attached(name, kinds), tiny.ids(1, 9, seed=3), tiny.ids(1, 5, seed=4)
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), short], 1)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, :4] = 0
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    both = logits(model, torch.cat([long, padded]), attention_mask=mask, position_ids=positions)
    torch.testing.assert_close(both[:1], logits(model, long), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[1:, 4:], logits(model, short), rtol=1e-4, atol=1e-4)


@every_case
def test_checkpointed_gradients_equal_plain_ones_with_two_forwards_before_one_backward(
    name: str, kinds: tuple[Kind, ...]
) -> None:
    """A hook outside the recompute would make the second forward's rows answer for the first one's gradients."""

    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        model = attached(name, kinds).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        losses = [model(input_ids=tiny.ids(seed=s), labels=tiny.ids(seed=s)).loss for s in (5, 6)]
        sum(losses).backward()
        return {key: p.grad for key, p in model.named_parameters() if p.grad is not None}

    plain, recomputed = gradients(False), gradients(True)
    assert plain.keys() == recomputed.keys()
    for key, gradient in plain.items():
        # Summed in another order, a steep lattice differs by up to 2.3e-5 of a tensor's largest (60 draws).
        atol = max(1e-6, 5e-5 * float(gradient.abs().max()))
        torch.testing.assert_close(recomputed[key], gradient, rtol=1e-5, atol=atol, msg=key)


@every_case
def test_every_parameter_gets_a_gradient_within_three_steps(name: str, kinds: tuple[Kind, ...]) -> None:
    model = attached(name, kinds, shaken=False).train()
    parameters = [p for module in vm.memories(model).named().values() for p in module.parameters()]
    reached: set[int] = set()
    if parameters:
        optimizer = torch.optim.AdamW(vm.param_groups(model, lr=1e-2))
    for step in range(3):
        ids = tiny.ids(batch=6, length=20, seed=step)
        model(input_ids=ids, labels=ids).loss.backward()
        for parameter in parameters:
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
            if parameter.grad.abs().sum() > 0:
                reached.add(id(parameter))
        if parameters:
            optimizer.step()
            optimizer.zero_grad()
    assert reached == {id(p) for p in parameters}


@contextmanager
def reads() -> Iterator[dict[Bank, list[Lookup]]]:
    """What banks are asked for within the block."""
    found: dict[Bank, list[Lookup]] = {}
    at = Bank.at

    def listening(bank: Bank, lookup: Lookup, frame: Frame) -> object:
        found.setdefault(bank, []).append(lookup)
        return at(bank, lookup, frame)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bank, "at", listening)
        yield found


def rows_by_token(lookups: list[Lookup], batch: int, length: int) -> torch.Tensor:
    """``[B, T, R]`` the rows that each token reads of a bank."""
    return torch.cat([lookup.ids.reshape(batch, length, -1) for lookup in lookups], -1)


@every_case
def test_every_row_that_was_read_gets_a_gradient_and_no_other(name: str, kinds: tuple[Kind, ...]) -> None:
    model, ids = attached(name, kinds).train(), tiny.ids()
    with reads() as found:
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    assert found.keys() == set(vm.memories(model).banks().values())
    for bank, lookups in found.items():
        rows = rows_by_token(lookups, *ids.shape)
        read = torch.zeros(bank.rows, dtype=torch.bool)
        read[rows[:, :-1].unique()] = True
        touched = bank.weight.grad.flatten(1).abs().sum(1) > 0
        # No loss is asked of what follows the last token.
        last_only = set(rows[:, -1].flatten().tolist()) - set(rows[:, :-1].unique().tolist())
        touched[list(last_only)] = False
        assert torch.equal(touched, read)


@every_case
def test_saving_and_loading_onto_a_fresh_host_is_exact(name: str, kinds: tuple[Kind, ...], tmp_path) -> None:
    model, ids = attached(name, kinds), tiny.ids()
    vm.save(model, tmp_path / "memory")
    other = vm.load(tiny.host(name), tmp_path / "memory")
    assert torch.equal(logits(model, ids), logits(other, ids))
    assert {p.suffix for p in (tmp_path / "memory").iterdir()} <= {".json", ".safetensors"}
    mine, theirs = memory_state_dict(model), memory_state_dict(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@every_case
def test_the_hosts_own_tensors_keep_their_own_names(name: str, kinds: tuple[Kind, ...]) -> None:
    bare = {key for key, p in tiny.host(name).state_dict().items()}
    tied = {"lm_head.weight"}
    assert bare - tied <= host_state_dict(attached(name, kinds)).keys() <= bare


@every_case
def test_declared_parameters_and_flops_are_the_counted_ones(name: str, kinds: tuple[Kind, ...]) -> None:
    model, ids = tiny.host(name), tiny.ids(4, 16)

    def flops() -> float:
        counter = FlopCounterMode(display=False)
        with vm.ops.backend("naive"), counter, torch.no_grad():
            model(input_ids=ids)
        return counter.get_total_flops() / ids.numel()

    def weights(module: torch.nn.Module) -> tuple[int, int]:
        sizes = {name: p.numel() for name, p in module.named_parameters()}
        return sum(sizes.values()), sum(2 * one for name, one in sizes.items() if name.endswith("weight"))

    bare, params = flops(), sum(p.numel() for p in model.parameters())
    vm.attach(model, *kinds)
    replaced = replaced_flops = 0
    for _, _, site in vm.memories(model).sites():
        if getattr(site, "replaced", False):
            # Of a map that something took a part of, that part is gone and the rest is there.
            before, after = weights(site.original()), weights(site.host)
            replaced, replaced_flops = replaced + before[0] - after[0], replaced_flops + before[1] - after[1]
    cost = vm.memories(model).cost()
    assert sum(p.numel() for p in model.parameters()) == params - replaced + cost.params
    declared, counted = cost.flops_per_token, flops() - bare + replaced_flops
    assert abs(declared - counted) <= 0.02 * counted


@every_case
def test_writing_a_row_changes_only_inputs_that_address_it(name: str, kinds: tuple[Kind, ...]) -> None:
    model, token = attached(name, kinds), 7
    without = tiny.ids(2, 12, seed=8)
    without[without == token] = token + 1
    having = without.clone()
    having[:, 3] = token
    with reads() as reads_without:
        before = logits(model, without)
    with reads() as reads_having:
        touched = logits(model, having)
    written: dict[Bank, int] = {}
    for bank, lookups in reads_having.items():
        new = set(rows_by_token(lookups, *having.shape)[:, 3].flatten().tolist())
        new -= set(rows_by_token(reads_without[bank], *without.shape).flatten().tolist())
        if new:
            written[bank] = min(new)
    assert {bank for bank in reads_having if bank.by_token} <= written.keys()
    kept = {bank: bank.weight[row].clone() for bank, row in written.items()}
    with torch.no_grad():
        for bank, row in written.items():
            bank.weight[row] += torch.linspace(-1.0, 2.0, bank.weight[row].numel()).view_as(bank.weight[row])
    assert torch.equal(logits(model, without), before)
    # Tokens before the row's own stay as they were; experts group tokens of a batch, so their rounding may differ.
    torch.testing.assert_close(logits(model, having)[:, :3], touched[:, :3], rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(model, having), touched) == (not written)
    with torch.no_grad():
        for bank, row in written.items():
            bank.weight[row] = kept[bank]
    assert torch.equal(logits(model, having), touched)


@every_case
def test_bf16_autocast_runs_and_stays_close(name: str, kinds: tuple[Kind, ...]) -> None:
    model, ids = attached(name, kinds).train(), tiny.ids()
    plain = model(input_ids=ids, labels=ids).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.testing.assert_close(loss.float(), plain.float(), rtol=0.05, atol=0.05)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@every_case
def test_fast_ops_equal_the_specification_with_all_gradients(name: str, kinds: tuple[Kind, ...]) -> None:
    def run(backend: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model = attached(name, kinds).train()
        with vm.ops.backend(backend):
            loss = model(input_ids=tiny.ids(), labels=tiny.ids()).loss
            loss.backward()
        return loss.detach(), {key: p.grad for key, p in model.named_parameters() if p.grad is not None}

    (fast, fast_grads), (slow, slow_grads) = run("fast"), run("naive")
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)
    assert fast_grads.keys() == slow_grads.keys()
    for key, gradient in slow_grads.items():
        # A gradient's small entries are differences of large ones, and rounded as those are.
        size = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(fast_grads[key], gradient, rtol=1e-4, atol=2e-5 * size, msg=key)


@every_case
def test_what_can_be_silent_says_nothing_while_memories_are_knocked_out(name: str, kinds: tuple[Kind, ...]) -> None:
    model, ids = attached(name, kinds), tiny.ids()
    parts = [part for _, _, part in vm.memories(model).parts()]
    with vm.knocked_out(model):
        before = logits(model, ids)
    tiny.shake(model, seed=9)
    with vm.knocked_out(model):
        assert torch.equal(logits(model, ids), before) == all(part.can_be_silent for part in parts)


@every_case
def test_a_deep_copy_is_attached_on_its_own(name: str, kinds: tuple[Kind, ...]) -> None:
    model, ids = attached(name, kinds), tiny.ids()
    before, twin = logits(model, ids), copy.deepcopy(model)
    tiny.shake(twin, seed=9)
    assert torch.equal(logits(model, ids), before)
    if any(True for _ in twin.vademecum.parts()):
        assert not torch.equal(logits(twin, ids), before)
    vm.detach(twin)
    assert torch.equal(logits(twin, ids), logits(tiny.host(name), ids))
