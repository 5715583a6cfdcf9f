"""Bring published torch weights into a model of ours, ready for training and prediction.

    python scripts/import_torch.py --config=configs/fbp.py --weights=rest.pth --source=rest --out=runs/rest
    python scripts/import_torch.py --config=configs/banepa.py:swin_tiny --heads=random --source=timm \\
        --weights=hf://timm/swin_tiny_patch4_window7_224.ms_in1k/model.safetensors --out=runs/imagenet

OUT then holds config.json and checkpoint 0 (orbax): `scripts/predict.py --workdir=OUT` uses it as it is,
`scripts/train.py --config.train.init=OUT` goes on from it. What was taken, changed and left out is printed.
"""

from absl import flags
from ml_collections import config_flags

from holojax import config
from holojax.checkpoints.convert import convert_weights
from holojax.training import command

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Configuration: configs/NAME.py[:VARIANT].")
_WEIGHTS = flags.DEFINE_string(
    "weights", None, "A .safetensors or .pth file, an index of parts, or hf://owner/repo/file."
)
_SOURCE = flags.DEFINE_string("source", "auto", "rest, mmseg, timm, transformers, vmamba, torchvision, or auto.")
_OUT = flags.DEFINE_string("out", None, "Folder to make.")
_HEADS = flags.DEFINE_enum(
    "heads", "file", ["file", "random"], "random: take the encoder (and mixers, if there) from the file, not the heads."
)
flags.mark_flags_as_required(["config", "weights", "out"])


def main() -> None:
    """Import as the flags say."""
    cfg = config.experiment(**_CONFIG.value.to_dict())
    print(convert_weights(cfg, _WEIGHTS.value, _SOURCE.value, _OUT.value, heads=_HEADS.value), flush=True)


if __name__ == "__main__":
    command.run(main)
