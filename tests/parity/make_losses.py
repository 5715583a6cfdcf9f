"""Make the fixtures of losses: torch's cross entropy; formulas of mmseg, smp and papers written out in torch."""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F

HERE = pathlib.Path(__file__).resolve().parent
IGNORE, CLASSES = 255, 5
WEIGHTS = (1.0, 2.0, 0.5, 3.0, 1.5)


def draw():
    """Draw logits [n k h w] and labels with holes, in patches (outlines need some); class 4 is absent."""
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(2, CLASSES, 11, 13, generator=generator) * 16).round() / 16
    patches = torch.randint(0, CLASSES - 1, (2, 4, 5), generator=generator)
    labels = patches.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :11, :13].clone()
    labels[torch.rand(labels.shape, generator=generator) < 0.15] = IGNORE
    return logits.double(), labels


def one_hot(labels):
    """Return labels as [n k h w], 0 where ignored, and which pixels count [n 1 h w]."""
    counts = (labels != IGNORE)[:, None]
    return F.one_hot(labels * counts[:, 0], CLASSES).movedim(-1, 1).double() * counts, counts


def sums(logits, labels):
    """Return sums by class over the batch: p y, p, p^2, y."""
    y, counts = one_hot(labels)
    p = logits.softmax(1) * counts
    return [x.sum((0, 2, 3)) for x in (p * y, p, p * p, y)]


def dice(logits, labels, eps=1e-5):
    """RingFormer-Seg's formula."""
    both, _, square, y = sums(logits, labels)
    return 1 - ((2 * both + eps) / (square + y + eps)).mean()


def soft_dice(logits, labels, eps=1e-5):
    """smp's multiclass DiceLoss (smooth added to both), its mean taken over the classes present."""
    both, p, _, y = sums(logits, labels)
    return (1 - (2 * both + eps) / (p + y + eps))[y > 0].mean()


def tversky(logits, labels, alpha=0.3, beta=0.7, smooth=1.0):
    """mmseg's TverskyLoss of one image that holds all pixels."""
    y, counts = one_hot(labels)
    p, total = logits.softmax(1), 0
    for c in range(CLASSES):
        hit = (p[:, c] * y[:, c] * counts[:, 0]).sum()
        wrong = (p[:, c] * (1 - y[:, c]) * counts[:, 0]).sum()
        missed = ((1 - p[:, c]) * y[:, c] * counts[:, 0]).sum()
        total = total + 1 - (hit + smooth) / (hit + alpha * wrong + beta * missed + smooth)
    return total / CLASSES


def focal(logits, labels, gamma=2.0, weight=None):
    """Lin et al. with a softmax."""
    entropy = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    own = torch.tensor(weight or [1.0] * CLASSES).double()[labels.clamp(max=CLASSES - 1)]
    return (own * (1 - torch.exp(-entropy)) ** gamma * entropy).sum() / (labels != IGNORE).sum()


def sigmoid_focal(logits, labels, gamma=2.0, alpha=0.5):
    """mmseg's FocalLoss: a mean over all pixels and classes."""
    y, counts = one_hot(labels)
    p = logits.sigmoid()
    wrong = (1 - p) * y + p * (1 - y)
    entropy = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    return (entropy * (alpha * y + (1 - alpha) * (1 - y)) * wrong**gamma * counts).mean()


def lovasz(logits, labels, classes="present"):
    """Berman et al.'s algorithm, all pixels of the batch at once (mmseg: per_image=False)."""
    keep = (labels != IGNORE).flatten()
    p = logits.softmax(1).movedim(1, -1).flatten(0, 2)[keep]
    truth, losses = labels.flatten()[keep], []
    for c in range(CLASSES):
        y = (truth == c).double()
        if classes == "present" and not y.any():
            continue
        errors, order = (y - p[:, c]).abs().sort(descending=True)
        y = y[order]
        jaccard = 1 - (y.sum() - y.cumsum(0)) / (y.sum() + (1 - y).cumsum(0))
        losses.append((errors * torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])).sum())
    return sum(losses) / len(losses)


