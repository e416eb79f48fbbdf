"""Work on many rows, in shards that several processes share and that a killed job does not do twice.

A shard is a slice of the rows of a split. It is the unit of work and of commit: its file appears whole or not at all,
and names the manifest that it was made under. Nobody tells the processes what to do: each begins with its own share,
then takes what nobody else is at, so that the shards of a process that died are done by those that live.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_ae.errors import InputError
from lightning_ae.files import whole_file

if TYPE_CHECKING:
    from lightning_ae.autoencoder import Autoencoder

ROWS = 65_536  # of a shard
SPREAD = 256  # rows of a split that its digest looks at


@dataclass(frozen=True)
class Shard:
    """The rows from `first` up to `last`, exclusive, of a split in the order of evaluation; `number` of `of`."""

    split: str
    first: int
    last: int
    number: int
    of: int

    @property
    def name(self) -> str:
        """Its file's, in the output folder."""
        return f"{self.split}/{self.number:05d}-of-{self.of:05d}.parquet"

    def __len__(self) -> int:
        return self.last - self.first


def plan(rows: Mapping[str, int], each: int = ROWS) -> list[Shard]:
    """The shards of splits of so many rows, of at most `each` rows, which together are every row once."""
    shards = []
    for split, count in rows.items():
        of = -(-count // each)
        shards += [Shard(split, i * each, min(count, (i + 1) * each), i, of) for i in range(of)]
    return shards


def share_of_work(env: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Which process this is, and of how many: by what torchrun, SLURM's tasks and SLURM's arrays set; else (0, 1).

    Raises:
        InputError: when these say what cannot be.
    """

    def read(name: str, default: int) -> int:
        try:
            return int(env.get(name, default))
        except ValueError:
            raise InputError(f"the environment's {name} is {env[name]!r}, no integer") from None

    if "RANK" in env or "WORLD_SIZE" in env:
        rank, world = read("RANK", 0), read("WORLD_SIZE", 1)
    else:
        rank, world = read("SLURM_PROCID", 0), read("SLURM_NTASKS", 1)
        if "SLURM_ARRAY_TASK_ID" in env:
            step = read("SLURM_ARRAY_TASK_STEP", 1)
            task = (read("SLURM_ARRAY_TASK_ID", 0) - read("SLURM_ARRAY_TASK_MIN", 0)) // step
            rank, world = task * world + rank, read("SLURM_ARRAY_TASK_COUNT", 1) * world
    if not 0 <= rank < world:
        raise InputError(f"the environment says process {rank} of {world}, which there is not")
    return rank, world


def manifest(
    model: Autoencoder, path: Any, rows: Mapping[str, Any], each: int, folder: Path, **options: Any
) -> dict[str, Any]:
    """What decides the contents of every shard, as plain data.

    Of the model the signature and all weights. Of the data the number of rows, the columns, a digest of 256 rows spread
    over each split, and names, sizes and times of change of local files. Of data that are no local files a change of a
    few rows among more than 256 is noticed only by chance.

    Args:
        model: with its weights.
        path: of the data.
        rows: of each split, a `datasets.Dataset`.
        each: the rows of a shard.
        folder: the output's, which may lie in the data's.
        options: what else decides.
    """
    return {
        "model": identity_of(model),
        "data": {split: _digest(each) for split, each in rows.items()},
        "files": _files(path, folder),
        "shard_rows": each,
        "options": options,
    }


def identity_of(model: Autoencoder) -> dict[str, str]:
    """What tells a model from every other: its class, the hash of all its weights, that of its signature."""
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if hasattr(tensor, "numpy"):
            weights.update(tensor.detach().cpu().contiguous().flatten().view(_bytes()).numpy().tobytes())
    return {
        "class": type(model).__name__,
        "weights": weights.hexdigest(),
        "signature": "" if model.signature is None else model.signature.hash,
    }


def hash_of(made_under: Mapping[str, Any]) -> str:
    """Of a manifest, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(made_under, sort_keys=True).encode()).hexdigest()


def begin(folder: Path, wanted: dict[str, Any], overwrite: bool = False) -> str:
    """Writes the manifest of an output folder, or finds it there, of a job to go on with; its hash.

    Raises:
        InputError: when the folder has another manifest, and it may not be replaced; or it cannot be written.
    """
    file = folder / "manifest.json"
    if not file.exists():
        with contextlib.suppress(_Taken), _taken(file), whole_file(file, overwrite=False) as part:
            part.write_text(json.dumps(wanted, indent=2))
    differ = _differences(read_manifest(file), wanted)
    if differ and not overwrite:
        copied = (
            " (a copy on another machine is another, unless it keeps its times: cp -p)" if "files" in differ else ""
        )
        raise InputError(
            f"{folder} holds the shards of another job: {', '.join(differ)} differ{copied}",
            "give another output, or set overwrite to begin anew",
        )
    if differ:
        with whole_file(file) as part:
            part.write_text(json.dumps(wanted, indent=2))
    return hash_of(wanted)


def read_manifest(file: Path) -> dict[str, Any]:
    """The manifest in a file.

    Raises:
        InputError: when it is none.
    """
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is no manifest: {error}", "remove it, and the shards beside it") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} is no manifest", "remove it, and the shards beside it")
    return found


