"""Support devices: lines, tubes, pacemakers, leads, and the wires of an operation."""

import numpy as np

from nescient_fl.radiographs.phantom.anatomy import Body
from nescient_fl.radiographs.phantom.canvas import Float, Surface, curve

_SAMPLES = 160


def draw_devices(surface: Surface, body: Body, rng: np.random.Generator, setting: str) -> Float:
    """Attenuation of the devices that one image shows, float32 [rows, columns].

    ``setting`` decides the mix: an intensive care patient has a tube, lines and electrodes, an outpatient a
    pacemaker, a port or the wires of an earlier operation.
    """
    total = np.zeros((surface.rows, surface.columns), np.float32)
    shown = 0
    if setting == "icu":
        chances = {"line": 0.65, "airway": 0.40, "gastric": 0.42, "electrodes": 0.80, "pacemaker": 0.14, "drain": 0.14}
    else:
        chances = {"line": 0.15, "pacemaker": 0.40, "port": 0.40}
    for name, chance in chances.items():
        if rng.random() < chance:
            total += _DRAW[name](surface, body, rng)
            shown += 1
    if rng.random() < (0.18 if setting == "icu" else 0.3):
        total += _sternal_wires(surface, rng)
    if shown == 0:  # the row says devices, so there is at least one
        total += _line(surface, body, rng) if setting == "icu" else _pacemaker(surface, body, rng)
    return total


def stray_electrodes(surface: Surface, body: Body, rng: np.random.Generator) -> Float:
    """Monitoring electrodes, which reports do not count as devices, so bare ward images have them too."""
    return _electrodes(surface, body, rng)


def _tube(surface: Surface, path: Float, radius: float, strength: float, hollow: float = 0.0) -> Float:
    shape = (1, path.shape[0])
    return surface.tubes(
        path[None], np.full(shape, radius, np.float32), np.full(shape, strength, np.float32), hollow=hollow, samples=7
    )


def _line(surface: Surface, body: Body, rng: np.random.Generator) -> Float:
    """A central line: by the jugular, the subclavian or the arm's vein into the superior vena cava."""
    top = body.anatomy.apex
    tip = (-0.16 + rng.normal(0, 0.015), rng.uniform(-0.15, 0.15))
    side = -1 if rng.random() < 0.7 else 1
    vein = (-0.17 + rng.normal(0, 0.01), -0.38)
    way = rng.random()
    if way < 0.4:
        points = [(side * 0.30, top - 0.55), (side * 0.26, top - 0.2), (side * 0.20, top + 0.14), vein, tip]
    elif way < 0.7:
        points = [(side * 0.95, top + 0.42), (side * 0.66, top + 0.10), (side * 0.26, top + 0.20), vein, tip]
    else:
        points = [(side * 1.5, 0.1), (side * 1.2, top + 0.42), (side * 0.72, top + 0.20), (side * 0.24, top + 0.2), vein, tip]
    return _tube(surface, curve(points, _SAMPLES), 0.0105, rng.uniform(0.14, 0.28))


def _airway(surface: Surface, body: Body, rng: np.random.Generator) -> Float:
    """A breathing tube whose tip lies above the carina."""
    x = 0.015 + rng.normal(0, 0.012)
    tip = rng.uniform(-0.48, -0.32)
    path = curve([(x + rng.normal(0, 0.05), body.anatomy.apex - 0.7), (x, body.anatomy.apex), (x, tip)], _SAMPLES)
    wall = _tube(surface, path, 0.034, 0.12, hollow=0.78)
    return wall + _tube(surface, path + np.float32([0.02, 0.0]), 0.006, 0.22)


def _gastric(surface: Surface, body: Body, rng: np.random.Generator) -> Float:
    """A feeding tube down the midline and into the stomach."""
    bottom = body.anatomy.dome_left
    start = rng.normal(0, 0.05)
    points = [(start, body.anatomy.apex - 0.7), (0.03, -0.5), (0.05, 0.1), (0.08, 0.55), (0.22, bottom + 0.2)]
    points.append((rng.uniform(0.35, 0.6), bottom + rng.uniform(0.2, 0.5)))
    return _tube(surface, curve(points, _SAMPLES), 0.013, rng.uniform(0.12, 0.24), hollow=0.5)


