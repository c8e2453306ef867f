"""One suite over every engine: the embedded server in all profiles, and a real Ollama where its URL is given.

FLEETSSD_TEST_OLLAMA_URL names a real server; the models that this makes there are removed again. What a server cannot
do is found out by the product's own probe, and skipped by that: no version is asked.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from fleetssd.adapters.loopback_registry import serve_manifest
from fleetssd.adapters.ollama_engine import OllamaEngine
from fleetssd.artefact import ROADS, Probe, choose_road
from fleetssd.embedded.ollama.profiles import PROFILES
from fleetssd.errors import Corrupt, Misconfigured, Rejected
from fleetssd.ports import Prompt
from fleetssd.recipe import Sampling
from tests.contract.servers import embedded_ollama

FILES = Path(__file__).parent.parent / "samples" / "ollama" / "files"
BASE, ALIAS = "fleetssd-test-base:q", "fleetssd-test:latest"
GREEDY = Sampling(0.0, 1, 1.0, 0.0, 8)
PROMPTS = [Prompt(f"Write f{n}.", n) for n in range(6)]


@dataclass(frozen=True)
class Bench:
    """An engine to test, with raw access to its server."""

    engine: OllamaEngine
    raw: httpx.Client
    probe: Probe

    def need(self, *abilities: str) -> None:
        """Skip where the probe found that the server cannot do this."""
        for ability in abilities:
            if not getattr(self.probe, ability):
                pytest.skip(f"by probe: this server has no {ability}")

    def create(self, model: str, file: str, **more: object) -> None:
        """Create a model from a sample, past the engine's own methods."""
        digest = self.engine.upload(FILES / file)
        body = {
            "model": model,
            "files": {"m.gguf": f"sha256:{digest}"},
            "parameters": {"num_ctx": 512},
            "stream": False,
        }
        self.raw.post("/api/create", json=body | more).raise_for_status()

    def greedy(self, model: str) -> list[str]:
        """Return the greedy answers to the test's prompts."""
        return [answer.text for answer in self.engine.complete(model, PROMPTS, GREEDY, lambda *_: None)]


def servers() -> list[object]:
    """Return what the suite runs over."""
    real = os.environ.get("FLEETSSD_TEST_OLLAMA_URL")
    profiles = [pytest.param(f"profile {name}", id=name) for name in PROFILES]
    return [*profiles, *([pytest.param(real, id="real", marks=pytest.mark.live)] if real else [])]


