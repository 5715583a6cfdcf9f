"""Make mask2former_*.npz: transformers' Mask2Former on Swin and its loss, run in float64. By hand; see README.md."""

import pathlib

import numpy as np
import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

HERE = pathlib.Path(__file__).resolve().parent
LEAVES = (
    "model.pixel_level_module.decoder.level_embed",
    "model.pixel_level_module.decoder.encoder.layers.0.self_attn.sampling_offsets.bias",
    "model.pixel_level_module.decoder.encoder.layers.0.self_attn.value_proj.weight",
    "model.pixel_level_module.decoder.adapter_1.1.weight",
    "model.transformer_module.queries_features.weight",
    "model.transformer_module.decoder.layers.1.cross_attn.in_proj_bias",
    "class_predictor.weight",
)


def tiny() -> Mask2FormerForUniversalSegmentation:
    backbone = SwinConfig(
        embed_dim=4,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_size=4,
        mlp_ratio=1.0,
        out_features=[f"stage{i}" for i in range(1, 5)],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=4,
        num_attention_heads=4,
        dim_feedforward=16,
        num_queries=5,
        num_labels=3,
        output_auxiliary_logits=True,
    )
    model = Mask2FormerForUniversalSegmentation(config).eval().double()
    for name, parameter in model.named_parameters():
        spread = 0.1 if parameter.dim() > 1 else 0.2
        parameter.data = spread * torch.randn_like(parameter) + ("norm" in name and name.endswith("weight"))
        if "sampling_offsets.bias" in name:
            parameter.data *= 10
        if "1.1.weight" in name or ("_projections" in name and name.endswith(".1.weight")):
            parameter.data += 1
        if "queries" in name or "level_embed" in name:
            parameter.data *= 5
        parameter.data = coarse(parameter.data)
    return model


def coarse(x: torch.Tensor) -> torch.Tensor:
    """Round to what bfloat16 holds, so that files are small."""
    return x.bfloat16().double()


def loss_case() -> dict[str, torch.Tensor]:
    """Mask2FormerLoss of two layers; the points of a scene serve all its masks, as they do here."""
    (b, q, k, h, w), points = (2, 6, 4, 6, 7), 24
    config = Mask2FormerConfig(num_labels=k, train_num_points=points)
    loss = Mask2FormerLoss(config, {})
    arrays = {"labels": torch.randint(0, 3, (b, 2, 2)).repeat_interleave(2 * h, 1).repeat_interleave(2 * w, 2)}
    arrays["labels"][1, 5:9, 3:20] = 3
    layers = 2
    for i in range(layers):
        arrays[f"masks{i}"] = (2 * torch.randn(b, h, w, q)).float().double().requires_grad_()
        arrays[f"classes{i}"] = torch.randn(b, q, k + 1).float().double().requires_grad_()
        arrays[f"compare{i}"] = torch.rand(b, points, 2).float().double()
        arrays[f"learn{i}"] = torch.rand(b, 3 * points + points // 4, 2).float().double()
    classes = [x.unique() for x in arrays["labels"]]
    masks = [(x == c[:, None, None]).double() for x, c in zip(arrays["labels"], classes, strict=True)]
    answers = []
    for i in range(layers):
        compare, learn = (arrays[f"{name}{i}"].flip(-1) for name in ("compare", "learn"))
        each = torch.cat([x.expand(len(c), -1, -1) for x, c in zip(learn, classes, strict=True)])
        answers += [x.contiguous() for x in (*compare[:, None], each[:, : 3 * points], each[:, 3 * points :])]
    whole, torch.rand = torch.rand, lambda *_, **__: answers.pop(0)
    given = [(arrays[f"masks{i}"].permute(0, 3, 1, 2), arrays[f"classes{i}"]) for i in range(layers)]
    earlier = [{"masks_queries_logits": m, "class_queries_logits": c} for m, c in given[1:]]
    parts = loss.double()(*given[0], masks, classes, earlier)
    torch.rand = whole
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    total = sum(weights[name.removesuffix("_0")] * part for name, part in parts.items())
    total.backward()
    for name in [name for name, x in arrays.items() if x.requires_grad]:
        arrays["gradient:" + name] = arrays[name].grad
    return arrays | {"loss": total} | {"part:" + name: part for name, part in parts.items()}


def save(name: str, arrays: dict[str, torch.Tensor]) -> None:
    arrays = {key: x.detach().float() if x.is_floating_point() else x for key, x in arrays.items()}
    np.savez_compressed(HERE / name, **{key: x.numpy() for key, x in arrays.items()})


if __name__ == "__main__":
    torch.manual_seed(0)
    model = tiny()
    images = coarse(torch.randn(2, 3, 37, 45))
    kept = {}
    model.model.pixel_level_module.register_forward_hook(lambda _, __, out: kept.update(pixels=out))
    out = model(images)
    masks = torch.nn.functional.interpolate(out.masks_queries_logits, size=images.shape[2:], mode="bilinear")
    scores = torch.einsum("bqc,bqhw->bhwc", out.class_queries_logits.softmax(-1)[..., :-1], masks.sigmoid())
    weight = torch.cos(torch.arange(scores.numel(), dtype=torch.float64)).reshape(scores.shape)
    (scores * weight).sum().backward()
    pixels = kept["pixels"]
    layers = [*out.auxiliary_logits, {name: getattr(out, name) for name in out.auxiliary_logits[0]}]
    arrays = dict(model.state_dict())
    arrays["input:images"] = images.permute(0, 2, 3, 1)
    arrays["output:scores"] = scores[:, ::2, ::2]
    arrays["output:pixels"] = pixels.decoder_last_hidden_state.permute(0, 2, 3, 1)[:, ::2]
    for i, level in enumerate(pixels.decoder_hidden_states):
        arrays[f"output:level{i}"] = level.permute(0, 2, 3, 1)
    for i, layer in enumerate(layers):
        arrays[f"output:masks{i}"] = layer["masks_queries_logits"].permute(0, 2, 3, 1)
        arrays[f"output:classes{i}"] = layer["class_queries_logits"]
    parameters = dict(model.named_parameters())
    for name in LEAVES:
        arrays["gradient:" + name] = parameters[name].grad
    save("mask2former_transformers.npz", arrays)
    save("mask2former_loss.npz", loss_case())
