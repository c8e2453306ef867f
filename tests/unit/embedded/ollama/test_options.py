"""Options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.embedded.ollama.options import completion_request, merge_options
from fleetssd.embedded.ollama.replies import ApiError

SAMPLING = {"top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", "temperature", "seed"}


def test_every_sampling_parameter_is_sent_with_ollamas_default() -> None:
    """llama-server's own defaults differ, so nothing is left to it."""
    sent = completion_request(merge_options(2048), "x")
    assert sent.keys() >= SAMPLING
    assert (sent["top_p"], sent["min_p"], sent["top_k"], sent["repeat_penalty"]) == (0.9, 0.0, 40, 1.0)


def test_the_request_overrides_the_models_parameters() -> None:
    """Later layers win, nulls and unknown keys do not count."""
    options = merge_options(2048, {"temperature": 0.1, "num_ctx": 512}, {"temperature": 1, "num_ctx": None, "who": 1})
    assert (options.values["temperature"], options.num_ctx) == (1.0, 512)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_ctx", "big", 'option "num_ctx" must be of type integer'),
        ("top_p", "x", 'option "top_p" must be of type float32'),
        ("use_mmap", 1, 'option "use_mmap" must be of type boolean'),
        ("stop", "a", 'option "stop" must be of type array'),
        ("seed", True, 'option "seed" must be of type integer'),
    ],
)
def test_a_wrong_type_is_a_server_error_in_its_words(key: str, value: object, message: str) -> None:
    """The real server answers 500 and names the type."""
    with pytest.raises(ApiError) as error:
        merge_options(2048, {key: value})
    assert (error.value.status, error.value.message) == (500, message)


@given(st.integers(-3, 10**7), st.integers(1, 10**5))
def test_the_token_limit_is_at_most_ten_contexts(asked: int, context: int) -> None:
    """No limit, and one beyond ten contexts, become ten contexts; any other is kept."""
    limit = merge_options(context, {"num_predict": asked}).num_predict
    assert limit == (asked if 0 <= asked <= 10 * context else 10 * context)


def test_only_load_time_settings_ask_for_a_reload() -> None:
    """Sampling may change from request to request, the context may not."""
    base = merge_options(2048)
    assert merge_options(2048, {"temperature": 0, "seed": 3}).load_key == base.load_key
    assert merge_options(1024).load_key != base.load_key
