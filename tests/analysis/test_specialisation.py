"""Measures of specialisation against cases counted by hand, and what must hold of them for any routing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vademecum.analysis import gating
from vademecum.analysis import specialisation as spec

# Five tokens, three experts, two of them used by each token; the last two lost one and both of theirs.
EXPERTS = torch.tensor([[0, 1], [1, 0], [0, 2], [-1, 2], [-1, -1]])
DOMAINS = torch.tensor([0, 0, 1, 1, 1])


@st.composite
def routings(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Experts ``[N, K]`` without repeats in a row, some dropped, labels ``[N]`` below 4, and the number of experts."""
    count, n = draw(st.integers(2, 6)), draw(st.integers(1, 40))
    k = draw(st.integers(1, count))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    experts = torch.stack([torch.randperm(count, generator=generator)[:k] for _ in range(n)])
    drop = torch.rand(n, k, generator=generator) < draw(st.sampled_from([0.0, 0.3]))
    return torch.where(drop, -1, experts), torch.randint(4, (n,), generator=generator), count


def test_the_first_expert_is_the_strongest_that_was_not_dropped() -> None:
    assert spec.first_expert(EXPERTS).tolist() == [0, 1, 0, 2, -1]


def test_domain_specialisation_is_the_share_of_the_domains_tokens_that_use_an_expert() -> None:
    found = spec.domain_specialisation(EXPERTS, DOMAINS, count=3, kinds=3)
    assert found[:, :2].tolist() == [[1.0, pytest.approx(1 / 3)], [1.0, 0.0], [0.0, pytest.approx(2 / 3)]]
    assert found[:, 2].isnan().all()


@given(routings())
def test_a_domains_shares_sum_to_the_experts_a_token_keeps_on_average(case: tuple) -> None:
    experts, labels, count = case
    found = spec.domain_specialisation(experts, labels, count=count, kinds=4)
    for domain in labels.unique().tolist():
        kept = (experts[labels == domain] >= 0).sum(1).double().mean()
        assert float(found[:, domain].sum()) == pytest.approx(float(kept))
    assert float(found.nan_to_num(0).max()) <= 1


def test_vocabulary_specialisation_averages_each_ids_largest_share_over_frequent_ids() -> None:
    first = torch.tensor([0, 0, 1, 2, 2, 2, 0, -1])
    ids = torch.tensor([5, 5, 5, 7, 7, 7, 9, 9])
    found = spec.vocabulary_specialisation(first, ids, count=3, least=3)
    assert found is not None
    assert found.ids.tolist() == [5, 7]
    assert found.counts.tolist() == [3, 3]
    assert found.shares.tolist() == [[pytest.approx(2 / 3), pytest.approx(1 / 3), 0], [0, 0, 1]]
    assert found.average == pytest.approx((2 / 3 + 1) / 2)
    assert spec.vocabulary_specialisation(first, ids, count=3, least=4) is None


def test_a_router_that_knows_the_id_is_fully_specialised_and_its_shuffled_self_is_not() -> None:
    ids = torch.arange(2000) % 20
    first = ids % 4
    found = spec.vocabulary_specialisation(first, ids, count=4)
    assert found is not None
    assert found.average == 1.0
    chance = spec.shuffled_vocabulary(first, ids, count=4)
    assert chance is not None
    assert 0.25 < chance < 0.40


def test_coactivation_counts_all_pairs_of_a_token_not_neighbours_alone() -> None:
    found = spec.coactivation(torch.tensor([[0, 1, 2], [0, 1, 3], [2, 3, -1]]), count=5)
    assert found[0].tolist() == [1.0, 1.0, 0.5, 0.5, 0.0]
    assert found[2].tolist() == [0.5, 0.5, 1.0, 0.5, 0.0]
    assert found[4].isnan().all()


@given(routings())
def test_coactivation_is_symmetric_in_counts_and_one_on_the_diagonal(case: tuple) -> None:
    experts, _, count = case
    found = spec.coactivation(experts, count=count)
    tokens = torch.tensor([(experts == e).any(1).sum() for e in range(count)]).double()
    counts = (found * tokens[:, None]).nan_to_num(0)
    assert torch.allclose(counts, counts.T)
    assert torch.equal(found.diagonal().isnan(), tokens == 0)
    assert torch.allclose(found.diagonal().nan_to_num(1), torch.ones(count, dtype=torch.float64))


def test_saturation_is_the_share_of_the_final_experts_that_were_chosen_before() -> None:
    final = torch.tensor([[0, 1], [2, 3], [1, -1], [-1, -1]])
    now = torch.tensor([[1, 0], [3, 0], [0, 2], [0, 1]])
    assert spec.saturation(now, final) == pytest.approx((1 + 0.5 + 0) / 3)


@given(routings())
def test_a_checkpoint_is_saturated_with_itself(case: tuple) -> None:
    experts, _, _ = case
    found = spec.saturation(experts, experts)
    assert math.isnan(found) if bool((experts < 0).all()) else found == pytest.approx(1.0)


def test_mutual_information_of_a_known_table() -> None:
    # Joint counts [[2, 0], [1, 1]]: p(a)=(1/2, 1/2), p(b)=(3/4, 1/4).
    one, two = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1])
    expected = 0.5 * math.log(0.5 / (0.5 * 0.75)) + 0.25 * math.log(0.25 / (0.5 * 0.75)) + 0.25 * math.log(0.25 / 0.125)
    assert spec.mutual_information(one, two) == pytest.approx(expected)
    assert spec.mutual_information(two, one) == pytest.approx(expected)


