"""What a user holds in memory as data sets: frames, arrays, tensors, sparse matrices, AnnData."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
import xxhash
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_ae.counts import not_a_count, uncounted
from lightning_ae.data.signature import listed
from lightning_ae.errors import InputError
from lightning_ae.natural import column_keys, image_batch

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
TAKEN = (
    "a Dataset or DatasetDict, a data frame, a dict of columns, an array or a tensor (N, ...), a pair (x, labels), a "
    "sparse matrix, an AnnData, or a dict of splits of these"
)
Made = tuple[pa.Array, Any]  # values, and their feature, None where Arrow's type says it


def splits_in_memory(data: Any, name: str | None = None, arrays: bool = False) -> DatasetDict:
    """The splits of what lies in memory: "train" alone, or those of a dict of splits.

    Args:
        data: a pandas or polars frame or a table of Arrow's; a dict of columns (arrays, tensors, lists, sparse
            matrices); an array or a tensor, (N, D) for vectors, bytes (N, H, W), (N, C, H, W) or (N, H, W, C) for
            images, as the column "x"; a pair (any of these, labels); a sparse matrix (N, D), as the column "x"; an
            AnnData, as the column "X" and those of its obs. Or a dict of splits of these, whose keys are all called
            train, val, test or the like, or whose values are all frames, dicts, data sets or AnnData.
        name: the layer of an AnnData, or "raw"; by default its X.
        arrays: whether bytes of more than two dimensions stay arrays; else they are images.

    Raises:
        InputError: naming the column, and the row, of what cannot be used.
    """
    from datasets import Dataset, DatasetDict

    if isinstance(data, Mapping) and data:
        named = all(isinstance(key, str) and key.lower() in SPLITS for key in data)
        whole = (Mapping, Dataset, pa.Table)
        if named or all(isinstance(each, whole) or _is_frame(each) or _is_anndata(each) for each in data.values()):
            _say_indices(data.values())
            return DatasetDict({str(s): rows_of(each, f"split {str(s)!r}", name, arrays) for s, each in data.items()})
    _say_indices([data])
    return DatasetDict({"train": rows_of(data, "path", name, arrays)})


def read_h5ad(path: str, name: str | None = None) -> DatasetDict:
    """The rows of an .h5ad file; see `splits_in_memory`.

    Raises:
        InputError: when `anndata` is not installed, or the file cannot be read.
    """
    try:
        import anndata
    except ImportError as error:
        raise InputError(
            f"{path!r} is read by the package anndata, which is not installed", 'pip install "lightning_ae[counts]"'
        ) from error
    try:
        data = anndata.read_h5ad(os.path.expanduser(path))
    except Exception as error:  # anndata wraps those of h5py in its own
        why = str(error).partition("\n")[0]
        raise InputError(f"{path!r} cannot be read as an AnnData: {type(error).__name__}: {why}") from error
    return splits_in_memory(data, name)


def rows_of(data: Any, what: str, name: str | None = None, arrays: bool = False) -> Dataset:
    """One split of what lies in memory; `what` says for errors which argument it is. See `splits_in_memory`."""
    from datasets import Dataset, DatasetInfo, Features

    if isinstance(data, Dataset):
        return data
    columns = _columns(data, what, name, arrays)
    what = f"{what}, a {type(data).__name__},"
    if not columns:
        raise InputError(f"{what} has no columns")
    lengths = {column: len(values) for column, (values, _) in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(
            f"the columns of {what} differ in length: {listed([f'{column} {n}' for column, n in lengths.items()])}",
            "give a row for each sample in each of them",
        )
    if not next(iter(lengths.values())):
        raise InputError(f"{what} has no rows")
    table = pa.table({column: values for column, (values, _) in columns.items()})
    declared = {column: feature for column, (_, feature) in columns.items() if feature is not None}
    features = Features({**Features.from_arrow_schema(table.schema), **declared})
    return Dataset(table, info=DatasetInfo(features=features), fingerprint=fingerprint(table, features))


def fingerprint(table: pa.Table, features: Any) -> str:
    """As `datasets` makes one of what lies in memory, by its content, but without a copy."""
    digest = xxhash.xxh3_64(repr(features).encode())
    for chunk in [chunk for column in table.columns for chunk in column.chunks]:
        digest.update(f"{chunk.type} {chunk.offset} {len(chunk)}".encode())
        for buffer in chunk.buffers():
            digest.update(b"none" if buffer is None or not buffer.size else buffer)
    return digest.hexdigest()


def _columns(data: Any, what: str, name: str | None, arrays: bool) -> dict[str, Made]:
    if _is_anndata(data):
        return _of_anndata(data, what, name)
    if name is not None:
        raise InputError(f"name {name!r} is a configuration on the hub, or a layer of an AnnData", "leave it out")
    if isinstance(data, tuple) and len(data) == 2:
        columns = _columns(data[0], what, None, arrays)
        if "label" in columns:
            raise InputError(f"{what} is a pair (x, labels), and x has a column 'label' already", "rename it")
        return columns | {"label": _column("label", data[1])}
    if _is_frame(data) or isinstance(data, Mapping | pa.Table) or _fields(data):
        keys = column_keys(data)
        assert keys is not None
        return {column: _column(column, data[key], arrays) for column, key in keys.items()}
    if isinstance(data, np.ndarray | Tensor) or _is_sparse(data):
        return {"x": _column("x", data, arrays)}
    hint = f"it takes {TAKEN}"
    if type(data).__name__ == "LazyFrame":
        hint = "read it first: frame.collect()"
    if isinstance(data, list):
        hint = (
            "make an array or a tensor of it, or give a dict of columns; datasets.Dataset.from_list makes rows of dicts"
        )
    raise InputError(f"{what} must name a data set or be a Dataset or the like, got {type(data).__name__}", hint)


def _is_frame(data: Any) -> bool:
    return type(data).__name__ == "DataFrame" and hasattr(data, "columns")


def _is_anndata(data: Any) -> bool:
    return all(hasattr(data, name) for name in ("X", "obs", "var_names"))


def _is_sparse(data: Any) -> bool:
    return hasattr(data, "tocsr") or (isinstance(data, Tensor) and data.layout != torch.strided)


def _fields(data: Any) -> bool:
    return isinstance(data, np.ndarray) and data.dtype.names is not None


def _say_indices(frames: Iterable[Any]) -> None:
    """Once, that a pandas index other than the rows' numbers is no column."""
    frames = [each[0] if isinstance(each, tuple) and each else each for each in frames]
    indices = [each.index for each in frames if _is_frame(each) and hasattr(each, "index")]
    if named := [index for index in indices if type(index).__name__ != "RangeIndex" or index.name is not None]:
        names = "".join(f" {name!r}" for name in named[0].names if name is not None)
        rank_zero_info(f"the frame's index{names} is left out; frame.reset_index() makes columns of it")


