"""From a plan to a picture: the patient's own draws first, then those of the one image."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nescient_fl.radiographs.phantom.acquisition import draw_acquisition, expose
from nescient_fl.radiographs.phantom.anatomy import Anatomy, Body, Posture, draw_anatomy
from nescient_fl.radiographs.phantom.bones import draw_ribs, draw_shoulders, draw_spine
from nescient_fl.radiographs.phantom.canvas import Float, Strokes, step
from nescient_fl.radiographs.phantom.confounders import Spot, add_confounders, draw_confounders
from nescient_fl.radiographs.phantom.devices import draw_devices, stray_electrodes
from nescient_fl.radiographs.phantom.lesions import Lesion, add_lesions, draw_lesions, faded
from nescient_fl.radiographs.phantom.population import ImagePlan
from nescient_fl.radiographs.phantom.vessels import VesselTree, draw_vessels, grow_vessels
from nescient_fl.seeds import numpy_generator

_NEUTRAL = Posture(inspiration=0, turn=0, arms=0, magnification=1, clavicle_lift=0, effusion=0, haze=0)


@dataclass(frozen=True)
class Patient:
    """What all images of one patient share. ``lesions`` are those they would show, were they to show any."""

    number: int
    seed: int
    anatomy: Anatomy
    vessels: VesselTree
    lesions: tuple[Lesion, ...]
    spots: list[Spot]

    def bones(self) -> np.random.Generator:
        """The generator of the patient's bones, from its start: every image draws the same ones."""
        return numpy_generator(self.seed, "phantom-bones", self.number)


def draw_patient(plan: ImagePlan, seed: int) -> Patient:
    """Draw the patient of an image; depends on who they are, not on which of their images ``plan`` is."""
    number = plan.patient
    anatomy = draw_anatomy(numpy_generator(seed, "phantom-anatomy", number), plan.sex, plan.age)
    body = Body(anatomy, _NEUTRAL)
    return Patient(
        number=number,
        seed=seed,
        anatomy=anatomy,
        vessels=grow_vessels(numpy_generator(seed, "phantom-vessels", number), anatomy.vessel_strength),
        lesions=draw_lesions(numpy_generator(seed, "phantom-lesions", number), body),
        spots=draw_confounders(numpy_generator(seed, "phantom-spots", number), body),
    )


def render_all(plans: list[ImagePlan], seed: int) -> Iterator[tuple[ImagePlan, NDArray[np.uint8]]]:
    """Draw images in order; a patient's neighbouring images share the work of drawing the patient."""
    patient: Patient | None = None
    for plan in plans:
        if patient is None or patient.number != plan.patient:
            patient = draw_patient(plan, seed)
        yield plan, render(plan, patient)


def render(plan: ImagePlan, patient: Patient) -> NDArray[np.uint8]:
    """Draw one radiograph, uint8 [rows, columns]; depends on the plan and the seed, and on nothing else."""
    seed = patient.seed
    image_rng = numpy_generator(seed, "phantom-acquisition", plan.path)
    taken = draw_acquisition(image_rng, plan.setting, plan.effusion, plan.edema, plan.cardiomegaly)
    surface, body = taken.surface, Body(patient.anatomy, taken.posture)

    attenuation, air = body.soft_tissue(surface)
    attenuation += draw_vessels(surface, patient.vessels, taken.posture.inspiration, air)
    attenuation += _parenchyma(air, plan.edema, image_rng)

    ink, bone_rng = Strokes(surface), patient.bones()
    draw_ribs(body, bone_rng, ink)
    attenuation += draw_spine(surface, body, bone_rng)
    attenuation += draw_shoulders(surface, body, bone_rng, ink)
    add_confounders(surface, attenuation, air, patient.spots)
    add_lesions(surface, attenuation, air, _shown(plan, patient), taken.posture.inspiration)
    device_rng = numpy_generator(seed, "phantom-devices", plan.path)
    if plan.devices:
        attenuation += draw_devices(surface, body, device_rng, plan.setting, ink)
    elif plan.setting == "ward" and device_rng.random() < 0.3:
        attenuation += stray_electrodes(surface, body, device_rng, ink)
    # Scatter and hard rays leave little of a rib to see through the heart or the belly.
    attenuation += ink.laid() * (1 - 0.5 * step(attenuation - np.float32(0.66), 0.12))
    return expose(attenuation, taken, numpy_generator(seed, "phantom-exposure", plan.path))


def _shown(plan: ImagePlan, patient: Patient) -> tuple[Lesion, ...]:
    if plan.lesion == "none":
        return ()
    if plan.lesion == "faint":
        return faded(patient.lesions, numpy_generator(patient.seed, "phantom-faint", plan.path))
    return patient.lesions


def _parenchyma(air: Float, edema: bool, rng: np.random.Generator) -> Float:
    """The mottle of lung tissue at two sizes, denser with oedema; float32 like ``air``."""
    amount = 0.020 if edema else 0.010
    return (_mottle(air.shape, 2, 0.010, rng) + _mottle(air.shape, 7, amount, rng)) * air


def _mottle(shape: tuple[int, ...], cell: int, amount: float, rng: np.random.Generator) -> Float:
    rows, columns = shape
    coarse = rng.standard_normal((rows // cell + 2, columns // cell + 2), np.float32) * np.float32(amount)
    return np.asarray(Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BILINEAR), np.float32)
