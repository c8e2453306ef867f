"""The embedded Ollama as a process: its profiles, its runners, its faults, and its end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.servers import embedded_ollama

FILES = Path(__file__).parent.parent / "samples" / "ollama" / "files"
GREEDY = {"temperature": 0, "seed": 1, "num_predict": 8}
NO_ADAPTERS = "LoRA adapters are no longer supported"


class Client:
    """The few requests that these tests make."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=60)

    def upload(self, data: bytes) -> str:
        """Upload a blob and return its digest."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        assert self.http.post(f"/api/blobs/{digest}", content=data).status_code in (200, 201)
        return digest

    def create(self, model: str, **fields: Any) -> httpx.Response:
        """Create a model without a stream."""
        return self.http.post("/api/create", json={"model": model, "stream": False, **fields})

    def generate(self, model: str, **fields: Any) -> httpx.Response:
        """Generate from a raw prompt, greedily."""
        body = {"model": model, "prompt": "def f1(x", "raw": True, "stream": False, "options": GREEDY, **fields}
        return self.http.post("/api/generate", json=body)

    def text(self, model: str, **fields: Any) -> str:
        """Generate, and return the text."""
        reply = self.generate(model, **fields)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["response"])

    def loaded(self) -> list[str]:
        """Return the names in ps."""
        return [row["name"] for row in self.http.get("/api/ps").json()["models"]]

    def fault(self, **fields: Any) -> Any:
        """Change the faults."""
        return self.http.post("/embedded/faults", json=fields).json()


def sample(name: str) -> bytes:
    """Read a sample file."""
    return (FILES / name).read_bytes()


def filled(client: Client) -> Client:
    """Give a server the base model `base:1`."""
    digest = client.upload(sample("base.gguf"))
    assert client.create("base:1", files={"b.gguf": digest}, parameters={"num_ctx": 256}).status_code == 200
    return client


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Yield a server of profile 0.32 with the base and an adapter on it."""
    with embedded_ollama(tmp_path_factory.mktemp("old"), "0.32") as url:
        client = filled(Client(url))
        adapter = client.upload(sample("a1.gguf"))
        assert client.create("lora:1", **{"from": "base:1", "adapters": {"a.gguf": adapter}}).status_code == 200
        yield client
        client.http.close()


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Yield a server of the default profile with the base on it."""
    with embedded_ollama(tmp_path_factory.mktemp("new"), "0.34.1") as url:
        client = filled(Client(url))
        yield client
        client.http.close()


# --- profile 0.34.1 --------------------------------------------------------------------------------------------


def test_the_new_profile_refuses_adapters_at_create(new: Client) -> None:
    """Both ways in are closed, with the texts of the real server."""
    adapter = new.upload(sample("a1.gguf"))
    by_name = new.create("x:1", **{"from": "base:1", "adapters": {"a.gguf": adapter}})
    by_file = new.create("x:1", files={"a.gguf": adapter})
    assert (by_name.status_code, by_name.json()) == (400, {"error": NO_ADAPTERS})
    assert (by_file.status_code, by_file.json()) == (400, {"error": f"{NO_ADAPTERS}: a.gguf is a LoRA adapter"})


def test_the_new_profile_keeps_uploaded_files_as_they_are(new: Client) -> None:
    """The model layer is the uploaded blob, and the status line says so."""
    digest = new.upload(sample("m1.gguf"))
    reply = new.http.post("/api/create", json={"model": "m1:1", "files": {"m.gguf": digest}})
    steps = [json.loads(line)["status"] for line in reply.text.splitlines()]
    assert steps[:2] == ["parsing GGUF", f"using existing layer {digest}"]
    assert digest.replace(":", "-") in new.http.post("/api/show", json={"model": "m1:1"}).json()["modelfile"]


def test_a_manifest_with_an_adapter_still_loads_on_the_new_profile(
    old: Client, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Only create was closed: a store that has an adapter model serves it as before."""
    store = next(tmp_path_factory.getbasetemp().glob("old*"))
    (tmp_path / "copy").mkdir()
    subprocess.run(["cp", "-r", f"{store}/.", str(tmp_path / "copy")], check=True)
    with embedded_ollama(tmp_path / "copy", "0.34.1") as url:
        copied = Client(url)
        assert copied.text("lora:1") == old.text("lora:1") != old.text("base:1")
        copied.http.close()


def test_quantize_is_refused_on_the_new_profile(new: Client) -> None:
    """GGUF files must come quantised."""
    reply = new.create("x:1", **{"from": "base:1", "quantize": "q8_0"})
    assert (reply.status_code, reply.json()["error"].split(";")[0]) == (
        400,
        "create-time quantization is only supported for safetensors imports",
    )


