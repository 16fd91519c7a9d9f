"""`regx compact` and `--from`: a run is compacted, checked, saved, trained on and loaded again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from regx.training import trained
from regx.training.folder import load_checkpoint, save_checkpoint
from tests.cli.done import Done

NETWORK = ["--dataset", "digits", "--depth", "3", "--width", "24", "--devices", "cpu", "--no-plots"]
QUIET = ["--wandb", "disabled", "-f", "json"]
PENALTY = "group_lasso(groups=rows,exclude=head*,prox=true)=0.01"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from regx.cli.main import main

    folder = tmp_path_factory.mktemp("runs")
    typed = [*NETWORK, "--epochs", "12", "--seed", "3", "--regularizer", PENALTY, "--run-dir", str(folder), *QUIET]
    with pytest.raises(SystemExit) as stop:
        main(["rectangular", *typed])
    assert stop.value.code == 0
    (found,) = folder.iterdir()
    return found


def widths(folder: Path) -> list[int]:
    return [m.out_features for m in trained.load(folder, devices="cpu").model.modules() if isinstance(m, nn.Linear)]


def test_what_the_penalty_has_zeroed_is_gone_and_the_rest_computes_the_same(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = Done(capsys, "compact", str(run), "--out", "small", "--layers")
    assert (done.code, done.err) == (0, "")
    dense = trained.load(run, devices="cpu")
    living = [
        int(m.weight.any(1).sum()) for m in dense.model.modules() if isinstance(m, nn.Linear)
    ]  # a dead row is read by nobody, for its bias goes into that of the next layer
    assert widths(Path("small")) == living and min(living[:3]) < 24
    small = trained.load(Path("small"), devices="cpu")
    x = dense.data.val.x
    with torch.no_grad():
        torch.testing.assert_close(small.model(x), dense.model(x), atol=1e-5, rtol=1e-5)
    found = json.loads(Path("small/compact.json").read_text())
    assert found["check"]["agreement"] == 1 and found["check"]["difference"] < 1e-5
    assert found["check"]["rows"] == len(x)
    assert found["check"]["metrics"]["compact"]["val/acc"] == small.evaluate(small.data.val, "val")["val/acc"]
    assert found["sizes"]["compact"]["parameters"] == sum(p.numel() for p in small.model.parameters())
    assert "100.0% of the predictions are the same" in done.out and "hidden.layer2" in done.out


def test_a_compact_network_is_trained_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Done(capsys, "compact", str(run), "--target-macs", "0.5", "--out", "small").code == 0
    before = widths(Path("small"))
    done = Done(capsys, "rectangular", "--from", "small", "--epochs", "2", "--no-plots", *QUIET)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    # The validation rows are those of the first run, whose seed decided them.
    assert result["config"]["data-seed" if "data-seed" in result["config"] else "data_seed"] == 3
    assert result["config"]["regularizer"] == ["jumpstart"]
    tuned = Path(result["run_dir"])
    assert widths(tuned) == before
    # A compact network becomes smaller still, and its recipe holds both removals.
    assert Done(capsys, "compact", str(tuned), "--target-macs", "0.5", "--out", "smaller").code == 0
    assert sum(widths(Path("smaller"))) < sum(before)
    steps = load_checkpoint(Path("smaller/checkpoints/best.pt"))["recipe"]
    assert len(steps) == 1 + len(load_checkpoint(Path("small/checkpoints/best.pt"))["recipe"])


def test_a_run_of_a_compact_network_is_resumed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Done(capsys, "compact", str(run), "--out", "small").code == 0
    more = ["rectangular", "--from", "small", "--epochs", "3", "--no-plots", *QUIET]
    whole = json.loads(Done(capsys, *more, "--run-dir", "whole").out)
    (folder,) = Path("whole").iterdir()
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "plots", ignore_errors=True)
    done = Done(capsys, "resume", str(folder), "-f", "json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["best"] == whole["best"]


def test_what_holds_on_the_data_goes_when_asked_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_checkpoint(run / "checkpoints" / "best.pt")["model"]
    living = weights["hidden.layer1.weight"].any(1).nonzero()[0]
    weights["hidden.layer1.bias"][living] = -100.0  # a unit that never fires
    weights["hidden.layer2.bias"][:] = 100.0  # and a layer that always does
    folder = damaged(run, model=weights)

    def parameters(*options: str) -> int:
        done = Done(capsys, "compact", str(folder), "--out", "small", "-f", "json", *options)
        assert done.code == 0, done.err
        return json.loads(done.out)["sizes"]["compact"]["parameters"]

    exact = parameters()
    dead = parameters("--dead")
    assert dead < exact
    assert parameters("--dead", "--fold-linear") < dead
    assert "training samples" in Path("small/compact.json").read_text()


def test_a_difference_beyond_the_tolerance_saves_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from regx.analysis import compacting

    exact = compacting.compact

    def off(*arguments: object) -> object:
        made = exact(*arguments)  # type: ignore[arg-type]
        made.model.get_parameter("head.bias").data[0] += 0.01
        return made

    monkeypatch.setattr(compacting, "compact", off)
    done = Done(capsys, "compact", str(run), "--out", "small")
    assert done.code == 1 and "more than the tolerance of 1e-05; nothing was saved" in done.err
    assert not Path("small").exists()
    assert Done(capsys, "compact", str(run), "--out", "small", "--tolerance", "0.1").code == 0


def damaged(run: Path, **changes: object) -> Path:
    """A copy of the run whose checkpoint holds something else."""
    shutil.copytree(run, "copy")
    state = load_checkpoint(Path("copy/checkpoints/best.pt")) | changes
    save_checkpoint(Path("copy/checkpoints/best.pt"), state)
    return Path("copy")


def test_mistakes_are_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other").mkdir()
    Path("other/thing").touch()
    shutil.copytree(run, "unknown")
    text = Path("unknown/config.yaml").read_text()
    Path("unknown/config.yaml").write_text(text.replace("experiment: rectangular", "experiment: rectangle"))
    torch.save({}, "lonely.pt")
    strange = damaged(run, model={"head.weight": torch.zeros(2, 2)})
    foreign = damaged_recipe(run)
    cases = {
        ("nowhere",): (2, "there is no run folder or checkpoint nowhere"),
        ("other",): (2, "other is no run folder: it has no config.yaml"),
        ("lonely.pt",): (2, "lies in no run folder"),
        ("unknown",): (2, "unknown experiment 'rectangle'; did you mean 'rectangular'?"),
        (str(strange),): (1, "is not of the network that copy/config.yaml describes"),
        (str(foreign),): (1, "the removal recipe is of another model"),
        (str(run), "--target-macs", "2"): (2, "--target-macs: 2 is out of bounds"),
        (str(run), "--threshold", "-1"): (2, "--threshold: -1 is out of bounds"),
        (str(run), "--threshold", "100"): (2, "the network returns the same for every input"),
        (str(run), "--out", "other"): (2, "--out: other is not empty"),
        (str(run), "--out", "lonely.pt"): (1, "cannot write lonely.pt"),
        (str(run), "-f", "yaml"): (2, "'yaml' is not among table, json"),
    }
    for arguments, (code, message) in cases.items():
        done = Done(capsys, "compact", *arguments)
        assert (done.code, done.out) == (code, ""), arguments
        assert message in done.err and done.err.count("\n") == 1, done.err
    for arguments, message in {
        ("rectangular", "--from", "nowhere"): "--from: nowhere is no run folder",
        ("resnet", "--from", str(run)): "is of regx rectangular; use `regx rectangular --from",
        ("rectangular", "--from", str(run), "--pretrained", "x.pt"): "--pretrained and --from exclude each other",
    }.items():
        done = Done(capsys, *arguments)
        assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done.err


def damaged_recipe(run: Path) -> Path:
    shutil.copytree(run, "foreign")
    step = {"dropped": [], "replaced": [], "biases": ["nothing"], "shapes": {}, "cuts": {}}
    state = load_checkpoint(Path("foreign/checkpoints/best.pt")) | {"recipe": [step]}
    save_checkpoint(Path("foreign/checkpoints/best.pt"), state)
    return Path("foreign")


def test_the_optimiser_goes_on_with_what_it_held(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The moments of the last checkpoint, cut as the parameters are; those of another optimiser are left."""
    last = run / "checkpoints" / "last.pt"
    assert Done(capsys, "compact", str(last), "--target-macs", "0.5", "--out", "small").code == 0
    state = load_checkpoint(Path("small/checkpoints/best.pt"))
    before = trained.load(last, devices="cpu")
    for name, x in state["model"].items():
        held = state["moments"]["of"][name]["exp_avg"]
        assert held.shape == x.shape
        if x.dim() == 2:  # biases have taken constants up
            # Every weight that is left is found by its value, and its moment must be the one of the same place.
            left = x.flatten().nonzero().squeeze(1)
            places = (before.model.state_dict()[name].flatten()[None] == x.flatten()[left, None]).double()
            assert (places.sum(1) == 1).all()
            assert torch.equal(held.flatten()[left], before.moments[name]["exp_avg"].flatten()[places.argmax(1)])
    more = ["rectangular", "--from", "small", "--epochs", "1", "--no-plots", "--wandb", "disabled"]
    assert "goes on with its moments of 8 of 8 parameters" in Done(capsys, *more).err
    other = [*more, "--optimizer", "sgd", "--run-dir", "other"]
    assert "are left: this run has --optimizer sgd" in Done(capsys, *other).err


@pytest.mark.parametrize("engine", ["auto", "vectorised", "native"])
def test_a_compact_network_is_trained_by_itself(run: Path, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert Done(capsys, "compact", str(run), "--out", "small").code == 0
    more = ["rectangular", "--from", "small", "--epochs", "1", "--engine", engine, "--no-plots", *QUIET]
    done = Done(capsys, *more)
    if engine == "auto":
        assert done.code == 0 and json.loads(done.out)["engine"] == "single"
    else:
        assert done.code == 2 and "a compact network" in done.err and done.err.count("\n") == 1, done.err
