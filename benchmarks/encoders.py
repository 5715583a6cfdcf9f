"""Speed of the encoders against torch, as ratios in one run, each beside the limit that it must keep.

    python benchmarks/encoders.py [--only=torch,vmamba,compile,borders] [--rounds=3] [--size=512] [--threads=2]

Needs the parity extra (torch, timm). `torch`: timm's eager float32 on the same weights, taking turns on the same cores.
`vmamba`: VMamba-T against ViT-S (its scan against torch's: benchmarks/selective_scan.py). `compile`: a cold compile of
one Swin-L forward. `borders`: exact borders on one device against isolated ones.
"""

import argparse
import functools
import os
import time

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ratios import race, report

import holojax
from holojax.parallel import Layout

# Ours, and what timm calls it.
PEERS = {
    "Swin-T": (dict(name="swin", size="tiny"), "swin_tiny_patch4_window7_224"),
    "ConvNeXt-V2-T": (dict(name="convnext", size="tiny"), "convnextv2_tiny"),
    "ViT-S": (dict(name="vit", size="small", class_token=True), "vit_small_patch16_224"),
}
FAMILIES = {
    **{name: ours for name, (ours, _) in PEERS.items()},
    "VMamba-T": dict(name="vmamba", size="tiny"),
}


def jitted(encoder):
    """Return jitted functions of images: the last map, and the gradient of its mean square by all parameters."""
    graph, state = nnx.split(encoder)
    state = nnx.as_pure(state)

    def forward(state, images):
        return nnx.merge(graph, state)(images)[-1]

    def loss(state, images):
        return jnp.square(forward(state, images)).mean()

    return functools.partial(jax.jit(forward), state), functools.partial(jax.jit(jax.grad(loss)), state)


def against_torch(options):
    import timm
    import torch

    torch.set_num_threads(options.threads)
    images = np.random.default_rng(0).normal(size=(1, options.size, options.size, 3)).astype(np.float32)
    theirs_in = torch.from_numpy(images.transpose(0, 3, 1, 2)).contiguous()
    for name, (cfg, peer) in PEERS.items():
        sized = {"img_size": options.size} if "convnext" not in peer else {}
        model = timm.create_model(peer, pretrained=False, **sized).eval()
        if cfg["name"] == "vit":
            side = options.size // 16
            cfg = cfg | dict(grid=(side, side))
        encoder = holojax.build_encoder(cfg | dict(drop_path=0.0))
        holojax.import_weights(encoder, model.state_dict(), source="timm")
        forward, backward = jitted(encoder)

        for what, ours, theirs, limit in (
            ("forward", forward, torch_forward, 1.3),
            ("forward and backward", backward, torch_backward, 1.2),
        ):
            contestants = {"ours": functools.partial(ours, jnp.asarray(images))}
            contestants["torch"] = functools.partial(theirs, model, theirs_in)
            seconds = race(contestants, options.rounds)
            ratio = seconds["torch"] / seconds["ours"]
            report(f"{name}, {options.size} x {options.size}: torch / ours, {what}", ratio, at_least=limit)


def torch_forward(model, images):
    import torch

    with torch.no_grad():
        return model.forward_features(images).numpy()


def torch_backward(model, images):
    model.zero_grad()
    model.forward_features(images).square().mean().backward()


def vmamba(options):
    x = jnp.zeros((1, options.size, options.size, 3))
    forward = {name: jitted(holojax.build_encoder(FAMILIES[name]))[0] for name in ("VMamba-T", "ViT-S")}
    seconds = race({name: functools.partial(f, x) for name, f in forward.items()}, options.rounds)
    report("VMamba-T / ViT-S, forward: time a pixel", seconds["VMamba-T"] / seconds["ViT-S"], 2.0)


def cold_compile(options):
    encoder = nnx.eval_shape(lambda: holojax.build_encoder(dict(name="swin", size="large")))
    graph, state = nnx.split(encoder)
    images = jax.ShapeDtypeStruct((1, options.size, options.size, 3), jnp.float32)
    jax.config.update("jax_enable_compilation_cache", False)
    started = time.perf_counter()
    jax.jit(lambda state, images: nnx.merge(graph, state)(images)).lower(nnx.as_pure(state), images).compile()
    report(f"Swin-L forward, {options.size} x {options.size}: cold compile, s", time.perf_counter() - started, 40)


def borders(options):
    layout = Layout.create(region=1)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, options.size, options.size, 3)), jnp.float32)
    for name, cfg in FAMILIES.items():
        contestants = {}
        for border in ("isolated", "exact"):
            model = holojax.build_model(
                dict(
                    name="rest",
                    bands=3,
                    classes=2,
                    regions=(1, 1),
                    border=border,
                    encoder=cfg,
                    context=None,
                    decoder=dict(name="fcn", channels=8, stage=3),
                    aux=None,
                )
            )
            contestants[border] = functools.partial(holojax.segment, model, images, layout)
        seconds = race(contestants, options.rounds)
        report(f"{name}, one device: exact / isolated borders, forward", seconds["exact"] / seconds["isolated"], 1.10)


FIGURES = {"torch": against_torch, "vmamba": vmamba, "compile": cold_compile, "borders": borders}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(FIGURES), help="which figures, by comma")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=512, help="side of the image in pixels")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch; XLA takes all cores")
    options = parser.parse_args()
    for name in options.only.split(","):
        if name not in FIGURES:
            parser.error(f"--only: expected some of {', '.join(FIGURES)}, found {name!r}")
        FIGURES[name](options)


if __name__ == "__main__":
    main()
