"""What decoders and the loss on top of them cost.

    python benchmarks/decoders.py [--rounds=5] [--skip=speed]

Speed is a ratio to transformers' modules (eager, as many threads) with the same weights, taking turns; it needs torch
and transformers. Memory is what XLA plans for temporaries, of programs that are compiled and not run.
"""

import jax
import jax.numpy as jnp
from absl import app, flags
from flax import nnx
from ratios import report

from holojax.borders import ISOLATED
from holojax.decoders import UPerNet
from holojax.decoders.painter import Painter
from holojax.decoders.prediction import Dense
from holojax.losses import CrossEntropy, Dice
from holojax.losses.whole import batch_losses
from holojax.ops.resize import resize

ROUNDS = flags.DEFINE_integer("rounds", 5, "times that each contestant runs, beside one to warm up")
SKIP = flags.DEFINE_list("skip", [], "parts that are left out: speed, memory")
WIDTHS, CLASSES = (96, 192, 384, 768), 24


def temporaries(f, *shapes):
    """Return the MiB that XLA plans for temporaries of a function of arrays of these shapes."""
    return jax.jit(f).lower(*shapes).compile().memory_analysis().temp_size_in_bytes / 2**20


def memory_of_the_loss(side=2048):
    """Loss and gradient at 24 classes on one device: all logits of the scene at once, and painted by blocks."""
    scores = jax.ShapeDtypeStruct((1, side // 4, side // 4, CLASSES), jnp.float32)
    labels, valid = (jax.ShapeDtypeStruct((1, side, side), t) for t in (jnp.uint8, jnp.bool))
    losses = {"ce": CrossEntropy(), "dice": Dice()}

    def at_once(scores, labels, valid):
        logits = resize(scores, (side, side))
        return sum(loss.value(loss.sums(logits, labels, valid)) for loss in losses.values())

    def by_blocks(scores, labels, valid):
        painter = Painter(Dense(scores), (side, side), ISOLATED)
        return sum(batch_losses(losses, painter, labels, valid, lambda x: x, ISOLATED).values())

    before, after = (temporaries(jax.value_and_grad(f), scores, labels, valid) for f in (at_once, by_blocks))
    one = side * side * CLASSES * 4 / 2**20
    report(f"loss and gradient, {side} x {side}, {CLASSES} classes, all at once: MiB", before)
    report("the same by blocks of rows: MiB; less than one float32 map of all classes", after, one)


def memory_of_upernet(side=512, channels=512):
    """Forward of UPerNet against its inputs."""
    net = nnx.eval_shape(lambda: UPerNet(channels_in=WIDTHS, classes=CLASSES, channels=channels, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(net)
    maps = [
        jax.ShapeDtypeStruct((1, side // s, side // s, c), jnp.float32)
        for s, c in zip((4, 8, 16, 32), WIDTHS, strict=True)
    ]
    inputs = sum(x.size for x in maps) * 4 / 2**20
    found = temporaries(lambda state, maps: nnx.merge(graph, state).scores(maps), nnx.as_pure(state), maps)
    report(f"UPerNet, {side} x {side}: temporaries / sum of its inputs ({inputs:.1f} MiB)", found / inputs)


def main(_):
    if "memory" not in SKIP.value:
        memory_of_the_loss()
        memory_of_upernet()


if __name__ == "__main__":
    app.run(main)
