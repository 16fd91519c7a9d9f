"""What people type: one file per command group. Each parses, calls one function and prints; nothing heavy at import."""
