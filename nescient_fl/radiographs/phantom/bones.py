"""Ribs, clavicles, shoulder blades, the heads of the upper arms, and the spine."""

import numpy as np

from nescient_fl.radiographs.phantom.anatomy import Body
from nescient_fl.radiographs.phantom.canvas import Float, Strokes, Surface, bump, curve, slopes, step

_RIBS = 11
_ALONG, _ACROSS = 240, 8


def draw_ribs(body: Body, rng: np.random.Generator, ink: Strokes) -> None:
    """Eleven pairs of ribs, each a tilted half ellipse in space from the spine round to its cartilage.

    Seen from the front the back part runs outward and down, the side part is seen end-on and is bright, and
    the front part comes back inward, lower and fainter: nothing else is needed for the familiar lattice.
    """
    a, posture = body.anatomy, body.posture
    number = np.arange(_RIBS, dtype=np.float32)
    start = a.apex + 0.03 + a.rib_pitch * number + rng.normal(0, 0.007, _RIBS)
    drop = a.rib_drop * np.clip(0.42 + 0.17 * number, 0, 1.10) + rng.normal(0, 0.015, _RIBS)
    along = np.linspace(0, 1, _ALONG)
    # Even steps in the picture: near the spine a rib moves fast for its angle.
    angle = np.pi * (0.035 + along**1.25 * (np.clip(0.80 - 0.010 * number, 0.6, 1)[:, None] - 0.035))
    reach = body.chest_wall((start + 0.5 * drop).astype(np.float32)) + 0.012
    front = 0.5 * (1 - np.cos(angle))
    # The back part is the plainer; the front part is wide, thin, and ends in cartilage that hardly shows.
    fade = np.clip(along / 0.03, 0.3, 1) * np.clip((1 - along) / 0.22, 0, 1)
    half = 0.026 + 0.010 * front + 0.0015 * np.minimum(number, 5)[:, None]
    across = ((np.arange(_ACROSS) + 0.5) * (2 / _ACROSS) - 1).astype(np.float32)
    profile = (0.70 + 0.75 * np.abs(across) ** 4).astype(np.float32)  # cortical edges
    for side in (-1, 1):
        x = side * reach[:, None] * np.sin(angle) ** 0.9 + posture.turn * 0.25 * front
        y = start[:, None] + drop[:, None] * front**1.15 - 0.035 * bump(angle.astype(np.float32), 0.6, 0.35)
        # Breathing in lifts the front of the ribs.
        y = y + 0.35 * posture.inspiration * front
        z = -0.62 * reach[:, None] * np.cos(angle)
        path = np.stack([x, y, z], axis=-1)
        tangent = slopes(path)
        length = np.linalg.norm(tangent, axis=-1)
        unit = tangent / length[..., None]
        up = np.array([0.0, 1.0, 0.0]) - unit[..., 1:2] * unit
        up /= np.linalg.norm(up, axis=-1, keepdims=True)
        offset = (up * half[..., None])[..., :2]
        # Bone that lies along the beam is longer than it looks.
        seen = np.abs(tangent[..., 0] * offset[..., 1] - tangent[..., 1] * offset[..., 0]) / half
        longer = np.clip(length / np.maximum(seen, 1e-6), 1, 2.6)
        strength = a.rib_strength * longer**0.7 * (1 - 0.45 * front) * fade
        ink.ribbons(
            path[..., :2].astype(np.float32),
            offset.astype(np.float32),
            strength.astype(np.float32),
            across,
            profile,
        )


