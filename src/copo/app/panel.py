"""The page's controls: sliders for who it is, expression units by name, light, truncation, blending, files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch

from copo.app.studio import Studio
from copo.errors import CopoError
from copo.factors import EXPRESSION_COMBINATIONS, Factors, FactorSpec
from copo.illumination import direction_from_angles, directional_light, normalise_exposure

REGIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Brows", ("brow",)),
    ("Eyes", ("eye",)),
    ("Jaw and tongue", ("jaw", "tongue")),
    ("Mouth", ("mouth",)),
    ("Cheeks and nose", ("cheek", "nose")),
)
"""Folders of expression units, by how the names begin."""
IDENTITY_LIMIT = 3.0
"""Standard deviations to either side on identity sliders."""
UNBOUNDED_LIMIT = 3.0
"""The same on expression sliders of heads whose coefficients have no range."""
BLENDS = ("none", "background", "hair", "both", "still")

Say = Callable[[str], None]


def regions(spec: FactorSpec) -> list[tuple[str, list[int]]]:
    """Folders and the expression units in them; what has no folder of its own is in the last one."""
    left = set(range(spec.expression))
    out: list[tuple[str, list[int]]] = []
    for title, starts in REGIONS:
        chosen = [i for i, name in enumerate(spec.expression_names) if name.lower().startswith(starts)]
        if chosen:
            out.append((title, chosen))
            left -= set(chosen)
    return [*out, ("Others", sorted(left))] if left else out


def breakable(name: str) -> str:
    """mouthDimpleLeft with places (of no width) between its words at which a line may end."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "\u200b", name)


