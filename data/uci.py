"""UCI datasets: the fifteen tabular sets of the Jumpstart paper, and any other by `uci:ID` or `uci:NAME`.

A set is read from UCI's raw file where that lies in the data folder, else from the cache of UCI's API, else from UCI.
Either way one table of definitions fixes target and classes, so that a name means the same data everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from regx.errors import RunFailed, UserError
from regx.registry import Info

if TYPE_CHECKING:
    import pandas as pd

    from regx.data.tables import Table

PREFIX = "uci:"


@dataclass(frozen=True)
class UciSet:
    """A UCI dataset with a fixed target.

    Attributes:
        name: what a user types.
        uci_id: UCI's number.
        title: UCI's name.
        summary: one line.
        folder: folder of the raw file within `DATA_DIR/uci`.
        file: name of the raw file.
        target: column of the raw file to predict.
        labels: label in the table -> class name, in class order.
        rows: rows of the whole set.
        features: columns that are learned from, before one-hot encoding.
        drop: columns that name a row or a job and say nothing about it.
        fold_case: whether text cells are put in lower case, where the data spell one value in several ways.
        importable: whether UCI's API serves it.
        shipped: whether `name` means scikit-learn's copy; UCI's own is then `uci:ID` only.
        paper_val_size: share of validation rows in the Jumpstart reference code.
    """

    name: str
    uci_id: int
    title: str
    summary: str
    folder: str
    file: str
    target: str
    labels: dict[str, str]
    rows: int
    features: int
    drop: tuple[str, ...] = ()
    fold_case: bool = False
    importable: bool = True
    shipped: bool = False
    paper_val_size: float = 0.2

    def raw_path(self, data_dir: Path) -> Path:
        """Where the raw file lies if somebody placed it."""
        return data_dir / "uci" / self.folder / self.file


SETS = (
    # Rings run from 1 to 27 and then 29: 28 classes, numbered without a gap.
    UciSet(
        "abalone",
        1,
        "Abalone",
        "Rings of an abalone shell by its size and weight; 28 classes, or numeric with task regression",
        "abalone",
        "abalone.data",
        "Rings",
        {str(rings): str(rings) for rings in (*range(1, 28), 29)},
        4177,
        8,
    ),
    UciSet(
        "credit_approval",
        27,
        "Credit Approval",
        "Whether a credit card application was approved (A16 is +)",
        "credit-approval",
        "crx.data",
        "A16",
        {"-": "-", "+": "+"},
        690,
        15,
    ),
    # Timestamp, cylinder, customer and job number name the print job; the process is in the other columns. Ink color
    # and cylinder division are constant.
    UciSet(
        "cylinder_bands",
        32,
        "Cylinder Bands",
        "Whether a rotogravure cylinder shows banding",
        "cylinder-bands",
        "bands.data",
        "band type",
        {"noband": "noband", "band": "band"},
        540,
        33,
        drop=("timestamp", "cylinder number", "customer", "job number"),
        fold_case=True,  # YES and yes, KEY and key
    ),
    UciSet(
        "dermatology",
        33,
        "Dermatology",
        "Six erythemato-squamous diseases by clinical and histological signs",
        "dermatology",
        "dermatology.data",
        "class",
        {
            "1": "psoriasis",
            "2": "seborrheic dermatitis",
            "3": "lichen planus",
            "4": "pityriasis rosea",
            "5": "chronic dermatitis",
            "6": "pityriasis rubra pilaris",
        },
        366,
        34,
    ),
    UciSet(
        "heart_disease",
        45,
        "Heart Disease",
        "Degree of heart disease, 0 (none) to 4, Cleveland patients",
        "heart-disease",
        "processed.cleveland.data",
        "num",
        {str(degree): str(degree) for degree in range(5)},
        303,
        13,
    ),
    UciSet(
        "diabetic",
        329,
        "Diabetic Retinopathy Debrecen",
        "Signs of diabetic retinopathy by features of the retina image",
        "diabetic-retinopathy",
        "messidor_features.arff",
        "Class",
        {"0": "no signs", "1": "signs"},
        1151,
        19,
    ),
    UciSet(
        "dishonest_users",
        453,
        "Dishonest Internet users Dataset",
        "Whether an internet user is untrustworthy by trust counts and context",
        "dishonest-users",
        "DataSet.zip",
        "trust",
        {"trustworthy": "trustworthy", "untrustworthy": "untrustworthy"},
        322,
        4,
        importable=False,
        paper_val_size=0.21,
    ),
    UciSet(
        "early_stage_diabetes_risk",
        529,
        "Early Stage Diabetes Risk Prediction",
        "Diabetes by age, sex and symptoms",
        "early-stage-diabetes",
        "diabetes_data_upload.csv",
        "class",
        {"Negative": "Negative", "Positive": "Positive"},
        520,
        16,
    ),
    UciSet(
        "fertility",
        244,
        "Fertility",
        "Normal (N) or altered (O) semen by season, age and habits",
        "fertility",
        "fertility_Diagnosis.txt",
        "diagnosis",
        {"N": "normal", "O": "altered"},
        100,
        9,
    ),
    UciSet(
        "haberman",
        43,
        "Haberman's Survival",
        "Survival of breast cancer surgery: five years or longer, or less",
        "haberman",
        "haberman.data",
        "survival_status",
        {"1": "survived", "2": "died"},
        306,
        3,
    ),
    UciSet(
        "hayes_roth",
        44,
        "Hayes-Roth",
        "Club membership by age, education and marital status; hobby is noise",
        "hayes-roth",
        "hayes-roth.data",
        "class",
        {"1": "1", "2": "2", "3": "3"},
        132,
        4,
        drop=("name",),
    ),
    # The first column of the file is a running number without a name.
    UciSet(
        "hcv",
        571,
        "HCV data",
        "Hepatitis C and its stages by blood values",
        "hcv",
        "hcvdat0.csv",
        "Category",
        {
            "0=Blood Donor": "Blood Donor",
            "0s=suspect Blood Donor": "suspect Blood Donor",
            "1=Hepatitis": "Hepatitis",
            "2=Fibrosis": "Fibrosis",
            "3=Cirrhosis": "Cirrhosis",
        },
        615,
        12,
        drop=("Unnamed: 0", "ID"),
    ),
    UciSet(
        "iris",
        53,
        "Iris",
        "Three species of iris by the size of sepal and petal",
        "iris",
        "iris.data",
        "class",
        {"Iris-setosa": "setosa", "Iris-versicolor": "versicolor", "Iris-virginica": "virginica"},
        150,
        4,
        shipped=True,
    ),
    UciSet(
        "wine",
        109,
        "Wine",
        "Three cultivars of wine by chemical analysis",
        "wine",
        "wine.data",
        "class",
        {"1": "class_0", "2": "class_1", "3": "class_2"},
        178,
        13,
        shipped=True,
    ),
    UciSet(
        "breast_cancer",
        17,
        "Breast Cancer Wisconsin (Diagnostic)",
        "Malignant or benign by the shape of cell nuclei; class 1 is benign",
        "wdbc",
        "wdbc.data",
        "Diagnosis",
        {"M": "malignant", "B": "benign"},
        569,
        30,
        drop=("ID",),
        shipped=True,
    ),
)


def rows() -> list[Info]:
    """Registry rows of the sets that are not scikit-learn's."""
    return [
        Info(
            name=item.name,
            summary=item.summary,
            target="regx.data.uci:load",
            description=item.summary,
            source=f"UCI {item.uci_id}, https://archive.ics.uci.edu/dataset/{item.uci_id}",
            facts={
                "kind": "UCI",
                "task": "binary" if len(item.labels) == 2 else "multiclass",
                "rows": item.rows,
                "features": item.features,
                "classes": len(item.labels),
                "uci_id": item.uci_id,
            },
        )
        for item in SETS
        if not item.shipped
    ]


