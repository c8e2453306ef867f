"""The facts of the engine port over llama.cpp's own server, and over a stand-in that answers as vLLM documents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import httpx
import pytest

from fleetssd.adapters.shelf_engines import LlamaServerEngine, Shelf, VllmEngine
from fleetssd.artefact import choose_road
from fleetssd.errors import Corrupt, Misconfigured, Rejected, Transient
from fleetssd.ports import Prompt
from fleetssd.recipe import Sampling
from tests.contract.llama_server import llama_server
from tests.contract.vllm_server import vllm_server

FILES = Path(__file__).parent.parent / "samples" / "ollama" / "files"
BASE, ALIAS, V1, V2 = "fleet-base:latest", "fleet:latest", "fleet:v1", "fleet:v2"
GREEDY = Sampling(0.0, 1, 1.0, 0.0, 8)
LONG = "Write a function that reverses a list and counts its words. " * 4
PROMPTS = [Prompt(f"Write f{n}. {LONG}", n) for n in range(6)]
Engines: TypeAlias = LlamaServerEngine | VllmEngine


@dataclass(frozen=True)
class Bench:
    """An engine to test with two adapters installed, and ways around it."""

    engine: Engines
    raw: httpx.Client
    built: Path
    digests: dict[str, str]
    again: Callable[[], None]
    """Restarts the server."""

    def greedy(self, model: str) -> list[str]:
        """Return the greedy answers to the test's prompts."""
        return [answer.text for answer in self.engine.complete(model, PROMPTS, GREEDY, lambda *_: None)]


