"""A patient's build and soft tissues: body, lungs, heart and mediastinum, diaphragm, breasts, stomach.

Values are attenuation on an arbitrary scale: outside the body 0, aerated lung about 0.25, mediastinum 0.75.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from nescient_fl.radiographs.phantom.canvas import Float, Surface, bump, rise, step

Side = Literal[-1, 1]  # -1: the patient's right, drawn at the left


@dataclass(frozen=True)
class Anatomy:
    """What all images of one patient share. Lengths in patient units (half the inner chest width)."""

    apex: float  # y of the lung apices
    dome_right: float  # y of the right dome of the diaphragm at full breath
    dome_left: float
    dome_height: float  # from the dome down to the lateral angle
    wall: float  # skin to ribs
    shoulder_drop: float
    neck: float  # half width
    heart_left: float
    heart_right: float
    heart_y: float
    knob: float  # how far the aortic knob stands out
    upper: float  # half width of the upper mediastinum
    spine_bend: float
    rib_pitch: float
    rib_drop: float
    rib_strength: float
    clavicle: float
    breast: float  # radius, 0 for none
    breast_y: float
    breast_density: float
    aeration: float  # how dark the lungs are
    vessel_strength: float
    stomach: float  # radius of the gastric bubble, 0 for none


@dataclass(frozen=True)
class Posture:
    """How the patient stood or lay for one image."""

    inspiration: float  # added to the domes' height, negative for a shallow breath
    turn: float  # about the long axis: moves the front against the back
    arms: float  # 0 at the sides, 1 raised and rolled forward
    magnification: float  # of the heart; larger when the beam enters from the front
    clavicle_lift: float
    effusion: float  # fluid level above the lateral angle, signed by side, 0 for none
    haze: float  # oedema: how much of the lungs' darkness is lost


def draw_anatomy(rng: np.random.Generator, sex: str, age: int) -> Anatomy:
    """Draw one patient's build."""
    old = (age - 55) / 35
    female = sex == "Female"
    return Anatomy(
        apex=float(-0.86 + rng.normal(0, 0.04)),
        dome_right=float(0.60 + rng.normal(0, 0.05)),
        dome_left=float(0.68 + rng.normal(0, 0.05)),
        dome_height=float(0.24 + rng.normal(0, 0.04)),
        wall=float(np.clip(rng.normal(0.17, 0.06), 0.07, 0.36)),
        shoulder_drop=float(0.20 + rng.normal(0, 0.05)),
        neck=float(np.clip(rng.normal(0.36, 0.04), 0.28, 0.48)),
        heart_left=float(np.clip(rng.normal(0.36 + 0.03 * old, 0.06), 0.22, 0.58)),
        heart_right=float(np.clip(rng.normal(0.125, 0.03), 0.06, 0.22)),
        heart_y=float(0.30 + rng.normal(0, 0.04)),
        knob=float(np.clip(rng.normal(0.09 + 0.05 * old, 0.03), 0.02, 0.22)),
        upper=float(np.clip(rng.normal(0.17, 0.025), 0.12, 0.25)),
        spine_bend=float(rng.normal(0, 0.025)),
        rib_pitch=float(0.158 + rng.normal(0, 0.008)),
        rib_drop=float(0.50 + rng.normal(0, 0.06)),
        rib_strength=float(np.clip(rng.normal(0.054, 0.012), 0.03, 0.085)),
        clavicle=float(np.clip(rng.normal(0.12, 0.025), 0.06, 0.18)),
        breast=float(np.clip(rng.normal(0.46, 0.08), 0.28, 0.64)) if female and rng.random() < 0.85 else 0.0,
        breast_y=float(0.50 + rng.normal(0, 0.10)),
        breast_density=float(rng.uniform(0.06, 0.20)),
        aeration=float(np.clip(rng.normal(0.44, 0.04), 0.32, 0.54)),
        vessel_strength=float(rng.uniform(0.7, 1.25)),
        stomach=float(rng.uniform(0.07, 0.2)) if rng.random() < 0.6 else 0.0,
    )


