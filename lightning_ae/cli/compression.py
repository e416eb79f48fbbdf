"""lightning-ae encode and decode: folders of images as small files, and images of those again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_ae.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from lightning_ae.uses.compressed import Code

MODEL, SUFFIX, TABLE = "ae_tiny.taef2_v1", ".laec", "compression.json"
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif", ".jp2")
SHOWN = 24  # rows of the table in the terminal


def encode(
    images: str,
    to: str = "codes",
    checkpoint: str = MODEL,
    bits: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Compress images of any size, lossily, by a model's codes: a file for each, and a table of what they cost.

    An image NAME.png becomes NAME.laec, of folders in the same folders; `lightning-ae decode` makes images of them
    again, by the same model. An image is padded below and to the right, by its last row and column, to what the model
    takes, and cut again. Each channel of its code is quantised between its smallest and its largest value there; of a
    model with a codebook, such as VQVAE, the code is its indices. Zstandard packs either. compression.json states bits
    per pixel of each whole file, and the PSNR of the decoded image in bytes. Such codes are what models of images learn
    from; JPEG and WebP make smaller files of the same PSNR (benchmarks/compression.md).

    Args:
        images: a folder with images, also in folders in it, or one image. Other files are left out, which is said.
        to: the folder to write to.
        checkpoint: the model, of images of any size: its checkpoint, or the name of a zoo entry.
        bits: of each number of a code, 1 to 8, by default 8: fewer make smaller files and worse images. Indices are
            kept as they are.
        device: cpu, cuda, mps, or auto for the fastest there is.
        overwrite: replace files that exist.

    Returns:
        The folder.

    Raises:
        InputError: when a file exists, or an image cannot be read or not be had again. What was written before it is
            whole.
    """
    from lightning_ae.cli import tools

    tools.check_model(checkpoint)
    files = _found(Path(images), IMAGES, "images")
    folder = Path(to)
    targets = _targets(files, Path(images), folder, SUFFIX)
    from rich.console import Console
    from tqdm.auto import tqdm

    from lightning_ae.cli import trained, written
    from lightning_ae.files import whole_file
    from lightning_ae.uses.compression import Codec, psnr

    codec = Codec(trained.load(checkpoint, device), checkpoint)
    written.check_free([*targets.values(), folder / TABLE], overwrite)
    rows = []
    for file, target in tqdm(targets.items(), "encoding", delay=2, leave=False):
        with _naming(file):
            image = _opened(file)
            code = codec.compress(image, bits)
            data = code.to_bytes()
            again = codec.decompress(code)
        with whole_file(target, overwrite) as part:
            part.write_bytes(data)
        height, width = code.size
        rows.append(
            {
                "file": target.relative_to(folder).as_posix(),
                "height": height,
                "width": width,
                "bytes": len(data),
                "bits_per_pixel": round(8 * len(data) / (height * width), 4),
                "psnr": round(psnr(image, again), 3),
            }
        )
    mean = {
        "bits_per_pixel": round(8 * sum(r["bytes"] for r in rows) / sum(r["height"] * r["width"] for r in rows), 4),
        "psnr": round(sum(row["psnr"] for row in rows) / len(rows), 3),
    }
    about = {
        "model": checkpoint,
        "identity": codec.identity.hex(),
        "codes": "indices" if codec.has_indices else "numbers",
        "bits": code.bits,  # of each number, or of the largest index
        "images": rows,
        "whole": mean,
    }
    with whole_file(folder / TABLE, overwrite) as part:
        part.write_text(json.dumps(about, indent=1) + "\n")
    _print(rows, mean)
    Console(highlight=False, soft_wrap=True).print(f"[bold]Written[/]\n  {folder}  ({len(rows)} codes, {TABLE})")
    return folder


