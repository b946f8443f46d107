"""Support devices: lines, tubes, pacemakers, leads, and the wires of an operation."""

from collections.abc import Callable

import numpy as np

from nescient_fl.radiographs.phantom.anatomy import Body
from nescient_fl.radiographs.phantom.canvas import Float, Strokes, Surface, curve

_SAMPLES = 400  # points a curve: within a pixel of each other over the longest
_Point = tuple[float, float]


class Devices:
    """The devices of one image. Each method draws one kind; strokes and plates are laid down by ``laid``."""

    def __init__(self, surface: Surface, body: Body, rng: np.random.Generator) -> None:
        self._surface, self._body, self._rng = surface, body, rng
        self._top = body.anatomy.apex
        self._ink = Strokes(surface)
        self._plates: list[tuple[float, Float]] = []

    def laid(self, ink: Strokes) -> Float:
        """Give the strokes to ``ink`` and return what the plates add, float32 [rows, columns]."""
        ink.take(self._ink)
        total = np.zeros((self._surface.rows, self._surface.columns), np.float32)
        for strength, outline in self._plates:
            self._surface.fill(total, outline, strength)
        return total

    def line(self) -> None:
        """A central line: by the jugular, the subclavian or the arm's vein into the superior vena cava."""
        rng, top = self._rng, self._top
        tip = (-0.16 + rng.normal(0, 0.015), rng.uniform(-0.15, 0.15))
        side = -1 if rng.random() < 0.7 else 1
        vein = (-0.17 + rng.normal(0, 0.01), -0.38)
        way = rng.random()
        points: list[_Point]
        if way < 0.4:
            points = [(side * 0.30, top - 0.55), (side * 0.26, top - 0.2), (side * 0.20, top + 0.14)]
        elif way < 0.7:
            points = [(side * 0.95, top + 0.42), (side * 0.66, top + 0.10), (side * 0.26, top + 0.20)]
        else:
            points = [
                (side * 1.5, 0.1),
                (side * 1.2, top + 0.42),
                (side * 0.72, top + 0.2),
                (side * 0.24, top + 0.2),
            ]
        self._wire([*points, vein, tip], 0.0105, rng.uniform(0.12, 0.26))

    def airway(self) -> None:
        """A breathing tube whose tip lies above the carina."""
        rng = self._rng
        x, tip = 0.015 + rng.normal(0, 0.012), rng.uniform(-0.48, -0.32)
        path = curve([(x + rng.normal(0, 0.05), self._top - 0.7), (x, self._top), (x, tip)], _SAMPLES)
        self._ink.tube(path, 0.034, 0.11, hollow=0.78)
        self._ink.tube((path + np.array([0.02, 0.0], np.float32)).astype(np.float32), 0.006, 0.20)

    def gastric(self) -> None:
        """A feeding tube down the midline and into the stomach."""
        rng, bottom = self._rng, self._body.anatomy.dome_left
        points = [(rng.normal(0, 0.05), self._top - 0.7), (0.03, -0.5), (0.05, 0.1), (0.08, 0.55)]
        points += [(0.22, bottom + 0.2), (rng.uniform(0.35, 0.6), bottom + rng.uniform(0.2, 0.5))]
        self._wire(points, 0.013, rng.uniform(0.10, 0.22), hollow=0.5)

    def electrodes(self) -> None:
        """Electrode buttons with their wires lying across the chest."""
        rng = self._rng
        exit_x, exit_y = float(rng.choice([-1, 1]) * rng.uniform(0.4, 1.3)), float(rng.choice([-1.5, 1.5]))
        for x, y in ((-0.78, -0.45), (0.78, -0.45), (-0.85, 0.60), (0.85, 0.55), (0.30, 0.25)):
            if rng.random() < 0.35:
                continue
            u, v = x + rng.normal(0, 0.10), y + rng.normal(0, 0.10)
            self._disc(u, v, 0.026, 0.18)
            middle = (0.5 * (u + exit_x) + rng.normal(0, 0.22), 0.5 * (v + exit_y) + rng.normal(0, 0.22))
            self._wire([(u, v), middle, (exit_x, exit_y)], 0.0065, 0.16)

    def pacemaker(self) -> None:
        """A generator below the clavicle and its leads to the heart."""
        rng = self._rng
        side = 1 if rng.random() < 0.8 else -1
        x, y = side * rng.uniform(0.66, 0.82), self._top + rng.uniform(0.34, 0.46)
        lean = rng.normal(0, 0.3)
        turn = _circle()
        box = np.sign(turn) * np.abs(turn) ** 0.6  # a rounded box: a circle whose sides are pressed flat
        spin = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
        self._plate(box * np.array([0.100, 0.118]) @ spin.T + np.array([x, y]), 0.40)
        heart = self._body.anatomy.heart_y
        ends = [(0.30 + rng.normal(0, 0.04), heart + 0.26)]
        if rng.random() < 0.6:
            ends.append((-0.14, heart + 0.02))
        for end in ends:
            points = [(x, y + 0.06), (x - side * 0.10, y + 0.16), (side * 0.42, self._top + 0.26)]
            points += [
                (side * 0.20, self._top + 0.34),
                (-0.13, -0.32),
                (-0.15, 0.05),
                (-0.06, heart + 0.22),
                end,
            ]
            self._wire(points, 0.0080, 0.22)

    def port(self) -> None:
        """An implanted port for infusions, with its line."""
        rng, top = self._rng, self._top
        x, y = -rng.uniform(0.50, 0.66), top + rng.uniform(0.36, 0.5)
        self._disc(x, y, 0.062, 0.10)
        self._disc(x, y, 0.036, 0.14)
        points = [(x, y - 0.05), (-0.42, top + 0.12), (-0.24, top + 0.18), (-0.17, -0.3), (-0.16, 0.1)]
        self._wire(points, 0.0095, 0.20)

    def drain(self) -> None:
        """A chest drain from the side wall up towards the apex."""
        rng = self._rng
        side = -1 if rng.random() < 0.5 else 1
        start = rng.uniform(0.2, 0.5)
        points = [
            (side * 1.4, start + 0.1),
            (side * 0.98, start),
            (side * 0.72, -0.1),
            (side * 0.45, self._top + 0.3),
        ]
        self._wire(points, 0.022, 0.13, hollow=0.75)

    def sternal_wires(self) -> None:
        """The wire loops that close a breastbone after surgery."""
        rng = self._rng
        for number in range(int(rng.integers(4, 7))):
            x, y = rng.normal(0.02, 0.012), -0.42 + 0.17 * number + rng.normal(0, 0.01)
            loop = _circle(80) * np.array([0.040, 0.026]) + np.array([x, y])
            self._ink.tube(loop.astype(np.float32), 0.006, 0.20)

    def _wire(self, points: list[_Point], radius: float, strength: float, hollow: float = 0.0) -> None:
        self._ink.tube(curve(points, _SAMPLES), radius, strength, hollow)

    def _disc(self, x: float, y: float, radius: float, strength: float) -> None:
        self._plate(_circle() * radius + np.array([x, y]), strength)

    def _plate(self, outline: Float, strength: float) -> None:
        self._plates.append((strength, outline.astype(np.float32)))


