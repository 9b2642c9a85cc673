"""What strangers may have put into a checkpoint does not run; what honest ones hold is read."""

import argparse
import collections
import io
import pickle
import struct
import sys
import zipfile
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from torch import nn

from scsa.engine.safe_load import RefusedCheckpoint, Unpickler, load


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def named(module, name, *arguments):
    """The opcodes that call a function by its name with strings and numbers."""
    code = f'c{module}\n{name}\n('.encode()
    for argument in arguments:
        code += (
            f'V{argument}\n'.encode() if isinstance(argument, str) else f'I{argument}\n'.encode()
        )
    return code + b'tR'


def archive(path, code, compress=zipfile.ZIP_STORED, **parts):
    with zipfile.ZipFile(path, 'w', compress) as file:
        file.writestr('archive/data.pkl', code)
        file.writestr('archive/version', '3')
        for name, content in parts.items():
            file.writestr(f'archive/{name}', content)


def stored(path, count, stride=1, size=None, data=bytes(16)):
    """A file whose one tensor claims a storage of `count` floats."""
    size = count if size is None else size
    code = (
        b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\n'
    )
    code += f'L{count}L\ntQL0L\n(L{size}L\nt(L{stride}L\nt'.encode()
    archive(path, code + b'I00\nNtR.', **{'data/0': data})


def legacy(path, code):
    with open(path, 'wb') as file:
        pickle.dump(0x1950A86A20F9469CFC6C, file, protocol=2)
        pickle.dump(1001, file, protocol=2)
        pickle.dump(dict(little_endian=True, protocol_version=1001), file, protocol=2)
        file.write(code)


def write_malicious(kind, path, witness):
    """Writes a file that, read by torch or pickle as it is, would do harm."""
    touch = f'touch {witness}'
    python = f'__import__("os").system("{touch}")'
    if kind == 'os.system':
        archive(path, named('os', 'system', touch) + b'.')
    elif kind == 'eval':
        torch.save({'state_dict': {'w': torch.ones(2)}, 'meta': Calls(eval, python)}, path)
    elif kind == 'getattr of a module':
        code = b'cbuiltins\ngetattr\n(cbuiltins\n__import__\n(Vos\ntRVsystem\ntR(V'
        archive(path, code + touch.encode() + b'\ntR.')
    elif kind == 'getattr of an allowed class':
        code = b'cbuiltins\ngetattr\n(ccollections\nOrderedDict\nV__init__\ntR.'
        archive(path, code)
    elif kind == 'torch.load of bytes':
        inner = io.BytesIO()
        torch.save(Calls(eval, python), inner)
        torch.save(Calls(torch.storage._load_from_bytes, inner.getvalue()), path)
    elif kind == 'nested pickle':
        inner = pickle.dumps(Calls(eval, python))
        archive(path, pickle.dumps(Calls(pickle.loads, inner), protocol=2))
    elif kind == 'INST':
        archive(path, f'(V{touch}\nios\nsystem\n.'.encode())
    elif kind == 'NEWOBJ':
        archive(
            path,
            b'\x80\x02csubprocess\nPopen\n((Vtouch\nV' + f'{witness}\n'.encode() + b't\x85\x81.',
        )
    elif kind == 'state of a function':
        archive(path, b'ctorch._utils\n_rebuild_tensor_v2\nN}V__defaults__\n)s\x86b.')
    elif kind == 'old format':
        legacy(path, named('os', 'system', touch) + b'.')
    elif kind == 'bare pickle':
        path.write_bytes(pickle.dumps(Calls(eval, python)))
    elif kind == 'torch.hub':
        archive(path, named('torch.hub', 'load', str(path.parent), 'model') + b'.')
    elif kind == 'huge bytearray':
        archive(path, b'c__builtin__\nbytearray\n(L100000000000L\ntR.')
    elif kind == 'huge storage':
        stored(path, 10**12)
    elif kind == 'huge view':
        stored(path, 4, stride=0, size=10**12)
    elif kind == 'beyond its storage':
        stored(path, 4, size=1000)
    elif kind == 'huge array':
        code = b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L1000000000000L\nt'
        archive(path, code + b'Vb\ntR.')
    elif kind == 'zip bomb':
        archive(path, b'N.', zipfile.ZIP_DEFLATED, **{'data/0': bytes(10**7)})
    elif kind == 'out of the archive':
        archive(path, b'N.', **{'../../escaped': b'x'})
    elif kind == 'TorchScript':
        torch.jit.script(nn.Linear(2, 2)).save(str(path))


