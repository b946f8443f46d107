"""From a plan to a picture: the patient's own draws first, then those of the one image."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nescient_fl.radiographs.phantom.acquisition import draw_acquisition, expose
from nescient_fl.radiographs.phantom.anatomy import Body, Posture, draw_anatomy
from nescient_fl.radiographs.phantom.bones import draw_bones
from nescient_fl.radiographs.phantom.canvas import Float
from nescient_fl.radiographs.phantom.devices import draw_devices, stray_electrodes
from nescient_fl.radiographs.phantom.lesions import Lesion, add_confounders, add_lesions, draw_lesions, faded
from nescient_fl.radiographs.phantom.population import ImagePlan
from nescient_fl.radiographs.phantom.vessels import draw_vessels
from nescient_fl.seeds import numpy_generator

_NEUTRAL = Posture(inspiration=0, turn=0, arms=0, magnification=1, clavicle_lift=0, effusion=0, haze=0)


def patient_lesions(plan: ImagePlan, seed: int) -> tuple[Lesion, ...]:
    """The lesions that this image shows; a patient's lesions are the same in all images that show them."""
    if plan.lesion == "none":
        return ()
    anatomy = draw_anatomy(numpy_generator(seed, "phantom-anatomy", plan.patient), plan.sex, plan.age)
    own = draw_lesions(numpy_generator(seed, "phantom-lesions", plan.patient), Body(anatomy, _NEUTRAL))
    if plan.lesion == "faint":
        return faded(own, numpy_generator(seed, "phantom-faint", plan.path))
    return own


def render(plan: ImagePlan, seed: int) -> NDArray[np.uint8]:
    """Draw one radiograph, uint8 [rows, columns]; depends on the plan and the seed, and on nothing else."""
    anatomy = draw_anatomy(numpy_generator(seed, "phantom-anatomy", plan.patient), plan.sex, plan.age)
    image_rng = numpy_generator(seed, "phantom-acquisition", plan.path)
    taken = draw_acquisition(image_rng, plan.setting, plan.effusion, plan.edema, plan.cardiomegaly)
    surface, body = taken.surface, Body(anatomy, taken.posture)

    attenuation, air = body.soft_tissue(surface)
    attenuation += draw_vessels(surface, body, air, numpy_generator(seed, "phantom-vessels", plan.patient))
    attenuation += _parenchyma(air, plan.edema, image_rng)
    bones = draw_bones(surface, body, numpy_generator(seed, "phantom-bones", plan.patient))
    attenuation += bones * np.clip(attenuation / 0.15, 0, 1)  # no bone outside the body
    add_confounders(surface, attenuation, air, numpy_generator(seed, "phantom-spots", plan.patient), body)
    add_lesions(surface, attenuation, air, patient_lesions(plan, seed), body)
    device_rng = numpy_generator(seed, "phantom-devices", plan.path)
    if plan.devices:
        attenuation += draw_devices(surface, body, device_rng, plan.setting if plan.view == "AP" else "outpatient")
    elif plan.setting == "ward" and device_rng.random() < 0.3:
        attenuation += stray_electrodes(surface, body, device_rng)
    return expose(attenuation, taken, numpy_generator(seed, "phantom-exposure", plan.path))


def _parenchyma(air: Float, edema: bool, rng: np.random.Generator) -> Float:
    """The fine mottle of lung tissue, coarser and denser with oedema."""
    fine = ndimage.gaussian_filter(rng.standard_normal(air.shape, np.float32), 1.8, truncate=2.5)
    small = rng.standard_normal((air.shape[0] // 6 + 2, air.shape[1] // 6 + 2), np.float32)
    coarse = ndimage.zoom(small, 6, order=1)[: air.shape[0], : air.shape[1]]
    amount = np.float32(0.022 if edema else 0.012)
    return ((0.10 * fine + amount * coarse) * air).astype(np.float32)
