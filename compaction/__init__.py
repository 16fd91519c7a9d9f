"""Exact compaction: physically removes from a network what does not matter to its outputs.

    from regx.compaction import compact
    smaller = compact(model, x).model

`regx.compaction.recipe.apply` replays what was removed on a network that was built anew.
"""

from regx.compaction.removal import Compact, compact

__all__ = ["Compact", "compact"]
