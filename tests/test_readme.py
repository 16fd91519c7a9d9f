"""The README is true: its Python runs, its commands exist, its tables are those of the registries."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from regx.cli.main import main
from regx.cli.readme import updated

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
# Begins with a run that nobody has trained here; tests/cli/test_compact.py does.
FROM = {"regx rectangular --from RUN/compact --epochs 20 --lr 0.001"}
BASH = "".join(re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL))


def test_tables_are_up_to_date() -> None:
    assert updated(TEXT) == TEXT, "run `python -m regx.cli.readme`"


def test_the_loop_runs_as_printed() -> None:
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL) if "optimizer.step()" in block
    )
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(code, names)
    model = names["model"]
    assert isinstance(model, torch.nn.Module)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_loop_over_images_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL) if "train.batches" in block)
    torch.manual_seed(0)
    exec(code, {})
    assert capsys.readouterr().out.startswith("tensor(")


def test_compaction_does_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL) if "compact(" in block)
    exec(code, {})
    wanted = code.rpartition("# ")[2].strip()
    assert capsys.readouterr().out.strip() == wanted


@pytest.mark.parametrize(
    "line", sorted(set(re.findall(r"^(regx (?:rectangular|resnet) [^#\n]*)", TEXT, flags=re.MULTILINE)) - FROM)
)
def test_every_training_command_is_understood(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*shlex.split(line)[1:], "--dry-run"])
    assert not stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    sorted(set(re.findall(r"^(regx sweep (?:run|plan|list|export)[^#\n]*?) *(?:#.*)?$", BASH, flags=re.MULTILINE))),
)
def test_every_sweep_command_is_understood(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(line.replace("sweep run", "sweep plan"))[1:])
    assert not stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^(regx (?:list|show) [^#\n]*)", TEXT, flags=re.MULTILINE))))
def test_every_lookup_command_runs(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(line.split()[1:])
    assert not stop.value.code, capsys.readouterr().err


def test_the_sweep_of_the_readme_can_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = re.findall(r"```yaml\n(# techniques.*?)```", TEXT, flags=re.DOTALL)
    for name, part in zip(("techniques.yaml", "techniques.regx.yaml"), text.split("---\n"), strict=True):
        (tmp_path / name).write_text(part)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "plan", str(tmp_path / "techniques.yaml"), "--run-dir", str(tmp_path)])
    # 3 techniques x 2 depths but one of them, x adam, sgd and sgd with momentum, x 3 seeds
    assert not stop.value.code and "45 runs" in capsys.readouterr().out


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_make_targets_exist() -> None:
    for target in set(re.findall(r"`?make (\w+)`?", TEXT)):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_version_is_one_line() -> None:
    done = subprocess.run([sys.executable, "-m", "regx", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"regx \d+\.\d+\.\d+\n", done.stdout)
