"""Many runs: definitions in YAML, the registry of shipped sweeps, planning, and the engines that carry them out."""
