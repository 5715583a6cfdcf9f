import gc
import itertools
import subprocess
import sys
import threading
import time

import pytest

from holojax.data.prefetch import Prefetch


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "holojax-prefetch"]


def test_items_come_in_order_and_end():
    assert list(Prefetch(range(20), depth=3)) == list(range(20))
    assert not threads()


def test_errors_reach_the_consumer_after_the_items_before_them():
    def source():
        yield 1
        raise ValueError("broken file")

    ready = Prefetch(source())
    assert next(ready) == 1
    with pytest.raises(ValueError, match="broken file"):
        next(ready)
    with pytest.raises(StopIteration):
        next(ready)


def test_it_reads_ahead_but_no_further_than_asked():
    made = []
    ready = Prefetch((made.append(i) or i for i in itertools.count()), depth=2)
    deadline = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(made) == 3  # two waiting and one in the thread's hands
    ready.close()
    assert not threads()


def test_dropping_it_ends_the_thread():
    ready = Prefetch(itertools.count())
    next(ready)
    del ready
    gc.collect()
    assert not threads()


def test_the_interpreter_exits_without_waiting_for_the_source_to_end():
    code = (
        "import itertools, sys\nfrom holojax.data.prefetch import Prefetch\n"
        "ready = Prefetch(itertools.count(), depth=2)\nnext(ready)\nprint('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "done"
    assert not done.stderr
