"""The study compression: what it measures, what it says, and that it changes nothing."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import pytest
import torch

import vademecum as vm
from tests import tiny
from vademecum import cli
from vademecum.compare import probe, runner
from vademecum.compare.plan import PRESETS
from vademecum.ops.codes import FORMATS
from vademecum.studies import compression, compression_page
from vademecum.studies.curve import BOTH, PARTS, ROWS, SILENT, WEIGHTS, WIDEST_FIRST, Curve, Point, table

TEXT = "The {0} of {1} lies {2} miles from the sea; its people grow {0} and sell {2} tons of it every year.\n"
WORDS = ("wheat", "rice", "copper", "island", "river", "market", "castle", "forest")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of dense and MoVE over two seeds on made-up facts."""
    folder = tmp_path_factory.mktemp("compression")
    (folder / "text").mkdir()
    for i in range(40):
        lines = [TEXT.format(WORDS[(i + j) % 8], WORDS[(i * 3 + j) % 8], i * j % 97) for j in range(40)]
        (folder / "text" / f"{i}.txt").write_text("".join(lines), encoding="utf-8")
    smoke = PRESETS["smoke"]
    plan = dataclasses.replace(
        smoke, data=(str(folder / "text"),), arms=smoke.arms[:2], size=1, prompts=0, heldout_tokens=512
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "peak_memory", lambda plan, arm, width: 1_000_000)
        patch.setenv("VADEMECUM_CACHE", str(folder / "cache"))
        runner.run(plan, folder / "compare")
    return folder


@pytest.fixture
def folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VADEMECUM_CACHE", str(trained / "cache"))
    return trained


def test_the_verb_measures_every_part_in_every_format_on_every_seed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["study", "compression", str(folder / "compare"), "--arm", "move", "--data", str(folder / "text")]
    assert cli.main([*command, "--tokens", "512", "--out", str(folder / "out")]) == 0
    with open(folder / "out" / "compression.csv", encoding="utf-8") as file:
        points = list(csv.DictReader(file))
    assert {point["seed"] for point in points} == {"0", "1"}
    assert len(points) == 2 * (len(PARTS) * len(WIDEST_FIRST) + 1)
    for seed in ("0", "1"):
        mine = [point for point in points if point["seed"] == seed]
        assert len({point["exact"] for point in mine}) == 1
        for part in PARTS:
            moved = [float(p["divergence"]) for p in mine if p["part"] == part and p["form"] != SILENT]
            assert moved == sorted(moved)
            assert moved[0] > 0
        both, rows, weights = (
            next(float(p["divergence"]) for p in mine if p["part"] == part and p["form"] == "int2")
            for part in (BOTH, ROWS, WEIGHTS)
        )
        assert both > max(rows, weights)
    assert {float(p["bits"]) for p in points if (p["part"], p["form"]) == (ROWS, "int4")} == {4.5}
    said = capsys.readouterr().out
    assert "Without the memory at all the text takes" in said
    assert (folder / "out" / "figures" / "compression.png").is_file()
    assert "2 seeds, " in (folder / "out" / "report.html").read_text(encoding="utf-8")


def test_an_arm_without_a_bank_and_one_that_is_not_there_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["study", "compression", str(folder / "compare"), "--data", str(folder / "text")]
    assert cli.main([*command, "--arm", "dense"]) == 2
    assert "has no bank" in capsys.readouterr().err
    assert cli.main([*command, "--arm", "mov"]) == 2
    assert "choose with --arm one of dense, move" in capsys.readouterr().err
    assert cli.main(command) == 2
    assert "holds several arms" in capsys.readouterr().err
    assert cli.main([*command, "--arm", "move", "--tokens", "0"]) == 2
    assert "tokens=0 was given" in capsys.readouterr().err


