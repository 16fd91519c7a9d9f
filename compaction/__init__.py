"""Exact compaction: physically removes from a network what does not matter to its outputs.

from regx.compaction import compact
smaller = compact(model, x).model
"""

# Here, not on first use: a function of the name of its module is hidden by the module otherwise.
from regx.compaction.compact import Compact, compact

__all__ = ["Compact", "compact"]
