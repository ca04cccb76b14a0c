import io
import json
import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationMixin, PreTrainedTokenizerFast

import vademecum as vm
from vademecum import data, files, state
from vademecum.training import Recipe, checkpoint, commands, metrics, presets
from vademecum.training.retokenize import retokenize

SETTINGS = {"steps": 8, "batch": 2, "length": 16, "eval_tokens": 64, "checkpoint_every": 4}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    words = ["lamp", "river", "stone", "über", "quiet", "seven"]
    for number in range(12):
        (folder / f"{number}.txt").write_text(" ".join(draw.choice(words) for _ in range(300)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def train(text, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def run(out, **settings):
        recipe = Recipe(**{**SETTINGS, **settings.pop("recipe", {})})
        given = {"size": 1, "vocab_size": 300, "memory": ["move:slots=2"], "echo": lambda line: None, "device": "cpu"}
        given["data_source"] = text
        return commands.train(out=out, recipe=recipe, cache=cache, **{**given, **settings})

    return run


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="module")
def model_folder(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    corpus = data.prepare(text, vocab_size=320, cache=tmp_path_factory.mktemp("other"))
    presets.build_host("llama", size=1, vocab_size=320, length=32).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=corpus.tokenizer, eos_token=data.END).save_pretrained(folder)
    return folder


def test_a_finished_run_holds_a_host_for_transformers_and_a_memory_that_give_the_same_logits(trained):
    final = trained.folder / "final"
    host = AutoModelForCausalLM.from_pretrained(final)
    model = vm.load(host, final / "memory").eval()
    ids = torch.arange(10)[None]
    assert torch.equal(model(ids).logits, trained.model.eval()(ids).logits)
    assert (final / "tokenizer.json").read_bytes() == (trained.folder / "tokenizer.json").read_bytes()


def test_generating_streams_the_text_it_returns_and_repeats_it_for_the_same_seed(trained):
    out = io.StringIO()
    first = commands.generate(trained.folder, "lamp über", max_tokens=12, seed=3, write=out.write)
    assert first
    assert out.getvalue() == first
    assert commands.generate(trained.folder, "lamp über", max_tokens=12, seed=3, write=out.write) == first


def test_generating_without_temperature_does_not_depend_on_the_seed(trained):
    texts = {
        commands.generate(trained.folder, "river", max_tokens=8, temperature=0, seed=s, write=len) for s in range(3)
    }
    assert len(texts) == 1


@pytest.fixture
def asked(monkeypatch):
    """What the host is given: (prompt ids, most new tokens) of every call."""
    seen = []

    def generate(self, inputs, *, max_new_tokens, streamer, **_):
        seen.append((inputs[0].tolist(), max_new_tokens))
        streamer.put(inputs)
        streamer.end()

    monkeypatch.setattr(GenerationMixin, "generate", generate)
    return seen


def _generate(run, prompt, **settings):
    notes = []
    commands.generate(run.folder, prompt, write=len, note=notes.append, **settings)
    return notes


def test_a_prompt_that_fits_is_read_whole_and_the_continuation_takes_what_is_left(trained, asked):
    (note,) = _generate(trained, "lamp über", max_tokens=100)
    _, tokenizer, end = commands.load(trained.folder)
    ((ids, new),) = asked
    assert ids == [end, *tokenizer.encode("lamp über").ids]
    assert len(ids) + new == 16
    assert f"{new} of 100 new ones" in note
    assert "only its last" not in note


def test_a_prompt_longer_than_the_host_can_hold_keeps_its_end_and_says_so(trained, asked):
    (note,) = _generate(trained, "stone " * 200, max_tokens=100)
    _, tokenizer, _ = commands.load(trained.folder)
    ((ids, new),) = asked
    assert (len(ids), new) == (12, 4)
    assert ids == tokenizer.encode("stone " * 200).ids[-12:]
    assert "only its last 12 are read" in note


def test_nothing_is_said_where_prompt_and_continuation_fit(trained, asked):
    assert _generate(trained, "river", max_tokens=2) == []
    assert asked[0][1] == 2


class _Folder:
    """A tracker that makes its folder at once and counts what it is told."""

    package = "json"
    made = []

    def __init__(self, run, step):
        (run / "tensorboard").mkdir(exist_ok=True)
        self.step, self.steps, self.closed = step, [], False
        self.made.append(self)

    def log(self, step, values):
        self.steps.append(step)

    def close(self):
        self.closed = True


def test_a_tracker_starts_with_a_new_run_and_is_told_every_step(train, tmp_path, monkeypatch):
    monkeypatch.setitem(metrics.SINKS, "tensorboard", _Folder)
    monkeypatch.setattr(_Folder, "made", [])
    train(tmp_path / "run", tracker="tensorboard")
    train(tmp_path / "run", tracker="tensorboard")
    first, second = _Folder.made
    assert set(first.steps) == set(range(1, 9))
    assert (first.step, second.step) == (0, 8)
    assert first.closed
    assert (tmp_path / "run" / "run.json").is_file()


def test_an_unknown_tracker_leaves_no_folder(train, tmp_path):
    with pytest.raises(ValueError, match="not a tracker"):
        train(tmp_path / "run", tracker="wandb")
    assert not (tmp_path / "run").exists()


def test_a_loaded_run_has_the_weights_that_were_trained(trained):
    model, _, _ = commands.load(trained.folder)
    expected = trained.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"max_tokens": 0}, "max_tokens"), ({"temperature": -1.0}, "temperature"), ({"top_p": 0.0}, "top_p")],
)
def test_sampling_settings_out_of_range_are_refused(trained, settings, says):
    with pytest.raises(ValueError, match=says):
        commands.generate(trained.folder, "x", **settings)


