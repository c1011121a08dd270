"""Make a folder of images, one folder a class, from a seed: ``make_images.py DIR --count 60 --size 32``.

A class is a colour and a direction of stripes, under noise that no file format can pack. So the folder is as large as
one of photographs, while a small network tells the classes apart. With ``--megabytes``, as many images are made as fill
that much, whatever ``--count`` says. Each file depends on the seed, its class and its number only.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLASSES = ("amber", "azure", "coral", "ivory", "khaki", "lilac", "olive", "pearl", "sepia", "topaz")
HEADER = b"P6\n%d %d\n255\n"


def image(seed: int, kind: int, number: int, size: int) -> NDArray[np.uint8]:
    """Return an image of a class, ``uint8[size, size, 3]``."""
    draw = np.random.default_rng([seed, kind, number])
    angle = math.pi * kind / len(CLASSES)
    along = np.arange(size, dtype=np.float32) * (8 * math.pi / size)
    wave = np.sin(along[:, None] * math.sin(angle) + along * math.cos(angle) + 2 * math.pi * draw.random())
    clean = np.empty((size, size, 3), dtype=np.uint8)
    for channel in range(3):
        clean[..., channel] = 64 + 20 * wave + 40 * math.cos(2 * angle - 2 * channel)
    noise = np.frombuffer(draw.bytes(clean.size), dtype=np.uint8).reshape(clean.shape) // 2
    return clean + noise


def write(folder: Path, seed: int, size: int, number: int) -> int:
    """Write an image as PPM, which costs no time to pack; return its bytes."""
    kind = number % len(CLASSES)
    data = HEADER % (size, size) + image(seed, kind, number, size).tobytes()
    (folder / CLASSES[kind] / f"{number:06}.ppm").write_bytes(data)
    return len(data)


def make(folder: Path, count: int, size: int, seed: int = 7, workers: int = 1) -> int:
    """Write ``count`` images, as many of each class, and return how many bytes they have."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    one = partial(write, folder, seed, size)
    if workers == 1:
        return sum(map(one, range(count)))
    with ProcessPoolExecutor(workers) as pool:
        return sum(pool.map(one, range(count), chunksize=64))


def main(words: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=600, help="number of images")
    parser.add_argument("--size", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--megabytes", type=int, default=0, help="instead of a number of images")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    said = parser.parse_args(words)
    bytes_each = len(HEADER % (said.size, said.size)) + 3 * said.size**2
    count = -(-said.megabytes * 10**6 // bytes_each) if said.megabytes else said.count
    made = make(said.folder, count, said.size, said.seed, said.workers)
    print(f"{count} images of {said.size} x {said.size} pixels, {made / 1e6:.1f} MB, in {said.folder}")


if __name__ == "__main__":
    main()
