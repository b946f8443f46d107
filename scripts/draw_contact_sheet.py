"""Draw the phantom's contact sheet: synthetic radiographs of each setting, without and with lesions.

python scripts/draw_contact_sheet.py [--out docs/images/phantom-contact-sheet.png] [--seed 7]
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from nescient_fl.radiographs.phantom.population import ImagePlan, plan_population
from nescient_fl.radiographs.phantom.render import draw_patient, render

CELL = 300
COLUMNS = 5
TITLES = {"icu": "ICU: AP, devices", "ward": "ward: AP", "outpatient": "outpatient: PA"}


def main() -> None:
    """Draw two rows a setting: above without a lesion, below with one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("docs/images/phantom-contact-sheet.png"))
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    plans = plan_population(2400, options.seed)
    sheet = Image.new("L", (COLUMNS * CELL, 6 * (CELL + 22)), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    row = 0
    for setting, title in TITLES.items():
        for code, what in (("", "no lesion"), ("1.0", "lesion")):
            top = row * (CELL + 22)
            draw.text((6, top + 3), f"{title}, {what} (synthetic)", fill=0, font=font)
            for column, plan in enumerate(_choose(plans, setting, code)):
                picture = Image.fromarray(render(plan, draw_patient(plan, options.seed)))
                picture.thumbnail((CELL - 4, CELL - 4))
                sheet.paste(picture, (column * CELL + 2, top + 22))
            row += 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.out, optimize=True)
    print(options.out)


def _choose(plans: list[ImagePlan], setting: str, code: str) -> list[ImagePlan]:
    """The first image of that kind of the first few patients who have one."""
    firsts: dict[int, ImagePlan] = {}
    for plan in plans:
        if plan.setting == setting and plan.code == code:
            firsts.setdefault(plan.patient, plan)
    return list(firsts.values())[:COLUMNS]


if __name__ == "__main__":
    main()
