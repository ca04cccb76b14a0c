"""``inspect experts`` and ``inspect slots`` from a run to a page and its CSV files."""

from __future__ import annotations

import csv
import math
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import vademecum as vm
from vademecum import cli, data
from vademecum.analysis import specialisation as spec
from vademecum.compare import commands as comparing
from vademecum.data import DomainTokens
from vademecum.inspection import commands, gather, subject
from vademecum.training import checkpoint

Texts = Callable[[Path], dict[str, DomainTokens]]
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Checked(HTMLParser):
    """Collects text and ids, and fails on a tag that is closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.words, self.ids, self.links = list[str](), list[str](), list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, words: str) -> None:
        self.words.append(words)


def page(path: Path) -> Checked:
    found = Checked()
    found.feed(path.read_text("utf-8"))
    assert not found.open
    assert len(set(found.ids)) == len(found.ids)
    assert not re.search(r'(src|href)="https?:', path.read_text("utf-8"))
    inside = {link[1:] for link in found.links if link.startswith("#")}
    assert inside <= set(found.ids)
    assert all((path.parent / link).is_file() for link in found.links if not link.startswith("#"))
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def experts_page(run: Path, texts_of: Texts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("experts")
    return commands.inspect_experts(run, texts=texts_of(run), out=out, echo=lambda _: None)


@pytest.fixture(scope="module")
def slots_page(run: Path, texts_of: Texts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("slots")
    return commands.inspect_slots(run, texts=texts_of(run), out=out, echo=lambda _: None)


def recorded(run: Path, texts: dict[str, DomainTokens]) -> tuple[Any, gather.Windows]:
    """The same windows through ``vm.record`` in one forward, without this room's own pass."""
    found = subject.find(run)
    shown = gather.windows(texts, found.length)
    with torch.no_grad(), vm.record(found.model) as rec:
        found.model(input_ids=shown.inputs)
    return rec, shown


def test_the_experts_page_is_whole_and_shows_the_numbers_of_its_csv_files(experts_page: Path) -> None:
    words = "\n".join(page(experts_page).words)
    domains = rows(experts_page.parent / "domains.csv")
    most = max(float(row["share"]) / float(row["even"]) for row in domains)
    assert f"{most:.1f} times" in words
    for figure in ("domains", "information-expert", "vocabulary", "coactivation", "repetition", "saturation"):
        assert (experts_page.parent / "figures" / f"{figure}.png").stat().st_size > 5000
    for domain in ("prose", "code", "digits"):
        assert domain in words
    assert "The run was trained on other text" in words
    pieces = [row["text"] for row in rows(experts_page.parent / "text.csv") if row["domain"] == "prose"]
    assert {"lamp", "river", "über"} & set("".join(pieces).split()), "text is shown as it was written"


def test_domain_shares_in_the_csv_are_those_of_a_pass_by_hand(run: Path, texts_of: Texts, experts_page: Path) -> None:
    rec, shown = recorded(run, texts_of(run))
    domain = shown.domain.repeat_interleave(shown.inputs.shape[1])
    for row in rows(experts_page.parent / "domains.csv"):
        experts = rec.all(row["layer"], "experts")[domain == list(shown.domains).index(row["domain"])]
        share = float((experts == int(row["expert"])).any(1).double().mean())
        assert float(row["share"]) == pytest.approx(share)
        assert float(row["even"]) == pytest.approx(2 / 4)


def test_information_and_repetition_in_the_csv_are_those_of_the_measures(
    run: Path, texts_of: Texts, experts_page: Path
) -> None:
    rec, shown = recorded(run, texts_of(run))
    length = shown.inputs.shape[1]
    domain, window = (labels.repeat_interleave(length) for labels in (shown.domain, torch.arange(len(shown.inputs))))
    ids = shown.inputs.flatten()
    labels = {"domain": (domain, None), "token id": (ids, None), "domain, token id known": (domain, ids)}
    found = rows(experts_page.parent / "information.csv")
    assert len(found) == 2 * 3
    for row in found:
        label, given = labels[row["about"]]
        one = spec.information(spec.first_expert(rec.all(row["layer"], "experts")), label, given=given, seed=0)
        assert one is not None
        assert float(row["measured"]) == pytest.approx(one.measured)
        assert float(row["shuffled"]) == pytest.approx(one.baseline)
        assert float(row["difference"]) == pytest.approx(one.measured - one.baseline)
    for row in rows(experts_page.parent / "repetition.csv"):
        one = spec.repetition(spec.first_expert(rec.all(row["layer"], "experts")), window)
        assert float(row["share"]) == pytest.approx(one.share)


def test_saturation_is_that_of_each_kept_checkpoint_against_the_last(
    run: Path, texts_of: Texts, experts_page: Path
) -> None:
    assert checkpoint.steps(run) == [2, 4, 6]
    found = rows(experts_page.parent / "saturation.csv")
    assert [(row["step"], row["layer"]) for row in found] == [
        (step, f"moe.layers.{layer}") for step in ("2", "4") for layer in (0, 1)
    ]
    shown = gather.windows(texts_of(run), 16)
    one = subject.find(run)
    final = gather.gather(one.model, shown, ("experts",)).having("experts")
    weights = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    for step in one.earlier():
        now = gather.gather(one.model, shown, ("experts",)).having("experts")
        for row in found:
            if row["step"] == str(step):
                same = [
                    len(set(a) & set(b)) / 2
                    for a, b in zip(now[row["layer"]].tolist(), final[row["layer"]].tolist(), strict=True)
                ]
                assert float(row["saturation"]) == pytest.approx(sum(same) / len(same))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in one.model.state_dict().items())


