"""One import package out of the top-level folders: nothing forgotten, nothing importable under a wrong name."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("benchmark", "finetune", "patching", "tracer", "viz")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def package_folders() -> dict[str, str]:
    """Every folder with an ``__init__.py``, by the name it is imported under."""
    found = {}
    for top in ("tracescribe", *PARTS):
        for init in sorted((ROOT / top).rglob("__init__.py")):
            folder = init.parent.relative_to(ROOT).as_posix()
            name = folder if top == "tracescribe" else f"tracescribe/{folder}"
            found[name.replace("/", ".")] = folder
    return found


def project_files() -> list[str]:
    """Every file that belongs to the project: what git tracks or would, or everything in an unpacked sdist."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    if not (ROOT / ".git").exists():
        return [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in set(listed.split("\0")) if name and (ROOT / name).exists())


def run_python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_package_list_names_every_folder_that_is_a_package() -> None:
    assert sorted(SETUPTOOLS["packages"]) == sorted(package_folders())


def test_every_package_is_mapped_to_its_folder() -> None:
    assert SETUPTOOLS["package-dir"] == package_folders()


def test_the_checkers_link_farm_shows_the_whole_package() -> None:
    farm = ROOT / ".typing" / "tracescribe"
    expected = {path.name: path for path in (ROOT / "tracescribe").iterdir() if path.name != "__pycache__"}
    expected |= {part: ROOT / part for part in PARTS}
    links = {link.name: link for link in farm.iterdir() if link.name != "__pycache__"}
    assert set(links) == set(expected)
    for name, link in links.items():
        assert link.is_symlink()
        assert link.resolve() == expected[name].resolve()
        assert not link.readlink().is_absolute()  # or the farm would work on one machine only


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names of the files in the sdist and in the wheel made from it, built from a copy, without the network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in project_files():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sdist) as tarball:
        return {
            "wheel": set(archive.namelist()),
            "sdist": {name.partition("/")[2] for name in tarball.getnames()},
        }


def test_the_wheel_holds_every_module(built: dict[str, set[str]]) -> None:
    for name, folder in package_folders().items():
        for module in (ROOT / folder).glob("*.py"):
            assert f"{name.replace('.', '/')}/{module.name}" in built["wheel"]


def test_the_wheel_holds_every_data_file(built: dict[str, set[str]]) -> None:
    held = built["wheel"]
    for package, patterns in SETUPTOOLS["package-data"].items():
        folder = ROOT / package_folders()[package]
        for path in (found for pattern in patterns for found in folder.glob(pattern) if found.is_file()):
            assert f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}" in held
    assert "tracescribe/py.typed" in held
    assert any(name.startswith("tracescribe/benchmark/phantom/weights/") for name in held)


def test_nothing_is_left_in_a_package_folder_that_the_wheel_forgets(built: dict[str, set[str]]) -> None:
    folders = {folder: name for name, folder in package_folders().items()}
    for file in project_files():
        if Path(file).parts[0] in ("tracescribe", *PARTS):
            package = next(str(p) for p in Path(file).parents if str(p) in folders)
            inside = Path(file).relative_to(package).as_posix()
            assert f"{folders[package].replace('.', '/')}/{inside}" in built["wheel"], file


def test_the_wheel_puts_nothing_beside_tracescribe(built: dict[str, set[str]]) -> None:
    top = {name.split("/")[0] for name in built["wheel"]}
    assert {name for name in top if not name.endswith(".dist-info")} == {"tracescribe"}


def test_the_sdist_can_be_tested(built: dict[str, set[str]]) -> None:
    wanted = {"LICENSE", "README.md", "CHANGELOG.md", "Makefile", "constraints.txt", "tests/test_packaging.py"}
    assert wanted <= built["sdist"]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_not_a_module_of_its_own(part: str, tmp_path: Path) -> None:
    outside = run_python(f"import {part}", tmp_path)
    assert outside.returncode == 1
    assert "ModuleNotFoundError" in outside.stderr
    within = run_python(f"import {part}", ROOT)
    assert within.returncode == 1
    assert f"ImportError: import tracescribe.{part}, not {part}" in within.stderr
    assert run_python(f"import tracescribe.{part}", tmp_path).returncode == 0


def test_the_version_is_said_once() -> None:
    import tracescribe as ts

    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "tracescribe.__version__"}
    assert f"version: {ts.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
