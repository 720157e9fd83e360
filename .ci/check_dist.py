"""Check what the wheel and the sdist in a folder hold: all of it, and nothing else."""

import configparser
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def installed() -> set[str]:
    """The files of the packages that setup.cfg lists, by the path that they are installed at."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    found = set()
    for package in config["options"]["packages"].split():
        path = package.replace(".", "/")
        folder = ROOT / ("daemon" if path.startswith("zstreamd") else "") / path
        found |= {f"{path}/{each.name}" for each in folder.glob("*.py")}
    return found | {"zstream/py.typed", "zstreamd/py.typed"}


def tracked() -> set[str]:
    """The files of the repository, where git knows them."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False
    )
    return {line for line in listed.stdout.splitlines() if (ROOT / line).is_file()}


def difference(what: str, found: set[str], wanted: set[str]) -> list[str]:
    """Say what is missing and what is too much."""
    lines = [f"{what} lacks {name}" for name in sorted(wanted - found)]
    return lines + [f"{what} has {name} too" for name in sorted(found - wanted)]


def main(folder: Path) -> None:
    """Check the one wheel and the one sdist in a folder."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    problems = difference("the wheel", names, installed())
    with tarfile.open(sdist) as archive:
        files = {each.name.partition("/")[2] for each in archive if each.isfile()}
    made = {name for name in files if ".egg-info/" in name or name == "PKG-INFO"}
    problems += difference("the sdist", files - made, (tracked() - {".gitignore"}) or files - made)
    if problems:
        sys.exit("\n".join(problems))
    print(f"{wheel.name}: {len(names)} files; {sdist.name}: {len(files)} files")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
