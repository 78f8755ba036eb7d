"""One thread a test process: two processes on two cores, and threads that wait for a busy core are many times slower."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
