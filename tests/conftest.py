"""Set-up that must come before any test module is imported."""

import os

import torch

try:
    from hypothesis import settings
except ModuleNotFoundError:  # GPU machines run the tests that need no more than pytest
    pass
else:
    # No deadline: machines are shared, and speed is measured by benchmarks. The same examples every time: a change
    # that lands must not fail tomorrow by chance.
    settings.register_profile("copo", deadline=None, derandomize=True)
    settings.load_profile("copo")

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton kernels run on the CPU; read when triton is first imported
