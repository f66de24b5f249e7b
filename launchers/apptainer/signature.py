"""Is an image signed by somebody this site trusts? `apptainer verify` says so, with the site's public keys."""

from __future__ import annotations

from pathlib import Path

from conf import schema
from launchers.command import output_of
from launchers.errors import CommandError, SiteError
from launchers.folders import folder_of

VERIFY_S = 1800


def verify(image: Path, site: schema.Site) -> None:
    """Make sure that one of `site.image_keys` signed the image; where the site names none, any image is good.

    Raises SiteError when none did, with what Apptainer says of each.
    """
    said = []
    for key in (str(folder_of(name)) for name in site.image_keys):
        try:
            output_of([site.apptainer, "verify", "--key", key, str(image)], timeout_s=VERIFY_S)
            return
        except CommandError as e:
            said.append(f"{key}: {e.output.strip().rpartition('FATAL:')[2].strip() or e.status}")
    if said:
        what = f"image {image.name} is signed by none of site.image_keys ({'; '.join(said)})"
        do = "let its maker sign it (apptainer sign --key), or add the maker's public key to site.image_keys"
        raise SiteError(what, str(image), do)


def refuse_unsignable(scheme: str, reference: str, site: schema.Site) -> None:
    """Refuse what cannot carry a signature where the site asks for one: a SIF is made of it only here."""
    if site.image_keys and scheme == "docker":
        what = f"image {reference} cannot carry the signature that site.image_keys asks for: docker:// images have none"
        do = "have it converted and signed (apptainer sign), and give the SIF by its path or by oras://"
        raise SiteError(what, "container.image", do)
