"""`--engine ray` on a local cluster of two machines, one of which is lost on the way."""

from __future__ import annotations

import importlib.util
import threading
import time
from pathlib import Path

import pytest
from tests.preparation.samples import models, models_folder, needs_models, rendered, save
from tests.preparation.test_prepare import HERE, SMALL

from copo.errors import CopoError
from copo.formats.dataset import PortraitDataset
from copo.preparation.run import RunConfig, prepare

__all__ = ["models", "models_folder"]

pytestmark = needs_models
installed = importlib.util.find_spec("ray") is not None


@pytest.mark.skipif(not installed, reason="ray is not installed")
def test_a_cluster_that_loses_a_machine(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    for seed in range(10):
        save(tmp_path / "heads" / f"{seed}.png", rendered(seed, side=192))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    machines = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
    units = tmp_path / "set" / "work" / "units"
    lost: list[int] = []

    def lose_one() -> None:
        limit = time.monotonic() + 120
        while time.monotonic() < limit and not lost:
            count = len(list(units.rglob("*.zip"))) if units.exists() else 0
            if count >= 2:
                lost.append(count)
                cluster.remove_node(machines[1], allow_graceful=False)
            time.sleep(0.01)

    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")  # type: ignore[arg-type]
        watcher = threading.Thread(target=lose_one)
        watcher.start()
        run = RunConfig(engine="ray", ray_address=cluster.address, workers=2)
        outcome = prepare([tmp_path / "heads"], tmp_path / "set", SMALL, run)
        watcher.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert lost and lost[0] < 10, "the machine was lost while work was left"
    assert outcome.summary is not None and outcome.summary.accepted == 10
    prepare([tmp_path / "heads"], tmp_path / "plain", SMALL, HERE)
    mine, plain = PortraitDataset(tmp_path / "set" / "dataset.zip"), PortraitDataset(tmp_path / "plain" / "dataset.zip")
    assert [r["source"] for r in mine.manifest] == [r["source"] for r in plain.manifest]
    assert all((mine.image(i) == plain.image(i)).all() for i in range(10))


@pytest.mark.skipif(installed, reason="ray is installed")
def test_without_ray_one_line_says_what_to_install(tmp_path: Path, models: Path) -> None:
    save(tmp_path / "heads" / "0.png", rendered(0, side=192))
    with pytest.raises(CopoError, match="pip install 'copo\\[ray\\]'"):
        prepare([tmp_path / "heads"], tmp_path / "set", SMALL, RunConfig(engine="ray"))