def _built(folder: Path, number: int) -> Path:
    """Lay out an adapter as a night builds it: the GGUF, and the trainer's own files in `peft` beside it."""
    made = folder / f"built{number}"
    (made / "peft").mkdir(parents=True)
    shutil.copy(FILES / f"a{number}.gguf", made / "adapter.gguf")
    (made / "peft" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    (made / "peft" / "adapter_model.safetensors").write_bytes(f"matrices {number}".encode())
    return made / "adapter.gguf"


@pytest.fixture(scope="module", params=["llama-server", "vllm"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Yield an engine whose server runs for the whole module, with `V1` and `V2` installed."""
    folder = tmp_path_factory.mktemp("engine")
    shelf = Shelf(folder / "shelf", numbered=request.param == "llama-server")
    with ExitStack() as stack:
        engine: Engines
        if request.param == "vllm":
            weights = folder / "hf"
            weights.mkdir()
            server = stack.enter_context(vllm_server(BASE, weights))
            url, again = server.url, server.loaded.clear
            engine = VllmEngine(url, BASE, ALIAS, shelf, weights=weights, gguf=FILES / "base.gguf", timeout=20)
        else:
            for number, model in ((1, V1), (2, V2)):
                shelf.link(model, shelf.put(_built(folder / "before", number)))
            running = stack.enter_context(llama_server(FILES / "base.gguf", shelf.folder))
            url, again = running.url, running.restart
            engine = LlamaServerEngine(url, BASE, ALIAS, shelf, reload=running.reload, timeout=20, concurrency=2)
        stack.enter_context(closing(engine))
        raw = stack.enter_context(httpx.Client(base_url=url, timeout=20, trust_env=False))
        digests = {model: engine.upload(_built(folder, n)) for n, model in ((1, V1), (2, V2))}
        for model, digest in digests.items():
            engine.create(model, BASE, None, digest)
        yield Bench(engine, raw, folder, digests, again)


def test_an_adapter_is_a_name_with_a_digest(bench: Bench) -> None:
    """Each name has a digest of its own and its adapter's; the base's file is everybody's."""
    engine = bench.engine
    digests = [engine.digest_of(model) for model in (BASE, V1, V2)]
    assert len({*digests} - {None}) == 3
    assert [engine.adapter_of(model) for model in (BASE, V1, V2)] == [None, bench.digests[V1], bench.digests[V2]]
    assert len({engine.blob_of(model) for model in (BASE, V1, V2)}) == 1
    assert engine.names().items() >= dict(zip((BASE, V1, V2), digests, strict=True)).items()
    assert engine.digest_of("fleet:nope") is None
    assert engine.create(V1, BASE, None, bench.digests[V1]) == digests[1]


def test_answers_differ_by_adapter_and_repeat(bench: Bench) -> None:
    """Base and adapters answer differently, and each as it did before, whoever was asked in between."""
    first = [bench.greedy(model) for model in (BASE, V1, V2)]
    assert [bench.greedy(model) for model in (BASE, V1, V2)] == first
    assert all(one != other for one, other in zip(first, [*first[1:], first[0]], strict=True))


def test_no_answer_comes_from_another_adapters_cache(bench: Bench) -> None:
    """One prompt that adapters take turns at is answered as on a server that never saw it."""
    asked = [Prompt(f"Turns. {LONG}", 1)]
    fresh = {}
    for model in (V2, BASE, V1):
        bench.again()
        fresh[model] = bench.engine.complete(model, asked, GREEDY, lambda *_: None)[0].text
    for model in (V1, V2, V1, BASE, V2, BASE, V1):
        assert bench.engine.complete(model, asked, GREEDY, lambda *_: None)[0].text == fresh[model]


def test_requests_for_two_adapters_at_once_keep_apart(bench: Bench) -> None:
    """Two models asked at the same time give each its own answers."""
    alone = {model: bench.greedy(model) for model in (V1, V2)}
    with ThreadPoolExecutor(2) as pool:
        both = dict(zip((V1, V2), pool.map(bench.greedy, (V1, V2)), strict=True))
    assert both == alone


def test_pointing_the_alias_takes_effect_at_once(bench: Bench) -> None:
    """The alias has digest, adapter and answers of what it was pointed to, there and back."""
    for model in (V1, V2, BASE, V1, BASE):
        bench.engine.point(ALIAS, model)
        assert bench.engine.digest_of(ALIAS) == bench.engine.digest_of(model)
        assert bench.engine.adapter_of(ALIAS) == bench.engine.adapter_of(model)
        assert bench.greedy(ALIAS) == bench.greedy(model)


def test_pointing_to_nothing_is_refused(bench: Bench) -> None:
    """A model that is not there leaves the alias where it is; another alias than the fleet's is none."""
    bench.engine.point(ALIAS, V2)
    with pytest.raises(Rejected, match="no model"):
        bench.engine.point(ALIAS, "fleet:nope")
    with pytest.raises(Misconfigured, match="one alias"):
        bench.engine.point("other:latest", V1)
    assert bench.engine.adapter_of(ALIAS) == bench.digests[V2]
    bench.engine.point(ALIAS, BASE)


def test_a_restart_of_the_server_changes_no_name(bench: Bench) -> None:
    """After a restart every name has its digest, its answers, and can be loaded."""
    before = {model: (bench.engine.digest_of(model), bench.greedy(model)) for model in (BASE, V1, V2)}
    bench.again()
    assert {model: (bench.engine.digest_of(model), bench.greedy(model)) for model in (BASE, V1, V2)} == before
    bench.engine.preload(V2)
    assert bench.engine.loaded()[V2] == before[V2][0]


def test_completions_keep_their_order_and_repeat_by_seed(bench: Bench) -> None:
    """Many in flight come back in the order asked, equal to one by one; progress counts all; ends are told."""
    seen: list[tuple[int, int]] = []
    first = bench.engine.complete(V1, PROMPTS, GREEDY, lambda done, total, _: seen.append((done, total)))
    assert first == [bench.engine.complete(V1, [prompt], GREEDY, lambda *_: None)[0] for prompt in PROMPTS]
    assert seen == [(n + 1, len(PROMPTS)) for n in range(len(PROMPTS))]
    assert {answer.finish for answer in first} <= {"stop", "length"}
    assert all(0 < answer.tokens <= 8 for answer in first)
    warm = Sampling(1.5, 20, 0.9, 0.0, 8)
    one = [
        [bench.engine.complete(V1, [Prompt(LONG, seed)], warm, lambda *_: None)[0].text for seed in range(4)]
        for _ in range(2)
    ]
    assert one[0] == one[1]
    assert len({*one[0]}) > 1


def test_likelihoods_list_the_likeliest_first(bench: Bench) -> None:
    """Each place lists log-probabilities in falling order."""
    (places,) = bench.engine.likelihoods(V1, [Prompt("Write a function.", 7)], GREEDY)
    assert 0 < len(places) <= 8
    assert all(place == sorted(place, reverse=True) and max(place) <= 0.0 for place in places)


def test_first_tokens_are_told_by_their_text(bench: Bench) -> None:
    """What an answer begins with is the likeliest of what is told, and that differs by adapter."""
    texts = [prompt.text for prompt in PROMPTS[:2]]
    told = {model: bench.engine.first_tokens(model, texts) for model in (BASE, V1)}
    assert all(max(first.values()) <= 0.0 for both in told.values() for first in both)
    if isinstance(bench.engine, LlamaServerEngine):  # the stand-in for vLLM invents them
        assert told[V1] != told[BASE]
        for first, answer in zip(told[V1], bench.greedy(V1), strict=False):
            assert answer.startswith(max(first, key=first.__getitem__))


def test_the_prompt_is_rendered_alike(bench: Bench) -> None:
    """An adapter is asked in the very words that the base is asked in, and carries what the base carries."""
    assert bench.engine.carried(V1) == bench.engine.carried(BASE)
    assert bench.engine.rendered(V1, "U") == bench.engine.rendered(BASE, "U") is not None


def test_a_missing_model_is_an_error_a_completion(bench: Bench) -> None:
    """A request that fails is told per completion; nothing is raised."""
    answers = bench.engine.complete("fleet:nope", PROMPTS[:2], GREEDY, lambda *_: None)
    assert [(answer.text, answer.finish, answer.tokens) for answer in answers] == [("", "error", 0)] * 2


def test_a_prompt_that_fails_costs_nothing_but_itself(bench: Bench) -> None:
    """One prompt that does not fit is an error between two answers."""
    prompts = [PROMPTS[0], Prompt("word " * 3000, 1), PROMPTS[1]]
    finishes = [answer.finish for answer in bench.engine.complete(V1, prompts, GREEDY, lambda *_: None)]
    assert [finish == "error" for finish in finishes] == [False, True, False]


def test_removing_twice_is_no_error_and_leaves_the_file_to_drop(bench: Bench) -> None:
    """A name goes, also the second time; its file can then be dropped, which a used one cannot."""
    digest, unused = bench.digests[V1], bench.engine.upload(FILES / "m1.gguf")
    bench.engine.create("fleet:gone", BASE, None, digest)
    for _ in range(2):
        bench.engine.remove("fleet:gone")
    assert bench.engine.digest_of("fleet:gone") is None
    assert "fleet:gone" not in bench.engine.names()
    assert bench.engine.holds(unused)
    assert [bench.engine.drop(blob, BASE) for blob in (digest, unused, unused)] == [False, True, False]
    assert [bench.engine.holds(blob) for blob in (digest, unused)] == [True, False]
    for model in (BASE, ALIAS):
        with pytest.raises(Rejected, match="no adapter of ours"):
            bench.engine.remove(model)


def test_only_adapters_come_in(bench: Bench) -> None:
    """Another GGUF, a registry, another base and a file that was never uploaded are refused, with what to set."""
    with pytest.raises(Misconfigured, match="only adapters"):
        bench.engine.create("fleet:m", BASE, "ab" * 32, None)
    with pytest.raises(Misconfigured, match="registry"):
        bench.engine.pull("fleet:m", BASE, None, bench.digests[V1])
    with pytest.raises(Rejected, match="not the base"):
        bench.engine.create("fleet:m", V1, None, bench.digests[V2])
    with pytest.raises(Rejected, match="has no file"):
        bench.engine.create("fleet:m", BASE, None, "ab" * 32)
    with pytest.raises(Corrupt, match="another adapter already"):
        bench.engine.create(V1, BASE, None, bench.digests[V2])


def test_the_probe_finds_the_one_open_road(bench: Bench) -> None:
    """Adapters come in by create; the probe leaves names as they were."""
    before = bench.engine.names()
    probe = bench.engine.probe()
    assert choose_road("auto", probe) == "adapter-create"
    assert (probe.logprobs, probe.renders) == (True, True)
    assert bench.engine.names() == before


def test_a_file_that_changed_on_the_shelf_is_corrupt(bench: Bench) -> None:
    """Bytes that are not what was installed are served under no digest."""
    made = bench.built / "odd" / "adapter.gguf"
    made.parent.mkdir()
    shutil.copytree(bench.built / "built1" / "peft", made.parent / "peft")
    made.write_bytes((FILES / "a1.gguf").read_bytes() + b"\0" * 32)
    bench.engine.create("fleet:odd", BASE, None, bench.engine.upload(made))
    served = next(bench.built.glob("shelf/*fleet:odd/adapter.gguf"))
    served.write_bytes((FILES / "a2.gguf").read_bytes())
    with pytest.raises(Corrupt, match="changed since"):
        bench.engine.digest_of("fleet:odd")
    bench.engine.remove("fleet:odd")
    assert bench.engine.digest_of("fleet:odd") is None


@pytest.mark.parametrize("kind", ["llama-server", "vllm"])
def test_an_engine_that_is_away_is_transient(kind: str, tmp_path: Path) -> None:
    """Where nobody listens nothing is concluded: a night is put off."""
    shelf, url = Shelf(tmp_path / "shelf"), "http://127.0.0.1:9"
    engine: Engines = LlamaServerEngine(url, BASE, ALIAS, shelf)
    if kind == "vllm":
        engine = VllmEngine(url, BASE, ALIAS, shelf, weights=tmp_path, gguf=FILES / "base.gguf")
    with closing(engine):
        for ask in (engine.version, engine.probe, engine.names, lambda: engine.digest_of(BASE)):
            with pytest.raises(Transient, match="no engine answers"):
                ask()
        with pytest.raises(Transient, match="no engine answers"):
            engine.complete(BASE, PROMPTS, GREEDY, lambda *_: None)
        assert engine.held() == ()


# --- llama-server's own traps


def test_adapters_are_known_while_the_server_is_away(tmp_path: Path) -> None:
    """What waits for a restart says the same ids as before it."""
    rows = [{"id": 0, "path": "/a/000@fleet:v1/adapter.gguf", "scale": 0.0}]
    replies = iter([httpx.Response(200, json=rows), httpx.Response(503)])
    transport = httpx.MockTransport(lambda _: next(replies))
    with closing(LlamaServerEngine("http://engine", BASE, ALIAS, Shelf(tmp_path), transport=transport)) as engine:
        first = engine.held()
        assert [(one.id, one.name) for one in first] == [(0, V1)]
        assert engine.held() == first


def test_answers_over_a_restart_are_not_believed(tmp_path: Path) -> None:
    """Where ids changed their meaning while a model was asked, no answer is handed out as its own."""
    starts = iter([["fleet:v1", "fleet:v2"], ["fleet:v2", "fleet:v1"]])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/lora-adapters":
            rows = [{"id": n, "path": f"/a/{name}/adapter.gguf", "scale": 0} for n, name in enumerate(next(starts))]
            return httpx.Response(200, json=rows)
        choice = {"message": {"content": "x"}, "finish_reason": "stop"}
        return httpx.Response(200, json={"choices": [choice], "usage": {"completion_tokens": 1}})

    shelf = Shelf(tmp_path / "shelf")
    shelf.link(V1, shelf.put(_built(tmp_path, 1)))
    engine = LlamaServerEngine("http://engine", BASE, ALIAS, shelf, transport=httpx.MockTransport(answer))
    with closing(engine), pytest.raises(Transient, match="restarted"):
        engine.complete(V1, PROMPTS[:1], GREEDY, lambda *_: None)


def test_adapters_keep_their_number_when_others_come_and_go(tmp_path: Path) -> None:
    """A place that is left stays taken until the next name takes it, so no restart gives an id another meaning."""
    shelf = Shelf(tmp_path / "shelf", numbered=True)
    digest = shelf.put(_built(tmp_path, 1))

    def places() -> list[str]:
        return sorted(path.parent.name for path in shelf.folder.glob("*/adapter.gguf"))

    for model in ("fleet:v1", "fleet:v2", "fleet:v3"):
        shelf.link(model, digest)
    shelf.unlink("fleet:v1")
    assert places() == ["000@", "001@fleet:v2", "002@fleet:v3"]
    assert shelf.names() == ["fleet:v2", "fleet:v3"]
    shelf.link("fleet:v4", digest)
    shelf.link("fleet:v5", digest)
    assert places() == ["000@fleet:v4", "001@fleet:v2", "002@fleet:v3", "003@fleet:v5"]
    assert [shelf.digest(model) for model in ("fleet:v4", "fleet:v1")] == [digest, None]


@pytest.mark.parametrize("bench", ["llama-server"], indirect=True)
def test_requests_that_say_nothing_follow_the_alias(bench: Bench) -> None:
    """A plain client gets the alias's answer at once, whatever our own requests left in the slots."""
    body = {"messages": [{"role": "user", "content": LONG}], "max_tokens": 8, "temperature": 0, "top_k": 1}

    def plain(**more: object) -> tuple[str, bool]:
        reply = bench.raw.post("/v1/chat/completions", json=body | more).json()
        return reply["choices"][0]["message"]["content"], reply["timings"]["cache_n"] > 8

    prompt = [Prompt(LONG, 1)]
    own = {m: bench.engine.complete(m, prompt, GREEDY, lambda *_: None)[0].text for m in (BASE, V1, V2)}
    for model, other in ((V1, V2), (V2, BASE), (BASE, V1), (V1, BASE)):
        bench.engine.point(ALIAS, model)
        for _ in range(3):
            bench.engine.complete(other, prompt, GREEDY, lambda *_: None)
        assert plain() == (own[model], False)
    for _ in range(3):
        bench.engine.complete(V2, prompt, GREEDY, lambda *_: None)
    # What --no-cache-prompt prevents: without it the server goes on from what another adapter read.
    assert plain(cache_prompt=True)[1]
    bench.engine.point(ALIAS, BASE)


def test_an_install_restarts_the_server_and_keeps_the_alias(tmp_path: Path) -> None:
    """A server that was started before puts the night off, or is restarted by command; the alias stays where it was."""
    shelf = Shelf(tmp_path / "shelf", numbered=True)
    with llama_server(FILES / "base.gguf", shelf.folder) as running, ExitStack() as stack:

        def opened(*reload: str) -> LlamaServerEngine:
            engine = LlamaServerEngine(running.url, BASE, ALIAS, shelf, reload=reload, timeout=20)
            return stack.enter_context(closing(engine))

        first = opened().upload(_built(tmp_path, 1))
        with pytest.raises(Transient, match="started before"):
            opened().create(V1, BASE, None, first)
        with pytest.raises(Misconfigured, match="reload_command failed"):
            opened("false").create(V1, BASE, None, first)
        engine = opened(*running.reload)
        assert engine.create(V1, BASE, None, first) == opened().create(V1, BASE, None, first) == engine.digest_of(V1)
        engine.point(ALIAS, V1)
        engine.create("fleet:v0", BASE, None, engine.upload(_built(tmp_path, 2)))
        assert engine.adapter_of(ALIAS) == first


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--cache-ram", "512"), "mixes the prompt caches"),
        (("--cache-prompt",), "mixes the prompt caches"),
        (("--apply",), "adapters at once"),
    ],
)
def test_a_server_that_would_mix_adapters_is_refused(tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    """A cache in RAM, or adapters that all apply from the start, are found by trying and refused with what to start."""
    shelf = Shelf(tmp_path / "shelf", numbered=True)
    for number, model in ((1, V1), (2, V2)):
        shelf.link(model, shelf.put(_built(tmp_path, number)))
    with (
        llama_server(FILES / "base.gguf", shelf.folder, *flags) as running,
        closing(LlamaServerEngine(running.url, BASE, ALIAS, shelf, timeout=20)) as engine,
        pytest.raises(Misconfigured, match=said) as refusal,
    ):
        engine.probe()
    assert "tart" in refusal.value.hint


# --- vLLM's own traps


@pytest.fixture
def vllm(tmp_path: Path) -> Iterator[Callable[..., VllmEngine]]:
    """Yield what opens an engine over a stand-in of its own."""
    (tmp_path / "hf").mkdir()
    with ExitStack() as stack:

        def start(*, runtime: bool = True, served: Path = tmp_path / "hf") -> VllmEngine:
            server = stack.enter_context(vllm_server(BASE, served, runtime=runtime))
            shelf, gguf = Shelf(tmp_path / "shelf"), FILES / "base.gguf"
            engine = VllmEngine(server.url, BASE, ALIAS, shelf, weights=tmp_path / "hf", gguf=gguf, timeout=20)
            return stack.enter_context(closing(engine))

        yield start


def test_vllm_must_be_allowed_to_load(vllm: Callable[..., VllmEngine]) -> None:
    """Without runtime updating the routes are not there; the hint names what to start it with."""
    with pytest.raises(Misconfigured, match="may not load") as refusal:
        vllm(runtime=False).probe()
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in refusal.value.hint


def test_vllm_must_serve_the_weights_that_are_trained_on(vllm: Callable[..., VllmEngine], tmp_path: Path) -> None:
    """Another folder than the base's is refused: nothing would prove whose adapter it is."""
    (tmp_path / "other").mkdir()
    with pytest.raises(Misconfigured, match="nights train on"):
        vllm(served=tmp_path / "other").digest_of(BASE)


def test_vllm_says_no_in_its_own_words(vllm: Callable[..., VllmEngine], tmp_path: Path) -> None:
    """An adapter of too high a rank is Rejected with vLLM's words; one without PEFT's files is never sent."""
    engine = vllm()
    high, bare = _built(tmp_path, 1), tmp_path / "bare.gguf"
    (high.parent / "peft" / "adapter_config.json").write_text(json.dumps({"r": 64}))
    shutil.copy(FILES / "a2.gguf", bare)
    with pytest.raises(Rejected, match="max_lora_rank"):
        engine.create(V1, BASE, None, engine.upload(high))
    with pytest.raises(Misconfigured, match="no files that vLLM reads"):
        engine.create(V2, BASE, None, engine.upload(bare))


def test_a_name_of_ours_that_another_loaded_is_corrupt(vllm: Callable[..., VllmEngine], tmp_path: Path) -> None:
    """What somebody else loaded under our name is not taken for our adapter."""
    engine = vllm()
    made = _built(tmp_path, 1)
    body = {"lora_name": V1, "lora_path": str(made.parent / "peft")}
    httpx.post(f"{engine._wire.url}/v1/load_lora_adapter", json=body, trust_env=False).raise_for_status()
    with pytest.raises(Corrupt, match="has fleet:v1 from"):
        engine.create(V1, BASE, None, engine.upload(made))
