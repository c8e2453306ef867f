"""Port Sandbox: by bubblewrap (the default), by containers, or by nothing at all.

By bubblewrap: namespaces prepared once, a fork for every run.

Every worker is one long-lived `bwrap` with the program of `inside` in it: no network, no home, no inherited
environment or descriptors, a read-only system, a small tmpfs, private /proc and /dev, user, mount, process, ipc and
uts namespaces, and the seccomp filter of `seccomp.py`. A run is a fork in there: own session, rlimits on each
process's time and memory, on processes, file size and descriptors, limits on the memory of all its processes and on
its files, wall clock, output cap; afterwards everything it left is killed and wiped. A worker that cannot be proven
clean is replaced: one with a closed connection's port still taken, or whose own limits, priority, scheduling or
folders a run changed. What outlives a run is a compiled test, in memory that no fork has but those of runs with the
very same test. Started by root, runs get a uid of their own in a namespace that knows it; started by a user, a
namespace that knows that user only.
Nothing of a repository is in there but the files of the job and of its surroundings (the tree at one commit, and what
was prepared for it, both read-only): no `.git`, no later commit, no gold solution. A worker serves one set of
surroundings, with the environment's Python where there is one, and is replaced where the next job has others.

Not covered:
- Code under test and its Python test share one process (for speed), so code that is written to cheat can: patch
  builtins or the standard library, return objects that equal everything, read the hidden test's file and answer what
  it expects, or find the token that says "the script reached its end" by walking frames. Leaving early
  (`os._exit(0)`, `sys.exit(0)`) and rewriting the test file do not pass. For other commands than Python only the exit
  status counts, so leaving early with 0 does pass there.
- The memory of all processes of a run is looked at and not reserved (no cgroup): between two looks a run may go beyond
  its limit by what it touches in 50 ms. The tmpfs comes on top, and what no process has in its page tables: the
  kernel's own for pipes, sockets and locks, shared memory that was let go of while it stays mapped. Without a private
  /proc only the limit a process holds, and taken ports are not seen.
- The seccomp filter refuses the calls it lists; the rest of the kernel's surface is in reach, and on other machines
  than x86_64 and aarch64 all of it. This is no shield against kernel exploits.
- Timing and load side channels; the read-only system (/usr and the base interpreter) can be read.
- Started by a user, a run may lower the zygote's own rlimits (same uid) so far that it ends: the job is then a fault,
  which counts against the candidate.

`ContainerSandbox` puts the same program into containers of podman or docker: no network, a read-only image, no
capabilities, no new privileges, a user of its own, the engine's seccomp profile and the filter above, limits of memory
and processes by cgroup. The list above holds for it too, and besides: the container's user is one of this machine's
where the engine is rootful without user namespaces; the image's own files can be read; and where fleetssd is killed,
a container may go on for ten minutes, idle. `BareSandbox` is none: see there for what it does not keep out.
"""

from fleetssd.adapters.sandboxes.bare import BareSandbox
from fleetssd.adapters.sandboxes.bubblewrap import BubblewrapSandbox
from fleetssd.adapters.sandboxes.containers import ContainerEngine, ContainerSandbox
from fleetssd.adapters.sandboxes.preparing import BubblewrapPreparer, ContainerPreparer, NoPreparer

__all__ = [
    "BareSandbox",
    "BubblewrapPreparer",
    "BubblewrapSandbox",
    "ContainerEngine",
    "ContainerPreparer",
    "ContainerSandbox",
    "NoPreparer",
]