@dataclass(frozen=True)
class Body:
    """One patient in one posture: outlines as functions of position, and the soft tissues drawn from them."""

    anatomy: Anatomy
    posture: Posture

    def chest_wall(self, y: Float) -> Float:
        """Distance of the inner chest wall from the midline at height ``y``."""
        part = np.clip((y - np.float32(self.anatomy.apex)) / np.float32(1.35), 0.0, 1.0)
        wall = 0.36 + 0.64 * np.sqrt(1 - (1 - part) ** 2.6) - 0.05 * np.clip(y - 0.55, 0, None)
        return np.asarray(wall, np.float32)

    def mediastinum(self, y: Float, side: Side) -> Float:
        """Distance of the mediastinal border from the midline at height ``y``."""
        a, p = self.anatomy, self.posture
        flare = 0.22 * np.clip((np.float32(a.apex + 0.22) - y) / 0.3, 0, None) ** 2
        shift = np.float32(side * p.turn * 0.25)
        grown = p.magnification
        if side == -1:
            atrium = (a.heart_right * grown) * bump(y, a.heart_y + 0.10, 0.25)
            return np.asarray(a.upper - 0.015 + atrium + flare + shift, np.float32)
        knob = a.knob * bump(y, -0.30, 0.085)
        trunk = 0.055 * bump(y, -0.08, 0.08)
        # The left ventricle leans out below the waist of the heart and rounds off towards the diaphragm.
        ventricle = a.heart_left * grown * step(y - np.float32(a.heart_y - 0.05), 0.46)
        ventricle = ventricle * (1 - 0.25 * step(y - np.float32(a.heart_y + 0.50), 0.14))
        return np.asarray(a.upper - 0.02 + knob + trunk + ventricle + flare + shift, np.float32)

    def diaphragm(self, x: Float, side: Side) -> Float:
        """Height of the dome at distance ``x`` from the midline."""
        a = self.anatomy
        own = (a.dome_right if side == -1 else a.dome_left) + self.posture.inspiration
        shared = 0.5 * (a.dome_right + a.dome_left) + self.posture.inspiration
        centre = 0.50 if side == -1 else 0.56
        outward = np.clip((x - centre) / (1.0 - centre), -1.2, 1.6)
        dome = own + (shared - own) * step(0.2 - x, 0.2)
        fall = np.where(outward > 0, a.dome_height * np.abs(outward) ** 2.6, 0.11 * outward**2)
        return np.asarray(dome + fall, np.float32)

    def soft_tissue(self, surface: Surface) -> tuple[Float, Float]:
        """Attenuation of the soft tissues and the depth of air above them, both float32 [rows, columns]."""
        x, y = surface.x, surface.y
        air = np.zeros((surface.rows, surface.columns), np.float32)
        total = self._torso(x, y)
        middle = int(np.clip(round(surface.origin_x), 1, surface.columns - 1))
        sides: tuple[tuple[Side, slice], ...] = ((-1, slice(0, middle)), (1, slice(middle, None)))
        for side, columns in sides:
            depth, heart, belly = self._half(np.abs(x[:, columns]), y, side)
            air[:, columns] = depth
            total[:, columns] += 0.13 * heart + 0.10 * belly
        total -= np.float32(self.anatomy.aeration * (1 - self.posture.haze)) * air
        total += self._breasts(x, y)
        # The airways lie near the midline: the rest need not be computed.
        near = slice(max(0, middle - int(0.5 * surface.scale)), middle + int(0.5 * surface.scale))
        total[:, near] += self._trachea(x[:, near], y)
        total += self._stomach(x, y)
        return total, air

    def _torso(self, x: Float, y: Float) -> Float:
        a, p = self.anatomy, self.posture
        distance = np.abs(x)
        # Neck and trapezius: the upper outline as a function of x alone.
        away = np.clip(distance - np.float32(a.neck - 0.07), 0.004, None)
        shoulder = a.apex - 0.24 + 0.06 * p.arms + a.shoulder_drop * distance - 0.030 / away
        shoulder = shoulder + 1.2 * np.clip(distance - 1.62, 0, None) ** 1.5
        # Below the armpit the side of the chest, above it the shoulder, which reaches past the frame.
        armpit = -0.38 + 0.10 * p.arms
        side = 1.0 + a.wall + 0.05 * np.clip(y, 0, None)
        side = side + 0.55 * np.clip(armpit + 0.22 - y, 0, None) ** 1.5 + 0.6 * step(armpit - 0.10 - y, 0.14)
        trunk = 0.74 * rise(y - shoulder, 0.42) * rise(side - distance, 0.46)
        axis = 1.34 + a.wall + (0.16 + 0.35 * p.arms) * (y + 0.45)
        arm = 0.56 * np.sqrt(np.clip(1 - ((distance - axis) / (0.19 + 0.5 * a.wall)) ** 2, 0, 1))
        arm = arm * step(y + 0.55, 0.2)
        return np.asarray(np.maximum(trunk, arm), np.float32)

    def _half(self, x: Float, y: Float, side: Side) -> tuple[Float, Float, Float]:
        """Depth of air (0..1), thickness of heart and of belly, for one side; ``x`` from the midline."""
        a, p = self.anatomy, self.posture
        wall = self.chest_wall(y)
        dome = self.diaphragm(x, side)
        top = np.float32(a.apex) + 0.16 * np.abs((x - 0.42) / 0.3) ** 2.2 * (x < 0.42)
        lung = rise(wall - x, 0.42) * rise(y - top, 0.22)
        effused = p.effusion * side
        if effused > 0:  # fluid: a meniscus that climbs the lateral wall
            dome = np.minimum(dome, dome.max() - np.float32(effused) * (0.55 + 0.6 * np.clip(x, 0, 1) ** 4))
        below = y - dome
        border = self.mediastinum(y, side)
        covered = step(border - x, 0.016)
        # The lung that reaches down behind the dome thins out towards its lower edge.
        behind = 0.24 * np.clip(1 - below / 0.34, 0, 1) ** 2
        depth = lung * np.maximum(step(-below, 0.014), behind)
        depth = depth * (1 - covered * (0.84 if side == 1 else 0.88))
        heart = covered * (0.45 + 0.55 * rise(border - x, 0.35)) * step(y + 0.75, 0.3) * (1 - 0.5 * step(below, 0.1))
        belly = step(below, 0.015) * step(wall + 0.03 - x, 0.03)
        return depth.astype(np.float32), heart.astype(np.float32), belly.astype(np.float32)

    def _breasts(self, x: Float, y: Float) -> Float | float:
        a = self.anatomy
        if a.breast == 0.0:
            return 0.0
        total: Float | float = 0.0
        for side in (-1, 1):
            across = (x - side * 0.62) / np.float32(a.breast * 1.15)
            down = (y - np.float32(a.breast_y + 0.03 * side)) / np.float32(a.breast)
            # Gravity: a sharp lower edge and an upper one that fades.
            inside = np.clip(1 - across**2 - np.where(down > 0, down**2, 0.45 * down**2), 0, 1)
            total = total + a.breast_density * inside ** np.float32(0.45)
        return total

    def _trachea(self, x: Float, y: Float) -> Float:
        centre = 0.01 + 0.25 * self.posture.turn * 0.4 - 0.02 * bump(y, -0.2, 0.2)
        column = np.sqrt(np.clip(1 - ((x - centre) / 0.062) ** 2, 0, 1)) * step(-0.22 - y, 0.05)
        total = column
        for side, lean in ((-1, 0.75), (1, 1.05)):
            axis = centre + side * np.clip(y + 0.26, 0, None) * lean
            bronchus = np.sqrt(np.clip(1 - ((x - axis) / 0.05) ** 2, 0, 1))
            total = np.maximum(total, 0.8 * bronchus * step(y + 0.27, 0.02) * step(-0.06 - y, 0.06))
        return np.asarray(-0.11 * total, np.float32)

    def _stomach(self, x: Float, y: Float) -> Float | float:
        size = self.anatomy.stomach
        if size == 0.0:
            return 0.0
        across = (x - 0.50) / np.float32(1.5 * size)
        down = (y - np.float32(self.anatomy.dome_left + self.posture.inspiration + 0.07 + 0.8 * size)) / np.float32(
            size
        )
        inside = np.clip(1 - across**2 - np.where(down > 0, 1.6, 1.0) * down**2, 0, 1)
        return np.asarray(-0.30 * np.sqrt(inside), np.float32)
