"""A folder of images in plain PyTorch: ``python plain.py FOLDER`` trains a small network and prints its accuracy."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, random_split

CLASSES = ["amber", "azure", "coral", "ivory", "khaki", "lilac", "olive", "pearl", "sepia", "topaz"]


class Folder(Dataset):
    """Images of 32 x 32 pixels, one folder a class; an image is read when it is used."""

    def __init__(self, path):
        self.files = sorted(Path(path).glob("*/*"))
        self.targets = [CLASSES.index(file.parent.name) for file in self.files]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, at):
        with Image.open(self.files[at]) as image:
            pixels = np.array(image.convert("RGB").resize((32, 32)), dtype=np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1) / 255, self.targets[at]


def make_model():
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, len(CLASSES)),
    )  # fmt: skip


def train_epoch(model, loader, optimizer):
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


@torch.no_grad()
def evaluate(model, rows):
    model.eval()
    batches = [(model(images), labels) for images, labels in DataLoader(rows, batch_size=64)]
    outputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    right = (outputs.argmax(dim=1) == labels).float()
    return {"loss": functional.cross_entropy(outputs, labels), "accuracy": right.mean()}


def main(folder):
    torch.manual_seed(7)
    training, test = random_split(Folder(folder), [0.8, 0.2])
    net = make_model()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(10):
        train_epoch(net, DataLoader(training, batch_size=16, shuffle=True), optimizer)
    print(f"accuracy {evaluate(net, test)['accuracy']:.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
