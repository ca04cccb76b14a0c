import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import Corpus, build, recipe

import vademecum as vm
from vademecum.training import Diverged, Interrupted, Run, checkpoint, metrics

KINDS = (vm.MoVE(slots=2), vm.MoE(experts=4, top_k=2))


def _open(folder, *kinds, corpus=None, **changes):
    return Run.open(folder, build=lambda: build(*kinds), corpus=corpus or Corpus(), recipe=recipe(**changes))


def _weights(run):
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def _equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def _losses(folder):
    return [line["loss"] for line in metrics.read(folder)[0]]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_loss_falls(tmp_path, optimizer, dtype):
    _open(tmp_path / "run", *KINDS, steps=40, optimizer=optimizer, dtype=dtype).advance()
    losses = _losses(tmp_path / "run")
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_weights_stay_fp32_under_bf16(tmp_path):
    run = _open(tmp_path / "run", *KINDS, steps=2, dtype="bf16")
    run.advance()
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


def test_accumulation_equals_the_big_batch(tmp_path):
    big = _open(tmp_path / "big", vm.MoVE(slots=2), steps=4, batch=8)
    parts = _open(tmp_path / "parts", vm.MoVE(slots=2), steps=4, batch=4, accumulate=2)
    big.advance()
    parts.advance()
    assert _losses(tmp_path / "parts") == pytest.approx(_losses(tmp_path / "big"), rel=1e-4)
    assert big.tokens == parts.tokens == 4 * 8 * 16


def test_runs_that_take_turns_equal_runs_alone(tmp_path):
    def make(name, seed):
        return Run.open(
            tmp_path / name, build=lambda: build(*KINDS, dropout=True), corpus=Corpus(), recipe=recipe(seed=seed)
        )

    alone, first, second = make("alone", 0), make("first", 0), make("second", 1)
    alone.advance()
    while not (first.done and second.done):
        first.advance(5)
        second.advance(3)
        torch.rand(7)
    assert _equal(_weights(alone), _weights(first))
    assert not _equal(_weights(alone), _weights(second))


def test_the_callers_random_state_is_left_as_it_was(tmp_path):
    run = _open(tmp_path / "run", *KINDS)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run.advance(3)
    assert torch.equal(torch.rand(3), expected)


def test_evaluation_changes_nothing_that_follows(tmp_path):
    often, never = _open(tmp_path / "often", *KINDS, eval_every=1), _open(tmp_path / "never", *KINDS, eval_every=0)
    often.advance()
    never.advance()
    assert _equal(_weights(often), _weights(never))
    assert [line["step"] for line in metrics.read(tmp_path / "never")[1]] == [12]
    assert often.bits_per_byte == never.bits_per_byte


def test_bits_per_byte_of_a_uniform_model_are_log2_of_the_vocabulary_per_token(tmp_path):
    run = _open(tmp_path / "run")
    with torch.no_grad():
        run.model.get_input_embeddings().weight.zero_()
    assert run.evaluate() == pytest.approx(math.log2(64) / 3.0, rel=1e-6)


def _poison(run, steps):
    """Make the loss of the forwards in ``steps`` (counted from 1) not a number."""
    calls = iter(range(1, 10_000))
    loss_of = run._loss
    run._loss = lambda number: loss_of(number) * (math.nan if next(calls) in steps else 1.0)


def test_a_step_that_is_not_finite_changes_no_weight_and_is_counted(tmp_path):
    run = _open(tmp_path / "run", vm.MoVE(slots=2))
    _poison(run, {3})
    run.advance(2)
    before = _weights(run)
    run.advance(1)
    assert _equal(before, _weights(run))
    assert run.skipped == 1
    run.advance(1)
    assert not _equal(before, _weights(run))
    assert [line["skipped"] for line in metrics.read(tmp_path / "run")[0]] == [0, 0, 1, 1]


def test_a_gradient_that_is_not_finite_is_skipped_too(tmp_path):
    run = _open(tmp_path / "run", vm.MoVE(slots=2))
    weight = run.model.model.norm.weight
    weight.register_hook(lambda grad: grad * math.inf)
    before = _weights(run)
    run.advance(1)
    assert run.skipped == 1
    assert _equal(before, _weights(run))


def test_ten_in_a_row_halt_the_run_with_a_way_out(tmp_path):
    run = _open(tmp_path / "run", vm.MoVE(slots=2), steps=30)
    _poison(run, set(range(3, 30)))
    with pytest.raises(Diverged, match=r"lower rate than lr=0\.006"):
        run.advance()
    assert run.step == 12


def test_nine_in_a_row_do_not(tmp_path):
    run = _open(tmp_path / "run", vm.MoVE(slots=2), steps=30)
    _poison(run, set(range(3, 12)))
    run.advance()
    assert run.skipped == 9