@pytest.fixture(scope="module", params=servers())
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Yield an engine over a server that holds the base and an alias that points to it."""
    where: str = request.param
    if not where.startswith("profile "):
        yield from _bench(where)
        return
    profile = where.removeprefix("profile ")
    with embedded_ollama(tmp_path_factory.mktemp("ollama"), profile) as url:
        yield from _bench(url)


def _bench(url: str) -> Iterator[Bench]:
    engine = OllamaEngine(url, BASE, partial(serve_manifest, "127.0.0.1"), timeout=60, concurrency=2)
    with httpx.Client(base_url=url, timeout=60) as raw:
        Bench(engine, raw, Probe("")).create(BASE, "base.gguf")
        engine.point(ALIAS, BASE)
        yield Bench(engine, raw, engine.probe())
        names = [row["name"] for row in raw.get("/api/tags").json()["models"] or []]
        for name in names:
            if name.startswith("fleetssd-test"):
                engine.remove(name)
    engine.close()


def test_probe_leaves_nothing_behind(bench: Bench) -> None:
    """The probe tells what the server takes, and lists of models, stored and loaded, are as before."""
    bench.engine.preload(BASE)
    before, loaded = bench.raw.get("/api/tags").json(), bench.engine.loaded()
    assert bench.engine.probe() == bench.probe
    assert bench.raw.get("/api/tags").json() == before
    assert bench.engine.loaded() == loaded


def test_the_probe_says_what_each_profile_is(bench: Bench) -> None:
    """The stand-ins differ where their originals do, and the best open road is taken of each."""
    found, version = bench.probe, bench.probe.version
    known = {profile.version: profile for profile in PROFILES.values()}
    if version not in known or bench.raw.get("/embedded/faults").status_code == 404:
        pytest.skip("this is no stand-in")
    assert (found.pulls_from_loopback, found.creates_files, found.renders) == (True, True, True)
    assert (found.creates_adapters, found.logprobs) == (known[version].creates_adapters, known[version].logprobs)
    assert found.loads_adapters is not bool(known[version].adapterless)
    assert choose_road("auto", found) == ("adapter-registry" if found.loads_adapters else "merged-registry")


def test_probe_without_base_names_the_setting() -> None:
    """An engine that has no base model is Misconfigured, with a hint."""
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json={"version": "1", "models": None}))
    engine = OllamaEngine("http://engine", BASE, partial(serve_manifest, "127.0.0.1"), transport=transport)
    with pytest.raises(Misconfigured, match="no model"):
        engine.probe()


def test_adapter_by_registry_has_the_digest_that_we_wrote(bench: Bench) -> None:
    """The server's digest is known before, show names the adapter and the base's own file, answers differ from it."""
    bench.need("pulls_from_loopback", "loads_adapters")
    adapter = bench.engine.upload(FILES / "a1.gguf")
    blob = bench.engine.blob_of(BASE)
    digest = bench.engine.pull("fleetssd-test:v1", BASE, blob, adapter)
    assert bench.engine.digest_of("FLEETSSD-test:v1") == digest
    assert (
        bench.engine.adapter_of("fleetssd-test:v1")
        == adapter
        == hashlib.sha256((FILES / "a1.gguf").read_bytes()).hexdigest()
    )
    assert bench.engine.blob_of("fleetssd-test:v1") == blob
    assert bench.greedy("fleetssd-test:v1") != bench.greedy(BASE)
    assert bench.engine.pull("fleetssd-test:v1", BASE, blob, adapter) == digest


def test_an_adapter_installed_by_registry_leaves_one_name(bench: Bench) -> None:
    """The long name of the loopback registry is gone after the install."""
    bench.need("pulls_from_loopback")
    adapter = bench.engine.upload(FILES / "a2.gguf")
    bench.engine.pull("fleetssd-test:v2", BASE, bench.engine.blob_of(BASE), adapter)
    assert not [name for name in bench.engine.names() if name.startswith("127.0.0.1:")]


def test_what_a_killed_install_left_goes_with_the_next(bench: Bench) -> None:
    """A pull that died before its long name was removed is tidied up by its own repetition; other names stay."""
    bench.need("pulls_from_loopback")
    adapter = bench.engine.upload(FILES / "a2.gguf")
    left = [f"127.0.0.1:{port}/fleet/coder:{tag}" for port, tag in ((9, "killed"), (10, "killed"), (9, "other"))]
    for name in left:
        bench.raw.post("/api/copy", json={"source": BASE, "destination": name}).raise_for_status()
    bench.engine.pull("fleetssd-test:killed", BASE, None, adapter)
    assert {*bench.engine.names()}.intersection(left) == {left[2]}
    bench.engine.remove(left[2])


def test_an_adapter_that_was_never_uploaded_is_refused(bench: Bench) -> None:
    """A layer that the server lacks is asked of us, we have none, and the pull fails cleanly."""
    bench.need("pulls_from_loopback")
    with pytest.raises(Rejected):
        bench.engine.pull("fleetssd-test:v3", BASE, bench.engine.blob_of(BASE), "ab" * 32)
    assert bench.engine.digest_of("fleetssd-test:v3") is None


def test_template_and_parameters_are_the_bases_own(bench: Bench) -> None:
    """What show says of template, parameters and system is equal for base and candidate; so is the rendered prompt."""
    bench.need("pulls_from_loopback", "loads_adapters")
    adapter = bench.engine.upload(FILES / "a1.gguf")
    bench.engine.pull("fleetssd-test:v4", BASE, bench.engine.blob_of(BASE), adapter)
    shown = [bench.raw.post("/api/show", json={"model": model}).json() for model in (BASE, "fleetssd-test:v4")]
    for key in ("template", "parameters", "system", "license"):
        assert shown[0].get(key) == shown[1].get(key)
    assert bench.engine.rendered("fleetssd-test:v4", "U") == bench.engine.rendered(BASE, "U")


TRAITS: dict[str, Any] = {
    "system": "You are terse.",
    "template": "{{ if .System }}<s>{{ .System }}</s>{{ end }}<u>{{ .Prompt }}</u>",
    "license": ["Do what you like.", "But say who made it."],
    "parameters": {"num_ctx": 512, "stop": ["</u>", "<|im_end|>"], "temperature": 0.3, "top_k": 7},
    "renderer": "qwen3-coder",
    "parser": "qwen3-coder",
    "messages": [{"role": "user", "content": "2 < 3 & so?"}, {"role": "assistant", "content": "Yes."}],
}


@pytest.mark.parametrize("road", ROADS)
def test_every_road_carries_what_the_base_has(bench: Bench, road: str) -> None:
    """System, template, licences, stop tokens and other parameters, renderer, parser, turns, prompt: all equal."""
    kind, way = road.split("-")
    bench.need(*{"adapter-registry": ("pulls_from_loopback", "loads_adapters"), "merged-create": (),
                 "adapter-create": ("creates_adapters", "loads_adapters"),
                 "merged-registry": ("pulls_from_loopback",)}[road])  # fmt: skip
    base, model, engine = "fleetssd-test-traits:q", f"fleetssd-test:{road}", bench.engine
    bench.create(base, "base.gguf", **TRAITS)
    blob = engine.upload(FILES / "m1.gguf") if kind == "merged" else None
    adapter = engine.upload(FILES / "a1.gguf") if kind == "adapter" else None
    (engine.pull if way == "registry" else engine.create)(model, base, blob, adapter)
    shown = [bench.raw.post("/api/show", json={"model": name}).json() for name in (base, model)]
    for key in ("system", "template", "license", "parameters", "renderer", "parser", "messages"):
        assert shown[0].get(key) == shown[1].get(key), key
    assert engine.carried(model) == engine.carried(base)
    told = TRAITS | {"license": ["\n".join(TRAITS["license"])]}  # show joins the texts, and so they are carried
    assert engine.carried(base) == told
    assert engine.rendered(model, "U") == engine.rendered(base, "U")


def test_first_tokens_are_told_by_their_text(bench: Bench) -> None:
    """Twenty a prompt, and the likeliest is how the greedy answer begins; none where the server tells none."""
    found = bench.engine.first_tokens(BASE, [prompt.text for prompt in PROMPTS])
    if not bench.probe.logprobs:
        assert found == [{}] * len(PROMPTS)
        return
    for first, answer in zip(found, bench.greedy(BASE), strict=True):
        assert 10 <= len(first) <= 20
        assert max(first.values()) <= 0.0
        assert answer.startswith(max(first, key=lambda token: first[token]))


def test_an_adapter_that_is_not_loaded_is_known_by_the_probe(bench: Bench) -> None:
    """Where the probe found that no adapter loads, a real one fails too, and the next answer is the base's."""
    bench.need("pulls_from_loopback")
    adapter = bench.engine.upload(FILES / "a1.gguf")
    bench.engine.pull("fleetssd-test:v10", BASE, None, adapter)
    if bench.probe.loads_adapters:
        bench.engine.preload("fleetssd-test:v10")
        return
    with pytest.raises(Rejected, match="lora"):
        bench.engine.preload("fleetssd-test:v10")
    assert bench.greedy(BASE)


