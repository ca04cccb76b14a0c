"""Attaching and detaching: what surgery refuses, and what stands after it."""

from __future__ import annotations

import pytest
import torch
import transformers as tf

import vademecum as vm
from tests import tiny
from vademecum import grafting


def test_attach_returns_the_model_it_was_given() -> None:
    model = tiny.host("qwen3")
    assert vm.attach(model, vm.MoVE()) is model
    assert vm.detach(model) is model


def test_an_unknown_family_is_refused_with_the_facts_to_supply() -> None:
    model = tf.BertLMHeadModel(
        tf.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=9)
    )
    with pytest.raises(ValueError, match=r"unknown host family 'bert'.*which linear map makes the values"):
        vm.attach(model, vm.MoVE())


def test_a_family_given_by_hand_supports_a_host_the_table_does_not_know() -> None:
    model = tf.GraniteForCausalLM(tf.GraniteConfig(**{k: v for k, v in tiny.LLAMA.items() if k != "head_dim"}))
    with pytest.raises(ValueError, match="unknown host family 'granite'"):
        vm.attach(model, vm.MoVE())
    vm.attach(model, vm.MoVE(), host=vm.hosts.Family())
    tiny.shake(model)
    assert model(input_ids=tiny.ids()).logits.isfinite().all()


def test_a_host_whose_layers_keep_their_keywords_to_themselves_fails_closed() -> None:
    """StableLM's layers do not hand keywords on: better no answer than one without memory or with a stale one."""
    model = tf.StableLmForCausalLM(tf.StableLmConfig(**{k: v for k, v in tiny.LLAMA.items() if k != "head_dim"}))
    vm.attach(model, vm.MoVE(), host=vm.hosts.Family())
    with pytest.raises(RuntimeError, match="did not hand its keywords on to StableLmAttention"):
        model(input_ids=tiny.ids())


def test_a_family_whose_names_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit GPT2LMHeadModel"):
        vm.attach(tiny.host("gpt2"), vm.MoVE(), host=vm.hosts.Family())


def test_a_plain_module_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a Transformers PreTrainedModel"):
        vm.attach(torch.nn.Linear(2, 2), vm.MoVE())


def test_a_compiled_model_is_refused_before_anything_is_put_on_it(tmp_path) -> None:
    model = tiny.host("qwen3")
    compiled = torch.compile(model, backend="eager")
    vm.save(vm.attach(tiny.host("qwen3"), vm.MoVE()), tmp_path / "memory")
    for put in (
        lambda: vm.attach(compiled, vm.MoVE()),
        lambda: vm.load(compiled, tmp_path / "memory"),
        lambda: grafting.extend(compiled, vm.Entries()),
    ):
        with pytest.raises(ValueError, match=r"the model inside \(model\._orig_mod\), and compile afterwards"):
            put()
    assert not hasattr(model, "vademecum")
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_class_instead_of_a_config_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a kind such as vm.MoVE\(slots=8\)"):
        vm.attach(tiny.host("qwen3"), vm.MoVE)  # type: ignore[arg-type]


def test_attaching_twice_is_refused_and_leaves_the_first_memory() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE())
    with pytest.raises(ValueError, match=r"has memories already \(move\)"):
        vm.attach(model, vm.LaVE())
    assert list(vm.memories(model).kinds) == ["move"]


def test_two_kinds_on_one_exclusive_site_are_refused_and_the_host_stays_as_it_was() -> None:
    model = tiny.host("qwen3")
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(ValueError, match="both want to take the place of layer 0's feed-forward"):
        vm.attach(model, vm.MoE(), vm.MoE(experts=2, layers=[0]))
    assert [name for name, _ in model.named_modules()] == before


def test_two_banks_of_one_kind_keep_their_own_rows() -> None:
    """The second bank used to be read by nobody: its parts looked under the first one's name."""
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=2, layers=[0]), vm.MoVE(slots=3, layers=[1]))
    tiny.shake(model)
    model.train()(input_ids=tiny.ids(), labels=tiny.ids()).loss.backward()
    banks = model.vademecum.shared
    assert list(banks) == ["move", "move_2"]
    assert all(bank.weight.grad.abs().sum() > 0 for bank in banks.values())


