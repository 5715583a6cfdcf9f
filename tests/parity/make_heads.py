"""Make heads_*.npz: mmseg's FCN and SETR heads, REST's lwc head, SegViT's, written out in torch with their names.

By hand, in float64; see README.md.
"""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
CLASSES = 5
PYRAMID = {4: (13, 10), 6: (7, 5), 8: (4, 3), 10: (2, 2)}  # channels: size
FLAT, SIZE = 12, (3, 2)


class Node(nn.Module):
    """A place for modules with names."""


def up(x, size):
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def places(norm, x):
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvModule(nn.Module):
    """mmcv's: convolution, batch norm, ReLU."""

    def __init__(self, inputs, outputs, kernel=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def sequence(inputs, outputs, kernel=1):
    """The same as the lwc head has it: without names."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, momentum=0.001), nn.ReLU())


class FCNHead(nn.Module):
    """mmseg's, on the third map."""

    def __init__(self, convs, kernel, concat, channels=6, inputs=8):
        super().__init__()
        self.convs = nn.Sequential(*(ConvModule(channels if i else inputs, channels, kernel) for i in range(convs)))
        made = channels if convs else inputs
        self.conv_cat = ConvModule(inputs + made, channels, kernel) if concat else None
        self.conv_seg = nn.Conv2d(channels if concat else made, CLASSES, 1)

    def forward(self, maps):
        x = maps[2]
        y = self.convs(x)
        if self.conv_cat is not None:
            y = self.conv_cat(torch.cat([x, y], 1))
        return self.conv_seg(y)


class SETRUPHead(nn.Module):
    """mmseg's progressive head, on one of four maps of a size."""

    def __init__(self, kernel, factors, stage, channels=6):
        super().__init__()
        self.stage, self.norm, self.up_convs = stage, nn.LayerNorm(FLAT, eps=1e-6), nn.ModuleList()
        for i, factor in enumerate(factors):
            conv = ConvModule(channels if i else FLAT, channels, kernel)
            grow = nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)
            self.up_convs.append(nn.Sequential(conv, grow))
        self.conv_seg = nn.Conv2d(channels, CLASSES, 1)

    def forward(self, maps):
        x = places(self.norm, maps[self.stage])
        for layer in self.up_convs:
            x = layer(x)
        return self.conv_seg(x)


class SETRMLA(nn.Module):
    """mmseg's MLANeck, SETRMLAHead, and an auxiliary FCNHead on every map of the neck."""

    def __init__(self, channels=6):
        super().__init__()
        self.neck = Node()
        self.neck.norm = nn.ModuleList(nn.LayerNorm(FLAT, eps=1e-6) for _ in range(4))
        self.neck.mla = Node()
        self.neck.mla.channel_proj = nn.ModuleList(ConvModule(FLAT, channels) for _ in range(4))
        self.neck.mla.feat_extract = nn.ModuleList(ConvModule(channels, channels, 3) for _ in range(4))
        self.decode_head = Node()
        grow = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
        self.decode_head.up_convs = nn.ModuleList(
            nn.Sequential(ConvModule(channels, 3, 3), ConvModule(3, 3, 3), grow) for _ in range(4)
        )
        self.decode_head.conv_seg = nn.Conv2d(12, CLASSES, 1)
        self.auxiliary_head = nn.ModuleList()
        for _ in range(4):
            head = Node()
            head.conv_seg = nn.Conv2d(channels, CLASSES, 1)
            self.auxiliary_head.append(head)

    def forward(self, maps):
        mla, total, sums = self.neck.mla, 0, []
        projected = [f(places(norm, x)) for f, norm, x in zip(mla.channel_proj, self.neck.norm, maps, strict=True)]
        for x, smooth in zip(reversed(projected), mla.feat_extract, strict=True):
            total = total + x
            sums.append(smooth(total))
        levels = [f(x) for f, x in zip(self.decode_head.up_convs, sums, strict=True)]
        auxiliary = [head.conv_seg(x) for head, x in zip(self.auxiliary_head, sums, strict=True)]
        return self.decode_head.conv_seg(torch.cat(levels, 1)), *auxiliary


class UPerHeadLWC(nn.Module):
    """REST's head of the released weights."""

    def __init__(self, channels=6, scales=(1, 2, 3, 6)):
        super().__init__()
        *finer, last = PYRAMID
        self.scales = scales
        self.ppm_conv = nn.ModuleList(sequence(last, channels) for _ in scales)
        self.ppm_last_conv = sequence(last + len(scales) * channels, channels, 3)
        self.fpn_in = nn.ModuleList(sequence(c, channels) for c in finer)
        self.fpn_out = nn.ModuleList(nn.Sequential(sequence(channels, channels, 3)) for _ in finer)
        self.conv_fusion = sequence(4 * channels, channels, 3)
        self.object_head = nn.Sequential(sequence(channels, channels, 3), nn.Conv2d(channels, CLASSES, 1))
        self.conv_seg = nn.Conv2d(channels, CLASSES, 1)

    def forward(self, maps):
        *finer, last = maps
        size = last.shape[2:]
        pooled = [f(up(F.adaptive_avg_pool2d(last, s), size)) for s, f in zip(self.scales, self.ppm_conv, strict=True)]
        x = self.ppm_last_conv(torch.cat([last, *pooled], 1))
        levels = [x]
        for lateral, smooth, y in list(zip(self.fpn_in, self.fpn_out, finer, strict=True))[::-1]:
            x = lateral(y) + up(x, y.shape[2:])
            levels.insert(0, smooth(x))
        fused = self.conv_fusion(torch.cat([up(y, levels[0].shape[2:]) for y in levels], 1))
        return up(self.object_head(fused), size)


