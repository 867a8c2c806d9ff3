"""Two processes on the CPU: the same command, the same weights in both, and in one process with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from copo.errors import CopoError
from copo.training.distributed import GradientExchange, Processes

pytest.importorskip("accelerate")

SCRIPT = """
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tests.training.samples import ball_head, perception, tiny_config
from copo.formats.dataset import PortraitDataset
from copo.training.config import MixConfig, ReconstructionWeights, RunConfig, StageConfig
from copo.training.data import TrainingSet
from copo.training.distributed import GradientExchange, Processes
from copo.training.loop import Ingredients, Trainer

folder = Path(sys.argv[1])
processes = Processes.start("cpu")
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3), torch.nn.Linear(2, 2))
exchange = GradientExchange(list(net.parameters()), processes, bucket_mb=1e-4)
for turn in range(2):
    net.zero_grad()
    x = torch.arange(20.0).view(4, 5).chunk(processes.world)[processes.rank] * (turn + 1)
    net[1](net[0](x)).square().mean().backward()
    exchange.finish()
grads = {f"{i}": p.grad for i, p in enumerate(net.parameters())}
head = ball_head()
data = TrainingSet(PortraitDataset(folder / "d.zip"), head.spec, 0.0, True)
stages = tiny_config().stages
stages = tuple(type(s)(**{**vars(s), "kimg": 0.008}) for s in (stages[0], stages[2]))
config = tiny_config(stages=stages, batch=4 // processes.world,
                     run=RunConfig(tick_kimg=1, cache_gb=0.1, workers=1))
run = Trainer(config, Ingredients(data, head, perception()), folder / f"run{processes.world}", processes)
outcome = run.run()
assert outcome.finished and outcome.steps == 4, outcome
state = dict(run.networks.state_dict()) | {f"average/{k}": v for k, v in run.average.state_dict().items()}
state |= {"augment": run.strength.strength} | {f"grad/{k}": v for k, v in grads.items() if v is not None}
name = f"w{processes.world}_{processes.rank}.safetensors"
save_file({k: v.contiguous().clone() for k, v in state.items()}, folder / name)
processes.close()
"""


def test_two_processes_stay_together(tmp_path: Path) -> None:
    from tests.training.samples import write_dataset

    write_dataset(tmp_path / "d.zip")
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    for count in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}",
                   str(script), str(tmp_path)]  # fmt: skip
        done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    first, second = (load_file(tmp_path / f"w2_{rank}.safetensors") for rank in (0, 1))
    alone = load_file(tmp_path / "w1_0.safetensors")
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    gradients = [name for name in alone if name.startswith("grad/")]
    assert len(gradients) == 4  # the last layer took no part and has none; exchanged, it is zero
    for name in gradients:
        torch.testing.assert_close(first[name], alone[name], rtol=1e-5, atol=1e-6)
    assert first["grad/4"].abs().max() == 0
    assert {p.name for p in (tmp_path / "run2" / "checkpoints").iterdir()} == {"state-000000000", "state-000000016"}


def test_alone_nothing_is_exchanged_and_devices_are_checked() -> None:
    alone = Processes.start("cpu")
    assert alone.main and alone.world == 1 and alone.any(True) and not alone.any(False)
    net = nn.Linear(2, 1)
    exchange = GradientExchange(list(net.parameters()), alone)
    net(torch.ones(1, 2)).sum().backward()
    exchange.finish()
    assert net.weight.grad is not None and net.weight.grad.tolist() == [[1, 1]]
    with pytest.raises(CopoError, match="--device 'gpu'"):
        Processes.start("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(CopoError, match="no CUDA device"):
            Processes.start("cuda")
