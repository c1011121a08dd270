"""Install a built wheel into a fresh environment, import every module, and run the command line there."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

IMPORT_ALL = """
import importlib, pkgutil, sys
import moonflower
assert ".names" not in moonflower.__file__ and "site-packages" in moonflower.__file__, moonflower.__file__
names = [m.name for m in pkgutil.walk_packages(moonflower.__path__, "moonflower.") if m.name != "moonflower.__main__"]
for name in names:
    importlib.import_module(name)
print(len(names), "modules import")
assert len(names) > 40, names
from importlib.resources import files
data = files("moonflower.configs")
for wanted in ("heart.toml", "sba.toml", "digits.toml", "../py.typed"):
    assert data.joinpath(wanted).is_file(), wanted
assert not data.joinpath("deploy").is_dir()  # images are made from the checkout
for wanted in ("index.html", "app.js", "style.css"):
    assert files("moonflower.server.dashboard").joinpath("static", wanted).is_file(), wanted
for wanted in ("heart.csv.gz", "heart.schema.toml", "sba_loans.csv.gz", "sba.schema.toml", "actg.csv.gz", "README.md"):
    assert data.joinpath("data", wanted).is_file(), wanted
"""


def main(wheel: Path) -> None:
    here = Path(sys.prefix)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "venv"
        venv.create(home, with_pip=False)
        # Dependencies come from the environment that runs this check; moonflower itself only from the wheel.
        site = next((home / "lib").glob("python3*")) / "site-packages"
        deps = next((here / "lib").glob("python3*")) / "site-packages"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--target",
                str(site),
                str(wheel),
            ],
            check=True,
        )
        (site / "deps.pth").write_text(f"{deps}\n")
        run = [str(home / "bin" / "python"), "-I"]
        subprocess.run([*run, "-c", IMPORT_ALL], check=True, cwd=folder)
        said = subprocess.run([*run, "-m", "moonflower", "--help"], check=True, cwd=folder, capture_output=True)
        assert b"simulate" in said.stdout, said.stdout
        heart = site / "moonflower" / "configs" / "heart.toml"
        short = ["--set", "training.rounds=2", "--out", "out"]
        subprocess.run(
            [*run, "-m", "moonflower", "simulate", str(heart), *short, "--json"],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        subprocess.run([*run, "-m", "moonflower", "audit", "verify", "out"], check=True, cwd=folder)
    print("the wheel installs, imports and runs")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