MALICIOUS = [
    *('os.system', 'eval', 'getattr of a module', 'getattr of an allowed class'),
    *('torch.load of bytes', 'nested pickle', 'INST', 'NEWOBJ', 'state of a function'),
    *('old format', 'bare pickle', 'torch.hub', 'huge bytearray', 'huge storage', 'huge view'),
    *('beyond its storage', 'huge array', 'zip bomb', 'out of the archive', 'TorchScript'),
]


@pytest.mark.parametrize('kind', MALICIOUS)
def test_malicious_files_are_refused_in_one_line_and_do_not_run(kind, tmp_path, monkeypatch):
    monkeypatch.delenv('SCSA_TRUST_CHECKPOINT', raising=False)
    path, witness = tmp_path / 'weights.pth', tmp_path / 'ran'
    write_malicious(kind, path, witness)
    if kind == 'out of the archive':  # nothing is ever unpacked
        assert load(path) is None and not (tmp_path.parent / 'escaped').exists()
        return
    with pytest.raises(RefusedCheckpoint) as error:
        load(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)
    assert not witness.exists()


def test_the_files_are_malicious(tmp_path, monkeypatch):
    """Trusted, one of them runs: the test above sees what it would have to see."""
    path, witness = tmp_path / 'weights.pth', tmp_path / 'ran'
    write_malicious('eval', path, witness)
    monkeypatch.setenv('SCSA_TRUST_CHECKPOINT', '1')
    load(path)
    assert witness.exists()


def test_huge_claims_take_no_memory(tmp_path):
    """They are refused before room is made for what they claim to hold."""
    resource = pytest.importorskip('resource', reason='the peak of memory is known on POSIX alone')
    kinds = ('huge bytearray', 'huge storage', 'huge view', 'huge array', 'zip bomb')
    for kind in kinds:
        write_malicious(kind, tmp_path / f'{kind}.pth', tmp_path / 'ran')
    (tmp_path / 'memo.pth').write_bytes(b'\x80\x02Nr' + struct.pack('<I', 2**31 - 1) + b'.')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in tmp_path.glob('*.pth'):
        with pytest.raises(RefusedCheckpoint) as error:
            load(path)
        assert 'memory' not in str(error.value)
    kilobytes = 1024 if sys.platform == 'darwin' else 1
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / kilobytes < 200_000


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))


def trained(make=torch.optim.SGD, **options):
    model = network()
    optimizer = make(model.parameters(), lr=0.1, **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for _ in range(2):
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        schedule.step()
    return model, optimizer, schedule


def training(make, **options):
    model, optimizer, schedule = trained(make, **options)
    return dict(
        model=model.state_dict(), optimizer=optimizer.state_dict(), schedule=schedule.state_dict()
    )


def timm_weights():
    return (
        pytest.importorskip('timm', reason='timm is an extra')
        .create_model('resnet10t')
        .state_dict()
    )


def torchvision_weights():
    models = pytest.importorskip('torchvision', reason='of torch alone').models
    return models.mobilenet_v2(width_mult=0.25).state_dict()


def message_hub():
    hub = pytest.importorskip('mmengine.logging', reason='of torch alone')
    buffer = hub.HistoryBuffer([0.5, 0.25], [1, 1])
    buffer.mean(2)
    info = collections.OrderedDict(epoch=3, best_score=np.float64(0.5), last_ckpt='epoch_3.pth')
    scalars = collections.OrderedDict({'train/loss': buffer})
    return dict(log_scalars=scalars, runtime_info=info, resumed_keys=collections.OrderedDict())


def one_cycle():
    optim = pytest.importorskip('mmengine.optim', reason='of torch alone')
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1)
    return optim.OneCycleLR(optimizer, eta_max=0.1, total_steps=10).state_dict()