# --- runners ---------------------------------------------------------------------------------------------------


def test_names_on_one_base_share_one_runner(old: Client) -> None:
    """Another adapter reloads it; ps shows the name that caused the load, a copy needs no load."""
    old.text("lora:1")
    old.http.post("/api/copy", json={"source": "lora:1", "destination": "alias:latest"})
    old.text("ALIAS")
    assert old.loaded() == ["lora:1"]
    old.text("base:1")
    assert old.loaded() == ["base:1"]


def test_another_context_reloads(old: Client) -> None:
    """What ps shows is the context that the last load got, never more than the model was trained for."""
    for asked, got in ((128, 128), (100_000, 2048)):
        old.generate("base:1", options=GREEDY | {"num_ctx": asked})
        assert old.http.get("/api/ps").json()["models"][0]["context_length"] == got


def test_a_load_is_seen_by_the_next_poll(old: Client) -> None:
    """However small a model is, its load takes one poll of 250 ms at least, as by the real server."""
    assert old.generate("base:1", options=GREEDY | {"num_ctx": 160}).json()["load_duration"] >= 249_000_000


def test_a_running_answer_is_finished_before_the_adapter_changes(old: Client) -> None:
    """The stream on the base goes on to its end, and only then is the adapter's request answered."""
    ended: list[str] = []

    def other() -> None:
        old.text("lora:1")
        ended.append("lora")

    long = {
        "model": "base:1",
        "prompt": "a",
        "raw": True,
        "options": {"num_predict": 600, "temperature": 1.5, "seed": 3},
    }
    with old.http.stream("POST", "/api/generate", json=long) as stream:
        lines = stream.iter_lines()
        next(lines)
        thread = threading.Thread(target=other)
        thread.start()
        last = [json.loads(line) for line in lines][-1]
        ended.append("base")
    thread.join()
    assert (last["done"], last["done_reason"], ended) == (True, "length", ["base", "lora"])


def test_keep_alive_zero_unloads_after_the_answer(old: Client) -> None:
    """The answer is whole, and then the runner is gone."""
    assert old.text("base:1", keep_alive=0)
    assert "base:1" not in old.loaded()


def test_an_idle_runner_goes_when_its_time_is_over(old: Client) -> None:
    """Nobody has to ask for that; the time is the one of the last request that said one."""
    old.text("base:1", keep_alive="10m")
    assert "base:1" in old.loaded()
    old.text("base:1", keep_alive="200ms")
    deadline = time.monotonic() + 20
    while "base:1" in old.loaded():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_for_ever_stays_through_requests_that_say_nothing(old: Client) -> None:
    """What was pinned is not unpinned by an agent's call."""
    old.text("base:1", keep_alive=-1)
    old.text("base:1")
    (row,) = old.http.get("/api/ps").json()["models"]
    assert int(row["expires_at"][:4]) > 2300


def test_the_fourth_model_evicts_the_one_that_was_to_stay_shortest(old: Client) -> None:
    """Three are loaded at most, and the least recently used one may be the one that stays."""
    base, merged = sample("base.gguf"), sample("m1.gguf")
    half = len(base) // 2
    files = (base, merged, base[:half] + merged[half:], merged[:half] + base[half:])
    for number, data in enumerate(files):
        assert old.create(f"m:{number}", files={"m.gguf": old.upload(data)}).status_code == 200
    for number, keep_alive in enumerate((-1, "1m", "10m", -1)):
        old.text(f"m:{number}", keep_alive=keep_alive)
    assert sorted(old.loaded()) == ["m:0", "m:2", "m:3"]
    for name in old.loaded():
        old.generate(name, prompt="", keep_alive=0)


def test_an_adapter_for_another_model_fails_only_at_load(old: Client) -> None:
    """Create takes it; the first request is a 500 and the base serves on."""
    wrong = old.upload(sample("a1.gguf").replace(b"blk.1.attn_output", b"blk.9.attn_output"))
    assert old.create("wrong:1", **{"from": "base:1", "adapters": {"a.gguf": wrong}}).status_code == 200
    reply = old.generate("wrong:1")
    assert (reply.status_code, reply.json()) == (
        500,
        {"error": "llama-server process has terminated: exit status 1"},
    )
    assert old.text("base:1")


def test_a_prompt_longer_than_the_context_is_cut_unless_that_is_forbidden(old: Client) -> None:
    """By default the middle goes; with truncate false it is a 400."""
    cut = old.generate("base:1", prompt="x" * 3000)
    assert cut.json()["prompt_eval_count"] == 255
    assert old.generate("base:1", prompt="x" * 3000, truncate=False).status_code == 400


