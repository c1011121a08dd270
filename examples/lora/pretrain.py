"""Train the backbone on a few public digits, 0 to 6 only: ``python pretrain.py [EPOCHS]`` writes base.safetensors."""

import sys
from pathlib import Path

import torch
from adapters import PUBLIC, Backbone, adapted
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch.nn import functional


def main(epochs):
    torch.manual_seed(7)
    bundled = load_digits()
    images = torch.tensor(bundled.images[:PUBLIC]).float().unsqueeze(1) / 16
    labels = torch.tensor(bundled.target[:PUBLIC])
    images, labels = images[labels < 7], labels[labels < 7]
    model = Backbone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[part]), labels[part]).backward()
            optimizer.step()
    right = (model(images).argmax(dim=1) == labels).float().mean()
    # The names are those of the network with adapters. Adapters and head are new, so the file leaves them out.
    new = ("lora_", "classifier")
    state = {name: value for name, value in adapted(model).state_dict().items() if not any(one in name for one in new)}
    save_file(state, Path(__file__).parent / "base.safetensors")
    print(f"base.safetensors: accuracy {right:.3f} on its {len(labels)} images")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
