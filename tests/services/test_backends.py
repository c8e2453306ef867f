"""What all backends share: rows as tokens, the order of rows, and what a run leaves on disk."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetssd import safetensors
from fleetssd.adapters.backends import durable, probing
from fleetssd.adapters.backends.job import Job
from fleetssd.adapters.backends.on_mlx import ordered
from fleetssd.adapters.backends.preflight import free_memory
from fleetssd.adapters.backends.rows import MASKED, context, encode
from fleetssd.errors import Corrupt, Misconfigured
from fleetssd.placement import NEEDS, Found
from fleetssd.recipe import Lora
from fleetssd.training import Row, TrainPlan, accumulation, steps

LORA = Lora(4, 8.0, ("q_proj",), 1e-3, 4, 2, 3, 0, 0)


class Letters:
    """A tokenizer of one token a letter; 1 opens a prompt, 2 an answer, 0 ends it."""

    eos_token_id = 0

    def __init__(self, thinks: bool = False) -> None:
        self.thinks = thinks

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> dict[str, list[int]]:
        """Render as templates do; one that thinks puts an empty thought before what it is shown as an answer."""
        ids = [1, *map(ord, messages[0]["content"]), 2]
        if len(messages) > 1:
            ids = [*ids[:-1], 9, 2] if self.thinks else ids
            ids += [*map(ord, messages[1]["content"]), 0]
        return {"input_ids": ids}


def job(rows: int, lora: Lora) -> Job:
    """Return a run of rows that differ in length."""
    plan = TrainPlan(1, "b", "r", rows, lora, seed=1, threads=1)
    data = tuple({"input_ids": [row] * (1 + row % 7), "labels": [row] * (1 + row % 7)} for row in range(rows))
    return Job(plan, Path(), data, None, steps(rows, lora), 8, Path(), None, None)


def test_loss_is_on_the_answer_and_its_end() -> None:
    """The prompt's labels are masked, the answer's and its end-of-turn token are not."""
    encoded = encode(Letters(), [Row("ab", "c")], 10, 100)
    assert encoded.rows == ({"input_ids": [1, 97, 98, 2, 99, 0], "labels": [MASKED] * 4 + [99, 0]},)
    assert (encoded.tokens, encoded.longest, encoded.too_long) == (6, 6, 0)


def test_a_template_that_shifts_the_prompt_is_corrupt() -> None:
    """Where the answer's rendering changes the prompt's, labels would lie beside their tokens."""
    with pytest.raises(Corrupt, match="prefix"):
        encode(Letters(thinks=True), [Row("ab", "c")], 10, 100)


def test_rows_set_the_length_where_settings_do_not() -> None:
    """With 0 the length keeps 99 of 100 rows, never more than the base's context; with a number it is that number."""
    rows = [Row("a", "b" * length) for length in range(1, 200)] + [Row("a", "b" * 5000)]
    assert encode(Letters(), rows, 0, 9000).limit == 4 + 198
    assert encode(Letters(), rows, 0, 9000).too_long == 1 + 1
    assert encode(Letters(), rows, 0, 50).limit == 50
    assert encode(Letters(), rows, 20, 9000).longest == 20


@settings(max_examples=50)
@given(rows=st.integers(1, 40), micro=st.integers(1, 4), times=st.integers(1, 3), epochs=st.integers(1, 3))
def test_a_reader_from_front_to_back_sees_every_row_once_an_epoch(
    rows: int, micro: int, times: int, epochs: int
) -> None:
    """MLX's rows fill exactly all steps; an epoch is a permutation, repeated only to fill its last step."""
    run = job(rows, dataclasses.replace(LORA, batch=micro * times, micro_batch=micro, epochs=epochs))
    seen = [row["input_ids"][0] for row in ordered(run)]
    assert len(seen) == run.steps * accumulation(run.plan.lora) * micro
    size = len(seen) // epochs
    for start in range(0, len(seen), size):
        assert sorted(seen[start : start + rows]) == list(range(rows))
    assert size - rows < micro * times