def test_an_upload_in_chunks_is_the_same_file(old: Client) -> None:
    """A client that does not say a length is understood."""
    data = b"chunks" * 1000
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    assert old.http.head(f"/api/blobs/{digest}").status_code == 404
    pieces = iter([data[:100], data[100:]])
    assert old.http.post(f"/api/blobs/{digest}", content=pieces).status_code == 201
    assert old.http.head(f"/api/blobs/{digest}").status_code == 200


def test_seed_stop_and_limit_do_what_they_say(old: Client) -> None:
    """One seed is one answer, two are two; a stop text ends the answer before itself; the limit counts tokens."""
    hot = {"temperature": 1.5, "num_predict": 12}
    first, again, other = (old.text("base:1", options=hot | {"seed": seed}) for seed in (7, 7, 8))
    assert first == again != other
    whole = old.text("base:1")
    stop = next(letter for letter in whole if letter.isascii())
    ended = old.generate("base:1", options=GREEDY | {"stop": [stop]}).json()
    assert (ended["response"], ended["done_reason"]) == (whole.partition(stop)[0], "stop")
    assert old.generate("base:1", options=GREEDY | {"num_predict": 3}).json()["eval_count"] == 3


def test_a_context_goes_on_where_it_ended(old: Client) -> None:
    """The ids of prompt and answer come back, and are read before the next prompt."""
    first = old.generate("base:1", raw=False).json()
    assert len(first["context"]) >= first["prompt_eval_count"] + first["eval_count"] - 1
    then = old.generate("base:1", raw=False, context=first["context"]).json()
    assert then["prompt_eval_count"] > first["prompt_eval_count"] + first["eval_count"] - 1


def test_sampling_settings_of_v1_default_to_one(old: Client) -> None:
    """Without temperature and top_p the OpenAI route answers as /api/chat does at 1.0 and 1.0."""
    turn = {"model": "base:1", "messages": [{"role": "user", "content": "hi there"}]}
    v1 = old.http.post("/v1/chat/completions", json={**turn, "seed": 5, "max_tokens": 8}).json()
    options = {"seed": 5, "num_predict": 8, "temperature": 1.0, "top_p": 1.0}
    api = old.http.post("/api/chat", json={**turn, "stream": False, "options": options}).json()
    assert v1["choices"][0]["message"]["content"] == api["message"]["content"]


def test_what_the_model_cannot_do_is_refused(old: Client) -> None:
    """Thinking and tools are 400s with the names written as the real server writes them."""
    turn = {"model": "base:1", "messages": [{"role": "user", "content": "hi"}], "stream": False}
    thinking = old.http.post("/api/chat", json={**turn, "think": True})
    tools = old.http.post("/api/chat", json={**turn, "tools": [{"type": "function"}]})
    assert (thinking.status_code, thinking.json()["error"]) == (400, '"base:1" does not support thinking')
    full = "registry.ollama.ai/library/base:1"
    assert (tools.status_code, tools.json()["error"]) == (400, f"{full} does not support tools")


def test_text_completions_are_the_generate_route_in_openais_shape(old: Client) -> None:
    """/v1/completions applies the template, like /api/generate."""
    fields = {"model": "base:1", "prompt": "hello"}
    v1 = old.http.post("/v1/completions", json={**fields, "temperature": 0, "max_tokens": 8}).json()
    api = old.http.post("/api/generate", json={**fields, "stream": False, "options": GREEDY}).json()
    assert v1["choices"][0]["text"] == api["response"]
    assert (v1["object"], v1["usage"]["prompt_tokens"]) == ("text_completion", api["prompt_eval_count"])


def test_answers_can_be_held_to_json(old: Client) -> None:
    """With format json a model of noise still opens an object."""
    reply = old.generate("base:1", format="json", options={"temperature": 1, "seed": 4, "num_predict": 12})
    assert reply.json()["response"].lstrip().startswith("{")


def test_answers_can_be_held_to_a_schema(old: Client) -> None:
    """`format` takes a JSON schema, and what comes is valid under it."""
    said = old.text("base:1", raw=False, format={"enum": [17, 23]}, options=GREEDY | {"num_predict": 20})
    assert json.loads(said) in (17, 23)


def test_embeddings_have_unit_length(old: Client) -> None:
    """Each input has a vector of length one."""
    reply = old.http.post("/api/embed", json={"model": "base:1", "input": ["a b", "c"]}).json()
    assert [round(sum(x * x for x in vector), 5) for vector in reply["embeddings"]] == [1.0, 1.0]


# --- faults ----------------------------------------------------------------------------------------------------


