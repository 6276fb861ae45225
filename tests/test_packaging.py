"""What gets installed: the right files under the right names, from every form of the source, and a quick start."""

import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import ptqc

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
EXTENDED = ("calibrate", "passes", "targets")  # at the top of the repository, imported as ptqc.NAME
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
)


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """The standard output of a command that must succeed, outside the checkout unless told."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def expected_files() -> set[str]:
    """Every module and data file of the packages, under the name that it has when installed."""
    roots = {"ptqc": REPOSITORY / "ptqc"} | {f"ptqc/{name}": REPOSITORY / name for name in EXTENDED}
    return {
        f"{prefix}/{path.relative_to(root).as_posix()}"
        for prefix, root in roots.items()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not (prefix == "ptqc" and in_linked(path, root))
    }


def in_linked(path: Path, root: Path) -> bool:
    """Whether a file below ptqc/ was reached through one of the links (rglob may or may not follow them)."""
    return path.relative_to(root).parts[0] in EXTENDED


def wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive, and the wheel built from it."""
    if find_spec("build") is None:
        pytest.skip("needs the package 'build' (make setup)")
    folder = tmp_path_factory.mktemp("archives")
    source = folder / "source"
    shutil.copytree(REPOSITORY, source, symlinks=True, ignore=NOT_SOURCE)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source)
    return next((folder / "dist").glob("*.tar.gz")), next((folder / "dist").glob("*.whl"))


def test_list_of_packages_is_complete() -> None:
    found = {path.rpartition("/")[0].replace("/", ".") for path in expected_files() if path.endswith("/__init__.py")}
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("name", EXTENDED)
def test_link_is_relative_and_leads_to_the_folder(name: str) -> None:
    link = REPOSITORY / "ptqc" / name
    if not link.is_symlink():
        pytest.skip("this checkout has no links (core.symlinks=false)")
    assert link.readlink() == Path("..", name)


def test_constraints_pin_every_direct_dependency_once() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.partition("==")[0] for line in lines if not line.startswith("#")]
    assert all(line.startswith("#") or line.count("==") == 1 for line in lines)
    assert len(pins) == len(set(pins))
    project = PROJECT["project"]
    asked = project["dependencies"] + [one for extra in project["optional-dependencies"].values() for one in extra]
    names = {one.split(">")[0] for one in asked if not one.startswith("ptqc")}
    assert names <= set(pins)


@pytest.mark.slow
def test_wheel_holds_exactly_the_packages(archives: tuple[Path, Path]) -> None:
    assert wheel_files(archives[1]) == expected_files()


@pytest.mark.slow
def test_source_archive_holds_what_a_developer_needs(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "Makefile", "constraints.txt", ".ci/run", "models/digits_resnet.onnx", "tests/conftest.py"}
    assert wanted | {"passes/base.py", "calibrate/source.py"} <= names
    assert not any("__pycache__" in name for name in names)


@pytest.mark.slow
def test_checkout_without_links_builds_the_same_wheel(archives: tuple[Path, Path], tmp_path: Path) -> None:
    """A zip of the repository unpacks a link as a text file that holds its goal."""
    source = tmp_path / "source"
    shutil.copytree(REPOSITORY, source, symlinks=True, ignore=NOT_SOURCE)
    for name in EXTENDED:
        link = source / "ptqc" / name
        if link.is_symlink():
            link.unlink()
            link.write_text(f"../{name}")
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path / "dist", source)
    assert wheel_files(next((tmp_path / "dist").glob("*.whl"))) == wheel_files(archives[1])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["source archive", "wheel"])
def test_installs_in_a_clean_environment(archives: tuple[Path, Path], form: str, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    # The libraries of this environment, but not its ptqc: .pth files in a folder named by a .pth file are not read.
    libraries = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (libraries / "libraries.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    archive = archives[0] if form == "source archive" else archives[1]
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, archive)
    command = tmp_path / "venv" / "bin" / "ptqc"
    assert run(command, "--version", cwd=tmp_path).strip() == f"ptqc {ptqc.__version__}"
    where = run(
        python, "-c", "import ptqc.targets.specs as s, ptqc.passes as p; print(s.__file__, p.__file__)", cwd=tmp_path
    )
    assert all(Path(path).is_relative_to(libraries) for path in where.split())
    assert "int8" in run(command, "targets", cwd=tmp_path)


def test_help_is_quick() -> None:
    """Processor time, the best of three: the wall clock of a busy machine says little."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(sys.executable, "-c", "from ptqc.cli.main import main; main(['--help'])", cwd=REPOSITORY)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from ptqc.cli.main import main
try:
    main(["--help"])
except SystemExit as end:
    assert not end.code
heavy = {"matplotlib", "onnx", "onnx_graphsurgeon", "onnx_ir", "onnxruntime", "onnxscript", "sympy", "torch"}
print("loaded:", sorted(heavy & set(sys.modules)))
"""
    assert run(sys.executable, "-c", code, cwd=REPOSITORY).splitlines()[-1] == "loaded: []"
