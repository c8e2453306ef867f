"""Request options: Ollama's defaults, its type errors, and what llama-server is asked for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .replies import ApiError

_INTEGERS = frozenset(
    (
        "num_keep",
        "seed",
        "num_predict",
        "top_k",
        "repeat_last_n",
        "num_ctx",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "num_thread",
        "draft_num_predict",
    )
)
_FLOATS = frozenset(
    ("top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty")
)
_LOAD_TIME = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
DEFAULTS: dict[str, Any] = {
    "temperature": 0.8, "top_p": 0.9, "top_k": 40, "min_p": 0.0, "typical_p": 1.0, "seed": -1, "num_predict": -1,
    "repeat_penalty": 1.0, "repeat_last_n": 64, "presence_penalty": 0.0, "frequency_penalty": 0.0, "stop": (),
    "num_keep": 4, "num_batch": 512, "num_gpu": -1, "main_gpu": None, "use_mmap": None, "num_thread": 0,
    "draft_num_predict": 0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one request: defaults, then the model's parameters, then the request's own."""

    values: dict[str, Any]

    @property
    def num_ctx(self) -> int:
        """The context of one slot, in tokens."""
        return int(self.values["num_ctx"])

    @property
    def load_key(self) -> tuple[Any, ...]:
        """What a loaded runner must agree in, or it is loaded again."""
        return tuple(self.values[name] for name in _LOAD_TIME)

    @property
    def num_predict(self) -> int:
        """The token limit after the cap of ten contexts."""
        limit = 10 * self.num_ctx
        asked = int(self.values["num_predict"])
        return limit if asked < 0 or asked > limit else asked


def merge_options(default_num_ctx: int, *layers: Mapping[str, Any] | None) -> Options:
    """Lay option maps over the defaults, later ones on top; unknown keys and nulls are ignored.

    Raises ApiError 500 for a wrong type, in the server's words.
    """
    values = DEFAULTS | {"num_ctx": default_num_ctx}
    for layer in layers:
        for key, value in (layer or {}).items():
            if key in values and value is not None:
                values[key] = _checked(key, value)
    return Options(values)


def _checked(key: str, value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key in _INTEGERS:
        if not number:
            raise ApiError(500, f'option "{key}" must be of type integer')
        return int(value)
    if key in _FLOATS:
        if not number:
            raise ApiError(500, f'option "{key}" must be of type float32')
        return float(value)
    if key == "stop":
        if not isinstance(value, list | tuple):
            raise ApiError(500, 'option "stop" must be of type array')
        if not all(isinstance(item, str) for item in value):
            raise ApiError(500, 'option "stop" must be of an array of strings')
        return tuple(value)
    if not isinstance(value, bool):
        raise ApiError(500, f'option "{key}" must be of type boolean')
    return value


def completion_request(options: Options, prompt: str | list[int], *, probabilities: int = 0) -> dict[str, Any]:
    """Write llama-server's /completion request.

    Every sampling parameter is sent, for llama-server's own defaults differ (top_p 0.95, min_p 0.05).
    `probabilities` is the number of alternatives per token, 0 for none.
    """
    values = options.values
    request: dict[str, Any] = {
        "prompt": prompt,
        "cache_prompt": True,
        "n_keep": values["num_keep"],
        "temperature": values["temperature"],
        "top_k": values["top_k"],
        "top_p": values["top_p"],
        "min_p": values["min_p"],
        "typical_p": values["typical_p"],
        "repeat_penalty": values["repeat_penalty"],
        "repeat_last_n": values["repeat_last_n"],
        "presence_penalty": values["presence_penalty"],
        "frequency_penalty": values["frequency_penalty"],
        "seed": values["seed"],
        "stop": list(values["stop"]),
    }
    if options.num_predict:  # zero is left out there, and so means no limit
        request["n_predict"] = options.num_predict
    if probabilities:
        request["n_probs"] = probabilities
    return request


def add_format(request: dict[str, Any], wanted: object) -> None:
    """Constrain the answer to JSON, or to a JSON schema. Raises ApiError 500 for anything else."""
    if wanted in (None, ""):
        return
    if wanted == "json":
        request["grammar"] = JSON_GRAMMAR
    elif isinstance(wanted, dict):
        request["json_schema"] = wanted
    else:
        raise ApiError(500, f'invalid format: {wanted!r}; expected "json" or a valid JSON Schema object')


JSON_GRAMMAR = r"""
root ::= object
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
