"""Ribs, clavicles, shoulder blades, upper arms' heads and the spine."""

import numpy as np

from nescient_fl.radiographs.phantom.anatomy import Body
from nescient_fl.radiographs.phantom.canvas import Float, Surface, bump, curve, step

_RIBS = 11
_ALONG, _ACROSS = 200, 11


def draw_bones(surface: Surface, body: Body, rng: np.random.Generator) -> Float:
    """Attenuation of all bones, float32 [rows, columns]; ``rng`` is the patient's, so that they stay theirs."""
    return (
        draw_ribs(surface, body, rng) + draw_spine(surface, body, rng) + draw_shoulders(surface, body, rng)
    ).astype(np.float32)


def draw_ribs(surface: Surface, body: Body, rng: np.random.Generator) -> Float:
    """Eleven pairs of ribs, each a tilted half ellipse in space from the spine round to its cartilage.

    Seen from the front the back part runs outward and down, the side part is seen end-on and is bright, and
    the front part comes back inward, lower and fainter: nothing else is needed for the familiar lattice.
    """
    a = body.anatomy
    number = np.arange(_RIBS, dtype=np.float32)
    start = a.apex + 0.015 + a.rib_pitch * number + rng.normal(0, 0.008, _RIBS)
    drop = a.rib_drop * np.clip(0.35 + 0.16 * number, 0, 1.05) + rng.normal(0, 0.012, _RIBS)
    angle = np.linspace(0.10, 1.0, _ALONG) * np.pi * np.clip(0.80 - 0.012 * number, 0.6, 1)[:, None]
    reach = body.chest_wall((start + 0.5 * drop).astype(np.float32)) + 0.015
    centres, offsets, strengths = [], [], []
    for side in (-1, 1):
        x = side * reach[:, None] * np.sin(angle) ** 0.85
        rise_up = -0.05 * bump(angle.astype(np.float32), 0.55, 0.3)
        y = start[:, None] + drop[:, None] * (0.5 * (1 - np.cos(angle))) ** 1.1 + rise_up
        # Breathing in lifts the front of the ribs; turning the patient moves the front against the back.
        front = 0.5 * (1 - np.cos(angle))
        y = y + 0.35 * body.posture.inspiration * front
        x = x + body.posture.turn * 0.25 * front
        z = -0.62 * reach[:, None] * np.cos(angle)
        path = np.stack([x, y, z], axis=-1)
        tangent = np.gradient(path, axis=1)
        length = np.linalg.norm(tangent, axis=-1)
        unit = tangent / length[..., None]
        up = np.array([0.0, 1.0, 0.0]) - unit[..., 1:2] * unit
        up /= np.linalg.norm(up, axis=-1, keepdims=True)
        half = 0.032 + 0.010 * front + 0.002 * np.minimum(number, 5)[:, None]
        offset = (up * half[..., None])[..., :2]
        # Bone that lies along the beam is longer than it looks.
        seen = np.abs(tangent[..., 0] * offset[..., 1] - tangent[..., 1] * offset[..., 0]) / half
        longer = np.clip(length / np.maximum(seen, 1e-6), 1, 3.2)
        fade = np.clip((1 - np.linspace(0, 1, _ALONG)) / 0.12, 0, 1)
        strength = a.rib_strength * longer**0.7 * (1 - 0.38 * front) * fade
        centres.append(path[..., :2])
        offsets.append(offset)
        strengths.append(strength)
    across = ((np.arange(_ACROSS) + 0.5) * (2 / _ACROSS) - 1).astype(np.float32)
    profile = (0.72 + 0.75 * np.abs(across) ** 5).astype(np.float32)  # cortical edges
    return surface.ribbons(
        np.concatenate(centres).astype(np.float32),
        np.concatenate(offsets).astype(np.float32),
        np.concatenate(strengths).astype(np.float32),
        across,
        profile,
    )


