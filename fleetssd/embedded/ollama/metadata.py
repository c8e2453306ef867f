"""A GGUF file's header: what `show` tells, and the rewrite that `create` once did to every uploaded model."""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_TENSOR_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K",
    11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 30: "BF16",
}  # fmt: skip
_FILE_TYPES = {
    1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 32: "BF16",
}  # fmt: skip
_FTYPE_OF_TENSOR = {0: 0, 1: 1, 2: 2, 3: 3, 6: 8, 7: 9, 8: 7, 10: 10, 11: 12, 12: 15, 13: 17, 14: 18, 30: 32}
_QUANTIZATION_VERSION = 2


class NotGguf(ValueError):
    """The bytes are not a GGUF file, or end before its header does."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor's entry in the header; `offset` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header: every key with its raw bytes and (for scalars, strings and short arrays) its value."""

    raw: dict[str, bytes]
    values: dict[str, Any]
    tensors: tuple[Tensor, ...]
    data_start: int

    @property
    def architecture(self) -> str:
        """The value of general.architecture, or the empty string."""
        return str(self.values.get("general.architecture", ""))

    @property
    def is_adapter(self) -> bool:
        """Whether general.type says that this is a LoRA adapter."""
        return self.values.get("general.type") == "adapter"

    @property
    def parameter_count(self) -> int:
        """The number of weights in all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def file_type(self) -> str:
        """The quantisation as Ollama names it; F32 (type 0) is "unknown" there too."""
        return _FILE_TYPES.get(int(self.values.get("general.file_type", 0)), "unknown")

    @property
    def chat_template(self) -> str:
        """The Jinja chat template, or the empty string."""
        return str(self.values.get("tokenizer.chat_template", ""))

    def limit(self, key: str) -> int:
        """Read `<architecture>.<key>` as an integer, 0 where absent."""
        return int(self.values.get(f"{self.architecture}.{key}", 0) or 0)


class _Cursor:
    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data, self.at = data, 0

    def scalar(self, code: str) -> Any:
        try:
            (value,) = struct.unpack_from("<" + code, self.data, self.at)
        except struct.error as error:
            raise NotGguf("unexpected EOF") from error
        self.at += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        size = self.scalar("Q")
        if self.at + size > len(self.data):
            raise NotGguf("unexpected EOF")
        self.at += size
        return bytes(self.data[self.at - size : self.at]).decode("utf-8", "replace")

    def value(self, kind: int, *, arrays: bool) -> Any:
        if kind == _STRING:
            return self.string()
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind != _ARRAY:
            raise NotGguf(f"invalid type: {kind}")
        item, count = self.scalar("I"), self.scalar("Q")
        if item in _SCALARS and not arrays:
            self.at += struct.calcsize("<" + _SCALARS[item]) * count
            return None
        items = [self.value(item, arrays=arrays) for _ in range(count)]
        return items if arrays else None


def parse_header(data: mmap.mmap | bytes, *, arrays: bool = False) -> Header:
    """Parse a GGUF header; arrays come as None unless asked for.

    Raises NotGguf.
    """
    cursor = _Cursor(data)
    if bytes(data[:4]) != MAGIC:
        raise NotGguf("supplied file was not in GGUF format")
    cursor.at = 4
    _, tensor_count, key_count = cursor.scalar("I"), cursor.scalar("Q"), cursor.scalar("Q")
    raw: dict[str, bytes] = {}
    values: dict[str, Any] = {}
    for _ in range(key_count):
        key, start = cursor.string(), cursor.at
        values[key] = cursor.value(cursor.scalar("I"), arrays=arrays)
        raw[key] = bytes(data[start : cursor.at])
    tensors = tuple(_tensor(cursor) for _ in range(tensor_count))
    return Header(raw, values, tensors, _padded(cursor.at, _alignment(values)))


def _tensor(cursor: _Cursor) -> Tensor:
    name = cursor.string()
    shape = tuple(cursor.scalar("Q") for _ in range(cursor.scalar("I")))
    return Tensor(name, shape, cursor.scalar("I"), cursor.scalar("Q"))


def _alignment(values: dict[str, Any]) -> int:
    return int(values.get("general.alignment", 32))


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def read_header(path: Path, *, arrays: bool = False) -> Header:
    """Read the header of the file at `path`. Raises NotGguf, FileNotFoundError."""
    return _read_header(path, path.stat().st_mtime_ns, arrays)


@lru_cache(maxsize=32)
def _read_header(path: Path, _changed: int, arrays: bool) -> Header:
    with path.open("rb") as file:
        try:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # an empty file cannot be mapped
            raise NotGguf("EOF") from error
        with view:
            return parse_header(view, arrays=arrays)


def copy_rewritten(data: bytes) -> bytes:
    """Rewrite a model as `llama-quantize` does with type COPY, byte for byte.

    Two keys move to the end (quantization version 2, the file type), tensors are put in the loader's order (no
    block first, then by block, then by name), everything else stays. Raises NotGguf where the loader would refuse.
    """
    header = parse_header(data)
    if not header.limit("block_count") or len(data) < header.data_start:
        raise NotGguf("error loading model hyperparameters")
    alignment = _alignment(header.values)
    keys = dict(header.raw)
    for key, value in (
        ("general.quantization_version", _QUANTIZATION_VERSION),
        ("general.file_type", _file_type_number(header)),
    ):
        keys.pop(key, None)
        keys[key] = struct.pack("<II", _UINT32, value)
    sizes = _sizes(header, len(data))
    head = [MAGIC, struct.pack("<IQQ", 3, len(header.tensors), len(keys))]
    head += [_text(key) + value for key, value in keys.items()]
    body: list[bytes] = []
    offset = 0
    for tensor in sorted(header.tensors, key=_loader_order):
        start = header.data_start + tensor.offset
        chunk = data[start : start + sizes[tensor.name]]
        chunk += b"\0" * (_padded(len(chunk), alignment) - len(chunk))
        dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        head.append(_text(tensor.name) + dimensions + struct.pack("<IQ", tensor.kind, offset))
        body.append(chunk)
        offset += len(chunk)
    start_of_data = b"".join(head)
    padding = b"\0" * (_padded(len(start_of_data), alignment) - len(start_of_data))
    return b"".join((start_of_data, padding, *body))


def _file_type_number(header: Header) -> int:
    if "general.file_type" in header.values:
        return int(header.values["general.file_type"])
    kinds = [tensor.kind for tensor in header.tensors]
    return _FTYPE_OF_TENSOR.get(max(set(kinds), key=kinds.count), 0)


def _sizes(header: Header, file_size: int) -> dict[str, int]:
    ordered = sorted(header.tensors, key=lambda tensor: tensor.offset)
    ends = [tensor.offset for tensor in ordered[1:]] + [file_size - header.data_start]
    sizes = {tensor.name: end - tensor.offset for tensor, end in zip(ordered, ends, strict=True)}
    if any(size <= 0 for size in sizes.values()):
        raise NotGguf("tensor data is not within the file bounds, model is corrupted or incomplete")
    return sizes


def _loader_order(tensor: Tensor) -> tuple[int, str]:
    block = re.match(r"blk\.(\d+)\.", tensor.name)
    return (int(block[1]) if block else -1, tensor.name)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def model_info(header: Header, *, verbose: bool) -> dict[str, Any]:
    """List the keys as /api/show does: no name, no chat template, arrays null unless verbose."""
    hidden = {"general.name", "tokenizer.chat_template"}
    info = {key: _plain(value) for key, value in header.values.items() if key not in hidden}
    info["general.parameter_count"] = header.parameter_count
    if not verbose:
        info = {key: None if isinstance(value, list) else value for key, value in info.items()}
    return dict(sorted(info.items()))


def _plain(value: object) -> object:
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    for digits in range(6, 10):  # the shortest decimal that is the same 32-bit float
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", value):
            return int(short) if short.is_integer() else short
    return value


def tensor_list(tensors: Iterable[Tensor]) -> list[dict[str, Any]]:
    """List tensors as /api/show does."""
    return [{"name": t.name, "type": _TENSOR_TYPES.get(t.kind, "unknown"), "shape": list(t.shape)} for t in tensors]


def human_number(count: int) -> str:
    """Write a parameter count as Ollama does: 107K, 751.63M, 8.2B."""
    for unit, size, digits in (("B", 10**9, 1), ("M", 10**6, 2)):
        if count >= size:
            number = count / size
            return f"{number:.0f}{unit}" if number.is_integer() else f"{number:.{digits}f}{unit}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)