def test_the_count_of_steps_skipped_in_a_row_survives_a_restart(tmp_path):
    run = _open(tmp_path / "run", vm.MoVE(slots=2), steps=30)
    _poison(run, set(range(1, 9)))
    run.advance(8)
    again = _open(tmp_path / "run", vm.MoVE(slots=2), steps=30)
    assert again.skipped == 8
    _poison(again, {1, 2})
    with pytest.raises(Diverged):
        again.advance()
    assert again.step == 10


def test_metrics_hold_one_line_per_step_with_norms_by_role(tmp_path):
    _open(tmp_path / "run", *KINDS).advance()
    steps, evaluations = metrics.read(tmp_path / "run")
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert set(steps[0]["norms"]) == {"host", "router", "expert", "bank"}
    assert [line["step"] for line in evaluations] == [4, 8, 12]
    assert {"tokens", "seconds", "loss", "lr", "tokens_per_second", "skipped"} <= set(steps[0])


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    _open(tmp_path / "run", *KINDS).advance()
    again = _open(tmp_path / "run", *KINDS)
    assert again.done
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again.advance()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_request_to_stop_saves_after_the_step_in_work(tmp_path):
    run, before = _open(tmp_path / "run", *KINDS), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="same command goes on"):
        run.advance(on_step=lambda line: os.kill(os.getpid(), signal.SIGINT) if line["step"] == 3 else None)
    assert checkpoint.steps(tmp_path / "run") == [3]
    assert signal.getsignal(signal.SIGINT) is before, "a background shell ignores Ctrl-C, and that too is put back"
    assert _open(tmp_path / "run", *KINDS).step == 3


def _interrupted(*_args, **_kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("inside", ["optimizer.step", "_log", "evaluate"])
def test_a_run_torn_out_of_a_step_is_not_saved_and_ends_like_one_never_stopped(tmp_path, monkeypatch, inside):
    whole, torn = _open(tmp_path / "whole", *KINDS), _open(tmp_path / "torn", *KINDS)
    whole.advance()
    torn.advance(7)
    owner, name = (torn.optimizer, "step") if inside == "optimizer.step" else (torn, inside)
    monkeypatch.setattr(owner, name, _interrupted)
    with pytest.raises(KeyboardInterrupt):
        torn.advance()
    assert torn.checkpoint() == checkpoint.folder_of(tmp_path / "torn", 4)
    assert checkpoint.steps(tmp_path / "torn") == [4]
    with pytest.raises(RuntimeError, match=r"open it again with Run\.open"):
        torn.advance()
    again = _open(tmp_path / "torn", *KINDS)
    again.advance()
    assert _equal(_weights(whole), _weights(again))
    for before, after in zip(metrics.read(tmp_path / "whole"), metrics.read(tmp_path / "torn"), strict=True):
        assert [line["step"] for line in before] == [line["step"] for line in after]


def test_a_run_torn_out_of_its_first_step_has_nothing_to_save(tmp_path, monkeypatch):
    run = _open(tmp_path / "run", *KINDS)
    monkeypatch.setattr(run.optimizer, "step", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.advance()
    assert run.checkpoint() is None
    assert checkpoint.steps(tmp_path / "run") == []


def test_a_length_that_the_host_has_no_positions_for_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"length=33 was given, and this .* has 32 positions; write 32 or less"):
        _open(tmp_path / "run", *KINDS, length=33)
    assert not (tmp_path / "run").exists()


def test_ctrl_c_in_another_process_saves_and_says_how_to_go_on(tmp_path):
    code = (
        "import sys; from tiny_runs import *; from vademecum.training import Run\n"
        "long = recipe(steps=10**6, checkpoint_every=0, eval_every=0)\n"
        "run = Run.open(sys.argv[1], build=build, corpus=Corpus(), recipe=long)\n"
        "run.advance(on_step=lambda line: print(line['step'], flush=True))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        },
    )
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=60)[1]
    assert "goes on from there" in said
    (step,) = checkpoint.steps(tmp_path / "run")
    assert len(metrics.read(tmp_path / "run")[0]) == step


@pytest.mark.parametrize(
    "kinds",
    [
        (vm.MoVE(slots=2), vm.MoE(experts=4, balance="bias", capacity=1.5)),
        (vm.MoE(experts=4, balance_scope="global"),),
        (vm.ProductKey(slots=64, topk=4, heads=1, query_norm="batch"),),
    ],
    ids=["move and bias", "balance over a step", "batch norm"],
)
def test_warming_up_changes_nothing_that_is_learned(tmp_path, kinds):
    found = []
    for name, warm in (("plain", False), ("warm", True)):
        run = Run.open(
            tmp_path / name, build=lambda: build(*kinds, dropout=True), corpus=Corpus(), recipe=recipe(accumulate=2)
        )
        run.advance(2)
        if warm:
            run.warm_up()
        run.advance(3)
        found.append(run.model.state_dict())
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        assert torch.equal(value, found[1][key]), key
