"""Make upernet_transformers.npz: transformers' UperNet on ConvNeXt, run in float64. By hand; see README.md."""

import pathlib

import numpy as np
import torch
from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

torch.manual_seed(0)
backbone = ConvNextConfig(
    hidden_sizes=[4, 8, 8, 8], depths=[1, 1, 1, 1], out_features=[f"stage{i}" for i in range(1, 5)]
)
config = UperNetConfig(
    backbone_config=backbone,
    hidden_size=8,
    pool_scales=[1, 2, 3, 6],
    auxiliary_in_channels=8,
    auxiliary_channels=8,
    num_labels=5,
)
model = UperNetForSemanticSegmentation(config).eval().double()
for name, parameter in model.named_parameters():
    parameter.data = 0.3 * torch.randn_like(parameter) + ("norm" in name and name.endswith("weight"))
for name, buffer in model.named_buffers():
    if name.endswith("running_mean"):
        buffer.normal_(0, 0.1)
    if name.endswith("running_var"):
        buffer.uniform_(0.5, 1.5)
images = torch.randn(2, 3, 70, 101).float().double()
with torch.no_grad():
    logits = model(images).logits
arrays = model.state_dict() | {"input:images": images.permute(0, 2, 3, 1), "output:logits": logits.permute(0, 2, 3, 1)}
arrays = {name: value.float() if value.is_floating_point() else value for name, value in arrays.items()}
arrays = {name: value.numpy() for name, value in arrays.items()}
np.savez_compressed(pathlib.Path(__file__).resolve().parent / "upernet_transformers.npz", **arrays)
