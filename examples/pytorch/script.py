"""Handwritten digits in plain PyTorch: ``python plain.py`` trains a small network and prints its accuracy."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, random_split


class Digits(Dataset):
    """The 1,797 images of 8 x 8 pixels that come with scikit-learn."""

    def __init__(self):
        bundled = load_digits()
        self.images = torch.tensor(bundled.images, dtype=torch.float32).unsqueeze(1) / 16
        self.targets = torch.tensor(bundled.target)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, at):
        return self.images[at], self.targets[at]


class Net(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(8 * width, 10))

    def forward(self, images):
        return self.head(self.body(images))


def train(model, rows, device, epochs=12, lr=3e-3):
    loader = DataLoader(rows, batch_size=32, shuffle=True, drop_last=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    model.train()
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(images.to(device)), labels.to(device)).backward()
            optimizer.step()
            scheduler.step()


@torch.no_grad()
def evaluate(model, rows, device):
    model.eval()
    loss = right = 0
    for images, labels in DataLoader(rows, batch_size=256):
        outputs, labels = model(images.to(device)), labels.to(device)
        loss += functional.cross_entropy(outputs, labels, reduction="sum")
        right += (outputs.argmax(dim=1) == labels).sum()
    return {"loss": loss / len(rows), "accuracy": right / len(rows)}


model, data, classes = Net, Digits, 10  # for moonflower, with train and evaluate


def main():
    torch.manual_seed(7)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training, test = random_split(Digits(), [0.8, 0.2])
    net = Net().to(device)
    train(net, training, device)
    print(f"accuracy {evaluate(net, test, device)['accuracy']:.3f}")


if __name__ == "__main__":
    main()