def is_there(file: Path, shard: Shard, made_under: str, overwrite: bool = False) -> bool:
    """Whether a shard's file is there, whole, and of this manifest; a truncated one is not, and is made anew.

    Raises:
        InputError: when it was made under another manifest, and may not be replaced.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        found = parquet.read_metadata(file)
    except FileNotFoundError:
        return False
    except (OSError, pa.ArrowException):  # no footer: cut short
        return False
    named = (found.metadata or {}).get(b"lightning_ae.manifest", b"").decode()
    if named != made_under and not overwrite:
        raise InputError(
            f"{file} was not made under the manifest beside it",
            "remove it, give another output, or set overwrite to make it anew",
        )
    return bool(named == made_under and found.num_rows == len(shard))


def work(
    shards: Sequence[Shard],
    folder: Path,
    made_under: str,
    write: Callable[[Shard, Path], Any],
    overwrite: bool = False,
    rank: int = 0,
    world: int = 1,
) -> tuple[list[Shard], list[Shard]]:
    """Makes the shards that are not there and that no other process is at: this rank's first, then the others'.

    A lock on a file beside a shard, which goes with the process that holds it, keeps two jobs from making it at once.

    Args:
        shards: all of them.
        folder: the output's, where the manifest lies.
        made_under: the manifest's hash.
        write: makes the file of a shard, whole or not at all, with the hash as "lightning_ae.manifest" in its footer.
        overwrite: replace files of other manifests.
        rank: which process this is.
        world: of how many.

    Returns:
        The shards made here, and those that are still not there, at which others are.

    Raises:
        InputError: when a file is of another manifest, the manifest was replaced meanwhile, or writing fails.
    """
    from filelock import FileLock, Timeout

    mine = [shard for i, shard in enumerate(shards) if i % world == rank]
    others = [shard for i, shard in enumerate(shards) if i % world != rank]
    made = []
    for shard in mine + others:
        file = folder / shard.name
        if is_there(file, shard, made_under, overwrite):
            continue
        with _taken(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(file.with_name(f".{file.stem}.lock"), timeout=0):
                if is_there(file, shard, made_under, overwrite):  # made since
                    continue
                if hash_of(read_manifest(folder / "manifest.json")) != made_under:
                    raise InputError(f"another job has begun {folder} anew", "give this one another output")
                write(shard, file)
                made.append(shard)
        except Timeout:
            continue
    left = [shard for shard in shards if not is_there(folder / shard.name, shard, made_under, overwrite)]
    if not left:  # nobody writes here any more
        for split in {shard.split for shard in shards}:
            for rest in [*(folder / split).glob(".part-*"), *(folder / split).glob(".*.lock")]:
                rest.unlink(missing_ok=True)
    return made, left


def run_ray(job: Callable[[int, int], Any], actors: int, restarts: int = 3) -> list[Any]:
    """Calls job(rank, actors) in Ray actors, on the cluster that Ray finds or on this machine; what each returned.

    An actor that dies is started again and calls the job again, which skips the shards that are there. One that has
    died too often is given up, with a warning: its shards are left to the others.

    Args:
        job: ends in `work`; cloudpickle sends it, and the output lies where all of them can write.
        actors: how many.
        restarts: of each.

    Raises:
        InputError: when Ray is not installed.
        ray.exceptions.RayTaskError: which is also of the type that a job raised.
    """
    from pytorch_lightning.utilities import rank_zero_warn

    try:
        import ray
    except ImportError:
        raise InputError("actors need Ray", "pip install 'lightning_ae[ray]'") from None

    class Worker:
        def run(self, rank: int) -> Any:
            return job(rank, actors)

    remote = ray.remote(max_restarts=restarts, max_task_retries=restarts)(Worker)
    started = not ray.is_initialized()
    if started:
        ray.init(logging_level="warning")
    try:
        workers = [remote.remote() for _ in range(actors)]
        results = []
        for rank, pending in enumerate([worker.run.remote(rank) for rank, worker in enumerate(workers)]):
            try:
                results.append(ray.get(pending))
            except ray.exceptions.RayActorError as error:
                rank_zero_warn(f"actor {rank} died more than {restarts} times: {error}".splitlines()[0])
        return results
    finally:
        if started:
            ray.shutdown()


class _Taken(Exception):
    """Another process has just written the file."""


@contextlib.contextmanager
def _taken(file: Path) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        if isinstance(error.__cause__, FileExistsError) and file.is_file():
            raise _Taken from error
        raise
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror or error}", "give another output") from error


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return [name for name in (*wanted, *(found.keys() - wanted)) if found.get(name) != wanted.get(name)]


def _digest(rows: Any) -> dict[str, Any]:
    import numpy as np
    import pyarrow as pa

    looked_at = np.unique(np.linspace(0, len(rows) - 1, SPREAD).astype(np.int64)).tolist()
    table = rows.with_format("arrow")[looked_at].combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
        stream.write_table(table.replace_schema_metadata(None))
    digest = hashlib.sha256(sink.getvalue()).hexdigest()
    return {"rows": len(rows), "columns": rows.column_names, "digest": digest}


def _files(path: Any, output: Path) -> str | None:
    """A digest of the names, sizes and times of change of the files of local data, but the output's; of others None."""
    if not isinstance(path, str | os.PathLike):
        return None
    root = Path(path).expanduser()
    if not root.exists():
        return None
    places = sorted(each for each in root.rglob("*") if each.is_file()) if root.is_dir() else [root]
    output, digest = output.absolute(), hashlib.sha256()
    for place in places:
        if output in place.absolute().parents:
            continue
        stat = place.stat()
        digest.update(f"{place.relative_to(root).as_posix()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _bytes() -> Any:
    import torch

    return torch.uint8
