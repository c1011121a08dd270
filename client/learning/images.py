"""A folder of images as a dataset: one folder a class, ``train/cat/001.png``; read when its rows are used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...errors import InputError

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """Images below a folder, as ``float32[channels, size, size]`` in [0, 1], with the class's number.

    With ``sites``, the folders are ``site/class/image``, and ``[data] site = "site"`` deals the rows out. An image that
    is not square is scaled to cover the square, and cut in its middle. The images must not change while they are used.

    Args:
        path: the folder.
        size: height and width of an image in pixels, 1 or more.
        classes: names of the classes' folders, in the order of their numbers.
        channels: 3 for colours, 1 for grey.
        sites: whether the folders of the classes are below one folder for each site.

    Raises:
        InputError: ``data.file``: there is no such folder; ``data.empty``: no images; ``data.value``: a folder that is
            not a class, or Pillow is missing.
    """

    def __init__(
        self, path: Path | str, size: int, classes: tuple[str, ...] | list[str], channels: int = 3, sites: bool = False
    ) -> None:
        _pillow()
        self.path, self.size, self.classes, self.channels = Path(path), size, tuple(map(str, classes)), channels
        if not self.path.is_dir():
            raise InputError("data.file", f"image folder {self.path} does not exist; expected a folder of folders")
        tops = sorted(one for one in self.path.iterdir() if one.is_dir()) if sites else [self.path]
        found = [(top.name, file) for top in tops for file in sorted(top.glob("*/*")) if _is_image(file)]
        if not found:
            raise InputError("data.empty", f"image folder {self.path} has no images in folders of classes")
        odd = sorted({file.parent.name for _, file in found} - {*self.classes})
        if odd:
            folders = "1 folder that is no class" if len(odd) == 1 else f"{len(odd)} folders that are no class"
            raise InputError(
                "data.value", f"image folder {self.path} has {folders}; expected {', '.join(self.classes)}"
            )  # without its name, which may be a patient's
        self.files = [file for _, file in found]
        self.targets = torch.tensor([self.classes.index(file.parent.name) for file in self.files])
        names = np.empty(len(found), dtype=object)
        names[:] = [site for site, _ in found]
        self.groups = {"site": names} if sites else {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: int) -> tuple[Tensor, int]:
        """Return an image and its class.

        Raises:
            InputError: ``data.file``: it cannot be read; the message does not name it.
        """
        from PIL import Image, ImageOps

        try:
            with Image.open(self.files[at]) as image:
                plain = image.convert("RGB" if self.channels == 3 else "L")
                square = ImageOps.fit(plain, (self.size, self.size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError("data.file", f"an image cannot be read ({type(error).__name__})") from None
        pixels = torch.from_numpy(np.array(square, dtype=np.float32) / 255).reshape(self.size, self.size, -1)
        return pixels.permute(2, 0, 1).contiguous(), int(self.targets[at])

    def row_digest(self, at: int) -> bytes:
        """Return the SHA-256 of an image's file, 32 bytes."""
        with open(self.files[at], "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS and not file.name.startswith(".")


def _pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise InputError(
            "data.value", "images need Pillow, which is not installed", hint='pip install "moonflower[images]"'
        ) from None