def test_generating_from_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run"):
        commands.generate(tmp_path, "x")


def test_generating_takes_the_last_good_checkpoint_where_the_latest_is_damaged(train, tmp_path):
    run = train(tmp_path / "run")
    good = checkpoint.read(checkpoint.folder_of(run.folder, 4), parts=("memory",)).tensors["memory"]
    (checkpoint.folder_of(run.folder, 8) / "memory.safetensors").write_bytes(b"")
    model, _, _ = commands.load(run.folder)
    assert all(torch.equal(tensor, good[name]) for name, tensor in state.memory_state_dict(model).items())
    assert commands.generate(run.folder, "x", max_tokens=2, temperature=0, write=len) is not None
    assert checkpoint.steps(run.folder) == [4, 8]


def test_the_same_command_again_finds_the_run_finished(train, trained):
    again = train(trained.folder)
    assert again.done
    assert again.seconds == trained.seconds


@pytest.mark.parametrize("freeze", [False, True])
def test_amodel_folder_is_trained_in_its_own_tokens(train, model_folder, tmp_path, freeze):
    run = train(tmp_path / "run", host=str(model_folder), freeze_host=freeze)
    before = AutoModelForCausalLM.from_pretrained(model_folder).state_dict()
    after = state.host_state_dict(run.model)
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items()) == freeze
    assert (run.folder / "final" / "model.safetensors").exists() == (not freeze)
    assert commands.generate(run.folder, "lamp", max_tokens=4, temperature=0, write=len) is not None
    model, _, _ = commands.load(run.folder)
    expected = run.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_retokenizing_with_the_same_tokenizer_gives_the_same_tokens(text, tmp_path):
    corpus = data.prepare(text, vocab_size=300, cache=tmp_path)
    again = retokenize(corpus, corpus.tokenizer, end=corpus.end_id, cache=tmp_path)
    assert (again.train == corpus.train).all()
    assert (again.heldout == corpus.heldout).all()
    assert (again.token_bytes == corpus.token_bytes).all()
    assert again.end_id == corpus.end_id


def test_a_frozen_preset_is_drawn_again_and_generates(train, tmp_path):
    run = train(tmp_path / "run", freeze_host=True, recipe={"seed": 5})
    model, _, _ = commands.load(run.folder)
    expected = run.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_frozen_host_without_a_memory_has_nothing_to_train(train, tmp_path):
    with pytest.raises(ValueError, match="trainable"):
        train(tmp_path / "run", freeze_host=True, memory=[])


