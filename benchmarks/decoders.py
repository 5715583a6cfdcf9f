"""What decoders and the loss on top of them cost.

    PYTHONPATH=. python benchmarks/decoders.py [--only=memory,upernet,mask2former] [--rounds=5]

Memory is what XLA plans for temporaries, of programs that are compiled and not run. Speed is a ratio to transformers'
modules (eager, as many threads) with the same weights, from the encoder's maps to scores of pixels, taking turns; it
needs torch and transformers.
"""

import argparse
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ratios import race, report

import holojax
from holojax.borders import ISOLATED
from holojax.decoders import UPerNet
from holojax.decoders.painter import Painter
from holojax.decoders.prediction import Dense
from holojax.losses import CrossEntropy, Dice
from holojax.losses.whole import batch_losses
from holojax.ops.resize import resize

WIDTHS, CLASSES, STRIDES = (96, 192, 384, 768), 24, (4, 8, 16, 32)  # Swin-T's maps


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


def memory_of_upernet(side=512):
    """Forward of UPerNet against its inputs, and with the maps joined, as the papers draw it."""
    net = nnx.eval_shape(lambda: UPerNet(channels_in=WIDTHS, classes=CLASSES, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(net)
    maps = [
        jax.ShapeDtypeStruct((1, side // s, side // s, c), jnp.float32) for s, c in zip(STRIDES, WIDTHS, strict=True)
    ]
    inputs = sum(x.size for x in maps) * 4 / 2**20
    found = temporaries(lambda state, maps: nnx.merge(graph, state).scores(maps), nnx.as_pure(state), maps)
    report(f"UPerNet, {side} x {side}: temporaries / sum of its inputs ({inputs:.1f} MiB)", found / inputs)
    joined = (side // 4) ** 2 * 4 * 512 * 4 / 2**20
    report("the map of 2048 channels that is not made / sum of its inputs", joined / inputs)


def memory(options):
    memory_of_the_loss()
    memory_of_upernet(options.size)


def upernet(options):
    from transformers import ConvNextConfig, UperNetConfig
    from transformers.models.upernet.modeling_upernet import UperNetHead

    config = UperNetConfig(backbone_config=ConvNextConfig(out_features=["stage1"]), num_labels=CLASSES)
    head = UperNetHead(config, list(WIDTHS)).eval()
    weights = {f"decode_head.{key}": value for key, value in head.state_dict().items()}
    compare("UPerNet", dict(name="upernet"), weights, head, 1.1, options)


def mask2former(options):
    import torch
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    stages = [f"stage{i}" for i in range(1, 5)]
    config = Mask2FormerConfig(backbone_config=SwinConfig(embed_dim=96, out_features=stages), num_labels=CLASSES)
    model = Mask2FormerForUniversalSegmentation(config).eval()
    for name, parameter in model.named_parameters():
        # Zeros at first, which would read nothing but centres of pixels.
        if "sampling_offsets.weight" in name or "attention_weights" in name:
            parameter.data.normal_(0, 0.02)

    def scores(maps):
        levels = model.model.pixel_level_module.decoder(maps)
        found = model.model.transformer_module(
            levels.multi_scale_features, levels.mask_features, output_hidden_states=True
        )
        classes = model.class_predictor(found.intermediate_hidden_states[-1].transpose(0, 1))
        masks = torch.nn.functional.interpolate(
            found.masks_queries_logits[-1], size=(options.size, options.size), mode="bilinear", align_corners=False
        )
        return torch.einsum("bqc,bqhw->bchw", classes.softmax(-1)[..., :-1], masks.sigmoid())

    compare("Mask2Former", dict(name="mask2former"), model.state_dict(), scores, 1.3, options)


def compare(name, section, weights, theirs, limit, options):
    """Race a decoder of ours, filled with `weights`, against the function `theirs` of torch maps."""
    import torch

    torch.set_num_threads(options.threads)
    side = options.size
    decoder = holojax.build_decoder(section, WIDTHS, CLASSES)
    holojax.import_weights(decoder, {key: x.numpy() for key, x in weights.items()}, source="transformers")
    graph, state = nnx.split(decoder)
    ours = functools.partial(
        jax.jit(lambda state, maps: nnx.merge(graph, state)(maps, (side, side))), nnx.as_pure(state)
    )
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(1, side // s, side // s, c)).astype("f") for s, c in zip(STRIDES, WIDTHS, strict=True)]
    torch_maps = [torch.from_numpy(x.transpose(0, 3, 1, 2)).contiguous() for x in maps]

    def eager():
        with torch.no_grad():
            found = theirs(torch_maps)
            if found.shape[-1] != side:
                found = torch.nn.functional.interpolate(found, (side, side), mode="bilinear", align_corners=False)
        return found.numpy()

    maps = [jnp.asarray(x) for x in maps]
    difference = np.abs(np.asarray(ours(maps)) - eager().transpose(0, 2, 3, 1)).max()
    report(f"{name}, {side} x {side}: largest difference of scores", difference, 1e-3)
    seconds = race({"ours": lambda: ours(maps), "torch": eager}, options.rounds)
    report(f"{name}, {side} x {side}, ours: s", seconds["ours"])
    report(f"{name}, {side} x {side}: torch / ours, forward", seconds["torch"] / seconds["ours"], at_least=limit)


FIGURES = {"memory": memory, "upernet": upernet, "mask2former": mask2former}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(FIGURES), help="which figures, by comma")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=512, help="side of the image in pixels")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch; XLA takes all cores")
    options = parser.parse_args()
    for name in options.only.split(","):
        if name not in FIGURES:
            parser.error(f"--only: expected some of {', '.join(FIGURES)}, found {name!r}")
        FIGURES[name](options)


if __name__ == "__main__":
    main()