def published():
    """As the published code's mmpretrain writes it."""
    model, optimizer, _ = trained(momentum=0.9)
    meta = dict(
        epoch=3, iter=9, cfg='a = 1\n', seed=0, time='x', dataset_meta={'classes': ['0', '1']}
    )
    return dict(
        meta=meta,
        state_dict=collections.OrderedDict(
            (f'backbone.{k}', v) for k, v in model.state_dict().items()
        ),
        optimizer=optimizer.state_dict(),
        message_hub=message_hub(),
        param_schedulers=[one_cycle()],
    )


def of_ours(name, options=None):
    backbones = pytest.importorskip('scsa.backbones', reason='of torch alone')
    return getattr(backbones, name)(**(options or {})).state_dict()


HONEST = {
    'weights': lambda: network().state_dict(),
    'parameters': lambda: dict(network().named_parameters()),
    'a module of parameters in lists': lambda: [list(network().parameters()), (1, None, 'x')],
    'half': lambda: network().half().state_dict(),
    'bfloat16': lambda: network().bfloat16().state_dict(),
    'double': lambda: network().double().state_dict(),
    'integers': lambda: {
        t: torch.ones(3, dtype=getattr(torch, t)) for t in ('uint8', 'int16', 'bool')
    },
    'complex': lambda: torch.randn(3, dtype=torch.complex64),
    'views of one storage': lambda: (
        [a := torch.randn(4, 6), a.t(), a[1:, 2], a[:1].expand(9, 6)]
        if sys.version_info >= (3, 8)
        else []
    ),
    'empty': lambda: [torch.empty(0), torch.empty(0, 3), torch.tensor(1.5)],
    'SGD': lambda: training(torch.optim.SGD, momentum=0.9),
    'AdamW': lambda: training(torch.optim.AdamW),
    'RMSprop': lambda: training(torch.optim.RMSprop),
    'EMA': lambda: dict(state_dict=network().state_dict(), ema_state_dict=network().state_dict()),
    'arguments of a script': lambda: dict(
        model=network().state_dict(), args=argparse.Namespace(lr=0.1)
    ),
    'NumPy': lambda: [np.arange(6.0).reshape(2, 3).T, np.float64(2), np.int64(3), np.bool_(True)],
    'NumPy text and objects': lambda: [np.array(['a', 'bc']), np.array([None, 'x'], dtype=object)],
    'containers': lambda: [
        *(
            collections.OrderedDict(a=1),
            collections.defaultdict(list, a=[1]),
            {1, 2},
            frozenset('a'),
        ),
        *(collections.Counter('aab'), 1j, b'bytes', bytearray(b'x'), 2**70, PurePosixPath('a/b')),
    ],
    'types of torch': lambda: [torch.Size([2, 3]), torch.device('cpu'), torch.float16],
    'message hub': message_hub,
    'one cycle': one_cycle,
    'published': published,
    'torchvision': torchvision_weights,
    'timm': timm_weights,
    'ResNet-18 of ours': lambda: of_ours(
        'ResNetSCSA', dict(depth=18, stem_channels=8, base_channels=8)
    ),
    'MobileNetV2 of ours': lambda: of_ours('MobileNetV2SCSA', dict(widen_factor=0.25)),
}