def hard(logits, labels, threshold, keep):
    """mmseg's OHEMPixelSampler: which pixels are taken."""
    counts = labels != IGNORE
    own = logits.softmax(1).gather(1, (labels * counts)[:, None])[:, 0]
    order = own[counts].sort().values
    return counts & (own < max(order[min(keep, len(order) - 1)], threshold))


def ohem(logits, labels, threshold, keep, average, weight=None):
    """Cross entropy of the hard pixels, over them or over all (mmseg)."""
    taken = hard(logits.detach(), labels, threshold, keep)
    weight = weight and torch.tensor(weight).double()
    loss = F.cross_entropy(logits, labels, weight, ignore_index=IGNORE, reduction="none")
    own = torch.ones(CLASSES).double() if weight is None else weight
    total = own[labels[taken]].sum() if average == "kept" else labels.numel()
    return (loss * taken).sum() / total


def boundary(logits, labels, inner=3, outer=5):
    """Bokhovkin & Burnaev's loss; pixels that do not count are hidden from the pools, sums run over the batch."""

    def pool(x, width):
        return F.max_pool2d(x, width, stride=1, padding=width // 2)

    y, counts = one_hot(labels)
    found, real = ((pool(rest, inner) - rest) * counts for rest in ((1 - logits.softmax(1)) * counts, (1 - y) * counts))
    over = (0, 2, 3)
    precision = (found * pool(real, outer)).sum(over) / (found.sum(over) + 1e-7)
    recall = (real * pool(found, outer)).sum(over) / (real.sum(over) + 1e-7)
    loss = 1 - 2 * precision * recall / (precision + recall + 1e-7)
    return loss[real.sum(over) > 0].mean()


def entropy(logits, labels, average="valid", **options):
    """torch's cross entropy; over all pixels as mmseg takes it."""
    if average == "valid":
        return F.cross_entropy(logits, labels, ignore_index=IGNORE, **options)
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none", **options).mean()


CASES = {
    "ce": entropy,
    "ce_all": lambda z, y: entropy(z, y, "all"),
    "ce_weights_smoothing": lambda z, y: entropy(z, y, weight=torch.tensor(WEIGHTS).double(), label_smoothing=0.1),
    "dice": dice,
    "soft_dice": soft_dice,
    "tversky": tversky,
    "tversky_other": lambda z, y: tversky(z, y, 0.6, 0.4, 0.5),
    "focal": focal,
    "focal_other": lambda z, y: focal(z, y, 0.5, WEIGHTS),
    "focal_sigmoid": sigmoid_focal,
    "focal_sigmoid_other": lambda z, y: sigmoid_focal(z, y, 1.5, 0.25),
    "lovasz": lovasz,
    "lovasz_all": lambda z, y: lovasz(z, y, "all"),
    "ohem_threshold": lambda z, y: ohem(z, y, 0.7, 10, "kept"),
    "ohem_keep": lambda z, y: ohem(z, y, 0.01, 60, "all"),
    "ohem_weights": lambda z, y: ohem(z, y, 0.0, 90, "kept", WEIGHTS),
    "ohem_everything": lambda z, y: ohem(z, y, 0.1, 10_000, "all"),
    "boundary": boundary,
    "boundary_wide": lambda z, y: boundary(z, y, 5, 3),
}


def main():
    """Write logits, labels, and of every case the value and the gradient."""
    logits, labels = draw()
    arrays = {"logits": logits.movedim(1, -1).numpy().astype(np.float32), "labels": labels.numpy().astype(np.uint8)}
    for name, loss in CASES.items():
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, labels)
        value.backward()
        arrays[f"{name}:value"] = np.float32(value.item())
        arrays[f"{name}:gradient"] = leaf.grad.movedim(1, -1).numpy().astype(np.float32)
    np.savez_compressed(HERE / "losses.npz", **arrays)


if __name__ == "__main__":
    main()
