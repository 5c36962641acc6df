"""Arrays by name in a safetensors file, with text metadata: the joint state, the working parameters, saved models.

The library reads. We write, since its writer copies every array and does not fsync: eight bytes of length, a JSON
header, the raw little-endian arrays in header order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from discod.errors import BadData, LocalError
from discod.store.files import Buffer, write_whole

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
ALIGNMENT = 8  # bytes; the header is padded with spaces

Arrays = Mapping[str, "np.ndarray[Any, np.dtype[Any]]"]


def save_tensors(path: Path, arrays: Arrays, info: Mapping[str, str]) -> None:
    """Write arrays and metadata to `path`, whole or not at all. Raises: UserError (disk-full), PermissionProblem."""
    write_whole(path, tensor_pieces(arrays, info))


def tensor_pieces(arrays: Arrays, info: Mapping[str, str]) -> Iterator[Buffer]:
    """Yield the bytes of the file; contiguous arrays are not copied."""
    header: dict[str, Any] = {"__metadata__": dict(info)} if info else {}
    end = 0
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES or array.dtype.byteorder == ">":
            raise LocalError(f"{name} cannot be saved as {array.dtype}")
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for array in arrays.values():
        if array.nbytes:
            yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def load_tensors(path: Path) -> tuple[dict[str, np.ndarray[Any, np.dtype[Any]]], dict[str, str]]:
    """Return the arrays (copies, writable) and the metadata of a safetensors file.

    Raises: BadData when it is missing or damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError:
        raise BadData(f"there is no {path}", code="no-model") from None
    except (SafetensorError, OSError) as error:
        why = f"{path} is damaged: {error}"
        raise BadData(
            why, "if it is your own state, move it away: peers will send the model again", code="damaged"
        ) from None