# ---- columns ------------------------------------------------------------------------------------------------------


def _column(name: str, values: Any, arrays: bool = False) -> Made:
    """A column of any form in Arrow's; see `splits_in_memory`.

    Raises:
        InputError: naming it, and the row, of what Arrow, or this package, has no place for.
    """
    where = f"column {name!r}"
    if _is_sparse(values):
        return sparse_column(values, where=where)
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if getattr(getattr(values, "dtype", None), "name", "").startswith("Sparse"):  # of pandas
        values = np.asarray(values)
    if type(getattr(values, "dtype", None)).__name__ == "CategoricalDtype":
        return _classes(values, where)
    if isinstance(values, np.ndarray) and values.dtype != object:
        return _array(values, where, arrays)
    if isinstance(values, list | tuple) and any(type(each).__module__.startswith("PIL.") for each in values):
        return _images(values, where)
    if isinstance(values, list | tuple) and any(isinstance(each, np.ndarray | Tensor) for each in values):
        values = [each.tolist() if isinstance(each, np.ndarray | Tensor) else each for each in values]
    return _objects(values, where)


def _objects(values: Any, where: str) -> Made:
    """Lists, frames' columns and arrays of objects, whose values Arrow finds a type for."""
    if hasattr(values, "to_arrow"):  # polars
        try:
            array = values.to_arrow()
        except pa.ArrowException as error:  # of its own types
            raise _no_type(values, where) from error
        if str(values.dtype) == "Object":  # of which it gives addresses
            raise _no_type(values, where)
    elif isinstance(values, pa.ChunkedArray | pa.Array):
        array = values
    else:
        if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
            raise InputError(f"{where} is {values!r:.40}, no array and no list", "give a value for each row")
        try:
            array = pa.array(values, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise _mixed(values, where, error) from error
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if pa.types.is_dictionary(array.type):
        if hasattr(values, "to_arrow"):
            return _numbered(array.indices, array.dictionary.to_pylist(), where)
        array = array.dictionary_decode()
    if "view" in str(array.type):  # of newer polars, for which Arrow lacks functions
        array = array.cast(pa.large_string() if pa.types.is_string_view(array.type) else pa.large_binary())
    if isinstance(array, pa.ExtensionArray) or pa.types.is_interval(array.type):
        raise _no_type(values, where)
    return array, None


def _no_type(values: Any, where: str) -> InputError:
    return InputError(
        f"{where} holds {getattr(values, 'dtype', None) or values.type}, which data sets have no type for",
        "convert it first, to numbers, dates or texts (frame.astype, of polars frame.cast)",
    )


def _classes(values: Any, where: str) -> Made:
    """A pandas Categorical as classes, all of its categories in order."""
    categorical = getattr(values, "cat", values)
    codes = np.asarray(categorical.codes)
    return _numbered(pa.array(codes, pa.int64(), mask=codes < 0), list(categorical.categories), where)


def _numbered(codes: pa.Array, names: Sequence[Any], where: str) -> Made:
    from datasets import ClassLabel

    texts = [str(name) for name in names]
    if twice := [text for text in texts if texts.count(text) > 1][:1] if len(set(texts)) < len(texts) else []:
        raise InputError(f"{where} has several categories called {twice[0]!r}", "rename them")
    if not texts:  # all are missing
        return pa.nulls(len(codes)), None
    return codes.cast(pa.int64()), ClassLabel(names=texts)


def _array(array: np.ndarray, where: str, arrays: bool) -> Made:
    """An array (N,) as values, (N, D) as vectors, of more dimensions as images or as arrays; see `splits_in_memory`."""
    if array.ndim == 0:
        raise InputError(f"{where} is a single value, {array!r:.40}", "give a value for each row")
    if isinstance(array, np.ma.MaskedArray):
        if array.ndim > 1 and np.ma.is_masked(array):
            raise InputError(f"{where} is a masked array with masked values", "fill them first")
        array = array.filled(np.nan) if np.ma.is_masked(array) and array.dtype.kind == "f" else array
    if array.dtype.kind not in "biufUSMm" or (array.dtype.kind == "f" and array.dtype.itemsize > 8):
        raise InputError(f"{where} holds {array.dtype}", "give numbers of at most 64 bits, dates or texts")
    if array.ndim > 1 and 0 in array.shape[1:]:
        raise InputError(f"{where} has the shape {array.shape}, which holds no values")
    if array.dtype == np.uint8 and array.ndim > 2 and not (arrays or of_other_channels(array.shape)):
        return _images(_image_rows(array, where), where)
    if isinstance(array, np.ma.MaskedArray):
        return _objects(array, where)
    if array.dtype.kind in "biuf":
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    try:
        values = pa.array(array.reshape(-1))
    except (pa.ArrowException, ValueError) as error:  # dates in units of years, say
        raise InputError(f"{where} holds {array.dtype}: {error}", "give numbers, dates or texts") from error
    for size in array.shape[:0:-1]:
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return values, None


def of_other_channels(shape: tuple[int, ...]) -> bool:
    """Whether bytes (N, ...) may be images of other than one, three or four channels, which no PNG holds: arrays."""
    return len(shape) == 4 and not {shape[1], shape[3]} & {1, 3, 4}


def _image_rows(array: np.ndarray, where: str) -> np.ndarray:
    """Bytes as images (N, C, H, W).

    Raises:
        InputError: when the shape leaves open what the dimensions are.
    """
    shape = array.shape
    one = "where one image is meant, give a batch of it: x[None]"
    if array.ndim == 3 and shape[2] in (3, 4):
        raise InputError(
            f"{where} has the shape {shape}: one image in colour, or {shape[0]} in grey, {shape[2]} pixels wide", one
        )
    if array.ndim == 3 and shape[0] == 3:
        raise InputError(
            f"{where} has the shape {shape}, which may be one image in colour, or three in grey",
            "give several as x[:, None], (N, 1, H, W), one as x[None]",
        )
    if array.ndim == 4 and shape[1] in (1, 3) and shape[3] in (1, 3):
        raise InputError(
            f"{where} has the shape {shape}, which may be (N, C, H, W) or (N, H, W, C)",
            "say it: kind=Image(range=(0, 255), layout='CHW') or 'HWC'",
        )
    try:
        return image_batch(torch.from_numpy(array[:, None] if array.ndim == 3 else array), None, None).numpy()
    except InputError as error:
        hint = (
            "bytes of more than two dimensions are images; of other channels say which dimension those are, "
            "kind=Image(range=(0, 255), layout='CHW') or 'HWC'; arrays that are none are read by the kind that is given"
        )
        raise InputError(f"{where}: {error.message}", hint) from None


def _images(images: Any, where: str) -> Made:
    """Arrays (C, H, W), or PIL images, as files that keep each value."""
    import PIL.Image
    from datasets import Image as ImageFeature

    encoded = []
    for row, image in enumerate(images):
        if isinstance(image, np.ndarray):
            image = PIL.Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
        if not isinstance(image, PIL.Image.Image):
            raise InputError(f"{where} holds images, but row {row} is a {type(image).__name__}")
        to = io.BytesIO()
        try:
            deep = image.mode in ("I", "F")  # which PNG cannot hold
            image.save(to, "TIFF") if deep else image.save(to, "PNG", compress_level=1)
        except (OSError, ValueError) as error:
            raise InputError(f"{where}, row {row}: {error}", "convert the image first: image.convert('RGB')") from error
        encoded.append({"bytes": to.getvalue(), "path": None})
    feature = ImageFeature()
    return pa.array(encoded, feature.pa_type), feature


def _mixed(values: Any, where: str, error: Exception) -> InputError:
    """Says which row holds values of another type than those before it."""
    kinds: dict[str, tuple[int, Any]] = {}
    for row, value in enumerate(values):
        if value is None or value != value:
            continue
        kind = type(value).__name__
        kinds.setdefault("number" if kind in ("int", "float", "int64", "float64") else kind, (row, value))
        if len(kinds) == 2:
            (a, (_, one)), (b, (at, other)) = kinds.items()
            return InputError(
                f"{where} mixes types: {one!r:.40} is a {a}, {other!r:.40} in row {at} a {b}",
                "bring them to one type first (frame.astype)",
            )
    row, first = next(iter(kinds.values()), (0, None))
    why = str(error).partition("\n")[0]
    return InputError(
        f"{where} holds what data sets have no type for, {first!r:.40} in row {row}: {why}",
        "convert it first, to numbers, dates or texts (frame.astype)",
    )


# ---- sparse rows --------------------------------------------------------------------------------------------------


def sparse_column(matrix: Any, names: Sequence[str] | None = None, where: str = "the matrix") -> Made:
    """A matrix (N, D) as a column of sparse rows: of each the dimensions that hold an entry, and their values.

    The dimensions are classes, whose names are those of the dimensions, or their numbers: so the width of the matrix,
    and what its columns are called, is told by the data set wherever it goes.

    Args:
        matrix: of scipy, torch or numpy.
        names: of its columns, where they are known.
        where: the matrix in words, for errors.

    Raises:
        InputError: when it has other than two dimensions, or holds what are no counts.
    """
    import scipy.sparse
    from datasets import ClassLabel, LargeList, List, Value

    if isinstance(matrix, Tensor):
        parts = matrix.detach().cpu().to_sparse_coo().coalesce()
        if parts.sparse_dim() != 2 or parts.dense_dim():
            raise InputError(f"{where} has the shape {tuple(parts.shape)}, where sparse rows are (N, dimensions)")
        matrix = scipy.sparse.coo_array((parts.values().numpy(), parts.indices().numpy()), shape=tuple(parts.shape))
    if len(matrix.shape) != 2 or matrix.shape[1] == 0:
        raise InputError(f"{where} has the shape {matrix.shape}, where sparse rows are (N, dimensions)")
    rows = scipy.sparse.csr_array(matrix)
    if rows.dtype.kind not in "biuf" or rows.dtype.itemsize > 8:
        raise InputError(f"{where} holds {rows.dtype}", "give numbers of at most 64 bits")
    if (place := _uncounted(rows)) is not None:
        row, column, value = place
        hint = "sparse matrices are read as counts; of other numbers give a dense array, matrix.toarray()"
        raise InputError(not_a_count(value, f"{where}, row {row}, dimension {column}").message, hint)
    if not rows.has_canonical_format:
        rows = rows.copy()  # the user's own stays as it is
        rows.sum_duplicates()
    few = rows.nnz < 2**31
    offsets = pa.array(rows.indptr.astype(np.int32 if few else np.int64, copy=False))
    values = pa.array(rows.data.astype(np.uint8) if rows.dtype == bool else rows.data)
    kind, of = (pa.ListArray, List) if few else (pa.LargeListArray, LargeList)
    parts = [kind.from_arrays(offsets, pa.array(rows.indices, pa.int64())), kind.from_arrays(offsets, values)]
    if names is not None and len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(f"{where} has several columns called {twice!r}", "rename them (var_names_make_unique)")
    labels = ClassLabel(num_classes=rows.shape[1]) if names is None else ClassLabel(names=list(names))
    feature = {"indices": of(labels), "values": of(Value(str(values.type)))}
    return pa.StructArray.from_arrays(parts, ["indices", "values"]), feature


def _of_anndata(data: Any, what: str, name: str | None) -> dict[str, Made]:
    """X, a layer or raw as the column "X" of sparse counts, by gene; and the columns of obs.

    Raises:
        InputError: when there is no such layer, or it holds no counts; then the hint names those that do.
    """
    layers = {str(layer): data.layers[layer] for layer in getattr(data, "layers", None) or {}}
    raw = getattr(data, "raw", None)
    matrices = {"X": (data.X, data.var_names)} | {layer: (each, data.var_names) for layer, each in layers.items()}
    matrices |= {} if raw is None else {"raw": (raw.X, raw.var_names)}
    wanted = "X" if name is None else name
    if wanted not in matrices or matrices[wanted][0] is None:
        there = [layer for layer, (matrix, _) in matrices.items() if matrix is not None]
        raise InputError(f"{what} is an AnnData without {wanted!r}", f"it has {listed(there)}: name=...")
    matrix, genes = matrices[wanted]
    genes = [str(gene) for gene in genes]
    if (place := _uncounted(matrix)) is not None:
        row, column, value = place
        others = [f"name={layer!r}" for layer, (each, _) in matrices.items()
                  if each is not None and each is not matrix and _uncounted(each) is None]  # fmt: skip
        error = not_a_count(value, f"{wanted} of the AnnData, row {row} ({data.obs.index[row]}), {genes[column]!r}")
        hint = f"whole numbers are in {listed(others)}" if others else "neither its layers nor raw hold counts"
        raise InputError(error.message, f"it seems to be normalised; {hint}")
    left = [f"{part} {listed(list(found))}" for part in ("obsm", "obsp") if (found := getattr(data, part, None))]
    rank_zero_info(f"of the AnnData {wanted} and obs are read; left out: {'; '.join(['the names of rows', *left])}")
    columns = {str(key): _column(str(key), data.obs[key]) for key in data.obs.columns}
    if "X" in columns:
        raise InputError(f"obs of {what} has a column 'X', which is the name of the counts", "rename it")
    return {"X": sparse_column(_loaded(matrix), genes, f"{wanted} of the AnnData"), **columns}


def _uncounted(matrix: Any) -> tuple[int, int, Any] | None:
    """Row, column and value of the first entry that is no count; None where all are."""
    matrix = _loaded(matrix)
    if not hasattr(matrix, "tocsr"):
        dense = np.asarray(matrix)
        place = uncounted(dense)
        return None if place is None else (*divmod(place, dense.shape[1]), dense.reshape(-1)[place])
    rows = matrix.tocsr()
    if (place := uncounted(rows.data)) is None:
        return None
    return int(np.searchsorted(rows.indptr, place, side="right")) - 1, int(rows.indices[place]), rows.data[place]


def _loaded(matrix: Any) -> Any:
    """A matrix of an AnnData, in memory where a file backs it."""
    return matrix.to_memory() if hasattr(matrix, "to_memory") else matrix