def test_a_host_that_is_neither_preset_nor_folder_suggests_the_nearest(train, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'gpt2'"):
        train(tmp_path / "run", host="gtp2")


def test_a_model_folder_without_a_recipe_is_trained_at_the_rates_of_a_pretrained_host(
    text, model_folder, tmp_path, monkeypatch
):
    class Enough(Exception):
        pass

    def opened(*_args, recipe, **_kwargs):
        raise Enough(recipe)

    monkeypatch.setattr(commands.Run, "open", opened)
    for host, pretrained in ((str(model_folder), True), ("qwen3", False)):
        with pytest.raises(Enough) as caught:
            commands.train(out=tmp_path / "run", data_source=text, host=host, cache=tmp_path, vocab_size=300)
        assert caught.value.args == (Recipe.for_host(pretrained=pretrained),)


def test_a_length_above_the_positions_of_a_model_folder_is_refused(train, model_folder, tmp_path):
    with pytest.raises(ValueError, match="has 32 positions; write 32 or less"):
        train(tmp_path / "run", host=str(model_folder), recipe={"length": 64})
    assert not (tmp_path / "run").exists()


def test_the_tokenizer_of_a_finished_run_loads_with_its_end_token_and_the_run_is_a_host(train, trained, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(trained.folder / "final")
    assert tokenizer.eos_token == data.END
    assert tokenizer.eos_token_id == trained.corpus.end_id
    text = "lamp über stone"
    assert tokenizer(text)["input_ids"] == trained.corpus.tokenizer.encode(text).ids
    run = train(tmp_path / "run", host=str(trained.folder / "final"))
    assert run.corpus.end_id == trained.corpus.end_id
    assert run.done


def test_the_text_field_of_jsonl_can_be_named(train, text, tmp_path):
    lines = [json.dumps({"body": path.read_text(encoding="utf-8")}) for path in sorted(text.iterdir())]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    settings = {"data_source": tmp_path / "a.jsonl", "recipe": {"steps": 1}}
    assert train(tmp_path / "run", text_field="body", **settings).done
    with pytest.raises(ValueError, match="--text-field NAME"):
        train(tmp_path / "other", **settings)


def test_a_tokenizer_that_leaves_ids_out_is_retokenized_with_room_for_its_largest(text, tmp_path):
    corpus = data.prepare(text, vocab_size=300, cache=tmp_path)
    words = {"lamp": 0, "river": 70_000, "[UNK]": 7, "[END]": 80_000}
    gaps = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    gaps.pre_tokenizer = pre_tokenizers.Whitespace()
    again = retokenize(corpus, gaps, end=80_000, cache=tmp_path)
    assert again.train.dtype == np.uint32
    assert set(np.unique(again.train)) <= set(words.values())
    assert again.vocab_size == 80_001
    assert again.token_bytes[[0, 70_000, 80_000]].tolist() == [4, 5, 0]


def test_a_text_too_short_for_one_sequence_is_refused_before_training(train, tmp_path):
    with pytest.raises(ValueError, match="one window of length"):
        train(tmp_path / "run", recipe={"length": 10_000, "eval_tokens": 0})
    assert not (tmp_path / "run").exists()


def test_a_run_may_go_on_with_its_bank_in_another_place_and_ends_with_the_same_bits(train, trained, tmp_path):
    said = []
    first = train(tmp_path / "run", bank="disk", bank_cap="12kB", recipe={"steps": 8}, echo=said.append)
    assert any(f"on disk ({tmp_path / 'run' / 'bank'}" in line for line in said)
    for name in ("memory/memory.safetensors", "model.safetensors"):
        assert (first.folder / "final" / name).read_bytes() == (trained.folder / "final" / name).read_bytes()
    last = checkpoint.folder_of(first.folder, 8)
    checkpoint.shutil.rmtree(last)
    files.move_pointer(first.folder / "checkpoints" / "latest", checkpoint.folder_of(first.folder, 4).name)
    again = train(tmp_path / "run", bank="ram")
    assert (again.folder / "final/memory/memory.safetensors").read_bytes() == (
        trained.folder / "final/memory/memory.safetensors"
    ).read_bytes()


def test_a_run_speaks_from_its_checkpoint_in_place(trained):
    model, _, _ = commands.load(trained.folder, bank="disk", bank_cap=12_000)
    (bank,) = vm.memories(model).banks().values()
    assert bank.store.path.parent.parent == trained.folder / "checkpoints"
    expected = commands.generate(trained.folder, "lamp", max_tokens=8, temperature=0, write=len)
    assert commands.generate(trained.folder, "lamp", max_tokens=8, temperature=0, bank="disk", write=len) == expected
