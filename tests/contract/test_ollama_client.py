"""The official Python client against the embedded server, or against FLEETSSD_TEST_OLLAMA_URL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest

from tests.contract.servers import embedded_ollama

FILES = Path(__file__).parent.parent / "samples" / "ollama" / "files"
BASE, COPY = "fleetssd-client:base", "fleetssd-client:copy"
GREEDY = {"temperature": 0, "seed": 1, "num_predict": 8}
TURN = [{"role": "user", "content": "hi there"}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ollama.Client]:
    """Yield a client whose server has the base model; on a real server it is removed again."""
    real = os.environ.get("FLEETSSD_TEST_OLLAMA_URL")
    if real:
        yield from _with_base(real)
        return
    with embedded_ollama(tmp_path_factory.mktemp("store"), "0.34.1") as url:
        yield from _with_base(url)


def _with_base(url: str) -> Iterator[ollama.Client]:
    client = ollama.Client(host=url, timeout=120)
    try:
        digest = client.create_blob(FILES / "base.gguf")
        client.create(model=BASE, files={"base.gguf": digest}, parameters={"num_ctx": 512})
        yield client
    finally:
        for name in {model.model for model in client.list().models} & {BASE, COPY}:
            client.delete(str(name))
        client._client.close()


def test_a_chat_streamed_says_what_a_chat_says_at_once(client: ollama.Client) -> None:
    """The pieces of a stream join to the whole answer, and the last one has the counts."""
    whole = client.chat(BASE, TURN, options=GREEDY)
    streamed = list(client.chat(BASE, TURN, options=GREEDY, stream=True))
    assert "".join(part.message.content or "" for part in streamed) == whole.message.content
    assert (streamed[-1].done, streamed[-1].done_reason, streamed[-1].eval_count) == (True, "length", 8)
    assert whole.prompt_eval_count == 27


def test_generate_streamed_says_what_generate_says_at_once(client: ollama.Client) -> None:
    """Raw generation is the same with and without a stream."""
    whole = client.generate(BASE, "def f1(x", raw=True, options=GREEDY)
    streamed = list(client.generate(BASE, "def f1(x", raw=True, options=GREEDY, stream=True))
    assert whole.response
    assert "".join(part.response for part in streamed) == whole.response


def test_log_probabilities_come_with_their_alternatives(client: ollama.Client) -> None:
    """Asked for two alternatives, each token has two, best first."""
    reply = client.generate(BASE, "def f1(x", raw=True, options=GREEDY, logprobs=True, top_logprobs=2)
    if not reply.logprobs:
        pytest.skip("by probe: this server tells no log-probabilities")
    first = reply.logprobs[0]
    assert [len(first.top_logprobs), first.top_logprobs[0].logprob] == [2, first.logprob]


def test_create_streams_its_steps_and_ends_in_success(client: ollama.Client) -> None:
    """A model made from another one tells each layer, then `success`."""
    steps = [step.status for step in client.create(model=COPY, from_=BASE, system="Be brief.", stream=True)]
    assert steps[-2:] == ["writing manifest", "success"]
    assert sum(step.startswith(("using existing layer", "creating new layer")) for step in steps) >= 3


def test_a_copy_has_its_sources_digest(client: ollama.Client) -> None:
    """After a copy the list shows both names with one digest."""
    client.copy(BASE, COPY)
    digests = {model.model: model.digest for model in client.list().models}
    assert digests[COPY] == digests[BASE]


def test_show_has_parameters_details_and_header(client: ollama.Client) -> None:
    """Show answers what the client's own types demand."""
    shown = client.show(BASE)
    assert shown.modelinfo["qwen3.block_count"] == 2
    assert shown.details.family == "qwen3"
    assert "num_ctx                        512" in shown.parameters
    assert shown.modelfile.count("\nFROM ") == 1


def test_ps_lists_what_is_loaded_until_it_is_told_to_go(client: ollama.Client) -> None:
    """A load with keep_alive puts the model into ps, keep_alive 0 takes it out."""
    client.generate(BASE, "", keep_alive=0)  # the same file may be loaded under another name, which ps would keep
    client.generate(BASE, "", keep_alive="10m")
    assert BASE in [model.model for model in client.ps().models]
    reply = client.generate(BASE, "", keep_alive=0)
    assert reply.done_reason == "unload"


def test_delete_removes_the_name_and_nothing_else(client: ollama.Client) -> None:
    """A deleted copy is a 404; its source still answers."""
    client.copy(BASE, COPY)
    client.delete(COPY)
    with pytest.raises(ollama.ResponseError) as error:
        client.show(COPY)
    assert error.value.status_code == 404
    assert client.generate(BASE, "a", raw=True, options=GREEDY).done