def load(name: str, *, data_dir: Path, target: str | None, task: str) -> Table:
    """Reads a UCI dataset.

    Args:
        name: name of a set in the table above, `uci:ID` or `uci:NAME`.
        data_dir: data folder.
        target: column to predict instead of the set's own target.
        task: `auto`, `classification` or `regression`.

    Raises:
        UserError: UCI has no such set, or the target is not clear.
        RunFailed: the data cannot be had or used.
    """
    from regx.data import uci_api, uci_raw
    from regx.data.encoding import is_text
    from regx.data.tables import columns_of, prepare

    uci_id, known = identify(name, data_dir)
    if known is not None and known.raw_path(data_dir).is_file():
        path = known.raw_path(data_dir)
        frame, targets, tasks = uci_raw.read(path), (known.target,), ()
        notes = [f"{name}: read from UCI's raw file {path}"]
    else:
        answer, folder = uci_api.get(uci_id, data_dir, label=name, hint=_hint(known, data_dir))
        frame, targets, tasks = answer.frame, answer.targets, answer.tasks
        notes = [f"{name}: UCI {uci_id} ({answer.name}) from UCI's API, cached in {folder}"]
        if answer.unused:
            notes.append(f"not used, by UCI's roles: {', '.join(answer.unused)}")
    # UCI's API and its raw files differ in case and punctuation of column names.
    dropped = {_plain(column) for column in known.drop} if known is not None else set()
    identifiers = [column for column in frame.columns if _plain(column) in dropped]
    if identifiers:
        frame = frame.drop(columns=identifiers)
        notes.append(f"left out {', '.join(map(repr, identifiers))}: only names the row")
    if known is not None and known.fold_case:
        texts = [column for column in frame.columns if is_text(frame.loc[:, column])]
        frame = frame.assign(**{column: frame[column].str.lower() for column in texts})
    if target is not None:
        targets, known = tuple(columns_of(target, frame, name)), None
    if not targets:
        columns = ", ".join(repr(column) for column in frame.columns)
        raise UserError(f"UCI names no target for {name}; choose one of {columns}", "target")
    unlabelled = frame.loc[:, list(targets)].isna().any(axis=1)
    if unlabelled.any():
        notes.append(f"dropped {unlabelled.sum()} of {len(frame)} rows: no value of {', '.join(targets)}")
        frame = frame.loc[~unlabelled]
    if known is None:
        return prepare(frame, targets, name=name, task=_task(task, tasks, frame, targets), notes=notes)
    if len(frame) != known.rows:
        notes.append(f"{name}: this copy has {len(frame)} rows, {known.rows} are documented")
    return prepare(
        frame,
        targets,
        name=name,
        task=task,
        labels=known.labels,
        notes=notes,
        paper_val_size=known.paper_val_size,
    )


