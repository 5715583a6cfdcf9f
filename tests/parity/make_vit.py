"""Make the fixtures of ViT: from timm, transformers and torchvision, and for mmseg from formulas written out."""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer as TimmViT
from timm.models.vision_transformer import checkpoint_filter_fn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT
from torchvision.models.vision_transformer import interpolate_embeddings
from transformers import ViTConfig, ViTModel

HERE = pathlib.Path(__file__).resolve().parent
DIM, DEPTH, HEADS, PATCH, SIDE = 16, 5, 2, 8, 32  # a grid of 4 x 4


def coarse(x, parts=32):
    """Round to parts of one: files hold few different values in little space."""
    return (x * parts).round() / parts


def randomize(module):
    """Draw all parameters anew, so that no mistake hides behind a zero."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        parameter.data = coarse(0.3 * torch.randn(parameter.shape, generator=generator))
        if ("norm" in name or "ln" in name) and name.endswith("weight"):
            parameter.data += 1
    return module.eval().double()


def draw(height, width):
    """Draw images."""
    generator = torch.Generator().manual_seed(1)
    return coarse(torch.randn(2, 3, height, width, generator=generator), 4).double().requires_grad_()


def watch(modules):
    """Record what modules return."""
    seen = []
    for module in modules:
        module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    return seen


def shape(tokens, height, width, first=1):
    """Make maps of tokens, the class token dropped."""
    return tokens[:, first:].reshape(len(tokens), -(-height // PATCH), -(-width // PATCH), DIM)


def store(name, weights, cases, grads=()):
    """Store weights under their names, and of every case images, what blocks make, and the last map."""
    arrays = {f"weight:{key}": value for key, value in weights.items()}
    for case, (images, blocks, last) in cases.items():
        arrays[f"{case}:images"] = images.permute(0, 2, 3, 1)
        arrays |= {f"{case}:block{i}": x for i, x in enumerate(blocks)}
        arrays[f"{case}:last"] = last
        if grads:
            (sum(blocks[i].sin().sum() for i in (1, 2, 3)) + last.sin().sum()).backward()
            arrays["grad:images"] = images.grad.permute(0, 2, 3, 1)
            arrays |= {f"grad:{key}": weights[key].grad for key in grads}
    arrays = {key: np.asarray(value.detach(), np.float32) for key, value in arrays.items()}
    np.savez_compressed(HERE / f"vit_{name}.npz", **arrays)


def timm():
    """Run timm's at its own size, at others (dynamic_img_size), and what its loader makes of another grid."""
    sizes = dict(patch_size=PATCH, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, mlp_ratio=2, num_classes=3)
    model = randomize(TimmViT(img_size=SIDE, dynamic_img_size=True, dynamic_img_pad=True, **sizes))
    cases = {}
    for case, (h, w) in {"own": (SIDE, SIDE), "large": (37, 51), "small": (22, 9)}.items():
        images, seen = draw(h, w), watch(model.blocks)
        last = model.forward_features(images)
        cases[case] = images, [shape(x, h, w) for x in seen], shape(last, h, w)
    store("timm", model.state_dict(), cases)
    tables = {"positions": model.pos_embed}
    for side in (3, 6):
        other = TimmViT(img_size=side * PATCH, **sizes)
        tables[f"timm{side}"] = checkpoint_filter_fn(model.state_dict(), other)["pos_embed"]
        state = interpolate_embeddings(side * PATCH, PATCH, {"encoder.pos_embedding": model.pos_embed.data.clone()})
        tables[f"torchvision{side}"] = state["encoder.pos_embedding"]
    np.savez_compressed(HERE / "vit_tables.npz", **{k: np.asarray(x.detach(), np.float32) for k, x in tables.items()})
    bare = randomize(TimmViT(img_size=SIDE, class_token=False, global_pool="avg", **sizes))
    images, seen = draw(SIDE, SIDE), watch(bare.blocks)
    bare.forward_features(images)
    blocks = [shape(x, SIDE, SIDE, 0) for x in seen]
    store("timm_bare", bare.state_dict(), {"own": (images, blocks, blocks[-1])})


def transformers():
    """Run transformers', with gradients where positions are resized."""
    config = ViTConfig(
        hidden_size=DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=2 * DIM,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = randomize(ViTModel(config))
    images, seen = draw(40, 16), watch(model.layers)
    last = model(images, interpolate_pos_encoding=True).last_hidden_state
    weights = dict(model.named_parameters())
    grads = ["embeddings.cls_token", "embeddings.position_embeddings", "layernorm.weight"]
    grads += ["embeddings.patch_embeddings.projection.weight", "layers.1.mlp.fc1.weight"]
    store("transformers", weights, {"large": (images, [shape(x, 40, 16) for x in seen], shape(last, 40, 16))}, grads)


def torchvision():
    """Run torchvision's at its own size, the only one that it takes."""
    model = randomize(TorchvisionViT(SIDE, PATCH, DEPTH, HEADS, DIM, 2 * DIM, num_classes=3))
    images, seen, last = draw(SIDE, SIDE), watch(model.encoder.layers), watch([model.encoder.ln])
    model(images)
    cases = {"own": (images, [shape(x, SIDE, SIDE) for x in seen], shape(last[0], SIDE, SIDE))}
    store("torchvision", model.state_dict(), cases)


class MmsegViT(torch.nn.Module):
    """Mmseg's ViT without a final norm, from the formulas: torch's attention, the table of positions resized."""

    def __init__(self):
        super().__init__()

        class Node(torch.nn.Module):
            pass

        self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, 17, DIM))
        self.patch_embed = Node()
        self.patch_embed.projection = torch.nn.Conv2d(3, DIM, PATCH, PATCH)
        self.layers = torch.nn.ModuleList()
        for _ in range(DEPTH):
            layer = Node()
            layer.ln1, layer.ln2 = (torch.nn.LayerNorm(DIM, eps=1e-6) for _ in range(2))
            layer.attn = Node()
            layer.attn.attn = torch.nn.MultiheadAttention(DIM, HEADS, batch_first=True)
            layer.ffn = Node()
            first = torch.nn.Sequential(torch.nn.Linear(DIM, 2 * DIM))
            layer.ffn.layers = torch.nn.Sequential(first, torch.nn.Linear(2 * DIM, DIM))
            self.layers.append(layer)

    def forward(self, images):
        h, w = (-(-side // PATCH) for side in images.shape[2:])
        images = F.pad(images, (0, w * PATCH - images.shape[3], 0, h * PATCH - images.shape[2]))
        x = self.patch_embed.projection(images).flatten(2).transpose(1, 2)
        grid = self.pos_embed[:, 1:].transpose(1, 2).reshape(1, DIM, 4, 4)
        grid = F.interpolate(grid, (h, w), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x + grid], 1)
        blocks = []
        for layer in self.layers:
            y = layer.ln1(x)
            x = x + layer.attn.attn(y, y, y, need_weights=False)[0]
            first, second = layer.ffn.layers
            x = x + second(F.gelu(first(layer.ln2(x))))
            blocks.append(x)
        return blocks


def mmseg():
    """Run mmseg's on images that no patch divides."""
    model, images = randomize(MmsegViT()), draw(37, 51)
    blocks = [shape(x, 37, 51) for x in model(images)]
    weights = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    store("mmseg", weights, {"large": (images, blocks, blocks[-1])})


if __name__ == "__main__":
    for make in (timm, transformers, torchvision, mmseg):
        make()
