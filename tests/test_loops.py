"""An attached model in other people's loops: Trainer, torch.compile, losses and recordings."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers as tf

import vademecum as vm
from tests import tiny


def test_auxiliary_losses_join_the_callers_loss_in_training_and_can_be_read_apart() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoE(experts=4))
    ids = tiny.ids()
    plain = model(input_ids=ids, labels=ids).loss
    with vm.record(model) as rec:
        loss = model.train()(input_ids=ids, labels=ids).loss
    extra = sum(rec.losses.values())
    assert set(rec.losses) == {f"moe.layers.{i}.{name}" for i in (0, 1) for name in ("balance", "z")}
    assert extra > 0
    torch.testing.assert_close(loss, plain + extra)
    as_tuple = model(input_ids=ids, labels=ids, return_dict=False)
    torch.testing.assert_close(as_tuple[0], plain + extra)


def test_recording_stops_with_its_block() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=3))
    with vm.record(model) as rec:
        model(input_ids=tiny.ids())
    model(input_ids=tiny.ids())
    assert len(rec.forwards) == 1
    assert rec.layers() == ["move.layers.0", "move.layers.1"]
    assert rec.all("move.layers.0", "gates").shape == (20, 2, 4)
    with pytest.raises(ValueError, match=r"nothing was recorded for 'moe\.layers\.0'"):
        rec.all("moe.layers.0", "load")


def test_the_same_loss_comes_out_of_accumulated_halves_by_the_trainers_count() -> None:
    """Transformers' Trainer divides summed losses by the number of items: auxiliary losses must not be added twice."""
    model = vm.attach(tiny.host("qwen3"), vm.MoE(experts=4, balance="aux", z_weight=0.0)).train()
    ids = tiny.ids(2, 8)
    whole = sum(model(input_ids=half, labels=half, num_items_in_batch=torch.tensor(14)).loss for half in ids.split(1))
    with vm.record(model) as rec:
        separate = [model(input_ids=half, labels=half).loss for half in ids.split(1)]
    assert len(rec.forwards) == 2
    torch.testing.assert_close(whole, sum(separate) / 2)


def test_transformers_trainer_trains_an_attached_model(tmp_path) -> None:
    pytest.importorskip("accelerate")
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=2), vm.MoE(experts=2, balance="bias"))
    before = copy.deepcopy(vm.memories(model).state_dict())
    rows = [{"input_ids": row, "labels": row} for row in tiny.ids(8, 12)]
    trainer = tf.Trainer(
        model=model,
        args=tf.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=3,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            report_to=[],
            use_cpu=True,
            save_steps=2,
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            disable_tqdm=True,
        ),
        train_dataset=rows,
    )
    result = trainer.train()
    assert result.training_loss > 0
    trained = vm.memories(model).state_dict()
    assert any(not torch.equal(before[k], v) for k, v in trained.items())
    end = {key: value.clone() for key, value in model.state_dict().items()}
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, end[key], msg=key)


def test_value_memories_compile_without_a_graph_break() -> None:
    for name in ("qwen3", "phi3", "deepseek_v3", "gpt2"):
        model = vm.attach(tiny.host(name), vm.MoVE(slots=2), vm.LaVE())
        tiny.shake(model)
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        with torch.no_grad():
            torch.testing.assert_close(compiled(input_ids=tiny.ids()).logits, model(input_ids=tiny.ids()).logits)


def test_a_compiled_model_trains_like_an_eager_one() -> None:
    def gradients(compiled: bool) -> dict[str, torch.Tensor]:
        model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=2), vm.MoE(experts=2)).train()
        tiny.shake(model)
        torch._dynamo.reset()
        run = torch.compile(model, backend="aot_eager") if compiled else model
        run(input_ids=tiny.ids(), labels=tiny.ids()).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    eager, compiled = gradients(False), gradients(True)
    assert eager.keys() == compiled.keys()
    for name, gradient in eager.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
