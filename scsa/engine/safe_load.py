"""Read a checkpoint file without running what a stranger put into it, and find any damage.

A checkpoint is a pickle plus the bytes of its tensors. A pickle is a program: it names functions
and says with what to call them. Here it gets those that checkpoints need, from a fixed list, and
nothing else. The same code reads every file with every version of torch; it needs torch alone.

Two formats are read: the zip archive of torch >= 1.6, whose every part carries a checksum, and the
older stream of pickles and bytes, which has none.
"""

from __future__ import annotations

import builtins
import collections
import importlib
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Callable, Dict, Optional, Union

import numpy as np
import torch

from ..cli import UserError

TRUST = 'SCSA_TRUST_CHECKPOINT'
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
LARGEST_VIEW = 2**20  # elements of a tensor that may repeat a smaller storage, as expand does
LARGEST_PICKLE = 2**28  # bytes; that of a ResNet-101 with its optimizer has 2**18
Location = Optional[Union[str, torch.device, Dict[str, str], Callable]]


class RefusedCheckpoint(UserError):
    """A file that is damaged, or that asks for more than a checkpoint needs."""


class _Refused(Exception):
    """Says why, without the file's name."""


class _Name:
    """Stands for a class that a pickle may name but not call."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _tensor(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
    data, dtype = storage
    repeated = max(1, torch.Size(size).numel())
    if repeated > max(LARGEST_VIEW, data.nbytes() // torch._utils._element_size(dtype)):
        raise _Refused(f'a tensor of shape {tuple(size)} is larger than its data')
    if hooks or metadata:
        raise _Refused('a tensor comes with hooks')
    tensor = torch.empty(0, dtype=dtype, device=data.device).set_(data, offset, size, stride)
    return tensor.requires_grad_(requires_grad)


def _tensor_of_type(storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None):
    data = (storage[0], dtype)
    return _tensor(data, offset, size, stride, requires_grad, hooks, metadata)


def _parameter(data, requires_grad=True, hooks=None, state=None):
    if hooks:
        raise _Refused('a parameter comes with hooks')
    return torch.nn.Parameter(data, requires_grad)


def _tensor_with_attributes(function, kind, arguments, attributes):
    # The attributes that somebody gave a tensor are no weights: left out.
    tensor = function(*arguments)
    return torch.nn.Parameter(tensor) if kind.value is torch.nn.Parameter else tensor


def _array(kind, shape, code):
    # Its shape and data follow; that it begins empty keeps a huge one from being made.
    if kind.value is not np.ndarray or tuple(shape) != (0,):
        raise _Refused('an array that does not begin empty')
    return np.empty(0, np.int8)


def _check_array(shape, dtype, in_columns, data):
    size = torch.Size(shape).numel()
    if size * (1 if dtype.hasobject else dtype.itemsize) != len(data):
        raise _Refused(f'an array of shape {tuple(shape)} has other data')


def _scalar(dtype, data=b''):
    if dtype.hasobject:
        raise _Refused('a NumPy scalar of Python objects')
    return np.frombuffer(data, dtype, 1)[0]


def _dtype(code, align=False, copy=True):
    return np.dtype(str(code))


def _encode(text, encoding='latin1'):
    if encoding != 'latin1':
        raise _Refused(f'text encoded as {encoding!r}')
    return text.encode('latin1')


def _attribute(owner, name):
    if name in ATTRIBUTES.get(f'{owner.__module__}.{owner.__name__}', ()):
        return getattr(owner, name)
    raise _Refused(f'the attribute {name!r} of {owner!r}')


def _bytearray(*arguments):
    if arguments and isinstance(arguments[0], int):
        raise _Refused('a bytearray made from a number')
    return bytearray(*arguments)


# What mmengine pickles by `getattr`: the statistics of its logs, the curve of a schedule.
ATTRIBUTES = {
    'mmengine.logging.history_buffer.HistoryBuffer': ('min', 'max', 'mean', 'current'),
    'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler': (
        *('_annealing_cos', '_annealing_linear'),
    ),
}
# Classes that are imported under the name that the pickle gives.
CLASSES = {
    *ATTRIBUTES,
    'argparse.Namespace',  # timm's and torchvision's training scripts save their arguments
    'collections.Counter',
    'collections.OrderedDict',
    'collections.defaultdict',
}
BUILTINS = {'bool', 'complex', 'dict', 'float', 'frozenset', 'int', 'list', 'set', 'str', 'tuple'}
FUNCTIONS: dict[str, Any] = {
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor_of_type,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch._tensor._rebuild_from_type_v2': _tensor_with_attributes,
    'torch.Size': torch.Size,
    'torch.device': torch.device,
    'torch.nn.parameter.Parameter': _Name(torch.nn.Parameter),
    'torch.Tensor': _Name(torch.Tensor),
    'numpy.ndarray': _Name(np.ndarray),
    'numpy.dtype': _dtype,
    '_codecs.encode': _encode,
    'builtins.bytearray': _bytearray,
    'builtins.getattr': _attribute,
    'pathlib.PosixPath': PurePosixPath,
    'pathlib.PurePosixPath': PurePosixPath,
    'pathlib._local.PosixPath': PurePosixPath,
}
for core in ('numpy.core.multiarray', 'numpy._core.multiarray'):
    FUNCTIONS[f'{core}._reconstruct'], FUNCTIONS[f'{core}.scalar'] = _array, _scalar
# Whose state may be set after they are made; of a function or a class it may not.
WITH_STATE = (np.ndarray, np.dtype, collections.OrderedDict)


class Unpickler(pickle._Unpickler):
    """Python's own unpickler, with a list of what may be named.

    The one in C cannot be told what may be given a state, and makes room for as many objects as
    the file claims to have.

    Args:
        file: The pickle.
        storage: Gives bytes and element type of the storage that a persistent id names.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO, storage: Callable | None = None) -> None:
        super().__init__(file, encoding='utf-8')
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """The function or class of a name, if it is on the list."""
        name = f'{"builtins" if module == "__builtin__" else module}.{name}'
        if name in FUNCTIONS:
            return FUNCTIONS[name]
        if name in CLASSES:
            package, _, attribute = name.rpartition('.')
            return getattr(importlib.import_module(package), attribute)
        kind, _, short = name.rpartition('.')
        if kind == 'builtins' and short in BUILTINS:
            return getattr(builtins, short)
        if kind in ('torch', 'torch.storage') and short.endswith('Storage'):
            dtype = _storage_types().get(short)
            if dtype is not None:
                return _Name(dtype)
        if kind == 'torch' and isinstance(getattr(torch, short, None), torch.dtype):
            return getattr(torch, short)
        raise _Refused(f'it names {name}, which no checkpoint needs')

    def persistent_load(self, key: Any) -> Any:
        """The storage of a tensor."""
        if self.storage is None or not isinstance(key, tuple) or key[:1] != ('storage',):
            raise _Refused('an unknown persistent id')
        return self.storage(*key[1:])

    def load_build(self) -> None:
        """The opcode that gives an object its state."""
        owner, state = self.stack[-2:]
        if isinstance(owner, np.ndarray):
            _check_array(*state[1:])
        made = f'{type(owner).__module__}.{type(owner).__name__}'
        if not isinstance(owner, WITH_STATE) and made not in CLASSES:
            raise _Refused(f'a state for {made}')
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


