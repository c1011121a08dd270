"""Handwritten digits with Lightning: ``python plain.py`` trains a small network and prints its accuracy."""

import logging

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def digits():
    bundled = load_digits()
    return TensorDataset(torch.tensor(bundled.data, dtype=torch.float32) / 16, torch.tensor(bundled.target))


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))

    def forward(self, images):
        return self.layers(images)

    def training_step(self, batch, at):
        images, labels = batch
        return functional.cross_entropy(self(images), labels)

    def validation_step(self, batch, at):
        images, labels = batch
        outputs = self(images)
        self.log("loss", functional.cross_entropy(outputs, labels))
        self.log("accuracy", (outputs.argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)}


def trainer(epochs=15):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return lightning.Trainer(max_epochs=epochs, accelerator="cpu", enable_model_summary=False, **quiet)


def main():
    lightning.seed_everything(7)
    training, test = random_split(digits(), [0.8, 0.2])
    net = Net()
    trainer().fit(net, DataLoader(training, batch_size=32, shuffle=True))
    trainer().validate(net, DataLoader(test, batch_size=256))


if __name__ == "__main__":
    main()
