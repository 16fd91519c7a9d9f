"""The wheel holds every module of the checkout, no generic name is importable, and imports run one way."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("analysis", "cli", "compaction", "data", "models", "regularizers", "sweeps", "training")
# What each room may import of regx; `regx` stands for the foundation (errors, parameters, registry).
ALLOWED = {
    "regx": {"cli"},  # only __main__
    "regularizers": set(),
    "models": set(),
    "data": set(),
    "compaction": set(),
    "training": {"compaction", "data", "models", "regularizers"},
    "sweeps": {"training", "data", "models", "regularizers"},
    "analysis": {"compaction", "data", "regularizers", "training"},
    "cli": {"sweeps", "analysis", "training", "data", "models", "regularizers"},
}


def test_wheel_holds_every_module_and_sweep(tmp_path: Path) -> None:
    source = tmp_path / "checkout"
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "-w", "-n", "-o", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    wanted = {
        f"regx/{path.relative_to(ROOT)}"
        for folder in FOLDERS
        for kind in ("*.py", "*.yaml", "*.jinja", "*.css", "*.js")
        for path in (ROOT / folder).rglob(kind)
    }
    assert wanted <= names, wanted - names
    assert all(n.startswith(("regx/", "regx-")) for n in names)


def test_generic_names_are_not_importable(tmp_path: Path) -> None:
    code = f"import importlib.util as u; print([n for n in {FOLDERS!r} if u.find_spec(n)])"
    command = [sys.executable, "-P", "-c", code]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert out.stdout.strip() == "[]", out.stdout


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_run_one_way(room: str) -> None:
    reached = set()
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "regx":
                parts = [*node.module.split(".")[1:2]] or [alias.name for alias in node.names]
                reached |= {part for part in parts if part in FOLDERS}
            elif isinstance(node, ast.Import):
                reached |= {a.name.split(".")[1] for a in node.names if a.name.startswith("regx.")} & set(FOLDERS)
    assert reached - {room} <= ALLOWED[room], f"{room} imports {reached - ALLOWED[room] - {room}}"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["show", "jumpstart"], ["rectangular", "--help"], ["rectangular", "--dry-run"]]
)
def test_looking_things_up_never_imports_torch(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom regx.cli.main import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'pandas', 'sklearn', 'wandb', 'matplotlib', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"
