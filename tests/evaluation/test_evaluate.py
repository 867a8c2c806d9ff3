"""`copo evaluate` from words to report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from tests.training.samples import ball_head, open_head, write_dataset
from tests.vision.samples import FACE_API, needs

from copo.cli.evaluate import Command
from copo.errors import CopoError
from copo.evaluation import plans
from copo.evaluation.instruments import InstrumentFiles, Looker
from copo.evaluation.metric import METRICS
from copo.evaluation.plans import Counts, build_plan, load_plan, save_plan
from copo.evaluation.run import Evaluation
from copo.evaluation.sources import HeadSource, Leak, PriorSampler
from copo.factors import Factors
from copo.formats.dataset import PortraitDataset
from copo.formats.pictures import save_image
from copo.portrait import Portrait
from copo.training.distributed import Processes

SMALL = Counts(
    samples=24, pose_people=1, unit_people=1, unit_steps=1, every_unit_people=1, every_unit_steps=1, light_people=1,
    sampled_lights=1, identity_people=2, groups=1, clip_people=1, clip_frames=4, reference_people=0,
)  # fmt: skip


def evaluate(*words: str) -> None:
    tyro.cli(Command, args=list(words)).run()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "set.zip"
    write_dataset(path, open_head(), people=12, views=2, labels=False)
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts of these tests at the command line."""
    monkeypatch.setattr(plans.Counts, "quick", classmethod(lambda cls: SMALL))