def _storage_types() -> dict[str, torch.dtype]:
    names = {
        **{'Float': 'float32', 'Double': 'float64', 'Half': 'float16', 'BFloat16': 'bfloat16'},
        **{'Long': 'int64', 'Int': 'int32', 'Short': 'int16', 'Char': 'int8', 'Byte': 'uint8'},
        **{'Bool': 'bool', 'ComplexFloat': 'complex64', 'ComplexDouble': 'complex128'},
        'Untyped': 'uint8',
    }
    return {f'{name}Storage': getattr(torch, dtype) for name, dtype in names.items()}


def load(path: str | Path | BinaryIO, map_location: Location = None) -> Any:
    """Reads a checkpoint; takes the place of `torch.load`.

    Args:
        path: The file, or an open one.
        map_location: Where tensors go, as in `torch.load`. Default: where they were saved.

    With the environment variable `SCSA_TRUST_CHECKPOINT=1` torch reads the file as it is and runs
    what it asks for.

    Raises:
        RefusedCheckpoint: The file is damaged, is no checkpoint, or names something that no
            checkpoint needs. The message is one line with the file's name.
        OSError: The file cannot be opened.
    """
    if hasattr(path, 'read'):
        return _load(path, str(getattr(path, 'name', 'the checkpoint')), map_location)
    with open(path, 'rb') as file:
        return _load(file, str(path), map_location)


def check(path: str | Path) -> None:
    """Reads a file to its end and throws away what it holds.

    Raises:
        RefusedCheckpoint: as `load`.
    """
    load(path, 'cpu')


