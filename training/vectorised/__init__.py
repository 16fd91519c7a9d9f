"""Many runs as one program: R networks that differ in numbers, trained by batched tensors with a leading run axis."""
