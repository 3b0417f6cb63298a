"""What an upsampler's page shows in place of samples: small pictures, what it made of them, and the originals."""

from __future__ import annotations

from ddpm.draw import page, picture
from ddpm.report import looks
from ddpm.report.material import Material
from ddpm.units import counted


def samples(made: Material) -> str:
    """A row a picture."""
    found = made.enlarged
    if found is None:
        return page.note(f"No samples: {made.without.get('pipeline') or made.without['pictures']}.")
    pairs, names = found.pairs, made.description.facts.classes
    h, w = pairs.small.shape[2:]
    which = "pictures it never trained on" if found.held_out else "training pictures"
    html = page.text(
        f"{counted(len(pairs.small), 'small picture')}, made of {which} that are evenly spread over the set; "
        f"beside each what the averaged weights made of it in {looks.how_drawn(found.samples)}, and "
        "the original, which the model was not told.",
        f"Made small again, {w} × {h}, what it drew is {found.back:.1f} grey levels of 255 from what it was given "
        f"(root mean square): near 0 where it keeps to it. From the originals it is {found.off:.1f}, and smooth "
        f"enlarging alone {found.smooth:.1f}: a model draws likely details, not those that were there, so "
        "it need not be the nearer one.",
    )
    labels = pairs.labels if names else None
    rows = [
        (
            "" if labels is None else names[labels[k]],
            "",
            [picture(one[k]) for one in (pairs.small, found.samples.pixels, pairs.whole)],
        )
        for k in range(len(pairs.small))
    ]
    return html + page.rows(rows, "small, enlarged, original:")
