"""The program inside the sandbox: forks one child a job, watches it, and alone says how it ended.

It is process 1 of its namespaces, uses the standard library only and is never imported by fleetssd: bubblewrap
binds this folder read-only and the base interpreter runs `loop.main`. It talks in length-prefixed JSON over stdin and
stdout.

Why process 1: the kernel shields it from every signal of the processes it watches that it has no handler for (so
Python's own for SIGINT goes); orphans come to it; and `kill(-1)` reaches whatever a job left behind, daemons
included. Why not dumpable: a job of the same uid may then neither trace it nor read its memory through /proc.

What runs between two jobs, and in a child before its first line, is written for few steps: every object that is
touched after a fork is a page that the kernel copies, and there are thousands of forks a night.
"""