_ICU: dict[str, float] = {
    "line": 0.65, "airway": 0.40, "gastric": 0.42, "electrodes": 0.75, "pacemaker": 0.10, "drain": 0.14,
    "sternal_wires": 0.16,
}  # fmt: skip
_OUTPATIENT = {"line": 0.15, "pacemaker": 0.35, "port": 0.40, "sternal_wires": 0.30}
_KINDS: dict[str, Callable[[Devices], None]] = {name: getattr(Devices, name) for name in {*_ICU, *_OUTPATIENT}}


def draw_devices(surface: Surface, body: Body, rng: np.random.Generator, setting: str, ink: Strokes) -> Float:
    """Draw the devices that one image shows: strokes into ``ink``, plates returned [rows, columns].

    ``setting`` decides the mix: an intensive care patient has a tube, lines and electrodes, an outpatient a
    pacemaker, a port or the wires of an earlier operation.
    """
    devices = Devices(surface, body, rng)
    chances = _ICU if setting == "icu" else _OUTPATIENT
    chosen = [name for name, chance in chances.items() if rng.random() < chance]
    # The row says devices, so there is at least one.
    for name in chosen or ["line" if setting == "icu" else "port"]:
        _KINDS[name](devices)
    return devices.laid(ink)


def stray_electrodes(surface: Surface, body: Body, rng: np.random.Generator, ink: Strokes) -> Float:
    """Monitoring electrodes, which reports do not count as devices, so bare ward images have them too."""
    devices = Devices(surface, body, rng)
    devices.electrodes()
    return devices.laid(ink)


def _circle(points: int = 40) -> Float:
    turn = np.linspace(0, 2 * np.pi, points, dtype=np.float32)
    return np.stack([np.cos(turn), np.sin(turn)], axis=-1).astype(np.float32)