@needs(FACE_API)
@pytest.mark.usefixtures("small")
def test_a_model_is_measured_and_the_run_goes_on(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Portrait.random("tiny").save_pretrained(tmp_path / "model")
    metrics = "kid_efficientnet,coverage,depth,views,blending,light,identity,privacy,pose,speed"
    files = ["--dlib", str(FACE_API), "--mediapipe", str(tmp_path / "none.task")]
    words = [str(model), "--data", str(data), "--quick", "--device", "cpu", "--metrics", metrics, *files]
    words += ["--out", str(tmp_path / "out")]
    evaluate(*words)
    said = capsys.readouterr().out
    assert "pose: skipped" in said and "none.task" in said
    results = json.loads((tmp_path / "out" / "results" / "depth.json").read_text())["results"]
    assert 0 <= results["depth_share"] <= 1
    line = json.loads((tmp_path / "out" / "metric-kid_efficientnet.jsonl").read_text())
    assert line["results"]["kid_efficientnet"] > 0.05 and abs(line["results"]["kid_efficientnet_halves"]) < 0.05
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Depth of the face" in page and 'src="pictures/privacy_closest.jpg"' in page and "Not measured" in page
    assert "| privacy | Nearest training face" in (tmp_path / "out" / "report.md").read_text()
    evaluate(*words)
    assert "kid_efficientnet: measured before" in capsys.readouterr().out
    with pytest.raises(CopoError, match=r"another evaluation \(fingerprint differs"):
        evaluate(*words, "--psi", "0.5")


@pytest.mark.usefixtures("small")
def test_pictures_travel_to_another_machine(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Portrait.random("tiny").save_pretrained(tmp_path / "model")
    shared = ["--data", str(data), "--metrics", "depth,blending", "--quick", "--device", "cpu"]
    evaluate(str(model), *shared, "--render-only", str(tmp_path / "pictures"))
    assert (tmp_path / "pictures" / "pose" / "pictures" / "00000.zip").is_file()
    assert not (tmp_path / "pictures" / "samples").exists()  # only what these metrics need
    words = ["--pictures", str(tmp_path / "pictures"), "--device", "cpu", "--out", str(tmp_path / "out")]
    evaluate(*words, "--metrics", "depth,blending,light")
    said = capsys.readouterr().out
    assert "depth: depth_error" in said and "light: skipped, its pictures are not in" in said
    (tmp_path / "pictures" / "pose" / "pictures" / "00000.zip").unlink()
    with pytest.raises(CopoError, match="is missing: render the set again"):
        evaluate(*words, "--metrics", "depth")


def test_a_folder_of_pictures_is_compared_with_the_data(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data set's own pictures have a distance of about nothing and cover everything; three are too few."""
    dataset, folder = PortraitDataset(data), tmp_path / "pictures"
    for i in range(len(dataset)):
        save_image(folder / f"{i:03d}.png", dataset.image(i))
    evaluate(str(folder), "--data", str(data), "--metrics", "kid_efficientnet,coverage,pose", "--device", "cpu",
             "--out", str(tmp_path / "out"))  # fmt: skip
    assert "pose: skipped, it needs a model, not a folder" in capsys.readouterr().out
    kid, cover = (
        json.loads((tmp_path / "out" / "results" / f"{n}.json").read_text())["results"]
        for n in ("kid_efficientnet", "coverage")
    )
    assert kid["kid_efficientnet"] < 0.001 and cover["coverage"] == 1 and cover["precision"] == 1
    for path in sorted(folder.iterdir())[3:]:
        path.unlink()
    with pytest.raises(CopoError, match="3 pictures are too few, it needs at least 20"):
        evaluate(str(folder), "--data", str(data), "--metrics", "kid_efficientnet", "--device", "cpu",
                 "--out", str(tmp_path / "other"))  # fmt: skip
    evaluate(str(folder), "--data", str(data), "--device", "cpu", "--out", str(tmp_path / "all"))
    assert "kid_efficientnet: skipped, 3 pictures are too few" in capsys.readouterr().out


def _measured(tmp_path: Path, leak: Leak, names: list[str]) -> dict[str, float]:
    source = HeadSource(open_head(), size=64, leak=leak, map_size=48)
    evaluation = Evaluation(
        [METRICS[n] for n in names], SMALL, tmp_path / "sets", tmp_path, Looker(InstrumentFiles(), torch.device("cpu")),
        Processes(torch.device("cpu")), source, head_model=source.head, say=lambda _: None,
    )  # fmt: skip
    return {f.key: f.value for result in evaluation.run().values() for f in result.figures}


def test_perfect_control_and_leakage_are_told_apart(tmp_path: Path) -> None:
    """The open head's own renders are perfect; each defect that is put in is found by its own figure."""
    names = ["depth", "light", "blending", "views"]
    perfect = _measured(tmp_path / "perfect", Leak(), names)
    assert perfect["depth_error"] < 0.02 and perfect["depth_scale"] == pytest.approx(1, abs=0.05)
    assert perfect["light_correlation"] > 0.95 and perfect["light_direction"] < 15
    assert perfect["blending_change"] < 0.1
    leaking = _measured(
        tmp_path / "leaking",
        Leak(light_gain=-1.0, expression_to_background=1.0, depth_gain=0.25, depth_tilt=0.4),
        names,
    )
    assert leaking["depth_error"] > 0.1
    assert leaking["light_correlation"] < 0
    assert leaking["blending_ratio"] > 5 and leaking["blending_change"] > 2
    assert leaking["views_share"] < 0.7 * perfect["views_share"]


def test_every_plan_is_kept_in_files(tmp_path: Path) -> None:
    source = HeadSource(open_head(), size=32)
    for name in plans.PLANS:
        plan = build_plan(name, source, replace(SMALL, reference_people=1))
        save_plan(tmp_path / name, plan)
        again = load_plan(tmp_path / name)
        assert torch.equal(again.factors.to_vector(), plan.factors.to_vector())
        assert torch.equal(again.camera.cam2world, plan.camera.cam2world)
        assert all(np.array_equal(again.columns[k], v) for k, v in plan.columns.items()) and again.words == plan.words
        rows = [len(r.factors) for r in plan.requests(slice(0, len(plan)))]
        assert sum(rows) == len(plan) and (len(rows) == 1 or name == "clip")
    (tmp_path / "pose" / "plan.json").write_text("{")
    with pytest.raises(CopoError, match=r"plan\.json is damaged"):
        load_plan(tmp_path / "pose")


def test_changes_of_the_identity_set_are_what_they_say() -> None:
    plan = build_plan("identity", HeadSource(open_head(), size=32), SMALL)
    rows = {kind: plan.factors[i] for i, kind in enumerate(plan.words["kinds"])}
    assert torch.equal(rows["expression"].illumination, rows["base"].illumination)
    assert not torch.equal(rows["expression"].expression, rows["base"].expression)
    assert torch.equal(rows["light"].expression, rows["base"].expression)
    assert all(torch.equal(r.identity, rows["base"].identity) for r in rows.values())
    assert torch.equal(rows["pose +"].to_vector(), rows["base"].to_vector())


def test_factors_without_a_prior_are_those_of_photographs(data: Path) -> None:
    dataset = PortraitDataset(data)
    drawn = PriorSampler(open_head().spec, {}, dataset)([0, 1, 2, 3])
    assert dataset.factors is not None
    for name in ("identity", "expression", "illumination"):
        table, value = getattr(dataset.factors, name), getattr(drawn, name)
        assert ((table[None] - value[:, None]).abs().amax(-1) < 1e-6).any(1).all()
    assert isinstance(drawn, Factors) and torch.equal(
        drawn.noise, PriorSampler(open_head().spec, {})([0, 1, 2, 3]).noise
    )


def test_bad_input_is_one_line(tmp_path: Path, data: Path) -> None:
    out = ["--out", str(tmp_path / "out"), "--device", "cpu"]
    with pytest.raises(CopoError, match="did you mean 'pose'"):
        evaluate("open_head", "--metrics", "poze", *out)
    with pytest.raises(CopoError, match="--out is missing"):
        evaluate("open_head")
    with pytest.raises(CopoError, match="no such folder"):
        evaluate(str(tmp_path / "none"), "--metrics", "pose", *out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CopoError, match="neither a model"):
        evaluate(str(tmp_path / "empty"), "--metrics", "coverage", *out)
    with pytest.raises(CopoError, match="no rendered pictures"):
        evaluate("--pictures", str(tmp_path / "empty"), "--metrics", "depth", *out)
    write_dataset(tmp_path / "ball.zip", ball_head(), people=2, views=1)
    with pytest.raises(CopoError, match="coefficients of head 'ball'"):
        evaluate("open_head", "--data", str(tmp_path / "ball.zip"), "--metrics", "depth", *out)
    with pytest.raises(CopoError, match="leaves no portrait"):
        evaluate("open_head", "--data", str(data), "--max-yaw", "0.001", "--metrics", "depth", *out)