@pytest.fixture(params=["qwen3", "gpt2"])
def pair(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same model twice."""
    models = []
    for _ in range(2):
        model = vm.attach(tiny.host(request.param), vm.MoVE(slots=2))
        tiny.shake(model)
        models.append(model)
    return models[0], models[1]


def values(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_compressed_and_all_else_stays(pair: tuple[torch.nn.Module, torch.nn.Module], part: str) -> None:
    exact, model = pair
    before = values(exact)
    bits, count, error = compression.compress(exact, model, FORMATS["int4"], part)
    after = values(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    banks = {name for name in before if name.endswith("shared.move.weight")}
    maps = {
        next(name for name, tensor in model.state_dict(keep_vars=True).items() if tensor is each.weight)
        for each in compression.linear_maps(model).values()
    }
    assert banks
    assert maps
    assert changed == {ROWS: banks, WEIGHTS: maps, BOTH: banks | maps}[part]
    assert count == sum(before[name].numel() for name in changed)
    assert 4 < bits < 6
    off = sum(float((before[name] - after[name]).double().square().sum()) for name in changed)
    assert error == pytest.approx(math.sqrt(off / sum(float(before[n].double().square().sum()) for n in changed)))
    assert all(torch.equal(before[name], tensor) for name, tensor in values(exact).items())
    compression.compress(exact, model, FORMATS["fp32"], BOTH)
    assert all(torch.equal(before[name], tensor) for name, tensor in values(model).items())


def test_blocks_of_a_weight_lie_along_its_input() -> None:
    exact, model = (vm.attach(tiny.host("gpt2"), vm.MoVE(slots=2)) for _ in range(2))
    name = "transformer.h.0.mlp.c_fc"
    with torch.no_grad():
        weight = compression.linear_maps(exact)[name].weight  # [input, output]
        weight.copy_(torch.arange(1, weight.shape[1] + 1).expand_as(weight))
    compression.compress(exact, model, FORMATS["int8"], WEIGHTS)
    # Along the input the values are constant, which every block gives back; along the output they would not be.
    torch.testing.assert_close(compression.linear_maps(model)[name].weight, weight, rtol=2**-7, atol=0)


def test_neither_the_map_to_the_vocabulary_nor_a_memory_is_among_the_linear_maps() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=2), vm.MoE(experts=2))
    maps = compression.linear_maps(model)
    assert "lm_head" not in maps
    assert any(name.endswith("q_proj") for name in maps)
    assert not any(module is each for each in maps.values() for module in vm.memories(model).named().values())


def test_divergence_is_that_of_the_predictions() -> None:
    exact, model = (vm.attach(tiny.host("qwen3"), vm.MoVE(slots=2)) for _ in range(2))
    tiny.shake(model)
    windows = tiny.ids(3, 9).numpy()
    divergence, needed = compression.compared(exact, model, windows)
    with torch.no_grad():
        p, q = (
            each(input_ids=torch.from_numpy(windows[:, :-1])).logits.double().softmax(-1) for each in (exact, model)
        )
    expected = (p * (p / q).log2()).sum()
    wanted = -q.gather(-1, torch.from_numpy(windows[:, 1:]).unsqueeze(-1)).log2().sum()
    assert divergence == pytest.approx(float(expected), rel=1e-4)
    assert needed == pytest.approx(float(wanted), rel=1e-5)
    assert compression.compared(exact, exact, windows)[0] == 0.0


def made(factors: tuple[float, ...], lost: float = 0.001) -> Curve:
    """A curve whose rows move predictions ``factors`` (by seed) times as far as the weights, at every format."""
    points = []
    for seed, factor in enumerate(factors):
        for i, form in enumerate(WIDEST_FIRST):
            for part, times in ((ROWS, factor), (WEIGHTS, 1.0), (BOTH, 1 + factor)):
                points.append(Point(seed, part, form, 16.0 / 2**i, 100, 0.1, times * 10.0 ** (i - 6), 2.0 + lost, 2.0))
        points.append(Point(seed, ROWS, SILENT, 0.0, 100, 1.0, 1.0, 2.5, 2.0))
    return Curve(tuple(points), "move", "facts", 100)


def test_a_sentence_claims_only_what_its_interval_supports() -> None:
    said = compression_page.sentences(made((0.5, 0.52, 0.49)))
    assert said[0].startswith("bf16: compressing the rows moves predictions 0.50 times as far as the weights")
    said = compression_page.sentences(made((0.5, 1.5, 0.9)))
    assert said[0].startswith("bf16: no difference shown between rows and weights")
    one = compression_page.sentences(made((0.5,)))
    assert not any("times as far" in sentence for sentence in one)
    assert one[-1] == "One seed: no interval, and so no claim."


def test_a_lead_in_bits_is_read_off_the_line_of_the_rows() -> None:
    curve = made((0.1, 0.1))
    # Rows have a tenth of the weights' divergence at every format, and ten times as much a format further down.
    for form, expected in (("int8", 8.0 - 4.0), ("int4", 4.0 - 2.0), ("int3", 2.0 - 1.0)):
        lead = curve.lead(ROWS, WEIGHTS, form)
        assert lead is not None
        assert lead.mean == pytest.approx(expected)
    beyond = curve.lead(ROWS, WEIGHTS, "int2")
    assert beyond is not None
    assert beyond.mean == pytest.approx(1.0 - 0.0)
    same = made((1.0, 1.0)).lead(ROWS, WEIGHTS, "int3")
    assert same is not None
    assert same.mean == pytest.approx(0.0)
    assert "which is worth +2.00 ± 0.00 bits per value" in " ".join(compression_page.sentences(made((0.1, 0.1))))


def test_what_costs_little_is_named_down_to_the_narrowest_format() -> None:
    said = " ".join(compression_page.sentences(made((0.5, 0.52, 0.49))))
    assert "down to int2 (1 bits per value) in the bank's rows alone" in said
    said = " ".join(compression_page.sentences(made((0.5, 0.52, 0.49), lost=0.5)))
    assert "No format is shown to lose less than 0.01 bits per byte in the bank's rows alone." in said


def test_the_table_and_the_csv_have_every_point() -> None:
    curve = made((0.5, 0.6))
    assert len(compression_page.rows(curve)) == 1 + len(PARTS) * len(WIDEST_FIRST) + 1
    assert len(table(curve).splitlines()) == 1 + len(curve.points)
