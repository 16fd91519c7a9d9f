"""Small networks on busy cores: one thread is faster than two, and the same everywhere."""

import torch

torch.set_num_threads(1)