def test_what_nobody_asks_is_quiet_and_leaves_memory(bench: Bench) -> None:
    """A model at rest is quiet; released, it is loaded no more, and twice is no error."""
    bench.engine.preload(BASE)
    assert bench.engine.quiet(BASE)
    for _ in range(2):
        bench.engine.release(BASE)
    end = time.monotonic() + 30
    while bench.engine.digest_of(BASE) in bench.engine.loaded().values():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert bench.engine.quiet(BASE)


def test_a_model_under_load_is_not_quiet(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While answers end one after the other there is no quiet moment, and the wait gives up."""
    monkeypatch.setattr("fleetssd.adapters.ollama_engine.engine.PATIENCE", 0.5)
    monkeypatch.setattr("fleetssd.adapters.ollama_engine.engine.MOMENT", 0.5)
    bench.greedy(BASE)
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            bench.greedy(BASE)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        found = bench.engine.quiet(BASE)
        over.set()
        asking.result()
    assert found is False


def test_releasing_what_another_name_replaced_leaves_that_loaded(bench: Bench) -> None:
    """Two models of one file share one place: releasing the one that is not in it touches nothing."""
    bench.need("pulls_from_loopback", "loads_adapters")
    bench.engine.pull("fleetssd-test:v11", BASE, None, bench.engine.upload(FILES / "a1.gguf"))
    bench.engine.preload(BASE)
    bench.engine.preload("fleetssd-test:v11")
    bench.engine.release(BASE)
    assert bench.engine.digest_of("fleetssd-test:v11") in bench.engine.loaded().values()


def test_an_adapter_sits_on_a_copy_of_the_base(bench: Bench) -> None:
    """A base blob other than the base model's own is what the new name's FROM line shows."""
    bench.need("pulls_from_loopback")
    copy, adapter = bench.engine.upload(FILES / "m1.gguf"), bench.engine.upload(FILES / "a1.gguf")
    bench.engine.pull("fleetssd-test:v5", BASE, copy, adapter)
    assert (bench.engine.blob_of("fleetssd-test:v5"), bench.engine.adapter_of("fleetssd-test:v5")) == (copy, adapter)


def test_merged_by_create_carries_the_bases_parameters(bench: Bench) -> None:
    """A merged file becomes a model with the base's parameters and rendered prompt, no adapter, other answers."""
    blob = bench.engine.upload(FILES / "m1.gguf")
    digest = bench.engine.create("fleetssd-test:m1", BASE, blob, None)
    shown = [bench.raw.post("/api/show", json={"model": model}).json() for model in (BASE, "fleetssd-test:m1")]
    assert bench.engine.digest_of("fleetssd-test:m1") == digest
    assert bench.engine.adapter_of("fleetssd-test:m1") is None
    assert shown[0].get("parameters") == shown[1].get("parameters")
    assert bench.engine.rendered("fleetssd-test:m1", "U") == bench.engine.rendered(BASE, "U")
    assert bench.greedy("fleetssd-test:m1") != bench.greedy(BASE)
    uploaded = hashlib.sha256((FILES / "base.gguf").read_bytes()).hexdigest()
    rewrites = bench.engine.blob_of(BASE) != uploaded
    assert rewrites or bench.engine.blob_of("fleetssd-test:m1") == blob


def test_a_merged_file_that_was_never_uploaded_is_refused(bench: Bench) -> None:
    """The server's no comes back as Rejected with its words."""
    with pytest.raises(Rejected, match=r"no such file|not found"):
        bench.engine.create("fleetssd-test:m2", BASE, "cd" * 32, None)


def test_both_ways_serve_the_same_answers(bench: Bench) -> None:
    """A merged file answers alike by registry and by create; by registry it is the very blob that was uploaded."""
    bench.need("pulls_from_loopback")
    blob = bench.engine.upload(FILES / "m1.gguf")
    digest = bench.engine.pull("fleetssd-test:r1", BASE, blob, None)
    bench.engine.create("fleetssd-test:r2", BASE, blob, None)
    assert bench.engine.digest_of("fleetssd-test:r1") == digest
    assert (bench.engine.blob_of("fleetssd-test:r1"), bench.engine.adapter_of("fleetssd-test:r1")) == (blob, None)
    assert bench.greedy("fleetssd-test:r1") == bench.greedy("fleetssd-test:r2") != bench.greedy(BASE)


def test_an_adapter_by_create_answers_as_by_registry(bench: Bench) -> None:
    """Where create takes adapters both ways give one adapter on the base's own file; elsewhere it is refused."""
    bench.need("pulls_from_loopback", "loads_adapters")
    adapter = bench.engine.upload(FILES / "a1.gguf")
    if not bench.probe.creates_adapters:
        with pytest.raises(Rejected, match="no longer supported"):
            bench.engine.create("fleetssd-test:c1", BASE, None, adapter)
        return
    bench.engine.create("fleetssd-test:c1", BASE, None, adapter)
    bench.engine.pull("fleetssd-test:c2", BASE, None, adapter)
    for find in (bench.engine.blob_of, bench.engine.adapter_of, bench.greedy):
        assert find("fleetssd-test:c1") == find("fleetssd-test:c2")


def test_create_does_not_stack_either(bench: Bench) -> None:
    """A base that has an adapter is refused before anything is sent."""
    bench.need("pulls_from_loopback")
    adapter = bench.engine.upload(FILES / "a1.gguf")
    bench.engine.pull("fleetssd-test:v8", BASE, None, adapter)
    with pytest.raises(Corrupt, match="adapter"):
        bench.engine.create("fleetssd-test:v9", "fleetssd-test:v8", None, adapter)


def test_a_file_that_no_name_refers_to_can_be_dropped(bench: Bench, tmp_path: Path) -> None:
    """A lone upload goes and a second try finds nothing; a model's file stays whatever is asked."""
    bench.need("pulls_from_loopback")
    (tmp_path / "lone").write_bytes(b"GGUF that nobody wants")
    lone = bench.engine.upload(tmp_path / "lone")
    assert bench.engine.holds(lone)
    assert [bench.engine.drop(lone, BASE) for _ in range(2)] == [True, False]
    assert not bench.engine.holds(lone)
    assert bench.engine.drop(bench.engine.blob_of(BASE), BASE) is False
    assert bench.greedy(BASE)


def test_pointing_the_alias_gives_it_the_models_digest(bench: Bench) -> None:
    """A copy has the digest of its source, and pointing back restores the old one."""
    blob = bench.engine.upload(FILES / "m1.gguf")
    bench.engine.create("fleetssd-test:m3", BASE, blob, None)
    for model in ("fleetssd-test:m3", BASE):
        bench.engine.point(ALIAS, model)
        assert bench.engine.digest_of(ALIAS) == bench.engine.digest_of(model)


def test_pointing_to_nothing_is_refused(bench: Bench) -> None:
    """A model that is not there leaves the alias where it is."""
    before = bench.engine.digest_of(ALIAS)
    with pytest.raises(Rejected, match="no model"):
        bench.engine.point(ALIAS, "fleetssd-test:nope")
    assert bench.engine.digest_of(ALIAS) == before


def test_a_preloaded_model_is_listed_with_its_digest(bench: Bench) -> None:
    """Loading is visible by digest, whatever the name was that caused it."""
    bench.engine.preload(ALIAS)
    assert bench.engine.digest_of(ALIAS) in bench.engine.loaded().values()


def test_completions_keep_their_order_and_repeat_by_seed(bench: Bench) -> None:
    """Many in flight come back in the order asked; the same seeds give the same greedy answers; progress counts all."""
    seen: list[tuple[int, int]] = []
    first = bench.engine.complete(BASE, PROMPTS, GREEDY, lambda done, total, _: seen.append((done, total)))
    one_by_one = [bench.engine.complete(BASE, [prompt], GREEDY, lambda *_: None)[0] for prompt in PROMPTS]
    assert first == one_by_one
    assert seen == [(n + 1, len(PROMPTS)) for n in range(len(PROMPTS))]
    assert {answer.finish for answer in first} <= {"stop", "length"}
    assert all(0 < answer.tokens <= 8 for answer in first)


def test_likelihoods_are_those_of_the_weights(bench: Bench) -> None:
    """Each place lists log-probabilities, the likeliest first; the decode does not change them."""
    bench.need("logprobs")
    sampling = Sampling(1.0, 0, 1.0, 0.0, 8)
    (warm,), (cold,) = (
        bench.engine.likelihoods(BASE, [Prompt("Write a function.", 7)], decode)
        for decode in (sampling, sampling.at(0.01))
    )
    assert 0 < len(warm) <= 8
    assert all(place == sorted(place, reverse=True) and max(place) <= 0.0 for place in (*warm, *cold))
    assert warm[0] == pytest.approx(cold[0], abs=1e-4)


def test_a_missing_model_is_an_error_a_completion(bench: Bench) -> None:
    """A request that fails is told per completion; nothing is raised."""
    answers = bench.engine.complete("fleetssd-test:nope", PROMPTS[:2], GREEDY, lambda *_: None)
    assert [(answer.text, answer.finish, answer.tokens) for answer in answers] == [("", "error", 0)] * 2


def test_no_completion_is_lost_while_the_alias_moves(bench: Bench) -> None:
    """Requests that meet the half-written alias are asked again: every answer is one of the two models'."""
    bench.engine.create("fleetssd-test:m4", BASE, bench.engine.upload(FILES / "m1.gguf"), None)
    models = (BASE, "fleetssd-test:m4")
    allowed = {text for model in models for text in bench.greedy(model)}
    # The embedded server can make the window longer; a real one has no such route.
    bench.raw.post("/embedded/faults", json={"alias_eof_ms": 10})
    prompts = PROMPTS * 8
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(bench.engine.complete, ALIAS, prompts, GREEDY, lambda *_: None)
        for turn in range(10):
            bench.engine.point(ALIAS, models[turn % 2])
        answers = asked.result()
    bench.raw.delete("/embedded/faults")
    assert {answer.text for answer in answers} <= allowed
    assert "error" not in {answer.finish for answer in answers}


def test_removing_twice_is_no_error(bench: Bench) -> None:
    """A name that is gone is what was wanted."""
    bench.create("fleetssd-test:gone", "base.gguf")
    bench.engine.remove("fleetssd-test:gone")
    bench.engine.remove("fleetssd-test:gone")
    assert bench.engine.digest_of("fleetssd-test:gone") is None


def test_a_base_with_an_adapter_is_not_built_upon(bench: Bench) -> None:
    """Stacking is refused before anything is sent."""
    bench.need("pulls_from_loopback")
    adapter = bench.engine.upload(FILES / "a1.gguf")
    bench.engine.pull("fleetssd-test:v6", BASE, bench.engine.blob_of(BASE), adapter)
    with pytest.raises(Corrupt, match="adapter"):
        bench.engine.pull("fleetssd-test:v7", "fleetssd-test:v6", bench.engine.blob_of(BASE), adapter)