def test_narrow_weights_are_widened_without_loss(tmp_path: Path) -> None:
    """BF16 and F16 become F32 with the same values and shapes; a file of F32 keeps its bytes."""
    values = np.array([[1.0, -2.5, 0.15625], [3e-3, 0.0, -1e3]], dtype="<f4")
    halves = (values.view("<u4") >> 16).astype("<u2")
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(_file({"a": ("BF16", halves), "b": ("F16", values.astype("<f2"))}))
    durable.widen(path)
    data = path.read_bytes()
    spans = safetensors.parse(data, len(data))
    wide = {name: np.frombuffer(data, "<f4", span.values, span.offset) for name, span in spans.items()}
    assert {span.dtype for span in spans.values()} == {"F32"}
    assert (wide["a"] == (halves.astype("<u4") << 16).view("<f4").ravel()).all()
    assert (wide["b"] == values.astype("<f2").astype("<f4").ravel()).all()
    durable.widen(path)
    assert path.read_bytes() == data


def _file(tensors: dict[str, tuple[str, Any]]) -> bytes:
    header, body = {}, b""
    for name, (dtype, array) in tensors.items():
        header[name] = {
            "dtype": dtype, "shape": list(array.shape), "data_offsets": [len(body), len(body) + array.nbytes]
        }  # fmt: skip
        body += array.tobytes()
    table = json.dumps(header).encode()
    return len(table).to_bytes(8, "little") + table + body


def test_only_a_whole_checkpoint_is_resumed(tmp_path: Path) -> None:
    """The newest whole one is taken by its number; torn ones are removed."""
    for name, whole in (("checkpoint-50", True), ("checkpoint-100", True), ("checkpoint-150", False)):
        (tmp_path / name).mkdir()
        if whole:
            durable.mark_whole(tmp_path / name)
    assert durable.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-50"]
    assert durable.newest_checkpoint(tmp_path / "none") is None


def test_a_save_that_fails_leaves_no_adapter(tmp_path: Path) -> None:
    """What is half saved is never found under the adapter's name, and an older adapter does not stay there either."""
    (tmp_path / "adapter").mkdir()

    def torn(folder: Path) -> None:
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        durable.publish(torn, tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_this_machine_tells_its_free_memory() -> None:
    """On Linux a number, less than a petabyte; of Apple's unified memory nobody tells."""
    free = free_memory("cpu")
    assert free is not None
    assert 0 < free < 2**50
    assert free_memory("metal") is None


def test_every_training_package_is_pinned_once() -> None:
    """The extras name exact versions, the daemon's own list none of them, and the tests train with the same ones."""
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = [line.partition(";")[0].strip() for name in ("train", "unsloth", "mlx") for line in extras[name]]
    pins = dict(line.split("==") for line in named if line != "fleetssd[train]")
    assert {name for names in NEEDS.values() for name in names} <= {name.replace("-", "_") for name in pins}
    assert not set(pins) & {re.split(r"[<>=~\[;]", line)[0] for line in project["dependencies"]}
    tested = dict(
        line.partition(";")[0].strip().split("==")
        for line in (root / "tests" / "e2e" / "backends.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    both = tested.keys() & pins.keys()
    assert "unsloth" in both
    assert {name: tested[name] for name in both} == {name: pins[name] for name in both}


@pytest.mark.parametrize("text", ["", "{", "{}", '{"max_position_embeddings": null}'])
def test_a_base_without_a_context_is_misconfigured(text: str, tmp_path: Path) -> None:
    """A folder that is no model is said to be none, with the setting that names it."""
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(Misconfigured) as caught:
        context(tmp_path)
    assert "base.weights" in caught.value.hint


def test_a_multimodal_base_has_its_texts_context(tmp_path: Path) -> None:
    """Gemma 3 keeps the length in a table of its own."""
    (tmp_path / "config.json").write_text('{"text_config": {"max_position_embeddings": 8192}}')
    assert context(tmp_path) == 8192


def test_a_probe_names_what_is_installed() -> None:
    """The probe's answer is a `Found`, and torch is in it, since the tests train."""
    found = Found.from_json(probing.probe())
    assert found.packages["torch"]
    assert found.accelerator in ("", "cuda", "xpu", "metal")