def _electrodes(surface: Surface, body: Body, rng: np.random.Generator) -> Float:
    """Electrode buttons with their wires lying across the chest."""
    total = np.zeros((surface.rows, surface.columns), np.float32)
    exit_x, exit_y = rng.choice([-1, 1]) * rng.uniform(0.4, 1.3), rng.choice([-1.5, 1.5])
    turn = np.linspace(0, 2 * np.pi, 24, dtype=np.float32)
    for x, y in ((-0.78, -0.45), (0.78, -0.45), (-0.85, 0.60), (0.85, 0.55), (0.30, 0.25)):
        if rng.random() < 0.35:
            continue
        place = np.array([x, y]) + rng.normal(0, 0.10, 2)
        disc = (place + 0.026 * np.stack([np.cos(turn), np.sin(turn)], axis=-1)).astype(np.float32)
        total += 0.20 * surface.polygons([disc])
        middle = 0.5 * (place + np.array([exit_x, exit_y])) + rng.normal(0, 0.22, 2)
        points = [(float(place[0]), float(place[1])), (float(middle[0]), float(middle[1])), (exit_x, exit_y)]
        total += _tube(surface, curve(points, _SAMPLES), 0.0065, 0.20)
    return total


def _pacemaker(surface: Surface, body: Body, rng: np.random.Generator) -> Float:
    """A generator below the clavicle and its leads to the heart."""
    side = 1 if rng.random() < 0.8 else -1
    x, y = side * rng.uniform(0.66, 0.82), body.anatomy.apex + rng.uniform(0.34, 0.46)
    turn = np.linspace(0, 2 * np.pi, 48, dtype=np.float32)
    # A rounded box: a circle raised to a power.
    box = np.stack([np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** 0.6, np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** 0.6], axis=-1)
    lean = rng.normal(0, 0.3)
    spin = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
    case = (box * np.array([0.115, 0.135]) @ spin.T + np.array([x, y])).astype(np.float32)
    total = 0.42 * surface.polygons([case])
    heart = body.anatomy.heart_y
    ends = [(0.30 + rng.normal(0, 0.04), heart + 0.26)]
    if rng.random() < 0.6:
        ends.append((-0.14, heart + 0.02))
    for end in ends:
        points = [(x, y + 0.08), (x - side * 0.12, y + 0.20), (side * 0.40, body.anatomy.apex + 0.24)]
        points += [(-0.10, -0.42), (-0.15, 0.05), (-0.06, heart + 0.22), end]
        total = total + _tube(surface, curve(points, 2 * _SAMPLES), 0.0085, 0.26)
    return total


def _port(surface: Surface, body: Body, rng: np.random.Generator) -> Float:
    """An implanted port for infusions, with its line."""
    x, y = -rng.uniform(0.50, 0.66), body.anatomy.apex + rng.uniform(0.36, 0.5)
    turn = np.linspace(0, 2 * np.pi, 30, dtype=np.float32)
    ring = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    place = np.array([x, y])
    total = 0.12 * surface.polygons([(place + 0.062 * ring).astype(np.float32)])
    total += 0.16 * surface.polygons([(place + 0.036 * ring).astype(np.float32)])
    points = [(x, y - 0.05), (-0.42, body.anatomy.apex + 0.12), (-0.24, body.anatomy.apex + 0.18), (-0.17, -0.3), (-0.16, 0.1)]
    return total + _tube(surface, curve(points, _SAMPLES), 0.0095, 0.22)


def _drain(surface: Surface, body: Body, rng: np.random.Generator) -> Float:
    """A chest drain from the side wall up towards the apex."""
    side = -1 if rng.random() < 0.5 else 1
    start = rng.uniform(0.2, 0.5)
    points = [(side * 1.4, start + 0.1), (side * 0.98, start), (side * 0.72, -0.1), (side * 0.45, body.anatomy.apex + 0.3)]
    return _tube(surface, curve(points, _SAMPLES), 0.022, 0.15, hollow=0.75)


def _sternal_wires(surface: Surface, rng: np.random.Generator) -> Float:
    """The wire loops that close a breastbone after surgery."""
    turn = np.linspace(0, 2 * np.pi, 50, dtype=np.float32)
    loops = []
    for number in range(int(rng.integers(4, 7))):
        x, y = rng.normal(0.02, 0.012), -0.42 + 0.17 * number + rng.normal(0, 0.01)
        loops.append(np.stack([x + 0.040 * np.cos(turn), y + 0.026 * np.sin(turn)], axis=-1))
    path = np.stack(loops).astype(np.float32)
    shape = path.shape[:2]
    return surface.tubes(path, np.full(shape, 0.006, np.float32), np.full(shape, 0.24, np.float32))


_DRAW = {
    "line": _line,
    "airway": _airway,
    "gastric": _gastric,
    "electrodes": _electrodes,
    "pacemaker": _pacemaker,
    "port": _port,
    "drain": _drain,
}
