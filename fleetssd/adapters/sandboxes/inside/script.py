"""Python's own scripts and modules, run in the fork as a new interpreter would run them."""

from __future__ import annotations

import fcntl
import importlib.util
import linecache
import marshal
import os
import runpy
import signal
import site
import sys
import sysconfig
import traceback
import types
from contextlib import suppress
from mmap import mmap
from typing import NoReturn

from . import place
from .confinement import RESULT_FD
from .watch import TAIL

INTERPRETER = dict.fromkeys(("python", "python3"), sys.executable)  # a system may have neither name
COMPILED, REPORT, FAULT = b"=", b"?", b"!"  # what a word on the result pipe begins with; the token with none of them
FRAMES = 20  # of a traceback, its last ones
_OURS = f"{os.path.dirname(__file__)}/"  # noqa: PTH120
_SIGNAL = importlib.import_module("_signal")  # without the names that `signal` gives to numbers
_ROOM = 4_096  # of the result pipe, for all but the code


def arguments(command: list[str]) -> list[str] | None:
    """Return what follows `python` where it can run in a fork of this interpreter: a script or `-m module`."""
    if command[0] not in INTERPRETER or len(command) < 2:
        return None
    if command[1] == "-m":
        package = command[2].partition(".")[0] if len(command) > 2 else ""
        return command[1:] if package.isidentifier() and importlib.util.find_spec(package) else None
    return None if command[1].startswith("-") else command[1:]


def run(words: list[str], files: dict[str, str], token: bytes, *, kept: mmap | None, tell: bool) -> NoReturn:
    """Run a script or module in this process; the token says that it reached its end.

    `kept` is the script's code where it was compiled before; with `tell` what is compiled here goes to the watcher,
    before a line of it has run.
    """
    _SIGNAL.signal(signal.SIGINT, signal.default_int_handler)
    if sys.prefix == place.ENVIRONMENT:  # an editable install lies in the tree, which was not there at the start
        for folder in {sysconfig.get_path(name) for name in ("purelib", "platlib")}:
            site.addsitedir(folder)
    said = REPORT
    status = 1
    try:
        _run(words, files, kept=kept, tell=tell)
        said, status = token, 0
    except SystemExit as leave:
        if leave.code in (None, 0) and _left_by_test(leave, words[0]):
            said, status = token, 0
        else:
            said += f"left by sys.exit({leave.code!r})".encode("utf-8", "replace")[:TAIL]
    except BaseException as error:  # noqa: BLE001  whatever the code under test throws, it only fails the job
        with suppress(BaseException):
            said += told(error, files).encode("utf-8", "replace")[-TAIL:]
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
        with suppress(BaseException):
            os.write(RESULT_FD, said)
        os._exit(status)


def told(error: BaseException, files: dict[str, str]) -> str:
    """Tell an error as Python does, less the marks below a line: finding their place costs more than most tests.

    A job's own files are quoted from our copy, without looking for them.
    """
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    between = "direct cause of the following exception" if error.__cause__ else "exception that another one followed"
    first = f"{told(before, files)}\nThe above was the {between}:\n\n" if before is not None else ""
    lines = [_line(*step, files) for step in _steps(error.__traceback__)[-FRAMES:]]
    head = "Traceback (most recent call last):\n" if lines else ""
    return first + head + "".join(lines) + _last(error)


def _run(words: list[str], files: dict[str, str], *, kept: mmap | None, tell: bool) -> None:
    if words[0] == "-m":
        sys.argv = [words[1], *words[2:]]
        sys.path.insert(0, place.WORK)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    path = words[0]
    sys.argv = list(words)
    sys.path.insert(0, f"{place.WORK}/{path}".rpartition("/")[0])
    code = _code(path, files, tell=tell) if kept is None else marshal.loads(kept)  # noqa: S302  ours, of these words
    module = types.ModuleType("__main__")
    module.__dict__.update(__file__=path, __builtins__=__builtins__)
    sys.modules["__main__"] = module
    exec(code, module.__dict__)  # noqa: S102  this is what the sandbox is for


def _code(path: str, files: dict[str, str], *, tell: bool) -> types.CodeType:
    """Compile a script from our copy: what the code under test does to the file on disk changes nothing."""
    if path not in files:
        with open(path, "rb") as file:  # noqa: PTH123
            return compile(file.read(), path, "exec", dont_inherit=True)
    source = files[path].encode("utf-8", "surrogateescape")  # a file's bytes may begin with what names their encoding
    code = compile(source, path, "exec", dont_inherit=True)
    if tell:
        data = marshal.dumps(code)
        if len(data) + _ROOM > fcntl.fcntl(RESULT_FD, fcntl.F_GETPIPE_SZ):
            data = b""  # nobody reads the pipe yet
        os.write(RESULT_FD, COMPILED + len(data).to_bytes(4, "big") + data)
    return code


def _steps(step: types.TracebackType | None) -> list[tuple[str, int, str]]:
    """Return file, line and function of each frame that is not this program's."""
    found = []
    while step is not None:
        code = step.tb_frame.f_code
        if not code.co_filename.startswith(_OURS):
            found.append((code.co_filename, step.tb_lineno, code.co_name))
        step = step.tb_next
    return found


def _line(file: str, number: int, name: str, files: dict[str, str]) -> str:
    own = os.path.normpath(file).removeprefix(f"{place.WORK}/")
    if own in files:
        lines = files[own].splitlines()
        text = lines[number - 1] if 0 < number <= len(lines) else ""
    else:
        text = "" if file.startswith("<") else linecache.getline(file, number)
    return f'  File "{file}", line {number}, in {name}\n' + (f"    {text.strip()}\n" if text.strip() else "")


def _last(error: BaseException) -> str:
    kind = type(error)
    if isinstance(error, SyntaxError | BaseExceptionGroup) or hasattr(error, "__notes__"):
        return "".join(traceback.format_exception_only(error))
    room = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    text = str(error)
    return f"{room}{kind.__qualname__}" + (f": {text}\n" if text else "\n")


def _left_by_test(leave: SystemExit, script: str) -> bool:
    """Return whether `sys.exit` was called by the script or a library, and not from within the code under test.

    What a job can write lies in WRITABLE; code that stands anywhere else was there before it.
    """
    names = {frame.f_code.co_filename for frame, _ in traceback.walk_tb(leave.__traceback__)}
    return all(_was_there(name) for name in names - {script})


def _was_there(name: str) -> bool:
    written = any(name.startswith(f"{root}/") for root in place.WRITABLE)
    return name.startswith("<frozen ") or (name.startswith("/") and not written)
