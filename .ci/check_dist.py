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


def repository(*options: str) -> set[str]:
    """The files that git lists with these options; none where there is no git."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", *options], capture_output=True, text=True, check=False
    )
    return {line for line in listed.stdout.splitlines() if (ROOT / line).is_file()}


def main(folder: Path) -> None:
    """Check the one wheel and the one sdist in a folder."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = installed()
    problems = [f"the wheel lacks {name}" for name in sorted(wanted - names)]
    problems += [f"the wheel has {name} too" for name in sorted(names - wanted)]
    with tarfile.open(sdist) as archive:
        files = {each.name.partition("/")[2] for each in archive if each.isfile()}
    if tracked := repository() - {".gitignore"}:
        made = {name for name in files if ".egg-info/" in name or name == "PKG-INFO"}
        known = tracked | repository("--others", "--exclude-standard") | made
        problems += [f"the sdist lacks {name}" for name in sorted(tracked - files)]
        problems += [f"the sdist has {name} too" for name in sorted(files - known)]
    if problems:
        sys.exit("\n".join(problems))
    print(f"{wheel.name}: {len(names)} files; {sdist.name}: {len(files)} files")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