def test_a_run_with_one_checkpoint_says_how_to_keep_more_and_a_damaged_one_is_left_out(
    run: Path, texts_of: Texts, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(checkpoint.folder_of(copy, 2))
    damaged = checkpoint.folder_of(copy, 4) / "memory.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    path = commands.inspect_experts(copy, texts=texts_of(copy), echo=lambda _: None)
    assert path == copy / "inspect-experts" / "report.html"
    words = "".join(page(path).words)
    assert "left out of the saturation curve: step 4" in words
    assert "vademecum train --keep 20 --checkpoint-every 50" in words
    assert rows(path.parent / "saturation.csv") == []


def test_the_slots_page_is_whole_and_its_gates_are_those_of_a_pass_by_hand(
    run: Path, texts_of: Texts, slots_page: Path
) -> None:
    words = "\n".join(page(slots_page).words)
    rec, shown = recorded(run, texts_of(run))
    domain = shown.domain.repeat_interleave(shown.inputs.shape[1])
    found = rows(slots_page.parent / "gates.csv")
    columns = ["own", "slot 0", "slot 1", "slot 2"]
    heads = rec.all("move.layers.0", "gates").shape[1]
    assert len(found) == 2 * 3 * heads * 4
    for row in found:
        gates = rec.all(row["layer"], "gates")[domain == list(shown.domains).index(row["domain"])]
        mean = float(gates[:, int(row["head"]), columns.index(row["gate on"])].double().mean())
        assert float(row["mean gate"]) == pytest.approx(mean, rel=1e-5)
    ranges: dict[tuple[str, ...], list[float]] = {}
    for row in found:
        ranges.setdefault((row["layer"], row["head"], row["gate on"]), []).append(float(row["mean gate"]))
    widest = max(ranges.values(), key=lambda values: max(values) - min(values))
    assert f"{max(widest):.2f} in" in words
    assert "The tokens that open each slot most" in words


def test_openers_in_the_csv_are_frequent_and_widest_first(run: Path, texts_of: Texts, slots_page: Path) -> None:
    rec, shown = recorded(run, texts_of(run))
    ids = shown.inputs.flatten()
    before: dict[tuple[str, ...], float] = {}
    for row in rows(slots_page.parent / "openers.csv"):
        m = 0 if row["gate on"] == "own" else 1 + int(row["gate on"].split()[1])
        at = ids == int(row["id"])
        assert int(row["count"]) == int(at.sum()) >= 10
        mean = float(rec.all(row["layer"], "gates")[at, int(row["head"]), m].double().mean())
        assert float(row["mean gate"]) == pytest.approx(mean, rel=1e-5)
        key = (row["layer"], row["head"], row["gate on"])
        assert mean <= before.get(key, math.inf) + 1e-5
        before[key] = mean


@pytest.mark.parametrize(
    ("verb", "says"),
    [
        (commands.inspect_experts, r"has no experts.*moe:experts=16,top_k=4"),
        (commands.inspect_slots, r"no slots.*move:slots=4"),
    ],
)
def test_a_run_without_the_part_says_what_to_train_instead(
    dense: Path, texts_of: Texts, verb: Callable[..., Path], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        verb(dense, texts=texts_of(dense))
    assert not list(dense.glob("inspect*"))


def test_a_folder_that_is_nothing_an_arm_without_a_comparison_and_too_few_tokens_are_refused(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        commands.inspect_experts(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"no run .* no comparison .* no Transformers model"):
        commands.inspect_slots(tmp_path)
    with pytest.raises(ValueError, match=r"--arm moe was given, but .* holds no comparison"):
        commands.inspect_experts(run, arm="moe")
    with pytest.raises(ValueError, match=r"--tokens 16 was given, and one window .* takes 17"):
        commands.inspect_slots(run, tokens=16)


def test_an_arm_of_a_comparison_is_found_by_its_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan.json").write_text("{}")
    asked = []
    monkeypatch.setattr(comparing, "find_run", lambda folder, arm: asked.append((folder, arm)) or run)
    assert subject.find(tmp_path, "moe").folder == run
    assert asked == [(tmp_path, "moe")]


def test_the_verbs_read_the_seven_domains_and_print_where_the_page_is(
    run: Path, texts_of: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def domain_tokens(tokenizer: Any, end: int, *, per_domain: int) -> dict[str, DomainTokens]:
        asked.append(per_domain)
        return texts_of(run)

    monkeypatch.setattr(data, "domain_tokens", domain_tokens)
    for verb in ("experts", "slots"):
        out = tmp_path / verb
        done = CliRunner().invoke(cli.app, ["inspect", verb, str(run), "--tokens", "160", "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert f"Report: {out / 'report.html'}" in done.output
        assert (out / "text.csv").is_file()
    assert asked == [161, 161]


def test_the_same_seed_gives_the_same_page(run: Path, texts_of: Texts, tmp_path: Path, slots_page: Path) -> None:
    again = commands.inspect_slots(run, texts=texts_of(run), out=tmp_path, echo=lambda _: None)
    assert again.read_text() == slots_page.read_text()


def test_the_folder_a_run_exports_gives_the_same_numbers_without_checkpoints(
    run: Path, texts_of: Texts, tmp_path: Path, experts_page: Path
) -> None:
    again = commands.inspect_experts(run / "final", texts=texts_of(run), out=tmp_path, echo=lambda _: None)
    for name in ("domains", "information", "coactivation"):
        assert (tmp_path / f"{name}.csv").read_text() == (experts_page.parent / f"{name}.csv").read_text()
    words = "".join(page(again).words)
    assert "What the model was trained on is not known here" in words
    assert "vademecum train --keep 20 --checkpoint-every 50" in words