def test_two_kinds_of_one_name_on_different_layers_live_together() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoE(layers=[0]), vm.MoE(experts=2, top_k=1, layers=[1]))
    assert list(vm.memories(model).kinds) == ["moe", "moe_2"]
    assert model(input_ids=tiny.ids()).logits.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda: vm.MoVE(slots=0), r"MoVE\(slots=0\)"),
        (lambda: vm.MoVE(slots=2, gate_std=0.0), "identical for ever"),
        (lambda: vm.MoE(experts=2, top_k=3), "top_k from 1 to the number of experts"),
        (lambda: vm.MoE(balance="luck"), "balance='luck'"),
        (lambda: vm.MoE(init="zeros"), "init='zeros'"),
        (lambda: vm.MoE(width=0), "width=0"),
        (lambda: vm.every(0), r"every\(0\)"),
        (lambda: vm.MoVE(slots=2.5), r"MoVE\(slots=2.5\) was given; expected int"),
        (lambda: vm.kinds.parse("move:slots=many"), r"slots='many'"),
        (lambda: vm.kinds.parse("moe:top_k="), r"top_k=''"),
        (lambda: vm.MoVE(scale="big"), r"scale='big'"),
        (lambda: vm.MoVE(bank_std=-1.0), r"bank_std=-1.0\) was given; expected 0 or more"),
        (lambda: vm.MoE(shared_width=-3), r"shared_width=-3"),
        (lambda: vm.MoE(init="copy", top_k=1), r"write top_k=2 or more"),
    ],
)
def test_settings_out_of_range_are_refused(kind, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (vm.MoVE(layers=[5]), r"names layer 5, but the host has layers 0 to 1"),
        (vm.MoVE(layers="some"), "expected 'all', 'middle', a list"),
        (vm.MoVE(layers=[]), "expected 'all', 'middle', a list"),
        (vm.MoVE(gate_width=99), "has 32 channels"),
        (vm.MoE(init="copy", width=7), "leave width out"),
    ],
)
def test_settings_that_do_not_fit_the_host_are_refused(kind, message: str) -> None:
    model = tiny.host("qwen3")
    with pytest.raises(ValueError, match=message):
        vm.attach(model, kind)
    assert not hasattr(model, "vademecum")


@pytest.mark.parametrize("name", tiny.SPARSE)
def test_experts_on_a_host_that_has_experts_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="takes the place of a dense feed-forward"):
        vm.attach(tiny.host(name), vm.MoE())


def test_embeddings_without_ids_are_refused_and_with_ids_are_served() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE())
    tiny.shake(model)
    ids = tiny.ids()
    embeds = model.get_input_embeddings()(ids)
    with pytest.raises(ValueError, match="inputs_embeds was given without token ids"):
        model(inputs_embeds=embeds)
    assert torch.equal(model(inputs_embeds=embeds, memory_ids=ids).logits, model(input_ids=ids).logits)


def test_experts_alone_need_no_ids() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoE())
    assert model(inputs_embeds=model.get_input_embeddings()(tiny.ids())).logits.isfinite().all()


@pytest.mark.parametrize(
    "kind",
    [
        vm.ProductKey(slots=64, topk=2, query_norm="batch"),
        vm.MoE(experts=4, balance="bias"),
        vm.MoE(experts=4, choice="expert", balance=None),
    ],
)
def test_what_buffers_learned_is_not_rounded_where_the_host_is_moved_to_another_type(kind: vm.kinds.Kind) -> None:
    model = vm.attach(tiny.host("qwen3"), kind)
    learned = {name: one for name, one in model.named_buffers() if ".memory." in name and one.is_floating_point()}
    for buffer in learned.values():
        buffer.copy_(torch.randn(buffer.shape) + 2**0.5)
    before = {name: one.clone() for name, one in learned.items()}
    model.to(torch.bfloat16)
    after = dict(model.named_buffers())
    assert before
    for name, buffer in before.items():
        assert after[name].dtype == buffer.dtype
        assert torch.equal(after[name], buffer)