class Attention(nn.Module):
    """SegViT's cross-attention; it also answers with the scores' mean over heads."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, queries, tokens):
        def split(x):
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = split(self.q(queries)), split(self.k(tokens)), split(self.v(tokens))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)), scores.mean(1)


class ATMHead(nn.Module):
    """SegViT's: queries go from level to level, the last map first."""

    def __init__(self, channels, layers, dim=8, heads=2):
        super().__init__()
        self.q, self.class_embed = nn.Embedding(CLASSES, dim), nn.Linear(dim, CLASSES + 1)
        self.count = len(channels)
        for i, c in enumerate(reversed(channels), 1):
            setattr(self, f"input_proj_{i}", nn.Linear(c, dim))
            setattr(self, f"proj_norm_{i}", nn.LayerNorm(dim))
            decoder = Node()
            decoder.layers = nn.ModuleList()
            for _ in range(layers):
                layer = Node()
                layer.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
                layer.multihead_attn = Attention(dim, heads)
                layer.linear1, layer.linear2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
                layer.norm1, layer.norm2, layer.norm3 = (nn.LayerNorm(dim) for _ in range(3))
                decoder.layers.append(layer)
            setattr(self, f"decoder_{i}", decoder)

    def forward(self, maps):
        queries, size, total, outputs = self.q.weight.expand(len(maps[0]), -1, -1), maps[0].shape[2:], 0, []
        for i, x in enumerate(reversed(maps), 1):
            tokens = getattr(self, f"input_proj_{i}")(x.flatten(2).transpose(1, 2))
            tokens = getattr(self, f"proj_norm_{i}")(tokens)
            for layer in getattr(self, f"decoder_{i}").layers:
                read = layer.self_attn(queries, queries, queries, need_weights=False)[0]
                queries = layer.norm1(queries + read)
                read, scores = layer.multihead_attn(queries, tokens)
                queries = layer.norm2(queries + read)
                queries = layer.norm3(queries + layer.linear2(F.relu(layer.linear1(queries))))
            total = total + up(scores.unflatten(-1, x.shape[2:]), size)
            outputs += [total, self.class_embed(queries)[:, :, None]]
        image = up(total, IMAGE).sigmoid()
        chances = outputs[-1][:, :, 0].softmax(-1)[..., :-1]
        return *outputs, torch.einsum("bqc,bqhw->bchw", chances, image)


IMAGE = (19, 23)


def randomize(model):
    """Draw all parameters and running averages anew, so that no mistake hides behind a zero."""
    for name, parameter in model.named_parameters():
        norm = parameter.ndim == 1 and name.endswith("weight")
        parameter.data = (0.3 * torch.randn_like(parameter) + norm).float().double()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        if buffer.is_floating_point():
            buffer.copy_(buffer.float())
    return model.double()


def run(name, model, shapes, prefix="decode_head."):
    """Store weights, maps, and what the model makes of them in evaluation and training, with gradients."""
    torch.manual_seed(0)
    model = randomize(model.double())
    maps = [torch.randn(2, *shape).float().double().requires_grad_() for shape in shapes]
    arrays = {f"weight:{prefix}{key}": value.clone() for key, value in model.state_dict().items()}
    arrays |= {f"map:{i}": x.permute(0, 2, 3, 1) for i, x in enumerate(maps)}
    for mode in ("evaluated", "trained"):
        model.train(mode == "trained")
        found = model(maps)
        found = found if isinstance(found, tuple) else (found,)
        arrays |= {f"{mode}:{i}": x.permute(0, 2, 3, 1) for i, x in enumerate(found)}
    sum(x.sin().sum() for x in found).backward()
    arrays |= {f"grad:map:{i}": x.grad.permute(0, 2, 3, 1) for i, x in enumerate(maps) if x.grad is not None}
    for key, value in model.named_parameters():
        if value.grad is not None:
            arrays[f"grad:{prefix}{key}"] = value.grad
    for key, value in model.state_dict().items():
        if "running" in key:
            arrays[f"moved:{prefix}{key}"] = value
    arrays = {key: np.asarray(value.detach(), np.float32) for key, value in arrays.items()}
    np.savez_compressed(HERE / f"heads_{name}.npz", **arrays)


def main():
    """Make all."""
    pyramid = [(c, *size) for c, size in PYRAMID.items()]
    flat = [(FLAT, *SIZE)] * 4
    run("fcn2", FCNHead(2, 3, True), pyramid)
    run("fcn0", FCNHead(0, 1, False), pyramid)
    run("naive", SETRUPHead(1, (4,), 3), flat)
    run("pup", SETRUPHead(3, (2, 2, 2, 2), 3), flat)
    run("pup_aux", SETRUPHead(3, (4,), 1), flat, "auxiliary_head.")
    run("mla", SETRMLA(), flat, "")
    run("lwc", UPerHeadLWC(), pyramid)
    run("segvit_flat", ATMHead([FLAT] * 2, layers=2), flat[:2])
    run("segvit_pyramid", ATMHead(list(PYRAMID)[1:], layers=1), pyramid[1:])


if __name__ == "__main__":
    main()
