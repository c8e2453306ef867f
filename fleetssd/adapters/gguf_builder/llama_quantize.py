"""Quantises merged matrices to types that the gguf package can only read, with llama.cpp's own program.

The program is given small files: the base's keys and some merged matrices in float32, all to become one type. What it
makes of the keys does not matter; its matrices are taken over as they are.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from fleetssd import gguf_header
from fleetssd.adapters.gguf_builder import pieces
from fleetssd.adapters.gguf_builder.pieces import Piece
from fleetssd.adapters.gguf_builder.quants import Type, tensor_bytes
from fleetssd.adapters.gguf_builder.source import Base, read_base
from fleetssd.errors import FleetError, Misconfigured
from fleetssd.gguf_header import Tensor

TYPES = frozenset(Type[name] for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"))
"""What the program makes without an importance matrix; it takes the types' names for targets."""
_BATCH = 1 << 30
"""Bytes of float32 given to one run: what a night needs on the disk beside its artefact."""
_ENGINES = ("/usr/local/lib/ollama", "/usr/lib/ollama")
"""Where Ollama's packages keep the program beside the engine."""
Merged: TypeAlias = Mapping[str, Sequence[Piece]]
"""The pieces of merged matrices in float32, by name."""


def find(setting: str) -> Path | None:
    """Return the program for a setting: a path, "never", or "auto", which looks on PATH and beside Ollama's engine."""
    if setting == "never":
        return None
    if setting != "auto":
        return Path(setting).expanduser()
    found = shutil.which("llama-quantize") or shutil.which("llama-quantize", path=os.pathsep.join(_ENGINES))
    return Path(found) if found else None


@dataclass(frozen=True, slots=True)
class LlamaQuantize:
    """The program, and a folder for what it reads and writes."""

    program: Path
    folder: Path

    def made(self, base: Base, merged: Merged) -> dict[str, tuple[Piece, ...]]:
        """Return pieces that read each matrix in its own type of the base. Raises Misconfigured where a run fails."""
        done: dict[str, tuple[Piece, ...]] = {}
        for number, (kind, names) in enumerate(_batches(base, merged)):
            given, made = self.folder / f"{number}.f32.gguf", self.folder / f"{number}.gguf"
            pieces.write(given, _file(base, {name: merged[name] for name in names}))
            self._run(given, made, Type(kind).name)
            given.unlink()
            done |= _taken(base, self._read(made), names)
        return done

    def _run(self, given: Path, made: Path, kind: str) -> None:
        command = [str(self.program), "--pure", str(given), str(made), kind, str(pieces.cores())]
        try:
            ran = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
            )
        except OSError as error:
            raise _failed(error.strerror or str(error)) from None
        if ran.returncode:
            said = ran.stdout.decode(errors="replace").strip().splitlines()
            raise _failed(f"exit {ran.returncode}, {said[-1] if said else 'no word'}")

    def _read(self, made: Path) -> Base:
        try:
            return read_base(made)
        except FleetError as error:
            raise _failed(f"its file cannot be read: {error}") from None


def _failed(why: str) -> Misconfigured:
    return Misconfigured(
        f"llama-quantize failed: {why}",
        hint='Set base.llama_quantize to one of the engine\'s age, or to "never" for base.fallback_type.',
    )


def _batches(base: Base, merged: Merged) -> Iterator[tuple[int, list[str]]]:
    """Yield names of one type, as many as fit a batch."""
    for kind in sorted({base.header.tensors[name].type for name in merged}):
        names, size = list[str](), 0
        for name in (name for name in merged if base.header.tensors[name].type == kind):
            more = tensor_bytes(Type.F32, base.header.tensors[name].shape)
            if names and size + more > _BATCH:
                yield kind, names
                names, size = [], 0
            names, size = [*names, name], size + more
        yield kind, names


def _file(base: Base, merged: Merged) -> Iterator[Piece]:
    """Yield a GGUF of the base's keys and these matrices in float32."""
    header, rows, at = base.header, dict[str, tuple[int, tuple[int, ...], int]](), 0
    for name in merged:
        rows[name] = (Type.F32, header.tensors[name].shape, at)
        at += gguf_header.padded(tensor_bytes(Type.F32, header.tensors[name].shape), header.align)
    magic, version, _, keys = struct.unpack("<4sIQQ", base.read(0, 24))
    head = struct.pack("<4sIQQ", magic, version, len(rows), keys) + base.read(24, header.table - 24)
    head += gguf_header.write_table(rows)
    yield partial(bytes, head + bytes(gguf_header.padded(len(head), header.align) - len(head)))
    for name, made in merged.items():
        yield from made
        size = tensor_bytes(Type.F32, header.tensors[name].shape)
        yield partial(bytes, gguf_header.padded(size, header.align) - size)


def _taken(base: Base, made: Base, names: Sequence[str]) -> dict[str, tuple[Piece, ...]]:
    found = {}
    for name in names:
        wanted, tensor = base.header.tensors[name], made.header.tensors.get(name)
        if tensor is None or (tensor.type, tensor.shape) != (wanted.type, wanted.shape):
            raise _failed(f"{name} came back {_told(tensor)}, not as {_told(wanted)}")
        stop = tensor.offset + tensor_bytes(Type(tensor.type), tensor.shape)
        found[name] = tuple(pieces.copied(made.read, tensor.offset, stop))
    return found


def _told(tensor: Tensor | None) -> str:
    return "not at all" if tensor is None else f"{Type(tensor.type).name} {tensor.shape}"
