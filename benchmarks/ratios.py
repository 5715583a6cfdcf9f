"""What all benchmarks share: contestants take turns, and every figure stands beside the limit that it must keep."""

import time

import jax


def race(contestants, rounds):
    """Return the least seconds of each contestant, a function without arguments; they take turns, one to warm up."""
    best = dict.fromkeys(contestants, float("inf"))
    for turn in range(rounds + 1):
        for name, f in contestants.items():
            started = time.perf_counter()
            jax.block_until_ready(f())
            if turn:
                best[name] = min(best[name], time.perf_counter() - started)
    return best


def report(what, figure, at_most=None, *, at_least=None):
    """Print a figure, its limit, and whether it keeps it."""
    verdict = ""
    if at_most is not None:
        verdict = f"  at most {at_most:g}  {'ok' if figure <= at_most else 'MISSED'}"
    if at_least is not None:
        verdict = f"  at least {at_least:g}  {'ok' if figure >= at_least else 'MISSED'}"
    print(f"{what:86} {figure:8.3f}{verdict}", flush=True)
