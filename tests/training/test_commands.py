import io
import random

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import vademecum as vm
from vademecum import data, state
from vademecum.training import Recipe, checkpoint, commands, presets

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
        return commands.train(out=out, data_source=text, recipe=recipe, cache=cache, **{**given, **settings})

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


def test_a_prompt_longer_than_the_host_can_hold_is_cut_from_the_left(trained):
    assert isinstance(commands.generate(trained.folder, "stone " * 200, max_tokens=4, write=len), str)


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
    (checkpoint.folder_of(run.folder, 8) / "memory.safetensors").write_bytes(b"")
    assert isinstance(commands.generate(run.folder, "x", max_tokens=2, write=len), str)
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
    from vademecum.training.retokenize import retokenize

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


def test_a_text_too_short_for_one_sequence_is_refused_before_training(train, tmp_path):
    with pytest.raises(ValueError, match="one window of length"):
        train(tmp_path / "run", recipe={"length": 10_000, "eval_tokens": 0})
    assert not (tmp_path / "run").exists()
