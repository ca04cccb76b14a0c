"""Looking inside a run while it trains: right numbers, nothing else changed."""

import pytest
import torch
from tiny_runs import Corpus, build, recipe

import vademecum as vm
from vademecum import data
from vademecum.analysis.experts import load
from vademecum.recording import Recording
from vademecum.training import Run, metrics, watch

KINDS = (
    vm.MoVE(slots=3, selectivity=0.1),
    vm.MoE(experts=4, top_k=2, balance="bias", capacity=1.0, jitter=0.1, second="sampled", z_weight=0.01),
)


def _open(folder, *kinds, dropout=False, **changes):
    return Run.open(
        folder, build=lambda: build(*kinds, dropout=dropout), corpus=Corpus(), recipe=recipe(watch_tokens=64, **changes)
    )


def _lines(folder):
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in _read(folder)]


def _read(folder):
    steps, evaluations = metrics.read(folder)
    return [*steps, *evaluations]


def test_a_watched_run_learns_what_an_unwatched_one_learns_bit_for_bit(tmp_path):
    watched = _open(tmp_path / "watched", *KINDS, dropout=True)
    unwatched = _open(tmp_path / "unwatched", *KINDS, dropout=True)
    unwatched.recipe = recipe(watch_tokens=0)
    watched.advance()
    unwatched.advance()
    seen = _lines(tmp_path / "watched")
    assert sum("inside" in line for line in seen) == 3
    for line in seen:
        line.pop("inside", None)
    assert seen == _lines(tmp_path / "unwatched")
    for part, tensors in watched.tensors().items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, unwatched.tensors()[part][name]), name


def test_an_evaluation_line_describes_every_layer_of_experts_and_slots(tmp_path):
    run = _open(tmp_path / "run", *KINDS)
    run.advance()
    inside = metrics.read(tmp_path / "run")[1][-1]["inside"]
    assert set(inside) == {f"{kind}.layers.{layer}" for kind in ("move", "moe") for layer in (0, 1)}
    assert set(inside["moe.layers.0"]) == set(watch.EXPERTS)
    assert set(inside["move.layers.1"]) == set(watch.SLOTS)
    assert 0 < inside["move.layers.1"]["effective"] <= 3


def test_numbers_of_experts_are_those_of_the_held_out_load(tmp_path):
    run = _open(tmp_path / "run", *KINDS)
    ids = torch.from_numpy(run.corpus.heldout[:16].astype("int64"))[None]
    inside = watch.inside(run.model, Corpus(heldout=run.corpus.heldout[:17]), length=16, tokens=16)
    with torch.no_grad(), vm.record(run.model.eval()) as rec:
        run.model(input_ids=ids)
    expected = load(rec.all("moe.layers.1", "load")[0])
    assert inside["moe.layers.1"]["load_entropy"] == pytest.approx(expected.entropy)
    assert inside["moe.layers.1"]["max_violation"] == pytest.approx(expected.max_violation)
    assert inside["moe.layers.1"]["dead"] == expected.dead


def test_a_model_with_one_slot_has_no_similarity_and_one_without_memory_has_no_line(tmp_path):
    one = _open(tmp_path / "one", vm.MoVE(slots=1)).inside()
    assert set(one["move.layers.0"]) == set(watch.SLOTS) - {"similarity", "gate_entropy"}
    assert _open(tmp_path / "none").inside() == {}


def test_drops_are_those_of_training_and_looking_moves_no_bias(tmp_path):
    run = _open(tmp_path / "run", *KINDS)
    run.advance(3)
    before = {name: tensor.clone() for name, tensor in run.tensors()["memory"].items()}
    inside = run.inside()
    assert all(0 < inside[f"moe.layers.{layer}"]["dropped"] < 1 for layer in (0, 1))
    for name, tensor in run.tensors()["memory"].items():
        assert torch.equal(before[name], tensor), name
    roomy = _open(tmp_path / "roomy", vm.MoE(experts=4, top_k=2)).inside()
    assert roomy["moe.layers.0"]["dropped"] == 0


def test_training_lines_hold_what_is_lost_apart_from_the_text_and_what_is_dropped(tmp_path):
    kinds = (vm.MoVE(slots=3, bank_std=0.1, selectivity=0.1), vm.MoE(experts=4, top_k=2, capacity=1.0))
    run = _open(tmp_path / "run", *kinds)
    window = torch.from_numpy(data.batch(run.corpus.train, seed=0, step=0, batch=4, length=16).astype("int64"))
    with torch.no_grad():
        logits = run.model.train()(input_ids=window[:, :-1]).logits
    text = torch.nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten()).item()
    run.advance(1)
    (line,) = metrics.read(tmp_path / "run")[0]
    assert set(line["losses"]) == {"move.selectivity", "moe.balance", "moe.z"}
    assert line["loss"] == pytest.approx(text + sum(line["losses"].values()), rel=1e-5)
    assert 0 < line["dropped"] < 1


def test_a_run_without_experts_or_losses_has_neither_in_its_lines(tmp_path):
    run = _open(tmp_path / "run", vm.MoVE(slots=3, selectivity=0))
    run.advance(1)
    (line,) = metrics.read(tmp_path / "run")[0]
    assert not {"losses", "dropped"} & set(line)


def test_what_is_told_is_summed_over_layers_and_averaged_over_forwards():
    told, recording = watch.Told(), Recording(tokens=False)
    for loss, dropped in ((1.0, 0.25), (3.0, 0.75)):
        recording.forwards = [{"moe.layers.0": {"dropped": torch.tensor(dropped)}}]
        recording.losses = {f"moe.layers.{layer}.z": torch.tensor(loss) for layer in (0, 1)}
        told.take(recording)
    assert {name: value.item() for name, value in told.numbers().items()} == {"losses/moe.z": 4.0, "dropped": 0.5}
    assert watch.nested({"losses/moe.z": 4.0, "dropped": 0.5}) == {"losses": {"moe.z": 4.0}, "dropped": 0.5}
    assert recording.forwards == []


def test_the_mode_and_the_random_state_are_as_before(tmp_path):
    run = _open(tmp_path / "run", *KINDS)
    run.model.train()
    before = torch.get_rng_state()
    run.inside()
    assert run.model.training
    assert torch.equal(before, torch.get_rng_state())


def test_how_much_is_watched_may_change_when_a_run_goes_on(tmp_path):
    _open(tmp_path / "run", *KINDS).advance(4)
    again = Run.open(tmp_path / "run", build=lambda: build(*KINDS), corpus=Corpus(), recipe=recipe(watch_tokens=0))
    again.advance()
    assert ["inside" in line for line in metrics.read(tmp_path / "run")[1]] == [True, False, False]