def decode(
    codes: str, to: str = "decoded", checkpoint: str = MODEL, device: str = "auto", overwrite: bool = False
) -> Path:
    """Make images of the files that `lightning-ae encode` wrote: NAME.png of NAME.laec.

    All files are looked at before the first image is written: one that is damaged, or of another model, is named.

    Args:
        codes: the folder with the files, also in folders in it, or one file.
        to: the folder to write to.
        checkpoint: the model that encoded: its checkpoint, or the name of a zoo entry.
        device: cpu, cuda, mps, or auto for the fastest there is.
        overwrite: replace images that exist.

    Returns:
        The folder.

    Raises:
        InputError: when an image exists, a file is damaged or none of these, or another model encoded it.
    """
    from lightning_ae.cli import tools

    tools.check_model(checkpoint)
    files = _found(Path(codes), (SUFFIX,), "codes")
    folder = Path(to)
    targets = _targets(files, Path(codes), folder, ".png")
    from PIL import Image
    from rich.console import Console
    from tqdm.auto import tqdm

    from lightning_ae.cli import trained, written
    from lightning_ae.files import whole_file
    from lightning_ae.uses.compression import Codec

    codec = Codec(trained.load(checkpoint, device), checkpoint)
    written.check_free(targets.values(), overwrite)
    for file in files:
        with _naming(file):
            codec.check(_read(file))
    for file, target in tqdm(targets.items(), "decoding", delay=2, leave=False):
        with _naming(file):
            image = codec.decompress(_read(file))
        with whole_file(target, overwrite) as part:
            Image.fromarray(image).save(part, "PNG")
    Console(highlight=False, soft_wrap=True).print(f"[bold]Written[/]\n  {folder}  ({len(files)} images)")
    return folder


def _found(path: Path, suffixes: Sequence[str], what: str) -> list[Path]:
    """The files with these suffixes in a folder and those in it, in order; or the one file."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"there is no file and no folder {str(path)!r}", f"name the folder with the {what}")
    files = sorted(each for each in path.rglob("*") if each.is_file() and not each.name.startswith("."))
    chosen = [file for file in files if file.suffix.lower() in suffixes]
    if not chosen:
        raise InputError(f"the folder {str(path)!r} holds no {what}", f"{what} end in {', '.join(suffixes)}")
    if others := [
        file.relative_to(path).as_posix() for file in files if file not in set(chosen) and file.name != TABLE
    ]:
        from lightning_ae.natural import listed

        print(f"left out, as they are no {what}: {listed(others)}")
    return chosen


def _targets(files: Sequence[Path], source: Path, folder: Path, suffix: str) -> dict[Path, Path]:
    """What each file becomes.

    Raises:
        InputError: where two would become one.
    """
    root = source.parent if source.is_file() else source
    targets: dict[Path, Path] = {}
    made: dict[Path, Path] = {}
    for file in files:
        target = folder / file.relative_to(root).with_suffix(suffix)
        if target in made:
            raise InputError(f"{made[target]} and {file} would both become {target}", "rename one of them")
        targets[file], made[target] = target, file
    return targets


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Errors inside name the file."""
    try:
        yield
    except InputError as error:
        own = error.message if str(file) in error.message else f"{file}: {error.message}"
        raise InputError(own, error.hint) from error


def _opened(file: Path) -> PILImage:
    """An image that is read whole.

    Raises:
        InputError: when it cannot be, or is several.
    """
    import PIL.Image

    try:
        image = PIL.Image.open(file)
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError, PIL.Image.DecompressionBombError) as error:
        raise InputError(f"{file} is not a readable image: {error}") from error
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise InputError(f"{file} holds {frames} images", "give each as a file of its own")
    return image


def _read(file: Path) -> Code:
    from lightning_ae.uses.compressed import read_code

    try:
        return read_code(file.read_bytes(), str(file))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error


def _print(rows: Sequence[dict[str, Any]], whole: dict[str, float]) -> None:
    """The table, of the first rows where there are many, and the whole below."""
    from rich.console import Console
    from rich.table import Table

    table = Table("image", "size", "bytes", "bits per pixel", "PSNR, dB")
    for row in rows[:SHOWN]:
        size = f"{row['width']} x {row['height']}"
        table.add_row(row["file"], size, f"{row['bytes']:,}", f"{row['bits_per_pixel']:.3f}", f"{row['psnr']:.2f}")
    if len(rows) > SHOWN:
        table.add_row(f"and {len(rows) - SHOWN} more", "", "", "", "")
    total = f"{sum(row['bytes'] for row in rows):,}"
    table.add_section()
    table.add_row("all", "", total, f"{whole['bits_per_pixel']:.3f}", f"{whole['psnr']:.2f}")
    Console(highlight=False).print(table)
