"""Exact compaction: physically removes what regularizers have zeroed."""