def _load(file: BinaryIO, name: str, map_location: Location) -> Any:
    if os.environ.get(TRUST) == '1':
        return torch.load(file, map_location=map_location, weights_only=False)
    try:
        if file.read(4) == b'PK\x03\x04':
            return _from_zip(file, map_location)
        file.seek(0)
        return _from_stream(file, map_location)
    except _Refused as refused:
        raise RefusedCheckpoint(
            f'{name} is refused: {refused}; if you trust where it comes from, set {TRUST}=1'
        ) from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise RefusedCheckpoint(f'{name} is damaged: {_line(error)}; take another') from None
    except MemoryError:
        raise RefusedCheckpoint(f'{name} needs more memory than there is') from None
    except Exception as error:  # a broken pickle raises whatever it likes
        raise RefusedCheckpoint(
            f'{name} is no checkpoint, or is damaged: {_line(error)}; take another'
        ) from error


def _line(error: Exception) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:200]


def _from_zip(file: BinaryIO, map_location: Location) -> Any:
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        parts = {part.filename: part for part in archive.infolist()}
        end = file.seek(0, os.SEEK_END)
        # Torch compresses nothing, so what is compressed or counted twice is no checkpoint.
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts.values()):
            raise _Refused('its parts are compressed')
        if len(parts) != len(archive.infolist()) or sum(p.file_size for p in parts.values()) > end:
            raise _Refused('its parts overlap')
        pickles = [name for name in parts if name.count('/') == 1 and name.endswith('/data.pkl')]
        if len(pickles) != 1:
            raise _Refused('it has no data.pkl')
        top = pickles[0].split('/')[0]
        if f'{top}/constants.pkl' in parts:
            raise _Refused('it is a TorchScript program')
        if parts[pickles[0]].file_size > LARGEST_PICKLE:
            raise _Refused('its data.pkl is too large')
        order = f'{top}/byteorder'
        if order in parts and archive.read(order) != b'little':
            raise _Refused('its bytes are in big-endian order')
        stored: dict[str, tuple] = {}

        def storage(kind, key, location, count):
            if key not in stored:
                found = _filled(kind, count, archive.read(f'{top}/data/{key}'))
                stored[key] = (_moved(found, location, map_location), kind.value)
            return stored[key]

        value = Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()
        for name in parts:  # what no tensor uses can be damaged too
            if name.rpartition('/')[2] not in stored:
                archive.read(name)
        return value


def _filled(kind: _Name, count: int, data: bytes) -> torch.UntypedStorage:
    """The bytes of a storage, which must be as many as its type and length say."""
    size = count * torch._utils._element_size(kind.value)
    if size != len(data):
        raise _Refused(f'a tensor has {len(data)} bytes in place of {size}')
    if not data:
        return torch.UntypedStorage(0)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).untyped_storage()


def _moved(storage: torch.UntypedStorage, location: str, where: Location) -> torch.UntypedStorage:
    if isinstance(where, dict):
        location = where.get(location, location)
    elif callable(where):
        moved = where(storage, location)
        if moved is not None:
            return moved
    elif where is not None:
        location = str(where)
    return torch.serialization.default_restore_location(storage, location)


def _from_stream(file: BinaryIO, map_location: Location) -> Any:
    """The format of torch < 1.6: pickles, the keys of the storages, then their bytes."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    if Unpickler(file).load() != LEGACY_MAGIC or Unpickler(file).load() != LEGACY_PROTOCOL:
        raise _Refused('it is no checkpoint of torch')
    if Unpickler(file).load().get('little_endian') is not True:
        raise _Refused('its bytes are in big-endian order')
    start, declared, filled, total = file.tell(), {}, {}, 0

    def declare(kind, key, location, count, view=None):
        """Notes what is to come; the tensors made of it are thrown away."""
        nonlocal total
        if view is not None:
            raise _Refused('it has a view of a storage, as torch < 0.4 wrote them')
        if key not in declared:
            size = count * torch._utils._element_size(kind.value)
            total += size
            if not 0 <= size <= total <= end:
                raise _Refused('its tensors are larger than the file')
            declared[key] = (torch.UntypedStorage(size), kind, location)
        return declared[key][0], kind.value

    Unpickler(file, declare).load()
    keys = Unpickler(file).load()
    if sorted(keys) != sorted(declared):
        raise _Refused('its list of storages is not that of its tensors')
    for key in keys:
        empty, kind, location = declared[key]
        (count,) = struct.unpack('<q', file.read(8))
        filled[key] = _moved(
            _filled(kind, count, file.read(empty.nbytes())), location, map_location
        )
    if file.read(1):
        raise _Refused('bytes follow its end')
    file.seek(start)
    return Unpickler(file, lambda kind, key, *_: (filled[key], kind.value)).load()
