"""What happens now and then during training: each a small class that is called after every step."""

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from holojax.checkpoints.store import Store
from holojax.training.state import State


@dataclasses.dataclass
class Moment:
    """What a hook sees: the state after `step` steps, and the figures of the last one as floats."""

    step: int
    steps: int
    state: State
    figures: dict[str, float]

    def due(self, every: int) -> bool:
        """Say whether a hook that acts `every` so many steps acts now; all act after the last step."""
        return self.step == self.steps or (every > 0 and self.step % every == 0)


# Called after each step, and acts if it is time; figures that it adds are there for the hooks after it.
Hook = Callable[[Moment], None]


class Report:
    """Lines for people: to the terminal (stderr) and to a file of the working directory."""

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, line: str) -> None:
        """Write a line."""
        print(line, file=sys.stderr, flush=True)
        self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class WarnOfNoLabels:
    """Say when a batch had no pixel with a label: its loss is zero, and nothing was learned from it."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say

    def __call__(self, moment: Moment) -> None:
        """Warn, if there was none."""
        if moment.figures.get("labelled") == 0:
            self._say(
                f"warning: step {moment.step}: no pixel of the batch has a label, so its loss is zero and teaches "
                f"nothing. Look at the labels, data.ignore and data.label_map, or take larger windows (data.window)."
            )


class Evaluate:
    """Measure the model on the validation scenes; adds its figures to the moment's."""

    def __init__(self, every: int, measure: Callable[[State], dict[str, float]], say: Callable[[str], None]):
        self._every, self._measure, self._say = every, measure, say

    def __call__(self, moment: Moment) -> None:
        """Measure, if it is time."""
        if moment.due(self._every):
            started = time.perf_counter()
            figures = self._measure(moment.state)
            moment.figures |= figures
            text = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
            self._say(f"step {moment.step}: {text}  ({time.perf_counter() - started:.1f} s)")


class Progress:
    """Say how far training is, how fast it goes, and when it will be done."""

    def __init__(self, every: int, pixels: int, rate: Callable[[int], Any], say: Callable[[str], None]):
        self._every, self._pixels, self._rate, self._say = every, pixels, rate, say
        self._last: tuple[int, float] | None = None  # the first step compiles: it is no measure of speed

    def __call__(self, moment: Moment) -> None:
        """Write a line, if it is time."""
        now = time.perf_counter()
        if self._last is None:
            self._last = (moment.step, now)
            if not moment.due(self._every):
                return
        elif not moment.due(self._every):
            return
        steps, seconds = moment.step - self._last[0], now - self._last[1]
        line = f"step {moment.step:>{len(str(moment.steps))}}/{moment.steps}  loss {moment.figures['loss']:.4f}"
        line += f"  lr {float(self._rate(moment.step - 1)):.2e}"
        if steps and seconds > 0:
            speed = steps / seconds
            moment.figures |= {"steps_per_second": speed, "pixels_per_second": speed * self._pixels}
            line += f"  {speed:.3g} steps/s  {_count(speed * self._pixels)}pixels/s"
            line += f"  ETA {_duration((moment.steps - moment.step) / speed)}"
        self._last = (moment.step, now)
        self._say(line)


class TensorBoard:
    """Write all figures to event files in `folder`, as often as there is a line of progress."""

    def __init__(self, every: int, folder: Path):
        self._every, self._writer = every, SummaryWriter(str(folder))

    def __call__(self, moment: Moment) -> None:
        """Write, if it is time."""
        if moment.due(self._every) or "miou" in moment.figures:
            for name, value in moment.figures.items():
                self._writer.add_scalar(name, value, moment.step)
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class Checkpoint:
    """Keep the state, and what batches depend on beside their number."""

    def __init__(self, every: int, store: Store, data: dict[str, Any]):
        self._every, self._store, self._data = every, store, data

    def __call__(self, moment: Moment) -> None:
        """Save, if it is time."""
        if moment.due(self._every):
            state = moment.state
            self._store.save(moment.step, state.weights, rest_of(state), self._data)


def rest_of(state: State) -> dict[str, Any]:
    """Return what a checkpoint keeps beside the weights."""
    return {"step": state.step, "loss": state.loss, "optimizer": state.opt_state}


def _count(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g} "


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
