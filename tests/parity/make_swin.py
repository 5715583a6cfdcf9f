"""Make the fixtures of Swin: from timm, transformers and torchvision, and for mmseg from formulas written out."""

import pathlib

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from timm.models.swin_transformer import checkpoint_filter_fn
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin
from transformers import SwinBackbone, SwinConfig, SwinModel

HERE = pathlib.Path(__file__).resolve().parent
DIM, DEPTHS, HEADS, WINDOW, RATIO = 4, (2, 2, 2, 2), (1, 2, 2, 4), 4, 2
# Stages of 17 x 13, 9 x 7, 5 x 4 and 3 x 2 tokens: no multiples of a window, and from the third on no larger.
SIZE = (68, 52)


def coarse(x, parts=32):
    """Round to parts of one."""
    return (x * parts).round() / parts


def randomize(module, seed=0):
    """Draw all parameters anew, so that no mistake hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        scale = 1.0 if "bias_table" in name else 0.3
        parameter.data = coarse(scale * torch.randn(parameter.shape, generator=generator))
        if "norm" in name and name.endswith("weight"):
            parameter.data += 1
    return module.eval().double()


def store(name, weights, images, maps, blocks=(), grads=()):
    """Store weights under their names, channels-last images and maps, and gradients of the sum of the maps' sines."""
    arrays = {f"weight:{key}": value for key, value in weights.items()}
    arrays["images"] = images.permute(0, 2, 3, 1)
    arrays |= {f"stage{i}": x for i, x in enumerate(maps)}
    arrays |= {f"block{i}": x for i, x in enumerate(blocks)}
    if grads:
        sum(x.sin().sum() for x in maps).backward()
        arrays["grad:images"] = images.grad.permute(0, 2, 3, 1)
        arrays |= {f"grad:{key}": weights[key].grad for key in grads}
    arrays = {key: np.asarray(value.detach()) for key, value in arrays.items()}
    arrays = {key: x.astype(np.float32) if x.dtype == np.float64 else x for key, x in arrays.items()}
    np.savez_compressed(HERE / f"swin_{name}.npz", **arrays)


def draw(height, width, batch=2):
    """Draw images of few different values, which files hold in little space."""
    generator = torch.Generator().manual_seed(1)
    return coarse(torch.randn(batch, 3, height, width, generator=generator), 4).double().requires_grad_()


def watch(modules, place=lambda output: output):
    """Record what modules return."""
    seen = []
    for module in modules:
        module.register_forward_hook(lambda module, inputs, output: seen.append(place(output)))
    return seen


def mmseg_weights():
    """Draw weights under mmseg's names."""
    shapes = {"patch_embed.projection.weight": (DIM, 3, 4, 4), "patch_embed.projection.bias": (DIM,)}

    def norm(name, channels):
        shapes.update({f"{name}.weight": (channels,), f"{name}.bias": (channels,)})

    def linear(name, inputs, outputs, bias=True):
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    norm("patch_embed.norm", DIM)
    for s in range(4):
        c = DIM * 2**s
        for b in range(DEPTHS[s]):
            block = f"stages.{s}.blocks.{b}"
            norm(f"{block}.norm1", c), norm(f"{block}.norm2", c)
            shapes[f"{block}.attn.w_msa.relative_position_bias_table"] = ((2 * WINDOW - 1) ** 2, HEADS[s])
            linear(f"{block}.attn.w_msa.qkv", c, 3 * c), linear(f"{block}.attn.w_msa.proj", c, c)
            linear(f"{block}.ffn.layers.0.0", c, RATIO * c), linear(f"{block}.ffn.layers.1", RATIO * c, c)
        norm(f"norm{s}", c)
        if s < 3:
            norm(f"stages.{s}.downsample.norm", 4 * c)
            linear(f"stages.{s}.downsample.reduction", 4 * c, 2 * c, bias=False)
    generator = torch.Generator().manual_seed(2)
    weights = {}
    for name, shape in shapes.items():
        value = coarse((1.0 if "bias_table" in name else 0.3) * torch.randn(shape, generator=generator))
        value += float("norm" in name and name.endswith("weight"))
        weights[name] = value.double().requires_grad_()
    return weights


def mmseg_index():
    """Number the distances between two tokens of a window: those down count 2 WINDOW - 1 each, those across one."""
    place = torch.arange(WINDOW)
    along = place[:, None] - place + WINDOW - 1
    index = (2 * WINDOW - 1) * along[:, None, :, None] + along[None, :, None, :]
    return index.reshape(WINDOW**2, WINDOW**2)


