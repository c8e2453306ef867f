"""What model-written code may try, one attack a test; the hidden test grades it or the next run looks for traces."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetssd.adapters.sandboxes import BubblewrapSandbox
from fleetssd.errors import Misconfigured
from fleetssd.ports import Grade, Job, Limits

pytestmark = pytest.mark.e2e

MEGABYTE = 1 << 20
LIMITS = Limits(
    wall_seconds=20.0,
    cpu_seconds=2,
    memory_bytes=256 * MEGABYTE,
    processes=8,
    file_bytes=4 * MEGABYTE,
    disk_bytes=8 * MEGABYTE,
    output_bytes=100_000,
)
LOAD = """
import importlib.util
spec = importlib.util.spec_from_file_location("f", "src/f.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""
RIGHT, WRONG = "def f(x):\n    return x + 1\n", "def f(x):\n    return x\n"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[BubblewrapSandbox]:
    """One sandbox with one worker, so that every run follows another in the same place."""
    with BubblewrapSandbox(LIMITS, workers=1) as made:
        yield made


@pytest.fixture(autouse=True)
def _served_next(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every attack on the shared sandbox, the next two jobs are graded as if nothing had happened."""
    yield
    if "sandbox" in request.fixturenames:
        survivor = request.getfixturevalue("sandbox")
        assert grade(survivor, RIGHT) == Grade("j", passed=True, fault=False, detail="")
        wrong = grade(survivor, WRONG)
        assert (wrong.passed, wrong.fault) == (False, False)


def no_progress(done: int, total: int, what: str) -> None:
    """Show nothing."""


def grade(sandbox: BubblewrapSandbox, solution: str, test: str = "assert module.f(1) == 2\n") -> Grade:
    """Run a hidden test that loads the solution and then does what `test` says."""
    files = (("src/f.py", solution), ("tests/test_f.py", LOAD + test))
    return sandbox.run([Job("j", files, ("python", "tests/test_f.py"))], no_progress)[0]


def attack(sandbox: BubblewrapSandbox, script: str) -> Grade:
    """Run a script that passes where everything it asserts of its surroundings is so."""
    return sandbox.run([Job("a", (("a.py", script),), ("python", "a.py"))], no_progress)[0]


def holds(sandbox: BubblewrapSandbox, script: str) -> bool:
    """Return whether the script passes; what it said otherwise is shown."""
    found = attack(sandbox, script)
    print(found.detail)  # noqa: T201  pytest shows it where the test fails
    return found.passed


# --- grading


def test_a_right_solution_passes(sandbox: BubblewrapSandbox) -> None:
    """The solution is loaded by its relative path and the assertion holds."""
    assert grade(sandbox, RIGHT) == Grade("j", passed=True, fault=False, detail="")


def test_a_wrong_solution_fails_and_says_where(sandbox: BubblewrapSandbox) -> None:
    """A failed assertion is a failure, not a fault, with the script's own traceback."""
    found = grade(sandbox, WRONG)
    assert (found.passed, found.fault) == (False, False)
    assert 'File "tests/test_f.py"' in found.detail
    assert "inside" not in found.detail


def test_grades_come_in_the_order_of_the_jobs() -> None:
    """Two workers share 300 jobs; every grade is right and in its place, and progress reaches the end."""
    seen: list[tuple[int, int]] = []
    with BubblewrapSandbox(LIMITS, workers=2) as both:
        jobs = [Job(str(index), (("t.py", f"assert {index} % 3"),), ("python", "t.py")) for index in range(300)]
        found = both.run(jobs, lambda done, total, _: seen.append((done, total)))
    assert [each.id for each in found] == [str(index) for index in range(300)]
    assert [each.passed for each in found] == [index % 3 != 0 for index in range(300)]
    assert seen[-1] == (300, 300)


CASE = """
import unittest

class T(unittest.TestCase):
    def test(self):
        self.assertEqual(module.f(1), 2)
"""


def test_a_script_may_leave_by_sys_exit_0(sandbox: BubblewrapSandbox) -> None:
    """`unittest.main()` ends every run with SystemExit: 0 passes, 1 fails."""
    assert grade(sandbox, RIGHT, CASE + "unittest.main()\n").passed
    assert not grade(sandbox, WRONG, CASE + "unittest.main()\n").passed


def test_a_module_can_be_the_check(sandbox: BubblewrapSandbox) -> None:
    """`python -m unittest` runs in the fork too, and leaving early is no pass there either."""
    jobs = [
        Job(
            solution,
            (("src/f.py", solution), ("test_f.py", LOAD + CASE)),
            ("python", "-m", "unittest", "test_f"),
        )
        for solution in (RIGHT, WRONG, "import os; os._exit(0)")
    ]
    assert [each.passed for each in sandbox.run(jobs, no_progress)] == [True, False, False]


def test_another_command_is_graded_by_its_exit_status(sandbox: BubblewrapSandbox) -> None:
    """What is no Python script is executed; its output is the detail of a failure."""
    jobs = [
        Job("1", (("a.txt", "x"),), ("grep", "-q", "x", "a.txt")),
        Job("2", (), ("sh", "-c", "echo no such luck; exit 3")),
        Job("3", (("t.py", "assert True"),), ("python", "-c", "import t")),
    ]
    found = sandbox.run(jobs, no_progress)
    assert [each.passed for each in found] == [True, False, True]
    assert "no such luck" in found[1].detail


def test_a_command_that_is_not_there_is_a_fault(sandbox: BubblewrapSandbox) -> None:
    """A missing runner says nothing about the solution."""
    found = sandbox.run([Job("1", (), ("no-such-runner",))], no_progress)[0]
    assert found.fault
    assert "no such command" in found.detail


def test_files_that_cannot_be_written_are_a_fault(sandbox: BubblewrapSandbox) -> None:
    """A run that could not be prepared proves nothing."""
    found = sandbox.run([Job("1", (("a", "x"), ("a/b", "y")), ("python", "a"))], no_progress)[0]
    assert found.fault
    assert "could not be prepared" in found.detail


# --- leaving early, rewriting the grader


@pytest.mark.parametrize(
    "leave",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "raise SystemExit",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os; os.execv('/bin/true', ['true'])",
    ],
)
def test_leaving_before_the_assertions_fails(sandbox: BubblewrapSandbox, leave: str) -> None:
    """Exit status 0 is not enough: the script's last line must have been reached."""
    assert not grade(sandbox, leave).passed
    assert not grade(sandbox, f"def f(x):\n    {leave}\n").passed


def test_rewriting_the_tests_changes_nothing(sandbox: BubblewrapSandbox) -> None:
    """The grader's copy is not the one on disk."""
    rewrite = "from pathlib import Path\nPath('tests/test_f.py').write_text('pass')\n"
    assert not grade(sandbox, rewrite + WRONG).passed


def test_closing_the_descriptors_is_no_pass(sandbox: BubblewrapSandbox) -> None:
    """Silence on the result channel fails."""
    assert not grade(sandbox, "import os\nos.closerange(0, 64)\n" + RIGHT).passed


def test_writing_to_the_result_channel_is_no_pass(sandbox: BubblewrapSandbox) -> None:
    """Words on the result channel without the token fail, and call no failure a fault of the sandbox."""
    for word in (b"passed", b'{"passed": true}', b"!void"):
        found = grade(
            sandbox,
            f"import os\nfor d in range(1, 64):\n    try: os.write(d, {word!r})\n    except OSError: pass\nos._exit(0)",
        )
        assert (found.passed, found.fault) == (False, False)


def test_forged_code_is_never_kept(sandbox: BubblewrapSandbox) -> None:
    """What a run says is the compiled test is not taken for it: the next answer meets the test itself."""
    forge = """
import marshal, os
code = marshal.dumps(compile("pass", "tests/test_f.py", "exec"))
for d in range(1, 64):
    try: os.write(d, b"=" + len(code).to_bytes(4, "big") + code)
    except OSError: pass
os._exit(0)
"""
    test = "assert module.f(1) == 2, 'a test of its own'\n"
    assert not grade(sandbox, forge, test).passed
    assert not grade(sandbox, forge, test).passed
    found = [grade(sandbox, answer, test) for answer in (WRONG, RIGHT, WRONG)]
    assert [each.passed for each in found] == [False, True, False]
    assert found[0] == found[2]
    assert "a test of its own" in found[2].detail


def test_the_graders_program_is_not_importable(sandbox: BubblewrapSandbox) -> None:
    """A module of the same name in a job is the job's own."""
    look = "import sys\nassert '/' not in sys.path\nimport inside\nassert inside.mine\n"
    jobs = [Job("j", (("inside.py", "mine = True\n"), ("a.py", look)), ("python", "a.py"))]
    assert sandbox.run(jobs, no_progress)[0].passed


def test_runs_draw_their_own_chances(sandbox: BubblewrapSandbox) -> None:
    """No two runs begin with the same random numbers, as no two interpreters would."""
    draws = {attack(sandbox, "import random\nraise ValueError(random.random())\n").detail for _ in range(3)}
    assert len(draws) == 3


# --- resources


def test_network_is_out_of_reach(sandbox: BubblewrapSandbox) -> None:
    """Neither the world nor a server on the host's loopback answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        assert holds(
            sandbox,
            f"""
import socket
for address in (("127.0.0.1", {port}), ("1.1.1.1", 80)):
    try:
        socket.create_connection(address, 1)
    except OSError:
        continue
    raise AssertionError(address)
""",
        )
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_fork_bomb_stays_small(sandbox: BubblewrapSandbox) -> None:
    """No more processes than the limit exist, and the next run is served."""
    bomb = """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
except BlockingIOError:
    pass
assert 0 < made < 8, made
"""
    assert holds(sandbox, bomb)
    with BubblewrapSandbox(Limits(wall_seconds=0.5, processes=8), workers=1) as quick:
        endless = attack(quick, "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n")
        assert (endless.passed, endless.fault) == (False, False)
        assert grade(quick, RIGHT).passed


def test_memory_is_limited(sandbox: BubblewrapSandbox) -> None:
    """An allocation beyond the limit fails inside."""
    assert holds(sandbox, "try:\n    bytearray(300 << 20)\nexcept MemoryError:\n    pass\nelse:\n    assert 0\n")


def test_memory_is_limited_in_sum(sandbox: BubblewrapSandbox) -> None:
    """Processes that each stay below the limit and together do not end the run."""
    many = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        held = bytearray(os.urandom(1)) * (100 << 20)
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""
    found = attack(sandbox, many)
    assert (found.passed, found.fault) == (False, False)
    assert "of memory in all processes" in found.detail


def test_shared_memory_counts_too(sandbox: BubblewrapSandbox) -> None:
    """Memory without a name that processes could share is theirs like any other."""
    many = """
import mmap, os, time
for _ in range(6):
    if os.fork() == 0:
        held = mmap.mmap(-1, 100 << 20)
        for page in range(0, len(held), 4096):
            held[page] = 1
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""
    assert "of memory in all processes" in attack(sandbox, many).detail


@pytest.mark.parametrize(
    "take",
    ["libc.shmget(4242, 4096, 0o1666)", "libc.msgget(4242, 0o1666)", "libc.semget(4242, 1, 0o1666)"],
    ids=["shared-memory", "queue", "semaphore"],
)
def test_memory_that_no_process_owns_is_refused(sandbox: BubblewrapSandbox, take: str) -> None:
    """System V memory outlives its maker and counts for nobody, so there is none."""
    assert holds(
        sandbox,
        f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
assert {take} == -1 and ctypes.get_errno() == errno.EPERM, ctypes.get_errno()
""",
    )


def test_files_in_memory_are_refused(sandbox: BubblewrapSandbox) -> None:
    """A memfd is not in the tmpfs and not in the address space, so libraries are told that there is none."""
    assert holds(
        sandbox,
        """
import errno, os
try:
    os.memfd_create("x")
except OSError as error:
    assert error.errno == errno.ENOSYS
else:
    assert 0
""",
    )


def test_the_disk_cannot_be_filled(sandbox: BubblewrapSandbox) -> None:
    """Files end at the size of the tmpfs, and the next run finds it empty."""
    fill = """
import errno, os
written = 0
try:
    for n in range(100):
        with open(f"/tmp/{n}", "wb", buffering=0) as file:
            written += file.write(bytes(1 << 20))
except OSError as error:
    assert error.errno == errno.ENOSPC, error
assert written <= 8 << 20, written
"""
    assert holds(sandbox, fill)
    assert holds(sandbox, "import os\nassert os.listdir('/tmp') == ['work'] and os.listdir('/dev/shm') == []\n")


def test_empty_files_fill_the_disk_too(sandbox: BubblewrapSandbox) -> None:
    """A file without content is kernel memory: each counts a KiB of the disk."""
    found = attack(sandbox, "n = 0\nwhile True:\n    open(str(n), 'w').close()\n    n += 1\n")
    assert (found.passed, found.fault) == (False, False)
    assert found.detail.startswith("made more than 8192 files")


def test_a_single_file_is_limited(sandbox: BubblewrapSandbox) -> None:
    """One file ends at its own limit."""
    assert holds(
        sandbox,
        """
import errno
try:
    open("big", "wb").write(bytes(5 << 20))
except OSError as error:
    assert error.errno == errno.EFBIG, error
else:
    assert 0
""",
    )


def test_nothing_else_can_be_written(sandbox: BubblewrapSandbox) -> None:
    """The system, the root and /dev are read-only."""
    assert holds(
        sandbox,
        """
import os, sys
for place in ("/", "/usr", "/etc", "/dev", "/proc", os.path.dirname(os.__file__), "/inside", "/inside/loop.py"):
    try:
        open(place if place.endswith(".py") else place + "/planted", "a")
    except OSError:
        continue
    raise AssertionError(place)
""",
    )


def test_an_output_flood_is_cut(sandbox: BubblewrapSandbox) -> None:
    """More output than the cap ends the run as failed."""
    found = attack(sandbox, "while True:\n    print('x' * 10_000)\n")
    assert (found.passed, found.fault) == (False, False)
    assert "bytes of output" in found.detail
    assert len(found.detail) < 5_000


def test_descriptors_are_limited(sandbox: BubblewrapSandbox) -> None:
    """A run can hold only so many open files."""
    assert holds(
        sandbox,
        "try:\n    held = [open('/dev/null') for _ in range(200)]\nexcept OSError:\n    pass\nelse:\n    assert 0\n",
    )


def test_processor_time_is_limited(sandbox: BubblewrapSandbox) -> None:
    """A busy loop is ended by the kernel."""
    assert "processor time" in attack(sandbox, "while True: pass\n").detail


def test_the_wall_clock_takes_no_excuse() -> None:
    """A run that ignores every signal it can is killed when its time is over."""
    stubborn = """
import signal, time
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True:
    time.sleep(1)
"""
    with BubblewrapSandbox(Limits(wall_seconds=0.5), workers=1) as quick:
        found = attack(quick, stubborn)
        assert (found.passed, found.fault) == (False, False)
        assert "took longer than 0.5 s" in found.detail
        assert attack(quick, "pass\n").passed


def test_a_stopped_run_ends_too() -> None:
    """SIGSTOP to itself does not outlive the wall clock."""
    with BubblewrapSandbox(Limits(wall_seconds=0.5), workers=1) as quick:
        assert "took longer" in attack(quick, "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n").detail


# --- secrets and neighbours


def test_the_environment_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the daemon's environment is visible."""
    monkeypatch.setenv("FLEETSSD_TOKEN", "sesame")
    with BubblewrapSandbox(LIMITS, workers=1) as fresh:
        assert holds(fresh, "import os\nassert 'sesame' not in str(os.environ) and len(os.environ) < 8, os.environ\n")


def test_the_grader_cannot_be_looked_into(sandbox: BubblewrapSandbox) -> None:
    """Environment, memory and descriptors of process 1 are closed, and no process of the host is listed."""
    assert holds(
        sandbox,
        """
import os
for name in ("environ", "mem", "fd/0", "fd/1", "root", "cwd"):
    try:
        open(f"/proc/1/{name}", "r+b" if name == "mem" else "rb").read(1)
    except PermissionError:
        continue
    raise AssertionError(name)
others = {int(name) for name in os.listdir("/proc") if name.isdigit()} - {1, os.getpid()}
assert not others, others
""",
    )


def test_the_grader_cannot_be_traced(sandbox: BubblewrapSandbox) -> None:
    """ptrace(PTRACE_ATTACH) on process 1 is refused."""
    assert holds(
        sandbox,
        """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
assert libc.ptrace(16, 1, 0, 0) == -1
assert ctypes.get_errno() == errno.EPERM
""",
    )


def test_the_grader_cannot_be_signalled(sandbox: BubblewrapSandbox) -> None:
    """No signal to process 1, nor to everyone, has any effect; the run fails or passes by its test alone."""
    kill = """
import os, signal
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV):
    for target in (1, -1):
        try:
            os.kill(target, number)
        except OSError:
            pass
"""
    assert grade(sandbox, kill + RIGHT).passed
    assert not grade(sandbox, kill + WRONG).passed


def test_only_its_own_descriptors_are_open(sandbox: BubblewrapSandbox) -> None:
    """Stdin is empty, and beyond output and the result channel no descriptor is inherited."""
    assert holds(
        sandbox,
        """
import os, sys
assert sys.stdin.read() == ""
held = []
for number in range(64):
    try:
        os.fstat(number)
        held.append(number)
    except OSError:
        pass
assert held == [0, 1, 2, 3], held
""",
    )


def test_home_and_data_folders_are_not_there(sandbox: BubblewrapSandbox, tmp_path: Path) -> None:
    """Neither a file of the host's temporary folder, nor the project, nor a home can be read."""
    secret = tmp_path / "token"
    secret.write_text("sesame", encoding="utf-8")
    project = Path(__file__).resolve().parents[2]
    assert holds(
        sandbox,
        f"""
import os
for path in ({str(secret)!r}, {str(project)!r}, {str(Path.home() / ".bashrc")!r}, "/etc/passwd", "/var", "/run"):
    assert not os.path.exists(path), path
assert os.path.expanduser("~") == "/tmp/work" == os.getcwd()
""",
    )


def test_a_symlink_leads_nowhere(sandbox: BubblewrapSandbox, tmp_path: Path) -> None:
    """Links out of the work folder reach nothing inside, and the wiping afterwards follows none."""
    kept = tmp_path / "kept"
    kept.write_text("here", encoding="utf-8")
    links = f"""
import os
os.symlink({str(tmp_path)!r}, "out")
os.symlink("/usr", "usr")
os.symlink("/proc/1/root", "root")
os.symlink("..", "/dev/shm/up")
assert not os.path.exists("out/kept")
assert not os.access("root/usr", os.R_OK)
"""
    assert holds(sandbox, links)
    assert grade(sandbox, RIGHT).passed
    assert kept.read_text(encoding="utf-8") == "here"


def test_no_privilege_can_be_gained(sandbox: BubblewrapSandbox) -> None:
    """No capability is held, and set-uid programs give none."""
    assert holds(
        sandbox,
        """
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0, status["CapEff"]
assert status["NoNewPrivs"].strip() == "1"
import os
for change in (lambda: os.setuid(0), lambda: os.setgroups([0]), lambda: os.chroot("/usr")):
    try:
        change()
    except OSError:
        continue
    raise AssertionError("gained")
""",
    )


def test_the_kernel_refuses_what_grading_never_needs(sandbox: BubblewrapSandbox) -> None:
    """The filter is loaded: mounts, namespaces, tracing and a hypervisor's sockets are refused."""
    assert holds(
        sandbox,
        """
import ctypes, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
assert "Seccomp:\t2" in open("/proc/self/status").read()
for name, arguments in {
    "mount": (b"tmpfs", b"/tmp", b"tmpfs", 0, None),
    "unshare": (0x10000000,),
    "setns": (0, 0),
    "ptrace": (0, 0, 0, 0),
    "personality": (0x0040000,),
    "chroot": (b"/tmp",),
    "fanotify_init": (0, 0),
}.items():
    assert libc[name](*arguments) == -1 and ctypes.get_errno() == errno.EPERM, name
try:
    socket.socket(getattr(socket, "AF_VSOCK", 40), socket.SOCK_STREAM)
except OSError as error:
    assert error.errno == errno.EAFNOSUPPORT
else:
    assert 0
""",
    )


def test_threads_and_children_still_start(sandbox: BubblewrapSandbox) -> None:
    """What tests do need passes the filter: threads, pools of processes, pipes, event loops, sockets of their own."""
    assert holds(
        sandbox,
        """
import asyncio, socket, subprocess, tempfile, threading
from concurrent.futures import ProcessPoolExecutor
threading.Thread(target=print).start()
with ProcessPoolExecutor(1) as pool:
    assert pool.submit(abs, -1).result() == 1
assert subprocess.run(["cat"], input=b"x", capture_output=True).stdout == b"x"
asyncio.run(asyncio.sleep(0))
a, b = socket.socketpair()
a.send(b"y")
assert b.recv(1) == b"y"
tempfile.TemporaryFile().write(b"z")
""",
    )


def test_a_run_finds_its_own_loopback_by_name(sandbox: BubblewrapSandbox) -> None:
    """A test may serve on localhost; no other name is known."""
    assert holds(
        sandbox,
        """
import socket
with socket.create_server(("localhost", 0)) as server:
    socket.create_connection(("localhost", server.getsockname()[1])).close()
try:
    socket.gethostbyname("example.org")
except socket.gaierror:
    pass
else:
    assert 0
""",
    )


def test_every_namespace_is_its_own(sandbox: BubblewrapSandbox) -> None:
    """User, mount, process, ipc, uts and network namespaces are none of the host's."""
    kinds = ("user", "mnt", "pid", "ipc", "uts", "net")
    ours = {kind: str(Path("/proc/self/ns", kind).readlink()) for kind in kinds}
    assert holds(
        sandbox,
        f"import os\nfor kind, host in {ours!r}.items():\n"
        "    assert os.readlink(f'/proc/self/ns/{kind}') != host, kind\n",
    )


def test_a_set_uid_program_gives_nothing(sandbox: BubblewrapSandbox) -> None:
    """A copy of a shell with the set-uid bit runs as whoever runs it, and /usr's own set-uid programs too."""
    assert holds(
        sandbox,
        """
import os, shutil, subprocess
shutil.copy(shutil.which("id"), "/tmp/id")
os.chmod("/tmp/id", 0o6755)
for program in ("/tmp/id", "/usr/bin/su", "/usr/bin/mount", "/usr/bin/passwd"):
    if not os.path.exists(program):
        continue
    if program == "/tmp/id":
        assert subprocess.run([program, "-u"], capture_output=True, text=True).stdout.strip() == str(os.getuid())
    else:
        done = subprocess.run([program, "-c", "id -u"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.stdout.strip() != "0", (program, done)
""",
    )


def test_the_gold_is_not_there(sandbox: BubblewrapSandbox) -> None:
    """After the gold solution was graded, no file that a run can read holds it, nor any repository's history."""
    gold = "def f(x):\n    return x + 1  # the-gold-of-this-problem\n"
    assert grade(sandbox, gold).passed
    search = """
import os
word = "-".join(("the", "gold", "of", "this", "problem"))
for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders[:] = [each for each in folders if each not in ("usr", "proc", "sys", "root", "home")]
    assert ".git" not in folders + files, folder
    for path in (os.path.join(folder, name) for name in files):
        if os.path.isfile(path) and os.access(path, os.R_OK):
            assert word not in open(path, errors="replace").read(1 << 20), path
"""
    assert holds(sandbox, search)


# --- what is left behind


def test_descendants_do_not_outlive_the_run(sandbox: BubblewrapSandbox) -> None:
    """A daemon in a session of its own is dead before the grade is given, and its files are gone."""
    daemon = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            open(f"/tmp/{time.monotonic()}", "w").close()
            time.sleep(0.01)
    os._exit(0)
time.sleep(0.2)
"""
    assert holds(sandbox, daemon)
    alone = "import os\nassert {n for n in os.listdir('/proc') if n.isdigit()} == {'1', str(os.getpid())}\n"
    assert holds(sandbox, alone + "assert os.listdir('/tmp') == ['work'], os.listdir('/tmp')\n")


@pytest.mark.parametrize(
    "mess",
    [
        "import os\nfor n in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\n",
        "import os\nos.makedirs('locked/in')\nos.chmod('locked', 0)\n",
        "for n in range(6000):\n    open(str(n), 'w').close()\n",
    ],
    ids=["deep", "locked", "many"],
)
def test_a_mess_does_not_reach_the_next_run(sandbox: BubblewrapSandbox, mess: str) -> None:
    """What cannot be tidied up costs the place, never the next run."""
    assert holds(sandbox, mess)
    assert holds(
        sandbox,
        "import os\nassert os.listdir('.') == ['a.py'] and os.listdir('/tmp') == ['work']\n",
    )


def test_a_closed_connection_holds_no_port_for_the_next_run(sandbox: BubblewrapSandbox) -> None:
    """A test that serves on a port of its own finds it free in every run."""
    serve = """
import socket
with socket.socket() as server, socket.socket() as client:
    server.bind(("127.0.0.1", 8765))
    server.listen()
    client.connect(("127.0.0.1", 8765))
    server.accept()[0].close()
"""
    assert holds(sandbox, serve)
    assert holds(sandbox, serve)


# --- faults


def children() -> set[int]:
    """Return the ids of this process's children."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread may end while we look
            found |= {int(word) for word in (task / "children").read_text(encoding="ascii").split()}
    return found


def test_a_worker_that_dies_is_replaced() -> None:
    """The job it had is run again, and nobody notices."""
    before = children()
    with BubblewrapSandbox(LIMITS, workers=1) as mortal:
        for process in children() - before:
            os.kill(process, signal.SIGKILL)
        assert grade(mortal, RIGHT).passed


def test_a_job_whose_worker_dies_twice_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that cannot come back proves nothing about the answer."""
    real = subprocess.run(["which", "bwrap"], capture_output=True, text=True, check=True).stdout.strip()
    switch, wrapper = tmp_path / "on", tmp_path / "bwrap"
    switch.touch()
    wrapper.write_text(f'#!/bin/sh\n[ -e {switch} ] || exit 1\nexec {real} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    before = children()
    with BubblewrapSandbox(LIMITS, workers=1) as mortal:
        switch.unlink()
        for process in children() - before:
            os.kill(process, signal.SIGKILL)
        found = grade(mortal, RIGHT)
    assert (found.passed, found.fault) == (False, True)
    assert "died twice" in found.detail


def test_nothing_runs_after_close() -> None:
    """Closing ends every process of the sandbox; a second close is no error."""
    before = children()
    made = BubblewrapSandbox(LIMITS, workers=2)
    assert children() - before
    made.close()
    made.close()
    assert children() <= before


OWNER = """
import time
from pathlib import Path
from fleetssd.adapters.sandboxes import BubblewrapSandbox
from fleetssd.ports import Job, Limits

made = BubblewrapSandbox(Limits(wall_seconds=300.0), workers=1)
print(*[task.read_text() for task in Path("/proc/self/task").glob("*/children")], flush=True)
made.run([Job("j", (("t.py", "import time; time.sleep(300)"),), ("python", "t.py"))], lambda *_: None)
"""


def alive(process: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path("/proc", str(process), "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_sandbox_dies_with_its_owner() -> None:
    """After kill -9 of the process that made it, no bwrap of it is left, although a run was under way."""
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, cwd=root) as owner:
        assert owner.stdout is not None
        inside = [int(word) for word in owner.stdout.readline().split()]
        assert inside
        time.sleep(0.5)  # most likely the run has begun by then; the fact holds before that too
        owner.kill()
    deadline = time.monotonic() + 30
    while any(alive(each) for each in inside) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(each) for each in inside)


def test_a_missing_bubblewrap_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs unsandboxed, and the hint is a command."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Misconfigured) as raised:
        BubblewrapSandbox()
    assert "apt-get install bubblewrap" in raised.value.hint


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("bwrap: Unknown option --disable-userns", "0.8 or newer"),
        ("bwrap: No permissions to create a new namespace", "amespace"),
    ],
)
def test_a_machine_that_refuses_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, hint: str
) -> None:
    """Where bubblewrap cannot make namespaces, its words and the switch to turn are shown."""
    stub = tmp_path / "bwrap"
    stub.write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 1\n", encoding="utf-8")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(Misconfigured) as raised:
        BubblewrapSandbox()
    assert words in raised.value.message
    assert hint in raised.value.hint or "sysctl -w" in raised.value.hint
