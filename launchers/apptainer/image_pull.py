"""Images that registries hold, pulled where the store does not have them: once, however many ask.

    images/<name>-<first 12 digits of the manifest's digest>.sif, with the same files beside it as one that is built

The digest is asked for at launch, and never where it is pinned and the store has the image. What was fetched before a
kill is not fetched again: of an image of layers those that were whole (Apptainer pulls them), of a SIF every byte
(blob.py). What a registry says is registry.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from conf import machine_schema, reference, schema
from conf.reference import Reference
from launchers.apptainer import blob, registry, sif, signature, waiting
from launchers.apptainer.image import BuiltImage, known_of, record_of, stored
from launchers.apptainer.made_for import Cards
from launchers.apptainer.making import Bench, make_once, publish, run_logged
from launchers.apptainer.waiting import Progress
from launchers.command import output_of
from launchers.errors import Problem, SiteError, SpecError
from launchers.run_folder import record


def ensure_pulled(
    container: machine_schema.Container, site: schema.Site, images_dir: Path, progress: Progress = lambda _: None
) -> BuiltImage:
    """The image of a reference in the store, and by which digest it was pulled.

    Raises SiteError when the registry does not answer, refuses, has no such image or none for these processors, when
    what comes is not what the digest says, or is not signed where the site asks for that.
    """
    ref = reference_of(container)
    signature.refuse_unsignable(ref.scheme, str(ref), site)
    architecture = container.architecture or sif.here()
    digest = pinned(container)
    image = stored(images_dir, digest, architecture) if digest else None
    if image is None:
        digest = digest or _resolved(ref, site, images_dir, progress)
        image = stored(images_dir, digest, architecture) or _pulled(
            ref, digest, architecture, (site, images_dir), progress
        )
    sif.verify(image, known_of(image).get("digest"), architecture)
    signature.verify(image, site)
    known = known_of(image)
    return BuiltImage(image, sif.digest_of(image), known["source"], known.get("workdir"))


def announced(container: machine_schema.Container, site: schema.Site, images_dir: Path) -> Cards | None:
    """The cards that an image is made for which is not pulled yet, as its registry says; None where the store has it.

    Raises SiteError when the registry does not answer, refuses or has no such image.
    """
    ref, architecture = reference_of(container), container.architecture or sif.here()
    digest = pinned(container) or registry.digest_of(ref, site)
    if stored(images_dir, digest, architecture) is not None:
        return None
    return registry.manifest_of(ref, digest, architecture, site).cards


def reference_of(container: machine_schema.Container) -> Reference:
    """The reference in `container.image`. Raises SpecError when it is none."""
    try:
        return reference.parse(str(container.image))
    except ValueError as e:
        raise SpecError([Problem(f"container.image is {container.image!r}: {e}", "container.image", REWRITE)]) from None


def pinned(container: machine_schema.Container) -> str | None:
    """The manifest's digest, where the YAML names it."""
    return container.digest or reference_of(container).digest


REWRITE = "write docker://host/name:tag or oras://host/name:tag, or the path of a SIF"


def _resolved(ref: Reference, site: schema.Site, images_dir: Path, progress: Progress) -> str:
    """What the tag is now; without a registry, which of the store's images it was is said, and not taken for it."""
    try:
        digest = registry.digest_of(ref, site)
    except SiteError as e:
        of_it = [path for path in images_dir.glob("*.sif") if known_of(path).get("reference") == str(ref)]
        if newest := max(of_it, key=lambda path: str(known_of(path)["built"]), default=None):
            known = known_of(newest)
            text = f"{e}\n         the store has {ref} of {known['built']}: container.digest={known['digests'][0]}"
            raise SiteError(text) from None
        raise
    progress(f"{ref} is {digest}")
    return digest


def _pulled(
    ref: Reference, digest: str, architecture: str, where: tuple[schema.Site, Path], progress: Progress
) -> Path:
    site, images_dir = where
    manifest = registry.manifest_of(ref, digest, architecture, site)
    image = images_dir.absolute() / f"{ref.stem}-{manifest.digest[7:19]}.sif"
    origin = {
        "reference": str(ref),
        "source": ref.by(manifest.digest),
        "digests": list(dict.fromkeys((digest, manifest.digest))),
        "architecture": architecture,
        "workdir": manifest.workdir,
    }

    def make(bench: Bench) -> None:
        do = "set site.apptainer, or load the module that brings it"
        version = output_of([site.apptainer, "--version"], do=do).strip()
        made = bench.work / "image.sif"
        look = waiting.bytes_come(bench.fetched, manifest.size, progress)
        progress(f"pulling {ref.by(manifest.digest)}, {waiting.mb(manifest.size)} (log: {bench.log})")
        if manifest.sif:
            bench.fetched.mkdir(mode=0o700, exist_ok=True)
            come = bench.fetched / "sif"
            blob.fetch(partial(registry.blob, ref, site, manifest.sif), manifest.sif, manifest.size, come, look)
            come.replace(made)
        else:
            argv = [site.apptainer, "pull", *_options(ref, architecture, site), str(made), ref.by(manifest.digest)]
            run_logged(argv, bench, bench.work, look)
        sif.verify(made, manifest.sif, architecture, fresh=True)
        progress(f"computing the digest of {image.name}")
        publish(made, image, bench, {**origin, "apptainer": version})

    make_once(image, progress, make)
    known = known_of(image)
    if digest not in known["digests"]:  # the same image, by an index that names it anew
        record.write_json(record_of(image), {**known, "digests": [*known["digests"], digest]})
    return image


def _options(ref: Reference, architecture: str, site: schema.Site) -> Sequence[str]:
    """Credentials by the path of their file alone."""
    place = registry.credentials_file(site)
    plain = ["--no-https"] if ref.host in site.registry_http else []
    foreign = ["--arch", architecture] if architecture != sif.here() else []
    return [*plain, *foreign, *(["--authfile", str(place)] if place else [])]