class Panel:
    """Builds the controls and keeps them and the studio the same.

    Args:
        gui: viser's.
        studio: What is shown.
        identity_sliders: Components of shape and of albedo that get a slider each.
    """

    def __init__(self, gui: Any, studio: Studio, identity_sliders: int) -> None:
        self.gui, self.studio = gui, studio
        self.sliders: dict[str, list[tuple[int, Any]]] = {"shape": [], "albedo": [], "expression": []}
        spec = studio.base.spec
        self.status = gui.add_markdown(self._status())
        tabs = gui.add_tab_group()
        with tabs.add_tab("Person"):
            self._person(spec, identity_sliders)
        with tabs.add_tab("Face"):
            self._face(spec)
        with tabs.add_tab("Light"):
            self._light()
        self.files = tabs.add_tab("Files")
        self.refresh()

    # --- tabs -------------------------------------------------------------------------------------------------------

    def _person(self, spec: FactorSpec, count: int) -> None:
        gui, look = self.gui, self.studio.look
        self.seed = gui.add_number("Seed", look.seed or 0, min=0, step=1, hint="Who it is, with hair and light")
        self.psi = gui.add_slider("psi", 0.0, 1.0, 0.01, look.psi, hint="1: as drawn. Less: more average, less control")
        self.blend = gui.add_dropdown(
            "Hold still", BLENDS, initial_value=look.blend, hint="Taken from the neutral face"
        )
        self.seed.on_update(self._asked(lambda: self._sow(int(self.seed.value))))
        self.psi.on_update(self._asked(lambda: self.studio.change(psi=float(self.psi.value))))
        self.blend.on_update(self._asked(lambda: self.studio.change(blend=self.blend.value)))
        next_ = gui.add_button("Next seed")
        next_.on_click(lambda _: self._sow(int(self.seed.value) + 1))
        self.hair = gui.add_number(
            "Hair seed", 0, min=0, step=1, hint="The noise code alone: hair, clothes, background"
        )
        self.hair.on_update(self._asked(self._reseed_hair))
        for name in ("shape", "albedo"):
            size = min(spec.sizes[name], count)
            if not size:
                continue
            with gui.add_folder(f"Identity: {name}", expand_by_default=name == "shape"):
                for i in range(size):
                    self._slider(name, i, f"{name} {i + 1}", -IDENTITY_LIMIT, IDENTITY_LIMIT)

    def _face(self, spec: FactorSpec) -> None:
        gui = self.gui
        low, high = spec.expression_range
        low, high = max(low, -UNBOUNDED_LIMIT), min(high, UNBOUNDED_LIMIT)
        usable = [k for k, v in EXPRESSION_COMBINATIONS.items() if all(u in spec.expression_names for u in v)]
        if usable:
            self.named = gui.add_dropdown("Expression", ("neutral", *usable), initial_value="neutral")
            self.named.on_update(self._asked(self._named_expression))
        reset = gui.add_button("Neutral")
        reset.on_click(lambda _: self._set_expression(torch.zeros(1, spec.expression)))
        for title, units in regions(spec):
            with gui.add_folder(title, expand_by_default=title == "Mouth"):
                for i in units:
                    self._slider("expression", i, breakable(spec.expression_names[i]), low, high)

    def _light(self) -> None:
        gui = self.gui
        self.lamp = [
            gui.add_slider("Around", -180.0, 180.0, 1.0, 0.0, hint="Degrees; positive is at the right of the picture"),
            gui.add_slider("Above", -90.0, 90.0, 1.0, 20.0, hint="Degrees"),
            gui.add_slider("Ambient", 0.0, 1.0, 0.01, 0.4, hint="Share of light that comes from everywhere"),
            gui.add_slider("Brightness", 0.2, 2.0, 0.01, 1.0),
        ]
        for slider in self.lamp:
            slider.on_update(self._asked(self._shine))
        back = gui.add_button("Light of the seed")
        back.on_click(lambda _: self._seed_light())

    # --- what controls do -----------------------------------------------------------------------------------------

    def _asked(self, act: Callable[[], None]) -> Callable[[Any], None]:
        """Only what a person did counts; the program's own changes of controls do not."""

        def handle(event: Any) -> None:
            if event.client_id is not None:
                act()

        return handle

    def _slider(self, factor: str, index: int, label: str, low: float, high: float) -> None:
        value = float(getattr(self.studio.look.factors, factor)[0, index])
        slider = self.gui.add_slider(label, low, high, 0.01, min(max(value, low), high))

        def move() -> None:
            def set_one(factors: Factors) -> Factors:
                values = getattr(factors, factor).clone()
                values[0, index] = float(slider.value)
                return factors.replace(**{factor: values})

            self.studio.edit(set_one)

        slider.on_update(self._asked(move))
        self.sliders[factor].append((index, slider))

    def _sow(self, seed: int) -> None:
        self.studio.sow(seed)
        self.refresh()

    def _reseed_hair(self) -> None:
        person = self.studio.look.factors
        noise = self.studio.base.sample(seed=max(int(self.hair.value), 0), people=person).noise
        self.studio.edit(lambda factors: factors.replace(noise=noise))

    def _named_expression(self) -> None:
        factors = self.studio.look.factors
        if self.named.value == "neutral":
            self._set_expression(torch.zeros_like(factors.expression))
        else:
            self._set_expression(factors.with_expression(**{self.named.value: 1.0}).expression)

    def _set_expression(self, expression: torch.Tensor) -> None:
        self.studio.edit(lambda factors: factors.replace(expression=expression))
        self.refresh()

    def _shine(self) -> None:
        around, above, ambient, brightness = (float(slider.value) for slider in self.lamp)
        direction = direction_from_angles(math.radians(around), math.radians(above))
        light = directional_light(direction, intensity=1.3 * (1 - ambient), ambient=ambient)
        if self.studio.base.spec.illumination == light.numel():
            shone = normalise_exposure(light, brightness).reshape(1, -1)
            self.studio.edit(lambda factors: factors.replace(illumination=shone))

    def _seed_light(self) -> None:
        seed = self.studio.look.seed
        person = self.studio.person
        light = (
            person.person.illumination if person is not None else self.studio.base.sample(seed=seed or 0).illumination
        )
        self.studio.edit(lambda factors: factors.replace(illumination=light))

    # --- keeping up -------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Bring the controls to what is shown."""
        look = self.studio.look
        for factor, sliders in self.sliders.items():
            values = getattr(look.factors, factor)[0]
            for index, slider in sliders:
                slider.value = min(max(float(values[index]), slider.min), slider.max)
        if look.seed is not None:
            self.seed.value = look.seed
        self.psi.value, self.blend.value = look.psi, look.blend
        self.status.content = self._status()

    def _status(self) -> str:
        studio = self.studio
        who = f"seed {studio.look.seed}" if studio.look.seed is not None else "a file"
        who = "a photograph, inverted" if studio.person is not None else who
        return f"**{studio.base.name}**, {who}. Pictures are AI-generated."


def person_of(factors: Factors) -> Factors:
    """One portrait.

    Raises:
        CopoError: There are several.
    """
    if len(factors) != 1:
        raise CopoError(f"this file holds {len(factors)} portraits: save the one you want alone")
    return factors