def fetch(name: str, data_dir: Path) -> Path:
    """Makes sure that a UCI dataset is on disk, and returns where.

    Raises:
        UserError, RunFailed: see `load`.
    """
    from regx.data import uci_api, uci_raw

    uci_id, known = identify(name, data_dir)
    if known is not None and known.raw_path(data_dir).is_file():
        uci_raw.read(known.raw_path(data_dir))
        return known.raw_path(data_dir)
    return uci_api.get(uci_id, data_dir, label=name, hint=_hint(known, data_dir))[1]


def identify(name: str, data_dir: Path) -> tuple[int, UciSet | None]:
    """UCI's number of what the user typed, and its definition where regx has one.

    Raises:
        UserError: UCI has no such set.
        RunFailed: the name is unknown here and UCI cannot be asked, or the set must be placed by hand and is not.
    """
    wanted = name.removeprefix(PREFIX).strip()
    if not wanted:
        raise UserError(f"{name!r} names no dataset; use a number or a name, as in uci:53 or uci:Iris", "dataset")
    if re.fullmatch(r"\d+", wanted):
        if int(wanted) == 0:
            raise UserError(f"{name!r}: UCI's numbers begin at 1", "dataset")
        known = next((item for item in SETS if item.uci_id == int(wanted)), None)
        uci_id = int(wanted)
    else:
        known = next((item for item in SETS if _plain(wanted) in (_plain(item.name), _plain(item.title))), None)
        uci_id = known.uci_id if known else _asked(wanted, data_dir, name)
        known = next((item for item in SETS if item.uci_id == uci_id), None)
    if known is not None and not known.importable and not known.raw_path(data_dir).is_file():
        raise RunFailed(
            f"{name}: UCI's API does not serve dataset {known.uci_id} ({known.title}); download {known.file} from "
            f"https://archive.ics.uci.edu/dataset/{known.uci_id} and place it as {known.raw_path(data_dir)}"
        )
    return uci_id, known


def _asked(wanted: str, data_dir: Path, name: str) -> int:
    from regx.data import uci_api

    return uci_api.find(wanted, data_dir, label=name)


def _hint(known: UciSet | None, data_dir: Path) -> str:
    return "" if known is None else f"place UCI's raw file as {known.raw_path(data_dir)}"


def _task(task: str, tasks: tuple[str, ...], frame: pd.DataFrame, targets: tuple[str, ...]) -> str:
    """UCI's word for the task where it has exactly one and the target allows it; else the target's type decides."""
    from regx.data.encoding import is_text

    said = {word.lower() for word in tasks} & {"classification", "regression"}
    if task != "auto" or len(said) != 1 or any(is_text(frame.loc[:, target]) for target in targets):
        return task
    return said.pop()


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
