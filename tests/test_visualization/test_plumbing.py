"""What the tools of tools/visualization share: models, images, layers, output."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tools_helpers import save_checkpoint

pytest.importorskip('mmpretrain')
from scsa.cli import UserError
from scsa.visualization import layers, output
from scsa.visualization.images import Images, find_images, read_image
from scsa.visualization.models import load, load_models, parse

TASKS = ['classification', 'detection', 'segmentation']


@pytest.mark.parametrize('task', TASKS)
def test_a_model_takes_an_image_and_shows_what_it_takes(task, loaded):
    model = loaded(task)
    image = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)
    image = image if task == 'classification' else image.repeat(3, 0).repeat(3, 1)[:160, :160]
    inputs, samples = model.prepare(image)
    assert model.task == task and inputs.shape == (1, 3, *image.shape[:2]) and len(samples) == 1
    np.testing.assert_array_equal(model.picture(inputs), image)
    assert model.class_name(3) == ('2' if task == 'segmentation' else '3')
    ends = layers.stage_ends(model.model)
    assert ends == [f'backbone.layer{i}.1' for i in (1, 2, 3, 4)]
    with layers.MapRecorder(model.model, ends) as maps, torch.no_grad():
        model.model.extract_feat(inputs)
    side = image.shape[0]
    assert [maps[end].shape[2] for end in ends] == [-(-side // s) for s in (4, 8, 16, 32)]


@pytest.mark.parametrize(
    ('spec', 'line'),
    [
        ('SCSA', 'give --model NAME=CONFIG,CHECKPOINT'),
        ('=config.py,a.pth', 'give --model NAME=CONFIG,CHECKPOINT'),
        ('SCSA=config.py', 'names no checkpoint; give --model NAME=CONFIG,CHECKPOINT'),
    ],
)
def test_a_spec_that_lacks_a_part(spec, line):
    with pytest.raises(UserError, match=line):
        parse(spec)


def test_two_models_of_one_name():
    with pytest.raises(UserError, match="two models are called 'a'"):
        load_models(['a=x.py,x.pth', 'a=y.py,y.pth'])


def test_what_cannot_be_loaded(tmp_path, spec):
    config, checkpoint = parse(spec('classification'))[1:]
    with pytest.raises(UserError, match=r'config not found: none\.py'):
        load('m', 'none.py', checkpoint)
    with pytest.raises(UserError, match=r'checkpoint not found: none\.pth'):
        load('m', config, 'none.pth')
    broken = tmp_path / 'broken.pth'
    broken.write_text('x')
    with pytest.raises(UserError, match=r'broken\.pth'):
        load('m', config, str(broken))
    plain = tmp_path / 'plain.pth'
    save_checkpoint('configs/quickstart/resnet18_digits.py', plain, None)
    with pytest.raises(UserError, match=r'is not of config .*: it lacks 136 of 258 entries, first'):
        load('m', config, str(plain))
    unscoped = tmp_path / 'unscoped.py'
    unscoped.write_text("model = dict(type='ImageClassifier')")
    with pytest.raises(UserError, match='default_scope=None'):
        load('m', str(unscoped), checkpoint)


def test_images_of_a_file_a_folder_and_a_glob(images, tmp_path):
    names = ['broken.png', 'colour.jpg', 'grey.png', 'with_alpha.webp']
    assert [path.name for path in find_images(images)] == names
    assert [path.name for path in find_images(f'{images}/*.png')] == ['broken.png', 'grey.png']
    assert find_images(images / 'notes.txt') == [images / 'notes.txt']
    with pytest.raises(UserError, match='no image found'):
        find_images('nowhere/*.png')
    assert [path.name for path in Images(images, limit=2).paths] == ['broken.png', 'grey.png']
    (tmp_path / 'inner').mkdir()
    for place in ('inner/b.png', 'a.png'):  # a folder holds what its folders hold
        shutil.copy(images / 'grey.png', tmp_path / place)
    assert find_images(tmp_path) == [tmp_path / 'a.png', tmp_path / 'inner/b.png']


def test_what_cannot_be_read_is_named_skipped_and_counted(images, capsys):
    source = Images(images)
    shapes = {path.name: image.shape for path, image in source}
    assert shapes == {
        'colour.jpg': (64, 96, 3), 'grey.png': (56, 56, 3), 'with_alpha.webp': (80, 40, 3)
    }  # fmt: skip
    assert 'broken.png: ' in capsys.readouterr().out
    assert source.summary() == '3 images, 1 skipped'
    alone = Images(images / 'notes.txt')
    assert list(alone) == []
    with pytest.raises(UserError, match='none of 1 images could be read'):
        alone.summary()


def damaged(png):
    """PNGs that are damaged behind their header, where each decoder has an error of its own."""
    data = png.index(b'IDAT')
    yield png[:data] + b'I?AT' + png[data + 4 :]  # no such kind of chunk
    yield png[: data + 4] + bytes(16) + png[data + 20 :]  # no packed pixels
    yield png[: data - 4] + b'\xff' * 4 + png[data:]  # longer than the file
    yield png[: data - 4] + (99).to_bytes(4, 'big') + png[data:]  # ends among the pixels


@pytest.mark.parametrize('number', range(4))
def test_a_damaged_png_is_an_unreadable_image(number, images, tmp_path, capsys):
    png = list(damaged((images / 'grey.png').read_bytes()))[number]
    (tmp_path / 'damaged.png').write_bytes(png)
    with pytest.raises(OSError):
        read_image(tmp_path / 'damaged.png')
    source = Images(tmp_path)
    assert list(source) == [] and len(source.skipped) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r'skipped .*damaged\.png: \S.*', line)


@pytest.mark.parametrize('raised', [SyntaxError('broken PNG file'), ValueError('a\nb'), EOFError()])
def test_whatever_a_decoder_raises_is_one_line(raised, images, monkeypatch, capsys):
    """Of what is damaged some versions of Pillow raise other errors than others."""

    def load(self):
        raise raised

    monkeypatch.setattr('PIL.ImageFile.ImageFile.load', load)
    assert list(Images(images / 'grey.png')) == []
    (line,) = capsys.readouterr().out.splitlines()
    why = ' '.join(str(raised).split()) or 'EOFError'
    assert line.startswith('skipped ') and line.endswith(f'grey.png: {why}')


def test_an_image_is_read_as_the_pipelines_do(tmp_path):
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = 200
    Image.fromarray(red).save(tmp_path / 'red.png')
    np.testing.assert_array_equal(read_image(tmp_path / 'red.png'), red)
    wide = Image.fromarray(np.full((4, 6), 40000, np.uint16))
    wide.save(tmp_path / 'wide.png')  # 16 bits: OpenCV keeps the upper 8, Pillow would clip
    assert read_image(tmp_path / 'wide.png').max() == 40000 // 256
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    Image.fromarray(red).save(tmp_path / 'turned.jpg', exif=exif)
    assert read_image(tmp_path / 'turned.jpg').shape == (6, 4, 3)


def test_a_layer_by_a_wrong_name_is_answered_with_the_nearest(loaded):
    model = loaded('classification').model
    assert layers.find_layer(model, 'backbone.layer4.1') is model.backbone.layer4[1]
    with pytest.raises(UserError, match=r"'layer4.1'; near it: backbone\.layer4\.1"):
        layers.find_layer(model, 'layer4.1')
    with pytest.raises(UserError, match=r'near it: .*backbone\.layer4\.1'):
        layers.find_layer(model, 'backbone.layr4.1')


@pytest.mark.parametrize(
    ('backbone', 'expected'),
    [
        (dict(type='mmpretrain.MobileNetV2'), ['layer1.0', 'layer2.1', 'layer7.0']),
        (dict(type='MobileNetV2SCSA'), ['layer1.0', 'layer2.1', 'layer7.0']),
        (dict(type='mmpretrain.ResNet', depth=50), ['layer1.2', 'layer2.3', 'layer4.2']),
        (
            dict(type='mmpretrain.SwinTransformer', arch='tiny', img_size=64),
            ['stages.0.blocks.1', 'stages.1.blocks.1', 'stages.3.blocks.1'],
        ),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
def test_the_ends_of_the_stages(backbone, expected):
    from mmengine.registry import MODELS

    backbone = MODELS.build(backbone)
    ends = layers.stage_ends(backbone)
    assert [ends[0], ends[1], ends[-1]] == expected


def test_tokens_are_laid_out_as_a_map():
    from mmengine.registry import MODELS

    torch.manual_seed(0)
    config = dict(type='mmpretrain.SwinTransformer', arch='tiny', img_size=64, pad_small_map=True)
    swin = MODELS.build(dict(config, out_indices=(3,)))
    swin.eval()
    end = layers.stage_ends(swin)[-1]
    with layers.MapRecorder(swin, [end]) as maps, torch.no_grad():
        (out,) = swin(torch.randn(2, 3, 64, 160))
    x = maps[end].permute(0, 2, 3, 1)
    assert x.shape == (2, 2, 5, 768)
    torch.testing.assert_close(swin.norm3(x).permute(0, 3, 1, 2), out)


def test_what_gives_no_map_is_refused():
    linear = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with layers.MapRecorder(linear, ['0']), pytest.raises(UserError, match='no feature map'):
        linear(torch.zeros(1, 4))
    with pytest.raises(UserError, match='Sequential end is not known; give --layer'):
        layers.stage_ends(linear)


def test_pictures_and_numbers(tmp_path):
    figure = output.plt.figure()
    paths = output.save_figure(figure, tmp_path / 'a' / 'x.1', ['png', 'svg'])
    assert [path.name for path in paths] == ['x.1.png', 'x.1.svg']
    assert all(path.stat().st_size for path in paths)
    output.save_arrays(tmp_path / 'x.npz', field=np.arange(3))
    assert np.load(tmp_path / 'x.npz')['field'].tolist() == [0, 1, 2]
    output.save_json(tmp_path / 'x.json', {'a': np.float32(0.5), 'b': np.arange(2)})
    assert json.loads((tmp_path / 'x.json').read_text()) == {'a': 0.5, 'b': [0, 1]}
