"""Kinds as data: discovery, plain dictionaries, and the command line's spelling."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vademecum as vm
from vademecum.memory.layers import chosen_layers


def test_kinds_are_discovered_by_their_files() -> None:
    assert {"lave", "moe", "move", "none"} <= set(vm.kinds.all())
    assert all(kind.paper and kind.title and kind.examples() for kind in vm.kinds.all().values())


@given(
    kind=st.one_of(
        st.builds(
            vm.MoVE,
            slots=st.integers(1, 64),
            gate_width=st.none() | st.integers(1, 9),
            scale=st.floats(0, 2),
            layers=st.just("all")
            | st.lists(st.integers(-3, 9), min_size=1, max_size=4).map(tuple)
            | st.integers(1, 5).map(vm.every),
        ),
        st.builds(
            vm.MoE, experts=st.integers(4, 64), top_k=st.integers(1, 4), balance=st.sampled_from(["aux", "bias", None])
        ),
        st.builds(vm.LaVE, bank_std=st.floats(0, 1)),
    )
)
def test_a_kind_survives_json(kind) -> None:
    assert vm.kinds.from_dict(json.loads(json.dumps(kind.to_dict()))) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("move", vm.MoVE()),
        ("move:slots=8", vm.MoVE(slots=8)),
        ("moe:experts=4,top_k=1,balance=bias", vm.MoE(experts=4, top_k=1, balance="bias")),
        ("moe:balance=None", vm.MoE(balance=None)),
        ("lave:layers=0+3", vm.LaVE(layers=[0, 3])),
        ("lave:layers=every2", vm.LaVE(layers=vm.every(2))),
        ("none", vm.NoMemory()),
    ],
)
def test_the_command_lines_spelling(text: str, kind) -> None:
    assert vm.kinds.parse(text) == kind


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("moev", "unknown kind 'moev'.*did you mean 'mo[ev]"),
        ("move:slotz=3", "no setting 'slotz'.*did you mean 'slots'"),
        ("move:slots", "expected name:setting=value"),
        ("move:layers=first", "layers"),
    ],
)
def test_misspellings_are_refused_with_a_hint(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vm.kinds.parse(text)


def test_layer_rules() -> None:
    assert chosen_layers("all", 3, "X") == (0, 1, 2)
    assert chosen_layers(vm.every(2), 6, "X") == (1, 3, 5)
    assert chosen_layers(vm.every(2), 5, "X") == (0, 2, 4)
    assert chosen_layers((-1, 0, 0), 4, "X") == (0, 3)


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", list(vm.kinds.all()))
def test_a_number_that_is_not_finite_is_refused_by_name(name: str, number: float) -> None:
    kind = vm.kinds.find(name)
    settings = [f.name for f in dataclasses.fields(kind) if "float" in str(f.type)]
    for setting in settings:
        with pytest.raises(ValueError, match=setting):
            kind(**{setting: number})