def draw_spine(surface: Surface, body: Body, rng: np.random.Generator) -> Float:
    """Vertebral bodies between their discs, pedicles and spinous processes."""
    a = body.anatomy
    x, y = surface.x, surface.y
    bend = a.spine_bend * np.sin(2.2 * y + rng.uniform(0, 6))
    across = x - bend - np.float32(-0.05 * body.posture.turn)
    half = 0.105 + 0.025 * np.clip(y + 0.8, 0, 2) / 2
    pitch = a.rib_pitch * 1.02
    phase = (y - np.float32(a.apex)) / np.float32(pitch)
    place = phase - np.floor(phase)
    disc = np.exp(-0.5 * ((place - 0.5) / 0.10) ** 2)
    waist = half * (1 - 0.10 * np.cos(2 * np.pi * (place - 0.0)))
    bodies = step(waist - np.abs(across), 0.018) * (1 - 0.55 * disc)
    edge = 0.35 * np.exp(-0.5 * ((np.abs(across) - waist + 0.012) / 0.012) ** 2) * (1 - disc)
    near = np.exp(-0.5 * ((place - 0.12) / 0.10) ** 2) + np.exp(-0.5 * ((place - 1.12) / 0.10) ** 2)
    pedicles = np.exp(-0.5 * ((np.abs(across) - 0.6 * half) / 0.017) ** 2) * near
    process = np.exp(-0.5 * (across / 0.016) ** 2) * np.exp(-0.5 * ((place - 0.7) / 0.11) ** 2)
    deeper = 0.6 + 0.4 * step(y - 0.5, 0.4)
    return (np.float32(0.105) * (bodies + edge + 0.5 * pedicles + 0.7 * process) * deeper).astype(np.float32)


def draw_shoulders(surface: Surface, body: Body, rng: np.random.Generator) -> Float:
    """Clavicles, shoulder blades and the heads of the upper arms."""
    a, p = body.anatomy, body.posture
    total = np.zeros((surface.rows, surface.columns), np.float32)
    clavicles, blades, borders, heads = [], [], [], []
    lift = p.clavicle_lift + rng.normal(0, 0.02)
    for side in (-1, 1):
        front = np.float32(0.25 * p.turn)
        tilt = rng.normal(0, 0.02)
        root = a.apex + 0.24 - 0.5 * lift
        points = [
            (side * 0.09 + front, root),
            (side * 0.34 + front, root - 0.035),
            (side * 0.64 + front, root - 0.10 - 0.5 * lift + tilt),
            (side * 0.95 + 0.5 * front, root - 0.17 - lift + tilt),
            (side * 1.24, root - 0.15 - lift + tilt),
        ]
        clavicles.append(curve(points, 150))
        out = 0.24 * p.arms
        blade = [
            (side * (0.80 + out), a.apex + 0.20),
            (side * (0.76 + out), a.apex + 0.42),
            (side * (0.84 + 1.1 * out), a.apex + 0.80),
            (side * (0.93 + 1.2 * out), a.apex + 1.02),
            (side * (1.02 + out), a.apex + 0.86),
            (side * (1.16 + 0.6 * out), a.apex + 0.50),
            (side * (1.27 + 0.3 * out), a.apex + 0.30),
            (side * (1.10 + 0.5 * out), a.apex + 0.24),
        ]
        outline = curve([*blade, blade[0]], 120)
        blades.append(outline)
        borders.append(outline)
        turn = np.linspace(0, 2 * np.pi, 40, dtype=np.float32)
        heads.append(
            np.stack(
                [side * (1.40 + 0.05 * p.arms) + 0.125 * np.cos(turn), a.apex + 0.30 + 0.13 * np.sin(turn)], axis=-1
            ).astype(np.float32)
        )
    path = np.stack(clavicles)
    end = np.abs(np.linspace(-1, 1, path.shape[1], dtype=np.float32))
    width = np.broadcast_to(0.036 + 0.016 * end**3, path.shape[:2]).astype(np.float32)
    total += surface.tubes(path, width, np.full(path.shape[:2], a.clavicle, np.float32), hollow=0.72, samples=11)
    ridge = np.stack(borders)
    flat = np.full(ridge.shape[:2], 0.013, np.float32)
    total += surface.tubes(ridge, flat, np.full(ridge.shape[:2], 0.045, np.float32))
    total += 0.035 * surface.polygons(blades) + 0.12 * surface.polygons(heads)
    return total