def mmseg_block(x, w, name, heads, shift):
    """Run one block of mmseg's on [n h w c]: padded after the norm, then rolled, all windows alike."""
    n, h, width, c = x.shape

    def norm(x, part):
        return F.layer_norm(x, (c,), w[f"{name}.{part}.weight"], w[f"{name}.{part}.bias"], 1e-5)

    def linear(x, part):
        return F.linear(x, w[f"{name}.{part}.weight"], w[f"{name}.{part}.bias"])

    y = F.pad(norm(x, "norm1"), (0, 0, 0, -width % WINDOW, 0, -h % WINDOW))
    rows, cols = y.shape[1] // WINDOW, y.shape[2] // WINDOW
    # Which of up to nine parts of the rolled map a token comes from, as two digits.
    parts = [(torch.arange(k * WINDOW) >= (k - 1) * WINDOW).int() + (torch.arange(k * WINDOW) >= k * WINDOW - shift)
             for k in (rows, cols)] if shift else [torch.zeros(k * WINDOW) for k in (rows, cols)]  # fmt: skip
    part = (10 * parts[0][:, None] + parts[1])[None, ..., None]
    y = y.roll((-shift, -shift), (1, 2))

    def cut(z):
        z = z.reshape(z.shape[0], rows, WINDOW, cols, WINDOW, -1).permute(0, 1, 3, 2, 4, 5)
        return z.reshape(z.shape[0], rows * cols, WINDOW**2, -1)

    q, k, v = (linear(cut(y), "attn.w_msa.qkv").reshape(n, -1, WINDOW**2, 3, heads, c // heads)).unbind(3)
    scores = torch.einsum("nwqkd,nwskd->nwkqs", q, k) * (c // heads) ** -0.5
    scores = scores + w[f"{name}.attn.w_msa.relative_position_bias_table"][mmseg_index()].permute(2, 0, 1)
    origin = cut(part)[..., 0]
    scores = scores - 100.0 * (origin[:, :, :, None] != origin[:, :, None, :])[:, :, None]
    y = linear(torch.einsum("nwkqs,nwskd->nwqkd", scores.softmax(-1), v).flatten(-2), "attn.w_msa.proj")
    y = (
        y.reshape(n, rows, cols, WINDOW, WINDOW, c)
        .permute(0, 1, 3, 2, 4, 5)
        .reshape(n, rows * WINDOW, cols * WINDOW, c)
    )
    x = x + y.roll((shift, shift), (1, 2))[:, :h, :width]
    return x + linear(F.gelu(linear(norm(x, "norm2"), "ffn.layers.0.0")), "ffn.layers.1")


def mmseg():
    """Run mmseg's Swin, written out, on images that no patch divides."""
    w, images = mmseg_weights(), draw(70, 53)
    x = F.pad(images, (0, -53 % 4, 0, -70 % 4))
    x = F.conv2d(x, w["patch_embed.projection.weight"], w["patch_embed.projection.bias"], stride=4).permute(0, 2, 3, 1)
    x = F.layer_norm(x, (DIM,), w["patch_embed.norm.weight"], w["patch_embed.norm.bias"], 1e-5)
    maps, blocks = [], []
    for s in range(4):
        for b in range(DEPTHS[s]):
            x = mmseg_block(x, w, f"stages.{s}.blocks.{b}", HEADS[s], b % 2 * (WINDOW // 2))
            blocks.append(x)
        maps.append(F.layer_norm(x, x.shape[-1:], w[f"norm{s}.weight"], w[f"norm{s}.bias"], 1e-5))
        if s < 3:
            name, h, width = f"stages.{s}.downsample", *x.shape[1:3]
            x = F.pad(x, (0, 0, 0, width % 2, 0, h % 2)).permute(0, 3, 1, 2)
            x = F.unfold(x, 2, stride=2).transpose(1, 2).reshape(2, -(-h // 2), -(-width // 2), -1)
            x = F.layer_norm(x, x.shape[-1:], w[f"{name}.norm.weight"], w[f"{name}.norm.bias"], 1e-5)
            x = F.linear(x, w[f"{name}.reduction.weight"])
    weights = {f"backbone.{key}": value for key, value in w.items()}
    names = ["patch_embed.projection.weight", "stages.2.blocks.1.attn.w_msa.relative_position_bias_table"]
    names += ["stages.0.blocks.1.attn.w_msa.qkv.weight", "stages.1.downsample.reduction.weight"]
    index = {f"backbone.stages.{s}.blocks.{b}.attn.w_msa.relative_position_index": mmseg_index()
             for s in range(4) for b in range(DEPTHS[s])}  # fmt: skip
    names = [f"backbone.{name}" for name in names]
    for name in names:
        w[name.removeprefix("backbone.")].retain_grad()
    store("mmseg", weights | index, images, maps, blocks, names)


def timm_swin(size, seed=0):
    """Make a Swin of timm's for images of one size."""
    sizes = dict(patch_size=4, embed_dim=DIM, depths=DEPTHS, num_heads=HEADS, window_size=WINDOW, mlp_ratio=RATIO)
    return randomize(TimmSwin(img_size=size, num_classes=3, **sizes), seed)


def run_timm(name, weights, model):
    """Run a model of timm's on images of its size."""
    images = draw(*model.patch_embed.img_size)
    blocks = watch(block for stage in model.layers for block in stage.blocks)
    maps = [x.permute(0, 2, 3, 1) for x in model.forward_intermediates(images, intermediates_only=True)]
    store(name, weights, images, maps, blocks)


def timm_cases():
    """Run timm's on maps smaller than a window: with tables made for them, and large ones resized."""
    small = timm_swin((36, 36))
    run_timm("timm_small", small.state_dict(), small)
    large, rectangular = timm_swin((224, 224)), timm_swin(SIZE, 1)
    rectangular.load_state_dict(checkpoint_filter_fn(large.state_dict(), rectangular))
    run_timm("timm", large.state_dict(), rectangular)
    wide = timm.layers.resize_rel_pos_bias_table
    table = torch.randn(49, 2, generator=torch.Generator().manual_seed(3))
    tables = {f"to{w}": wide(table, (w, w), ((2 * w - 1) ** 2, 2)) for w in (2, 3, 5, 7)}
    grid = table.T.reshape(1, 2, 7, 7)
    tables |= {f"bicubic_to{w}": F.interpolate(grid, (2 * w - 1,) * 2, mode="bicubic").reshape(2, -1).T for w in (3, 7)}
    np.savez_compressed(HERE / "swin_tables.npz", table=table, **tables)


def hf_config(**changes):
    """Return the sizes for transformers."""
    sizes = dict(patch_size=4, embed_dim=DIM, depths=DEPTHS, num_heads=HEADS, window_size=WINDOW, mlp_ratio=RATIO)
    return SwinConfig(image_size=64, drop_path_rate=0.0, hidden_dropout_prob=0.0, **sizes, **changes)


def transformers_cases():
    """Run transformers' backbone, and its classifier's trunk where the last map is as small as a window."""
    model = randomize(SwinBackbone(hf_config(out_features=["stage1", "stage2", "stage3", "stage4"])))
    images = draw(70, 53)
    maps = [x.permute(0, 2, 3, 1) for x in model(images).feature_maps]
    store("transformers", dict(model.named_parameters()), images, maps)

    model = randomize(SwinModel(hf_config(), add_pooling_layer=False))
    images = draw(128, 132, batch=1)
    states = [block for stage in model.encoder.layers for block in stage.blocks]
    seen = watch(states, lambda output: output[0])
    model(images)
    maps = [seen[i].reshape(1, 32 >> s, -1, DIM << s) for s, i in enumerate((1, 3, 5, 7))]
    store("transformers_model", dict(model.named_parameters()), images, maps)


def torchvision_case():
    """Run torchvision's on images that no patch divides: the rest is left out."""
    sizes = dict(patch_size=[4, 4], embed_dim=DIM, depths=DEPTHS, num_heads=HEADS, window_size=[WINDOW] * 2)
    model = randomize(TorchvisionSwin(mlp_ratio=RATIO, num_classes=3, **sizes))
    images = draw(SIZE[0] + 3, SIZE[1] + 2)
    stages = [model.features[i] for i in (1, 3, 5, 7)]
    blocks, maps = watch(block for stage in stages for block in stage), watch(stages)
    model(images)
    store("torchvision", model.state_dict(), images, maps, blocks)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float32)
    mmseg()
    timm_cases()
    transformers_cases()
    torchvision_case()