def test_ids_outside_the_table_are_refused_after_the_vocabulary_grew_and_a_load_adds_their_rows(tmp_path) -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE())
    tiny.shake(model)
    old, new = tiny.ids(), torch.tensor([[3, tiny.VOCABULARY + 1]])
    before = model(input_ids=old).logits
    model.resize_token_embeddings(tiny.VOCABULARY + 4)
    with pytest.raises(ValueError, match=f"token id {tiny.VOCABULARY + 1} was given, but the bank has rows 0 to 60"):
        model(input_ids=new)
    vm.save(model, tmp_path / "memory")
    vm.load(vm.detach(model), tmp_path / "memory")
    assert torch.equal(model(input_ids=old).logits[..., : tiny.VOCABULARY], before)
    assert model(input_ids=new).logits.isfinite().all()


def test_ids_that_do_not_fit_the_embeddings_are_refused() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE())
    ids = tiny.ids()
    with pytest.raises(ValueError, match="give one id for each position"):
        model(inputs_embeds=model.get_input_embeddings()(ids), memory_ids=ids.t())


def test_a_replaced_feed_forward_follows_the_models_mode() -> None:
    """It used to come back in the mode it went in, with dropout on at evaluation."""
    model = tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=9, n_embd=16, n_layer=1, n_head=2)).train()
    vm.attach(model, vm.MoE(experts=2)).eval()
    assert not any(module.training for module in vm.detach(model).modules())


def test_a_second_thread_never_reads_the_first_ones_rows() -> None:
    import threading

    model = vm.attach(tiny.host("qwen3"), vm.MoVE())
    site = model.model.layers[0].self_attn.v_proj
    from vademecum.lookup import Frame

    site.given.append((Frame(), threading.get_ident()))
    caught = []

    def run() -> None:
        try:
            site(torch.zeros(1, 1, 32))
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "one forward at a time" in caught[0]


def test_lost_auxiliary_losses_are_warned_of_and_can_be_added_by_hand() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoE(experts=4, balance_weight=1.0)).train()
    with pytest.warns(RuntimeWarning, match=r"sum\(rec.losses.values\(\)\)"):
        model(input_ids=tiny.ids())
    with pytest.warns(RuntimeWarning, match="a forward method was called directly"):
        model.forward(input_ids=tiny.ids(), labels=tiny.ids())
    with vm.record(model) as rec:
        bare = model.forward(input_ids=tiny.ids(), labels=tiny.ids()).loss
    whole = model(input_ids=tiny.ids(), labels=tiny.ids()).loss
    torch.testing.assert_close(bare + sum(rec.losses.values()), whole)
    sum(rec.losses.values()).backward()
    assert vm.memories(model).named()["moe.layers.0"].router.weight.grad.abs().sum() > 0


def test_a_host_without_an_mlp_can_carry_a_value_memory_but_no_experts() -> None:
    model = tf.OPTForCausalLM(
        tf.OPTConfig(
            vocab_size=tiny.VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            ffn_dim=48,
            num_attention_heads=4,
            word_embed_proj_dim=32,
            max_position_embeddings=64,
        )
    )
    names = vm.hosts.Family(layers="decoder.layers")
    with pytest.raises(ValueError, match="has no 'mlp'"):
        vm.attach(model, vm.MoE(), host=names)
    vm.attach(model, vm.MoVE(), host=names)
    assert vm.memories(model).cost().params > 0


def test_reentrant_checkpointing_is_refused() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE()).train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant=True"):
        model(input_ids=tiny.ids())


def test_a_layer_run_on_its_own_fails_closed() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE())
    with pytest.raises(RuntimeError, match="ran outside a forward of its model"):
        model.model.layers[0].self_attn.v_proj(torch.zeros(1, 2, 32))