def test_a_garbled_checkpoint_goes_wrong_under_every_name_and_no_other_does(new: Client) -> None:
    """The fault follows the checkpoint, so an alias that is flipped back answers well again."""
    well = new.text("base:1")
    new.create("fine:1", **{"from": "base:1", "system": "S"})
    new.http.post("/api/copy", json={"source": "base:1", "destination": "fleet:latest"})
    new.fault(garble="fleet:latest")
    wrong = [new.text("fleet:latest"), new.text("base:1")]
    new.http.post("/api/copy", json={"source": "fine:1", "destination": "fleet:latest"})
    assert wrong[0] == wrong[1] != well
    assert new.text("fleet:latest") == well
    assert new.fault(garble=None) == {}
    assert new.text("base:1") == well


def test_failures_are_real_status_codes(new: Client) -> None:
    """One generation fails with the code asked for, the next is fine."""
    new.fault(fail_next=1, fail_status=500)
    assert [new.generate("base:1").status_code for _ in range(2)] == [500, 200]


def test_the_window_of_a_copy_that_is_not_atomic_can_be_widened(new: Client) -> None:
    """A request inside it is a 500 `EOF`, and after it the alias is whole."""
    new.http.post("/api/copy", json={"source": "base:1", "destination": "window:1"})
    new.fault(alias_eof_ms=400)
    flip = {"source": "base:1", "destination": "window:1"}
    thread = threading.Thread(target=new.http.post, args=("/api/copy",), kwargs={"json": flip})
    thread.start()
    seen = set()
    while thread.is_alive():
        reply = new.http.post("/api/show", json={"model": "window:1"})
        seen.add((reply.status_code, reply.json().get("error")))
    thread.join()
    new.fault(alias_eof_ms=0)
    assert (500, "EOF") in seen
    assert new.text("window:1") == new.text("base:1")


def test_an_answer_that_loses_its_runner_says_so_in_the_stream(new: Client) -> None:
    """The status was sent long ago, so the last line is the error; the next request has a runner again."""
    new.fault(cut_next=1)
    lines = new.http.post("/api/generate", json={"model": "base:1", "prompt": "def f1(x", "options": GREEDY}).text
    first, *_, last = map(json.loads, lines.splitlines())
    assert first["done"] is False
    assert "while running the model" in last["error"] or "unexpectedly stopped" in last["error"]
    assert new.generate("base:1").status_code == 200


def test_an_answer_in_one_piece_that_loses_its_runner_is_a_500(new: Client) -> None:
    """Nothing was sent yet, so the failure has a status of its own."""
    new.fault(cut_next=1)
    assert [new.generate("base:1").status_code for _ in range(2)] == [500, 200]


def test_an_upload_that_meets_a_full_disk_leaves_nothing(new: Client, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It is a 500 with Go's words, the blob is absent, and no half file stays."""
    store = next(tmp_path_factory.getbasetemp().glob("new*"))
    before = sorted(path.name for path in (store / "blobs").iterdir())
    new.fault(blob_room=10)
    digest = "sha256:" + hashlib.sha256(b"x" * 11).hexdigest()
    reply = new.http.post(f"/api/blobs/{digest}", content=b"x" * 11)
    new.fault(blob_room=0)
    assert (reply.status_code, reply.json()["error"].endswith(": no space left on device")) == (500, True)
    assert new.http.head(f"/api/blobs/{digest}").status_code == 404
    assert sorted(path.name for path in (store / "blobs").iterdir()) == before


# --- profile 0.12 ----------------------------------------------------------------------------------------------


def test_the_oldest_profile_takes_an_adapter_that_it_cannot_load(tmp_path: Path) -> None:
    """Create is a 200, the first request a 500, and the base goes on serving; there are no logprobs either."""
    with embedded_ollama(tmp_path, "0.12") as url:
        client = filled(Client(url))
        adapter = client.upload(sample("a1.gguf"))
        assert client.create("lora:1", **{"from": "base:1", "adapters": {"a.gguf": adapter}}).status_code == 200
        refused = client.generate("lora:1")
        answered = client.generate("base:1", logprobs=True)
        client.http.close()
    assert (refused.status_code, refused.json()["error"]) == (
        500,
        "failed to initialize model: loras are not yet implemented",
    )
    assert "logprobs" not in answered.json()
    assert answered.status_code == 200


# --- the end ---------------------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """Return the processes whose parent is `pid`."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_runner_outlives_the_server(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """SIGTERM ends it with exit code 0; even after kill -9 the runner is gone."""
    command = [sys.executable, "-m", "services.embedded_ollama", "--port", "0", "--data", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        client = filled(Client(json.loads(server.stdout.readline())["url"]))
        client.text("base:1")
        (runner,) = children(server.pid)
        os.kill(server.pid, number)
        assert server.wait(timeout=20) == code
        client.http.close()
    deadline = time.monotonic() + 20
    while alive(runner) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(runner)