@given(routings())
def test_mutual_information_lies_between_nothing_and_either_entropy(case: tuple) -> None:
    experts, labels, _ = case
    first = spec.first_expert(experts)
    found = spec.information(first, labels, shuffles=3)
    if found is None:
        assert (first == -1).all()
        return
    assert -1e-9 <= found.measured <= min(found.entropy, found.label_entropy) + 1e-9
    assert -1e-9 <= found.baseline <= found.entropy + 1e-9


def test_information_says_how_much_is_left_above_the_shuffled_baseline() -> None:
    labels = torch.arange(4000) % 5
    noise = torch.randint(5, (4000,), generator=torch.Generator().manual_seed(1))
    known, none = spec.information(labels, labels * 7), spec.information(noise, labels)
    assert known is not None
    assert none is not None
    assert known.measured == pytest.approx(math.log(5)) == pytest.approx(known.entropy)
    assert known.difference > 1.5
    # Independent labels: the plug-in estimate is (5-1)(5-1)/2N above zero, and so is the baseline.
    assert none.baseline == pytest.approx(16 / 8000, rel=0.5)
    assert abs(none.difference) < 6 * none.spread


def test_information_is_the_same_for_the_same_seed_and_leaves_dropped_tokens_out() -> None:
    first, labels = torch.tensor([0, 1, -1, 0, 1, 1]), torch.tensor([3, 4, 9, 3, 4, 3])
    assert spec.information(first, labels, seed=3) == spec.information(first, labels, seed=3)
    kept = first >= 0
    assert spec.information(first, labels) == spec.information(first[kept], labels[kept])
    assert spec.information(torch.full((3,), -1), labels[:3]) is None


def test_information_given_the_token_leaves_out_what_the_token_tells_already() -> None:
    generator = torch.Generator().manual_seed(2)
    token = torch.randint(8, (6000,), generator=generator)
    domain = torch.where(torch.rand(6000, generator=generator) < 0.5, token // 4, torch.randint(2, (6000,)))
    by_token, by_both = token % 4 + 4 * (token // 4), 2 * token + domain
    plain = spec.information(by_token, domain)
    rest, whole = (spec.information(first, domain, given=token) for first in (by_token, by_both))
    assert plain is not None
    assert rest is not None
    assert whole is not None
    assert plain.difference > 0.1
    assert rest.measured == pytest.approx(0, abs=1e-9)
    assert rest.baseline == pytest.approx(0, abs=1e-9)
    assert whole.measured == pytest.approx(whole.label_entropy)
    assert whole.difference > 0.3


def test_information_given_one_and_the_same_label_is_plain_information() -> None:
    first, labels = torch.randint(4, (300,)), torch.randint(3, (300,))
    assert spec.information(first, labels, given=torch.zeros(300, dtype=torch.long)) == spec.information(first, labels)
    found = spec.information(first, labels)
    assert found is not None
    assert found.measured == pytest.approx(spec.mutual_information(first, labels))


def test_a_conditional_information_counted_by_hand() -> None:
    # Where given is 0 the two labels agree (ln 2 over half the tokens); where it is 1 they are independent.
    first, labels = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 1, 0, 1, 0, 1])
    found = spec.information(first, labels, given=torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))
    assert found is not None
    assert found.measured == pytest.approx(math.log(2) / 2)
    assert found.label_entropy == pytest.approx(math.log(2))


def test_repetition_counts_pairs_within_a_window_and_its_chance_is_that_of_the_load() -> None:
    first = torch.tensor([0, 0, 1, 1, -1, 1, 0])
    sequences = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    found = spec.repetition(first, sequences)
    assert found.share == pytest.approx(1 / 3)  # pairs (0,0), (0,1), (1,0)
    assert found.chance == pytest.approx(0.5**2 + 0.5**2)


def test_labels_that_do_not_belong_to_the_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="one label for each"):
        spec.domain_specialisation(EXPERTS, DOMAINS[:3], count=3, kinds=2)
    with pytest.raises(ValueError, match=r"expected \[N, H, M\+1\] and \[N\]"):
        gating.gates_by_domain(torch.ones(4, 3), torch.zeros(4, dtype=torch.long), kinds=1)


GATES = torch.tensor([[[1.0, 0.5, 2.0]], [[1.0, 1.5, 0.0]], [[2.0, 1.0, 1.0]]])  # three tokens, one head, two slots


def test_gates_are_averaged_by_domain() -> None:
    found = gating.gates_by_domain(GATES, torch.tensor([0, 0, 2]), kinds=3)
    assert found[[0, 2]].tolist() == [[[1.0, 1.0, 1.0]], [[2.0, 1.0, 1.0]]]
    assert found[1].isnan().all()


def test_the_openers_of_a_gate_are_the_frequent_ids_with_the_widest_mean() -> None:
    ids = torch.tensor([4, 4, 6, 6, 8])
    gates = torch.tensor([0.2, 0.4, 1.0, 1.2, 2.0]).view(5, 1, 1).expand(5, 2, 2).clone()
    gates[:, 1] = 2 - gates[:, 1]
    found = gating.openers(gates, ids, top=5, least=2)
    assert [[(o.id, round(o.gate, 6), o.count) for o in row] for row in found[0]] == [[(6, 1.1, 2), (4, 0.3, 2)]] * 2
    assert [o.id for o in found[1][0]] == [4, 6]


def test_the_strongest_slot_is_over_the_mean_of_the_heads_and_never_the_hosts_own() -> None:
    slot, gate = gating.strongest_slot(torch.cat([GATES, GATES.flip(2)], dim=1))
    assert slot.tolist() == [1, 0, 1]
    assert gate.tolist() == [1.5, 1.5, 1.5]
