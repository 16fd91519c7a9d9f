"""Readers of UCI's raw files, placed by hand as `DATA_DIR/uci/<folder>/<file>`.

Each reader returns one table with named columns, the target among them, and NaN for missing cells. UCI's API serves
cleaned copies; these are the original files with their quirks.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from regx.errors import RunFailed

if TYPE_CHECKING:
    import pandas as pd

ABALONE = "Sex,Length,Diameter,Height,Whole_weight,Shucked_weight,Viscera_weight,Shell_weight,Rings"
CREDIT = "A1,A2,A3,A4,A5,A6,A7,A8,A9,A10,A11,A12,A13,A14,A15,A16"
BANDS = (
    "timestamp,cylinder number,customer,job number,grain screened,ink color,proof on ctd ink,blade mfg,"
    "cylinder division,paper type,ink type,direct steam,solvent type,type on cylinder,press type,press,unit number,"
    "cylinder size,paper mill location,plating tank,proof cut,viscosity,caliper,ink temperature,humifity,roughness,"
    "blade pressure,varnish pct,press speed,ink pct,solvent pct,ESA Voltage,ESA Amperage,wax,hardener,"
    "roller durometer,current density,anode space ratio,chrome content,band type"
)
DERMATOLOGY = (
    "erythema,scaling,definite-borders,itching,koebner-phenomenon,polygonal-papules,follicular-papules,"
    "oral-mucosal-involvement,knee-and-elbow-involvement,scalp-involvement,family-history,melanin-incontinence,"
    "eosinophils-infiltrate,PNL-infiltrate,fibrosis-papillary-dermis,exocytosis,acanthosis,hyperkeratosis,"
    "parakeratosis,clubbing-rete-ridges,elongation-rete-ridges,thinning-suprapapillary-epidermis,spongiform-pustule,"
    "munro-microabcess,focal-hypergranulosis,disappearance-granular-layer,vacuolisation-damage-basal-layer,spongiosis,"
    "saw-tooth-appearance-retes,follicular-horn-plug,perifollicular-parakeratosis,inflammatory-mononuclear-infiltrate,"
    "band-like-infiltrate,age,class"
)
HEART = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,num"
FERTILITY = "season,age,child_diseases,accident,surgical_intervention,high_fevers,alcohol,smoking,hrs_sitting,diagnosis"
HABERMAN = "age,operation_year,positive_auxillary_nodes,survival_status"
HAYES_ROTH = "name,hobby,age,educational_level,marital_status,class"
IRIS = "sepal length,sepal width,petal length,petal width,class"
WINE = (
    "class,Alcohol,Malicacid,Ash,Alcalinity_of_ash,Magnesium,Total_phenols,Flavanoids,Nonflavanoid_phenols,"
    "Proanthocyanins,Color_intensity,Hue,0D280_0D315_of_diluted_wines,Proline"
)
WDBC = "ID,Diagnosis," + ",".join(
    f"{measure}{number}"
    for number in (1, 2, 3)
    for measure in (
        *("radius", "texture", "perimeter", "area", "smoothness"),
        *("compactness", "concavity", "concave_points", "symmetry", "fractal_dimension"),
    )
)
DISHONEST = "CT,CU,LT,TC,trust"
DISHONEST_MEMBER = "Dishonest Internet users dataset.txt"


def read(path: Path) -> pd.DataFrame:
    """The table in one of UCI's raw files, recognised by its name.

    Raises:
        RunFailed: the file cannot be read as what it should be.
    """
    try:
        return READERS[path.name](path)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise RunFailed(f"{path} is not UCI's {path.name}: {reason}; place the original file there") from error


def _plain(columns: str) -> Callable[[Path], pd.DataFrame]:
    """Comma separated without a header."""
    return lambda path: _cells(_text(path), columns)


def _headed(path: Path) -> pd.DataFrame:
    """Comma separated with a header; hcv writes NA for missing and leaves the name of its running number empty."""
    import pandas as pd

    return pd.read_csv(io.StringIO(_text(path)), na_values=["?"])


def _bands(path: Path) -> pd.DataFrame:
    """Joins records that UCI's file breaks over two lines (record 522)."""
    cells = BANDS.count(",") + 1
    records: list[str] = []
    open_record = ""
    for line in _text(path).splitlines():
        open_record += line.strip()
        if open_record.count(",") >= cells - 1:
            records.append(open_record)
            open_record = ""
    if open_record:
        raise ValueError(f"the last record has {open_record.count(',') + 1} of {cells} cells")
    return _cells("\n".join(records), BANDS)


def _arff(path: Path) -> pd.DataFrame:
    """The numeric ARFF of Weka: names from `@attribute NAME TYPE`, cells after `@data`."""
    head, marker, body = _text(path).partition("@data")
    if not marker:
        raise ValueError("it has no line @data")
    names = [line.split()[1] for line in head.splitlines() if line.lower().startswith("@attribute ")]
    return _cells(body, ",".join(names))


def _dishonest(path: Path) -> pd.DataFrame:
    """The member of the zip that holds the real records; no header, space separated."""
    with zipfile.ZipFile(path) as archive:
        text = archive.read(DISHONEST_MEMBER).decode("utf-8")
    return _cells("\n".join(",".join(line.split()) for line in text.splitlines()), DISHONEST)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def _cells(text: str, columns: str) -> pd.DataFrame:
    """Comma separated lines of exactly `columns`; `?` is missing, blank lines are not rows."""
    import pandas as pd

    names = columns.split(",")
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("it holds no rows")
    for number, line in enumerate(lines, start=1):
        if (cells := line.count(",") + 1) != len(names):
            raise ValueError(f"record {number} has {cells} cells instead of {len(names)}")
    return pd.read_csv(io.StringIO("\n".join(lines)), header=None, names=names, na_values=["?"], skipinitialspace=True)


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "abalone.data": _plain(ABALONE),
    "crx.data": _plain(CREDIT),
    "bands.data": _bands,
    "dermatology.data": _plain(DERMATOLOGY),
    "processed.cleveland.data": _plain(HEART),
    "messidor_features.arff": _arff,
    "DataSet.zip": _dishonest,
    "diabetes_data_upload.csv": _headed,
    "fertility_Diagnosis.txt": _plain(FERTILITY),
    "haberman.data": _plain(HABERMAN),
    "hayes-roth.data": _plain(HAYES_ROTH),
    "hcvdat0.csv": _headed,
    "iris.data": _plain(IRIS),
    "wine.data": _plain(WINE),
    "wdbc.data": _plain(WDBC),
}