def draw_spine(surface: Surface, body: Body, rng: np.random.Generator) -> Float:
    """Vertebral bodies between their discs, pedicles and spinous processes, float32 [rows, columns]."""
    a = body.anatomy
    middle = slice(max(0, int(surface.origin_x - 0.24 * surface.scale)), int(surface.origin_x + 0.24 * surface.scale))
    x, y = surface.x[:, middle], surface.y
    bend = a.spine_bend * np.sin(2.2 * y + rng.uniform(0, 6))
    across = x - bend + np.float32(0.05 * body.posture.turn)
    half = 0.100 + 0.025 * np.clip(y + 0.8, 0, 2) / 2
    phase = (y - np.float32(a.apex)) / np.float32(a.rib_pitch * 1.02)
    place = phase - np.floor(phase)
    disc = np.exp(-0.5 * ((place - 0.5) / 0.11) ** 2)
    waist = half * (1 - 0.09 * np.cos(2 * np.pi * place))
    bodies = step(waist - np.abs(across), 0.030) * (1 - 0.45 * disc)
    edge = 0.22 * np.exp(-0.5 * ((np.abs(across) - waist + 0.014) / 0.014) ** 2) * (1 - disc)
    near = np.exp(-0.5 * ((place - 0.12) / 0.10) ** 2) + np.exp(-0.5 * ((place - 1.12) / 0.10) ** 2)
    pedicles = np.exp(-0.5 * ((np.abs(across) - 0.6 * half) / 0.017) ** 2) * near
    process = np.exp(-0.5 * (across / 0.016) ** 2) * np.exp(-0.5 * ((place - 0.7) / 0.12) ** 2)
    deeper = 0.6 + 0.4 * step(y - 0.5, 0.4)
    total = np.zeros((surface.rows, surface.columns), np.float32)
    total[:, middle] = 0.10 * (bodies + edge + 0.5 * pedicles + 0.6 * process) * deeper
    return total


def draw_shoulders(surface: Surface, body: Body, rng: np.random.Generator, ink: Strokes) -> Float:
    """Clavicles, shoulder blades and upper arms: lines into ``ink``, plates returned [rows, columns]."""
    a, p = body.anatomy, body.posture
    total = np.zeros((surface.rows, surface.columns), np.float32)
    clavicles, ridges, shafts = [], [], []
    lift = p.clavicle_lift + rng.normal(0, 0.02)
    out = 0.24 * p.arms
    front = 0.25 * p.turn
    end = np.abs(np.linspace(-1, 1, 240, dtype=np.float32))
    width = np.tile((0.034 + 0.014 * end**3).astype(np.float32), (2, 1))
    turn = np.linspace(0, 2 * np.pi, 40, dtype=np.float32)
    for side in (-1, 1):
        tilt = float(rng.normal(0, 0.02))
        root = a.apex + 0.26 - 0.5 * lift
        clavicles.append(
            curve(
                [
                    (side * 0.09 + front, root),
                    (side * 0.34 + front, root - 0.05),
                    (side * 0.64 + front, root - 0.13 - 0.5 * lift + tilt),
                    (side * 0.95 + 0.5 * front, root - 0.19 - lift + tilt),
                    (side * 1.22, root - 0.16 - lift + tilt),
                ],
                240,
            )
        )
        blade = [
            (side * (0.82 + out), a.apex + 0.22),
            (side * (0.77 + out), a.apex + 0.44),
            (side * (0.84 + 1.1 * out), a.apex + 0.80),
            (side * (0.93 + 1.2 * out), a.apex + 1.04),
            (side * (1.01 + out), a.apex + 0.88),
            (side * (1.12 + 0.6 * out), a.apex + 0.52),
            (side * (1.24 + 0.3 * out), a.apex + 0.34),
            (side * (1.08 + 0.5 * out), a.apex + 0.22),
        ]
        outline = curve([*blade, blade[0]], 420)
        ridges.append(outline)
        surface.fill(total, outline, 0.03)
        # The head of the upper arm runs on into its shaft.
        x, y = side * (1.36 + 0.06 * p.arms), a.apex + 0.34
        foot = (side * (1.52 + 0.45 * p.arms), a.apex + 1.5)
        head = np.stack([x + 0.115 * np.cos(turn), y + 0.13 * np.sin(turn)], axis=-1)
        surface.fill(total, head.astype(np.float32), 0.05)
        shafts.append(curve([(x, y), (0.5 * (x + foot[0]) + side * 0.02, 0.5 * (y + foot[1])), foot], 240))
    ink.tubes(np.stack(clavicles), width, np.full_like(width, a.clavicle), hollow=0.72, samples=9)
    narrow = np.tile((0.075 + 0.03 * np.exp(-np.linspace(0, 12, 240))).astype(np.float32), (2, 1))
    ink.tubes(np.stack(shafts), narrow, np.full_like(narrow, 0.09), hollow=0.6, samples=13)
    thin = np.full((2, 420), 0.014, np.float32)
    ink.tubes(np.stack(ridges), thin, np.full_like(thin, 0.035), samples=4)
    return total
