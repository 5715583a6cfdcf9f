"""Write tests/parity/vmamba_*.npz: VMamba from its formulas in torch on random weights, in float64, stored as float32.

No package has VMamba. Parameters have the names of the authors' code; the scan is a loop over single places. Run by
hand where torch is installed: python tests/parity/make_vmamba.py
"""

import math
import pathlib

import numpy as np
import torch
from torch import nn

HERE = pathlib.Path(__file__).parent
DEPTHS = (1, 0, 1, 0)
HEIGHT, WIDTH, BATCH = 37, 50, 2  # maps of 10 x 13, 5 x 7, 3 x 4 and 2 x 2 places
EPSILON = 1e-5


class Norm(nn.LayerNorm):
    """A LayerNorm over the channels of [n c h w]."""

    def __init__(self, channels):
        super().__init__(channels, eps=EPSILON)

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def apply_linear(layer, x):
    """Apply a linear layer to the channels of [n c h w]."""
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Scan(nn.Module):
    """SS2D, v05_noz: four sequences of a map, each scanned by h_t = exp(delta A) h + delta B u, y = C h + D u."""

    def __init__(self, channels, state, ratio):
        super().__init__()
        inner, self.rank, self.state = int(channels * ratio), math.ceil(channels / 16), state
        self.in_proj = nn.Linear(channels, inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.x_proj_weight = nn.Parameter(torch.empty(4, self.rank + 2 * state, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(4, inner, self.rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(4, inner))
        self.A_logs = nn.Parameter(torch.empty(4 * inner, state))
        self.Ds = nn.Parameter(torch.empty(4 * inner))
        self.out_norm = Norm(inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)

    def sequence(self, x, direction):
        """Return [n d l] in the order of one direction: rows, columns, rows back, columns back."""
        x = (x.transpose(2, 3) if direction % 2 else x).flatten(2)
        return x.flip(-1) if direction >= 2 else x

    def back(self, y, direction, height, width):
        """Undo `sequence`."""
        y = y.flip(-1) if direction >= 2 else y
        return y.unflatten(2, (width, height)).transpose(2, 3) if direction % 2 else y.unflatten(2, (height, width))

    def scan(self, u, direction):
        """Scan a sequence [n d l] place by place."""
        said = torch.einsum("ndl,pd->npl", u, self.x_proj_weight[direction])
        dt, b, c = said.split([self.rank, self.state, self.state], dim=1)
        dt = torch.einsum("nrl,dr->ndl", dt, self.dt_projs_weight[direction])
        delta = nn.functional.softplus(dt + self.dt_projs_bias[direction][:, None])
        inner = u.shape[1]
        a = -torch.exp(self.A_logs[direction * inner : (direction + 1) * inner])
        h, ys = u.new_zeros(len(u), inner, self.state), []
        for t in range(u.shape[2]):
            step = delta[:, :, t, None]
            h = torch.exp(step * a) * h + step * b[:, None, :, t] * u[:, :, t, None]
            ys.append((h * c[:, None, :, t]).sum(-1))
        return torch.stack(ys, -1) + self.Ds[direction * inner : (direction + 1) * inner, None] * u

    def forward(self, x):
        x = nn.functional.silu(self.conv2d(apply_linear(self.in_proj, x)))
        y = sum(self.back(self.scan(self.sequence(x, k), k), k, *x.shape[2:]) for k in range(4))
        return apply_linear(self.out_proj, self.out_norm(y))


class Mlp(nn.Module):
    def __init__(self, channels, ratio):
        super().__init__()
        hidden = int(channels * ratio)
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x):
        return apply_linear(self.fc2, nn.functional.gelu(apply_linear(self.fc1, x)))


class Block(nn.Module):
    def __init__(self, channels, state, ssm_ratio, mlp_ratio):
        super().__init__()
        self.norm, self.op = Norm(channels), Scan(channels, state, ssm_ratio)
        self.norm2, self.mlp = Norm(channels), Mlp(channels, mlp_ratio)

    def forward(self, x):
        x = x + self.op(self.norm(x))
        return x + self.mlp(self.norm2(x))


class Stage(nn.Module):
    def __init__(self, depth, sizes, following):
        super().__init__()
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(depth))
        if following:
            conv = nn.Conv2d(sizes[0], following, 3, stride=2, padding=1)
            self.downsample = nn.Sequential(nn.Identity(), conv, nn.Identity(), Norm(following))


class VMamba(nn.Module):
    def __init__(self, dims, state=1, ssm_ratio=2.0, mlp_ratio=4.0, output_norms=True):
        super().__init__()
        half = dims[0] // 2
        self.patch_embed = nn.Sequential(
            nn.Conv2d(3, half, 3, stride=2, padding=1),
            nn.Identity(),
            Norm(half),
            nn.Identity(),
            nn.GELU(),
            nn.Conv2d(half, dims[0], 3, stride=2, padding=1),
            nn.Identity(),
            Norm(dims[0]),
        )
        self.layers = nn.ModuleList(
            Stage(depth, (dim, state, ssm_ratio, mlp_ratio), following)
            for depth, dim, following in zip(DEPTHS, dims, (*dims[1:], None), strict=True)
        )
        self.normed = output_norms
        for i, dim in enumerate(dims if output_norms else ()):
            setattr(self, f"outnorm{i}", Norm(dim))
        if not output_norms:
            self.classifier = nn.ModuleDict({"norm": Norm(dims[-1]), "head": nn.Linear(dims[-1], 3)})

    def forward(self, x):
        """Return the maps of the stages and those after every block."""
        maps, blocks = [], {}
        x = self.patch_embed(x)
        for i, stage in enumerate(self.layers):
            for j, block in enumerate(stage.blocks):
                x = blocks[f"{i}.{j}"] = block(x)
            maps.append(getattr(self, f"outnorm{i}")(x) if self.normed else x)
            if i < 3:
                x = stage.downsample(x)
        return maps, blocks


def randomize(model, generator):
    """Draw weights that leave no term without effect: steps of 0.05 to 1, decay of 0.4 to 3 a step."""
    for name, parameter in model.named_parameters():
        value = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        leaf = name.rpartition(".")[2]
        if leaf == "dt_projs_bias":
            value = value - 1.5
        elif leaf == "Ds" or (leaf == "weight" and parameter.ndim == 1):
            value = 1 + 0.2 * value
        elif leaf == "A_logs" or parameter.ndim == 1:
            value = 0.4 * value
        elif leaf in ("dt_projs_weight", "x_proj_weight"):
            value = value / parameter.shape[-1] ** 0.5
        else:
            value = value / parameter[0].numel() ** 0.5
        parameter.data = value.float().double()


def channels_last(x):
    return x.detach().numpy().astype(np.float32).transpose(0, 2, 3, 1)


def write(name, model, *, gradients):
    generator = torch.Generator().manual_seed(7)
    model = model.double()
    randomize(model, generator)
    images = torch.randn(BATCH, 3, HEIGHT, WIDTH, generator=generator, dtype=torch.float64).float().double()
    images.requires_grad_(gradients)
    maps, blocks = model(images)
    numbers = {f"weights:{key}": value.detach().numpy().astype(np.float32) for key, value in model.state_dict().items()}
    numbers["images"] = channels_last(images)
    numbers |= {f"stage{i}": channels_last(x) for i, x in enumerate(maps)}
    if gradients:
        numbers |= {f"block:{path}": channels_last(x) for path, x in blocks.items()}
        cotangents = [torch.randn(x.shape, generator=generator, dtype=torch.float64).float().double() for x in maps]
        sum((x * c).sum() for x, c in zip(maps, cotangents, strict=True)).backward()
        numbers |= {f"cotangent{i}": channels_last(x) for i, x in enumerate(cotangents)}
        numbers["input_gradient"] = channels_last(images.grad)
        numbers |= {f"gradient:{k}": p.grad.numpy().astype(np.float32) for k, p in model.named_parameters()}
    np.savez_compressed(HERE / f"vmamba_{name}.npz", **numbers)


if __name__ == "__main__":
    torch.set_num_threads(1)
    write("mmseg", VMamba((12, 16, 20, 24)), gradients=True)
    # A rank above 1, several states, and other widths; a classifier, so without output norms.
    write(
        "vmamba", VMamba((16, 20, 24, 40), state=3, ssm_ratio=1.5, mlp_ratio=2.0, output_norms=False), gradients=False
    )
