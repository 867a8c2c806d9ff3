"""From a model to figures: render what is needed, look at it, measure, report. Every step can be resumed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from copo.errors import CopoError
from copo.evaluation import blending, control, privacy, quality, shape, speed  # noqa: F401  # they register metrics
from copo.evaluation.geometry import landmarks68
from copo.evaluation.instruments import NEEDS, ORDER, Looker
from copo.evaluation.metric import Metric, Result, Shown, to_json
from copo.evaluation.plans import HEAD_SUFFIX, Counts, Plan, build_plan, load_plan, save_plan
from copo.evaluation.report import write_report
from copo.evaluation.sources import HeadSource, PictureFolder, PortraitSource, same_factors
from copo.evaluation.store import CHUNK, Arrays, PictureSet, write_pictures
from copo.formats.atomic import write_bytes
from copo.formats.dataset import PortraitDataset
from copo.formats.pictures import save_image
from copo.formats.provenance import Provenance
from copo.head.protocol import HeadModel
from copo.training.conditioning import pose_of
from copo.training.distributed import Processes

Say = Callable[[str], None]
Picture = NDArray[np.uint8]


class RealSet(PictureSet):
    """Portraits of a data set as a picture set; only what instruments see of them is on disk."""

    def __init__(self, data: PortraitDataset, folder: Path, rows: Sequence[int] | None = None) -> None:
        self.data, self.rows = data, list(range(len(data))) if rows is None else list(rows)
        super().__init__(folder, len(self.rows))

    @property
    def rendered(self) -> bool:
        """Always."""
        return True

    def pictures(self, number: int) -> Picture:
        """(n, S, S, 3) uint8."""
        return np.stack([self.data.image(i) for i in self.rows[number * CHUNK : (number + 1) * CHUNK]])

    def some(self, rows: Sequence[int]) -> list[Picture]:
        """Single pictures."""
        return [self.data.image(self.rows[i]) for i in rows]


class FolderSet(PictureSet):
    """A folder of pictures as a picture set; pictures of other sizes are brought to one."""

    def __init__(self, source: PictureFolder, folder: Path, side: int) -> None:
        super().__init__(folder, len(source))
        self.source, self.side = source, side

    @property
    def rendered(self) -> bool:
        """Always."""
        return True

    def pictures(self, number: int) -> Picture:
        """(n, S, S, 3) uint8."""
        rows = list(range(number * CHUNK, min((number + 1) * CHUNK, self.total)))
        return np.stack([self._sized(p) for p in self.source.pictures(rows)])

    def some(self, rows: Sequence[int]) -> list[Picture]:
        """Single pictures."""
        return [self._sized(p) for p in self.source.pictures(list(rows))]

    def _sized(self, picture: Picture) -> Picture:
        if picture.shape[:2] == (self.side, self.side):
            return picture
        return np.asarray(Image.fromarray(picture).resize((self.side, self.side), Image.Resampling.LANCZOS))


@dataclass
class Evaluation:
    """One run of metrics.

    Attributes:
        metrics: Which.
        counts: How much.
        store: Folder of the picture sets.
        out: Folder of the results.
        looker: Instruments.
        processes: This process among others.
        source: What makes pictures; None where they were made elsewhere or are a folder's.
        folder: A folder of pictures instead of a source.
        photographs: The data set, or None.
        head_model: Of the factors, or None.
        blend: What is held still in the clip set.
        quality: Of the stored pictures: 100 is PNG, below JPEG.
        max_yaw: Photographs seen from farther aside (degrees), and such cameras, are left out of quality.
        strict: Whether too few pictures are an error; otherwise the metric is left out.
        say: Gets lines for people.
    """

    metrics: list[Metric]
    counts: Counts
    store: Path
    out: Path
    looker: Looker
    processes: Processes
    source: PortraitSource | None = None
    folder: PictureFolder | None = None
    photographs: PortraitDataset | None = None
    head_model: HeadModel | None = None
    blend: str = "still"
    quality: int = 100
    max_yaw: float = 180.0
    strict: bool = True
    say: Say = print
    skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._plans: dict[str, Plan] = {}
        if self.photographs is not None and not len(self.photographs):
            raise CopoError(f"data set {self.photographs.path} holds no portraits")
        spec, theirs = None if self.source is None else self.source.spec, None
        if self.photographs is not None and self.photographs.factors is not None:
            theirs = self.photographs.factors.spec
        if spec is not None and theirs is not None and not same_factors(spec, theirs):
            raise CopoError(
                f"data set {self.data.path} has coefficients of head {theirs.head!r}, the model reads "
                f" those of {spec.head!r}: give a data set prepared with that head"
            )
        self.view = self._seen_from_front()

    # --- the whole ------------------------------------------------------------------------------------------------

    def render(self) -> None:
        """Make the pictures that the metrics need and that are not there."""
        self._check_source()
        for name in self._sets():
            self._prepare(name)
            self._render(name)
        self.processes.wait()

    def run(self) -> dict[str, Result]:
        """Render, look, measure, report.

        Returns:
            Results of the metrics that could be measured, in the main process; nothing in the others.
        """
        self.looker.say = self.say
        self.leave_out()
        self.render()
        self._leave_out_unseen()
        self._look()
        results: dict[str, Result] = {}
        if self.processes.main:
            bodies = {}
            for metric in self.metrics:
                if metric.name not in self.skipped:
                    bodies[metric.name] = self._measure(metric, results)
            for name, reason in self.skipped.items():
                self.say(f"{name}: skipped, {reason}")
            write_report(self.out, self._title(), self._facts(), self.metrics, bodies, self.skipped)
        self.processes.wait()
        return results

    # --- what can be done -----------------------------------------------------------------------------------------

    def leave_out(self) -> None:
        """Note metrics that cannot be measured here, each with the reason."""
        for metric in self.metrics:
            if metric.data and self.photographs is None:
                self.skipped[metric.name] = "it needs photographs: give --data"
            elif self.folder is not None and (set(metric.sets) != {"samples"} or metric.head or metric.source):
                self.skipped[metric.name] = "it needs a model, not a folder of pictures"
            elif metric.head and self.head_model is None:
                self.skipped[metric.name] = "it needs the head model of the factors: give --head"
            elif metric.source and self.source is None:
                self.skipped[metric.name] = "it needs the model itself, not its pictures"
            elif self.source is None and self.folder is None and not self._stored(metric):
                self.skipped[metric.name] = f"its pictures are not in {self.store}"
            elif metric.name in ("expression", "units") and not self._has_units():
                self.skipped[metric.name] = "the head's expression coefficients are no ARKit units"

    def _leave_out_unseen(self) -> None:
        """Note metrics whose instruments are missing, or whose pictures are too few."""
        for metric in self.metrics:
            if metric.name in self.skipped:
                continue
            for instrument, where in metric.instruments:
                if where in metric.references and where not in self._references():
                    continue
                try:
                    self._instrument(instrument, where)
                except CopoError as error:
                    self.skipped[metric.name] = str(error)
            if metric.name in self.skipped:
                continue
            few = [(len(self.pictures(name)), "pictures") for name in metric.sets]
            few += [(len(self.compared), "photographs")] if metric.data else []
            for count, what in few:
                if count < metric.least:
                    reason = f"{count} {what} are too few, it needs at least {metric.least}"
                    if self.strict:
                        raise CopoError(f"metric {metric.name}: {reason}")
                    self.skipped[metric.name] = reason

    def _has_units(self) -> bool:
        if self.source is not None:
            names = self.source.spec.expression_names
        else:
            names = self.plan("units" if self.has("units") else "every_unit").factors.spec.expression_names
        return "jawOpen" in names

    def _stored(self, metric: Metric) -> bool:
        return all((self.store / name / "plan.json").is_file() for name in metric.sets)

    def _active(self) -> list[Metric]:
        return [m for m in self.metrics if m.name not in self.skipped]

    def _references(self) -> list[str]:
        names = [n for m in self._active() for n in m.references]
        if self.source is None:
            return [n for n in dict.fromkeys(names) if (self.store / n / "plan.json").is_file()]
        same = self.head_model is not None and same_factors(self.head_model.spec, self.source.spec)
        if not same or isinstance(self.source, HeadSource) or not self.counts.reference_people:
            return []
        return list(dict.fromkeys(names))

    def _sets(self) -> list[str]:
        if self.folder is not None:
            return []
        names = [n for m in self._active() for n in m.sets]
        return [*dict.fromkeys(names), *self._references()]

    # --- pictures -------------------------------------------------------------------------------------------------

    def _check_source(self) -> None:
        """Refuse a store that belongs to another model or other counts."""
        path = self.store / "source.json"
        if self.source is None:
            if self.folder is None and not path.is_file():
                raise CopoError(f"{self.store}: no rendered pictures lie there; make them with --render-only")
            return
        mine = {
            "model": self.source.name,
            "fingerprint": self.source.fingerprint(),
            "counts": asdict(self.counts),
            "blend": self.blend,
            "quality": self.quality,
            "max_yaw": self.max_yaw,
            "data": None if self.photographs is None else data_fingerprint(self.photographs),
        }
        if path.is_file():
            theirs = _json(path)
            for key, value in mine.items():
                if theirs.get(key) != value:
                    raise CopoError(
                        f"{self.store} holds pictures of another evaluation ({key} differs): use another folder, or "
                        "remove it"
                    )
        elif self.processes.main:
            write_bytes(path, (json.dumps(mine, indent=1) + "\n").encode())

    def _prepare(self, name: str) -> None:
        folder = self.store / name
        if not (folder / "plan.json").is_file():
            if self.source is None:
                return
            if self.processes.main:
                save_plan(folder, build_plan(name, self.source, self.counts, self.view, self.blend))
        self.processes.wait()

    def _render(self, name: str) -> None:
        plan, pictures = self.plan(name), self.pictures(name)
        todo = [
            i
            for i in range(self.processes.rank, pictures.chunks, self.processes.world)
            if not pictures.picture_path(i).is_file()
        ]
        if not todo:
            return
        if self.source is None:
            raise CopoError(f"{pictures.picture_path(todo[0])} is missing: render the set again where the model is")
        source: PortraitSource = self.source
        if name.endswith(HEAD_SUFFIX):
            source = HeadSource(self.head, size=256, device=self.processes.device)
        started = time.monotonic()
        for done, number in enumerate(todo):
            rows = slice(number * CHUNK, min((number + 1) * CHUNK, len(plan)))
            parts = [source.render(request) for request in plan.requests(rows)]
            maps = {m: np.concatenate([p.maps[m] for p in parts]) for m in plan.maps}
            write_pictures(
                pictures.picture_path(number), np.concatenate([p.pictures for p in parts]), maps, self.quality
            )
            if done % 20 == 19:
                rate = (done + 1) * CHUNK / (time.monotonic() - started)
                self.say(f"  {name}: {done + 1} of {len(todo)} files, {rate:.0f} pictures a second")
        self.say(f"rendered {name}: {len(plan)} pictures")

    # --- looking --------------------------------------------------------------------------------------------------

    def _instrument(self, name: str, where: str) -> str:
        """The instrument that answers for one: itself, or dlib aligned by the asked head where MediaPipe is missing.

        Raises:
            CopoError: Neither has seen the set nor can see it here; the message says what is missing.
        """
        pictures = self.pictures(where)
        choices = [name] if name != "dlib" or self.folder is not None else ["dlib", "dlib_asked"]
        for choice in choices:
            if pictures.was_seen(choice):
                return choice
        reasons = []
        for choice in choices:
            if choice == "dlib_asked" and self._points(where) is None:
                reasons.append(f"the faces of {where} have no landmarks to align them by")
                continue
            why = self.looker.missing(choice)
            if why is None:
                return choice
            reasons.append(why)
        raise CopoError(reasons[0])

    def _points(self, where: str) -> NDArray[np.float32] | None:
        """Asked landmarks of a set, as shares of the side."""
        if where == "reals":
            return self._real_points()
        if self.folder is not None or self.head_model is None:
            return None
        plan = self.plan(where)
        if not same_factors(self.head_model.spec, plan.factors.spec):
            return None
        return landmarks68(self.head_model, plan.factors, plan.camera)

    def _real_points(self) -> NDArray[np.float32] | None:
        """Landmarks of the photographs, or those of their fitted heads where none were found."""
        data, points = self.data, None
        if data.points68 is not None:
            points = (data.points68 / data.image(0).shape[1]).astype(np.float32)
        unknown = np.ones(len(data), bool) if points is None else ~np.isfinite(points).all((1, 2))
        if not unknown.any() or data.factors is None or self.head_model is None:
            return points
        if not same_factors(self.head.spec, data.factors.spec):
            return points
        fitted = landmarks68(self.head, data.factors, data.cameras)
        return fitted if points is None else np.where(unknown[:, None, None], fitted, points)

    def _look(self) -> None:
        wanted: dict[str, list[str]] = {}
        for metric in self._active():
            for instrument, where in metric.instruments:
                if where in metric.references and where not in self._references():
                    continue
                chosen = self._instrument(instrument, where)
                for name in (*NEEDS.get(chosen, ()), chosen):
                    wanted.setdefault(name, []).append(where)
        for name in ORDER:
            for where in dict.fromkeys(wanted.get(name, [])):
                pictures = self.pictures(where)
                if pictures.was_seen(name):
                    continue
                self.say(f"{name} looks at {where}: {len(pictures)} pictures")
                points = self._points(where) if name.startswith("dlib") else None
                self.looker.look(pictures, name, points, self.processes.rank, self.processes.world)
            self.processes.wait()

    # --- measuring ------------------------------------------------------------------------------------------------

    def _measure(self, metric: Metric, results: dict[str, Result]) -> dict[str, Any]:
        path = self.out / "results" / f"{metric.name}.json"
        key = self._key(metric)
        if path.is_file():
            body = _json(path)
            if body.get("key") == key:
                self.say(f"{metric.name}: measured before")
                return body
        started = time.monotonic()
        result = metric.measure(self)
        results[metric.name] = result
        for shown in result.pictures:
            self._save_picture(shown)
        body = {**to_json(result), "metric": metric.name, "key": key}
        seconds = round(time.monotonic() - started, 2)
        line = {
            "results": body["results"],
            "metric": metric.name,
            "model": self._title(),
            "total_time": seconds,
            "num_gpus": self.processes.world,
            "timestamp": time.time(),
        }
        with (_made(self.out) / f"metric-{metric.name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        write_bytes(path, (json.dumps(body, indent=1) + "\n").encode())
        text = ", ".join(f"{f.key} {f.value:.4g}" for f in result.figures[:4])
        self.say(f"{metric.name}: {text}")
        return body

    def _save_picture(self, shown: Shown) -> None:
        kind = "compositeWithTrainedAlgorithmicMedia" if shown.photographs else "trainedAlgorithmicMedia"
        suffix = "png" if "matrix" in shown.name else "jpg"
        path = self.out / "pictures" / f"{shown.name}.{suffix}"
        save_image(path, shown.picture, Provenance(kind, {"command": "evaluate"}), quality=88)

    def _key(self, metric: Metric) -> str:
        """Differs where a stored result does not hold any more."""
        parts: list[Any] = [
            metric.name,
            None if self.photographs is None else data_fingerprint(self.photographs),
            self.max_yaw,
        ]
        parts.append(_json(self.store / "source.json") if (self.store / "source.json").is_file() else None)
        parts.append(None if self.folder is None else self.folder.fingerprint())
        parts += [self._instrument(i, w) for i, w in metric.instruments if w not in metric.references or self.has(w)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def _title(self) -> str:
        if self.source is not None:
            return self.source.name
        if self.folder is not None:
            return self.folder.name
        path = self.store / "source.json"
        return str(_json(path).get("model", self.store.name)) if path.is_file() else self.store.name

    def _facts(self) -> dict[str, str]:
        facts = {"Model": self._title()}
        path = self.store / "source.json"
        if path.is_file():
            facts["Fingerprint"] = str(_json(path).get("fingerprint"))
        if self.photographs is not None:
            facts["Data set"] = f"{self.photographs.path.name}, {len(self.photographs)} portraits"
            if len(self.compared) != len(self.photographs):
                facts["Compared with"] = f"{len(self.compared)} portraits up to {self.max_yaw:g} degrees of yaw"
        facts["Pictures"] = str(
            sum(len(self.pictures(n)) for n in self._sets()) or (len(self.folder) if self.folder else 0)
        )
        facts["Device"] = str(self.processes.device)
        return facts

    # --- Evidence -------------------------------------------------------------------------------------------------

    @property
    def data(self) -> PortraitDataset:
        """See `Evidence`."""
        assert self.photographs is not None
        return self.photographs

    @property
    def head(self) -> HeadModel:
        """See `Evidence`."""
        assert self.head_model is not None
        return self.head_model

    def plan(self, name: str) -> Plan:
        """See `Evidence`."""
        if name not in self._plans:
            self._plans[name] = load_plan(self.store / name)
        return self._plans[name]

    def pictures(self, name: str) -> PictureSet:
        """See `Evidence`."""
        if name == "reals":
            return RealSet(self.data, self.out / f"reals-{data_fingerprint(self.data)}")
        if name == "photographs":
            key = f"{data_fingerprint(self.data)}-{self.max_yaw:g}-{self.counts.photographs}"
            return RealSet(self.data, self.out / f"photographs-{key}", self.compared)
        if self.folder is not None:
            side = 256 if self.photographs is None else self.data.image(0).shape[0]
            return FolderSet(self.folder, self.out / f"folder-{self.folder.fingerprint()}", side)
        return PictureSet(self.store / name, len(self.plan(name)))

    def has(self, name: str) -> bool:
        """See `Evidence`."""
        if self.folder is not None:
            return False
        return name in self._references() or (self.store / name / "plan.json").is_file()

    def seen(self, name: str, instrument: str) -> Arrays:
        """See `Evidence`."""
        return self.pictures(name).seen(self._instrument(instrument, name))

    def reals(self, instrument: str) -> Arrays:
        """See `Evidence`."""
        return self.pictures("reals").seen(instrument)

    @property
    def compared(self) -> list[int]:
        """See `Evidence`."""
        rows = self._facing()
        few = self.counts.photographs
        if few and few < len(rows):
            rows = sorted(np.random.default_rng(0).choice(rows, few, replace=False).tolist())
        return rows

    def _facing(self) -> list[int]:
        """Rows of the data set within the largest yaw."""
        if self.max_yaw >= 180:
            return list(range(len(self.data)))
        return torch.nonzero(_yaws(self.data) <= self.max_yaw)[:, 0].tolist()

    def _seen_from_front(self) -> PortraitDataset | None:
        """The data set whose cameras are drawn from: without those that are left out."""
        if self.photographs is None or self.max_yaw >= 180:
            return self.photographs
        rows = self._facing()
        if not rows:
            raise CopoError(f"--max-yaw {self.max_yaw:g} leaves no portrait of {self.data.path}")
        view = PortraitDataset(self.data.path)
        view.cameras = view.cameras[torch.tensor(rows)]
        view.names = [view.names[i] for i in rows]
        return view


def _yaws(data: PortraitDataset) -> torch.Tensor:
    """(N,) degrees from the front."""
    return torch.rad2deg((pose_of(data.cameras)[:, 1] - torch.pi / 2).abs())


def data_fingerprint(data: PortraitDataset) -> str:
    """Differs between data sets."""
    digest = hashlib.sha256(data.read("dataset.json"))
    digest.update(str(data.path.stat().st_size).encode())
    return digest.hexdigest()[:12]


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CopoError(f"cannot write to {folder}: {(error.strerror or str(error)).lower()}") from None
    return folder


def _json(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(body, dict):
            return body
    except (OSError, ValueError):
        pass
    raise CopoError(f"{path} is damaged: remove it and run again")
