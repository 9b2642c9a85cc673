"""SCSA in a timm model, trained on scikit-learn's handwritten digits; prints the accuracy.

python examples/timm_digits.py [EPOCHS]
"""

import sys

import timm
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn.functional import cross_entropy, interpolate

import scsa


def main(epochs: int = 4) -> float:
    """Returns the share of the 360 test digits that are named right."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1  # 1797 of 8 x 8, in -1 … 1
    images, labels = interpolate(images, scale_factor=4), torch.from_numpy(digits.target)
    train, test = train_test_split(range(1797), test_size=360, stratify=labels, random_state=0)

    model = timm.create_model('resnet18', in_chans=1, num_classes=10, channels=(16, 32, 64, 128))
    scsa.insert(model)  # after weights are loaded, before the optimizer is made

    optimizer = torch.optim.AdamW(model.parameters())
    steps = epochs * len(range(0, len(train), 64))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for epoch in range(epochs):
        model.train()
        for batch in torch.randperm(len(train)).split(64):
            batch = torch.tensor(train)[batch]
            loss = cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            right = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
        print(f'epoch {epoch + 1}: {right:.1%} of the {len(test)} test digits')
    return right


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