def test_an_attention_that_gets_no_frame_fails_closed() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE())
    layer = model.model.layers[0]
    inner = layer.self_attn

    class Deaf(torch.nn.Module):
        def forward(self, memory_frame=None, **kwargs):
            return inner(**kwargs)

    layer.self_attn = Deaf()
    with pytest.raises(RuntimeError, match="did not hand its keywords on"):
        model(input_ids=tiny.ids())


def test_memories_shows_a_table_and_its_costs() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=3), vm.MoE())
    text = repr(vm.memories(model))
    assert "move" in text
    assert "slots=3" in text
    assert "FLOPs/token" in text
    assert (
        vm.memories(model).cost().params
        == vm.memories(model).cost("move").params + vm.memories(model).cost("moe").params
    )
    with pytest.raises(ValueError, match="has no memory"):
        vm.memories(tiny.host("qwen3"))


def test_no_memory_adds_no_hook_and_no_wrapper() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.NoMemory())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert not list(vm.memories(model).sites())


def test_knocked_out_value_memory_leaves_the_bare_host() -> None:
    model = tiny.host("llama")
    bare = model(input_ids=tiny.ids()).logits
    vm.attach(model, vm.MoVE(), vm.LaVE())
    tiny.shake(model)
    assert not torch.equal(model(input_ids=tiny.ids()).logits, bare)
    with vm.knocked_out(model):
        assert torch.equal(model(input_ids=tiny.ids()).logits, bare)
    assert not torch.equal(model(input_ids=tiny.ids()).logits, bare)


def test_the_base_model_alone_can_carry_a_memory() -> None:
    base = tiny.host("qwen3").model
    before = base(input_ids=tiny.ids()).last_hidden_state
    vm.attach(base, vm.MoVE())
    assert torch.equal(base(input_ids=tiny.ids()).last_hidden_state, before)
    tiny.shake(base)
    assert not torch.equal(base(tiny.ids()).last_hidden_state, before)


def test_positional_ids_are_seen() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE())
    tiny.shake(model)
    assert torch.equal(model(tiny.ids()).logits, model(input_ids=tiny.ids()).logits)


def test_a_host_in_half_precision_gets_a_memory_in_half_precision() -> None:
    model = vm.attach(tiny.host("qwen3").to(torch.bfloat16), vm.MoVE(), vm.MoE())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model.train()(input_ids=tiny.ids(), labels=tiny.ids()).loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "deepseek_v3"])
def test_what_transformers_saves_of_an_attached_model_loads_as_its_host(name: str, tmp_path) -> None:
    """Wrapped names in the file would load as freshly initialised projections; a replaced mlp would be lost."""
    model = vm.attach(tiny.host(name), vm.MoVE(), vm.MoE(experts=2))
    tiny.shake(model)
    model.save_pretrained(tmp_path / "host")
    vm.save(model, tmp_path / "memory")
    loaded = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "host", attn_implementation="eager").eval()
    both = vm.load(loaded, tmp_path / "memory")
    assert torch.equal(both(input_ids=tiny.ids()).logits, model(input_ids=tiny.ids()).logits)
    bare = tiny.host(name)(input_ids=tiny.ids()).logits
    assert torch.equal(vm.detach(both)(input_ids=tiny.ids()).logits, bare)


def test_a_state_dict_goes_into_another_attached_model() -> None:
    model, other = (vm.attach(tiny.host("gpt2", seed), vm.MoVE(), vm.MoE(experts=2)) for seed in (0, 5))
    tiny.shake(model)
    missing = other.load_state_dict(model.state_dict())
    assert not missing.missing_keys
    assert not missing.unexpected_keys
    assert torch.equal(other(input_ids=tiny.ids()).logits, model(input_ids=tiny.ids()).logits)
    assert torch.equal(vm.detach(other)(input_ids=tiny.ids()).logits, vm.detach(model)(input_ids=tiny.ids()).logits)
