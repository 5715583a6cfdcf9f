"""Write tests/parity/convnext_*.npz: ConvNeXt of four libraries on random weights, in float64, stored as float32.

Run by hand where torch, timm, transformers and torchvision are installed: python tests/parity/make_convnext.py
"""

import itertools
import pathlib

import numpy as np
import timm.models.convnext as timm_convnext
import torch
import transformers
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt

HERE = pathlib.Path(__file__).parent
DIMS, DEPTHS = (8, 12, 16, 20), (2, 1, 2, 1)
# No stride divides it: maps of 9 x 17, 4 x 8, 2 x 4 and 1 x 2 places.
HEIGHT, WIDTH, BATCH = 39, 70, 2


class Norm(nn.LayerNorm):
    """A LayerNorm over the channels of [n c h w]."""

    def __init__(self, channels):
        super().__init__(channels, eps=1e-6)

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Grn(nn.Module):
    """Global response normalisation of [n h w c], from the formula of ConvNeXt V2's paper."""

    def __init__(self, channels):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        size = x.square().sum((1, 2), keepdim=True).sqrt()
        return self.gamma * x * (size / (size.mean(-1, keepdim=True) + 1e-6)) + self.beta + x


class Block(nn.Module):
    """A block with the parameters' names of mmpretrain, with GRN and layer scale as in REST."""

    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pointwise_conv1 = nn.Linear(channels, 4 * channels)
        self.grn = Grn(4 * channels)
        self.pointwise_conv2 = nn.Linear(4 * channels, channels)

    def forward(self, x):
        y = self.norm(self.depthwise_conv(x).permute(0, 2, 3, 1))
        y = self.pointwise_conv2(self.grn(nn.functional.gelu(self.pointwise_conv1(y))))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


class Mmseg(nn.Module):
    """The encoder with the parameters' names of mmpretrain, which mmseg and REST use."""

    def __init__(self):
        super().__init__()
        self.downsample_layers = nn.ModuleList([nn.Sequential(nn.Conv2d(3, DIMS[0], 4, 4), Norm(DIMS[0]))])
        for a, b in itertools.pairwise(DIMS):
            self.downsample_layers.append(nn.Sequential(Norm(a), nn.Conv2d(a, b, 2, 2)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(c) for _ in range(depth))) for c, depth in zip(DIMS, DEPTHS, strict=True)
        )
        for i, c in enumerate(DIMS):
            self.add_module(f"norm{i}", Norm(c))

    def forward(self, x):
        maps = []
        for i, (lead, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(lead(x))
            maps.append(getattr(self, f"norm{i}")(x))
        return maps


def backbone(kind, config):
    model = kind(config(hidden_sizes=list(DIMS), depths=list(DEPTHS), out_features=[f"stage{i}" for i in range(1, 5)]))
    return model, lambda x: model(x).feature_maps


def timm_model(**options):
    model = timm_convnext.ConvNeXt(dims=DIMS, depths=DEPTHS, num_classes=3, **options)
    return model, lambda x: model.forward_intermediates(x, intermediates_only=True)


def torchvision_model():
    sizes = [*zip(DIMS, (*DIMS[1:], None), DEPTHS, strict=True)]
    model = TorchvisionConvNeXt([CNBlockConfig(*size) for size in sizes], num_classes=3)

    def maps(x):
        found = []
        for i, part in enumerate(model.features):
            x = part(x)
            found += [x] if i % 2 else []
        return found

    return model, maps


def make(name, model, maps, rng, images, blocks=None):
    """Record a model's weights, maps and gradients; with `blocks` also what leaves each of them."""
    with torch.no_grad():
        for key, value in model.state_dict().items():
            centre = 1.0 if value.ndim == 1 and key.endswith("weight") and "grn" not in key else 0.0
            scale = 0.3 if value.ndim == 1 else 1 / np.sqrt(max(np.prod(value.shape[1:]), 1))
            drawn = centre + scale * rng.normal(size=value.shape)
            value.copy_(torch.from_numpy(drawn.astype(np.float32)))
    model.double().eval()
    numbers = {f"weights:{key}": value.numpy() for key, value in model.state_dict().items()}
    for path, block in blocks or ():

        def keep(module, given, result, path=path):
            numbers[f"block:{path}"] = result.detach().permute(0, 2, 3, 1).numpy()

        block.register_forward_hook(keep)
    x = torch.from_numpy(images).double().permute(0, 3, 1, 2).requires_grad_()
    found = maps(x)
    total = 0
    for i, y in enumerate(found):
        numbers[f"stage{i}"] = y.detach().permute(0, 2, 3, 1).numpy()
        cotangent = rng.normal(size=y.shape).astype(np.float32)
        numbers[f"cotangent{i}"] = cotangent.transpose(0, 2, 3, 1)
        total = total + (y * torch.from_numpy(cotangent)).sum()
    if blocks:
        total.backward()
        numbers["input_gradient"] = x.grad.permute(0, 2, 3, 1).numpy()
        numbers["images"] = images  # the others have the same
        numbers |= {f"gradient:{key}": p.grad.numpy() for key, p in model.named_parameters() if p.grad is not None}
    else:
        numbers = {key: value for key, value in numbers.items() if not key.startswith("cotangent")}
    path = HERE / f"convnext_{name}.npz"
    np.savez_compressed(path, **{key: value.astype(np.float32) for key, value in numbers.items()})
    print(path.name, path.stat().st_size, [tuple(y.shape) for y in found], [round(y.std().item(), 2) for y in found])


def main():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(BATCH, HEIGHT, WIDTH, 3)).astype(np.float32)
    model = Mmseg()
    blocks = [(f"{s}.{b}", block) for s, stage in enumerate(model.stages) for b, block in enumerate(stage)]
    make("mmseg", model, model, rng, images, blocks)
    make("timm_v2", *timm_model(use_grn=True, ls_init_value=None), rng, images)
    make("timm_v1_conv", *timm_model(conv_mlp=True), rng, images)
    hf = transformers
    make("transformers_v1", *backbone(hf.ConvNextBackbone, hf.ConvNextConfig), rng, images)
    make("transformers_v2", *backbone(hf.ConvNextV2Backbone, hf.ConvNextV2Config), rng, images)
    make("torchvision", *torchvision_model(), rng, images)


if __name__ == "__main__":
    main()