def assert_same(read, written):
    if isinstance(written, torch.Tensor):
        assert type(read) is type(written) and read.dtype == written.dtype
        assert read.requires_grad == written.requires_grad and read.stride() == written.stride()
        assert torch.equal(read, written)
    elif isinstance(written, np.ndarray):
        assert read.dtype == written.dtype and np.array_equal(read, written)
    elif isinstance(written, dict):
        assert type(read) is type(written) and list(read) == list(written)
        for key in written:
            assert_same(read[key], written[key])
    elif isinstance(written, (list, tuple)):
        assert type(read) is type(written) and len(read) == len(written)
        for one, other in zip(read, written):
            assert_same(one, other)
    elif (
        hasattr(written, '__dict__')
        and not callable(written)
        and not isinstance(written, PurePosixPath)
    ):
        assert type(read) is type(written)
        assert_same(vars(read), vars(written))
    else:
        assert read == written


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'old format'])
@pytest.mark.parametrize('kind', HONEST)
def test_honest_files_are_read(kind, zipped, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(HONEST[kind](), path, _use_new_zipfile_serialization=zipped)
    written = torch.load(path, weights_only=False)  # some classes leave out a part when pickled
    assert_same(load(path), written)
    assert_same(load(path, 'cpu'), written)


def test_tensors_that_share_a_storage_go_on_sharing_it(tmp_path):
    whole = torch.zeros(4)
    torch.save([whole, whole[2:]], tmp_path / 'a.pth')
    first, second = load(tmp_path / 'a.pth')
    first[3] = 5
    assert second[1] == 5


def test_a_location_may_be_a_function_or_a_table(tmp_path):
    torch.save(torch.ones(2), tmp_path / 'a.pth')
    seen = []
    load(tmp_path / 'a.pth', lambda storage, place: seen.append(place))
    assert seen == ['cpu'] and load(tmp_path / 'a.pth', {'cpu': 'meta'}).device.type == 'meta'


def test_a_name_that_is_not_on_the_list_is_named(tmp_path):
    archive(tmp_path / 'a.pth', named('posix', 'listdir', '/') + b'.')
    with pytest.raises(RefusedCheckpoint, match=r'a\.pth.*posix\.listdir.*SCSA_TRUST_CHECKPOINT=1'):
        load(tmp_path / 'a.pth')


def test_what_is_on_the_list_exists():
    """A class that moved would be refused for ever, or import what it should not."""
    pytest.importorskip('mmengine', reason='some of the classes are its')
    from scsa.engine.safe_load import ATTRIBUTES, CLASSES

    reader = Unpickler(io.BytesIO())
    for name in CLASSES:
        module, _, attribute = name.rpartition('.')
        assert isinstance(reader.find_class(module, attribute), type)
        assert all(
            hasattr(reader.find_class(module, attribute), n) for n in ATTRIBUTES.get(name, ())
        )


# Damage.


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    pytest.importorskip('mmengine', reason='the checkpoint holds a message hub')
    path = tmp_path_factory.mktemp('whole') / 'epoch_3.pth'
    torch.save(published(), path)
    return path


def ranges(path):
    """Where directory, pickle and tensors of a checkpoint lie in its file."""
    found = dict(tensors=[], pickle=[])
    content = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        for part in file.infolist():
            # The header in the file is padded, so that tensors are aligned.
            lengths = struct.unpack_from('<HH', content, part.header_offset + 26)
            begin = part.header_offset + 30 + sum(lengths)
            kind = 'tensors' if '/data/' in part.filename else 'pickle'
            if kind == 'tensors' or part.filename.endswith('.pkl'):
                found[kind] += range(begin, begin + part.file_size)
        found['directory'] = range(file.start_dir, path.stat().st_size)
    return found


DAMAGE = ['truncated'] * 50 + ['directory'] * 40 + ['pickle'] * 40 + ['tensors'] * 40
DAMAGE += ['zero tail'] * 20 + ['wrong file'] * 10


def damaged(kind, content, places, random):
    content = bytearray(content)
    if kind == 'truncated':
        return content[: random.integers(len(content))]
    if kind == 'zero tail':
        begin = random.integers(len(content))
        return content[:begin] + bytes(len(content) - begin)
    if kind == 'wrong file':
        others = (
            b'',
            b'\x89PNG\r\n\x1a\n' + bytes(64),
            b'{"a": 1}',
            b'<html>404</html>',
            bytes(4096),
        )
        return bytearray(others[random.integers(len(others))])
    where = random.choice(places[kind])
    content[where] ^= 1 << random.integers(8)
    return content


def test_200_damaged_files_are_refused_or_read_as_they_were(whole, tmp_path):
    random, places = np.random.default_rng(0), ranges(whole)
    content, written = whole.read_bytes(), load(whole)
    refused = collections.Counter()
    for i, kind in enumerate(DAMAGE):
        path = tmp_path / f'{i}.pth'
        path.write_bytes(damaged(kind, content, places, random))
        try:
            assert_same(load(path), written)
        except RefusedCheckpoint as error:
            assert str(path) in str(error) and '\n' not in str(error)
            refused[kind] += 1
        path.unlink()
    assert refused['tensors'] == 40 and refused['pickle'] == 40 and refused['truncated'] == 50
