"""regx: which regularizer makes this network train, stay alive and get smaller, and at what cost?"""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout the subpackages are this folder's siblings (cli/, data/, ...); in a wheel they lie inside it.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "regularizers" / "__init__.py").is_file():
    __path__.append(str(_checkout))
