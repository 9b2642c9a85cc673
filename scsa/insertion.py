"""Put an attention into a built model of timm, torchvision or your own; needs torch alone."""

from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from .attention import SCSA

Layers = Union[str, type, Sequence[Union[str, type]]]

# Where the attention goes in a block: `before` or `after` one of its layers. Published for ResNet
# and MobileNetV2: where spatial mixing is done and channel mixing is not yet. The others are our
# reading of that. A block without the layer has no such place and is left alone.
PLACES = {
    'torchvision.models.resnet.BasicBlock': ('before', 'conv2'),
    'torchvision.models.resnet.Bottleneck': ('before', 'conv3'),
    'torchvision.models.mobilenetv2.InvertedResidual': ('before', 'conv.-2'),
    'torchvision.models.mobilenetv3.InvertedResidual': ('before', 'block.-1.0'),
    'torchvision.models.efficientnet.MBConv': ('before', 'block.-1.0'),
    'torchvision.models.efficientnet.FusedMBConv': ('before', 'block.1.0'),
    'torchvision.models.convnext.CNBlock': ('after', 'block.0'),
    'timm.models.resnet.BasicBlock': ('before', 'conv2'),
    'timm.models.resnet.Bottleneck': ('before', 'conv3'),
    'timm.models._efficientnet_blocks.DepthwiseSeparableConv': ('before', 'conv_pw'),
    'timm.models._efficientnet_blocks.InvertedResidual': ('before', 'conv_pwl'),
    'timm.models._efficientnet_blocks.EdgeResidual': ('before', 'conv_pwl'),
    'timm.models.convnext.ConvNeXtBlock': ('after', 'conv_dw'),
}


class Inserted(nn.Sequential):
    """A layer of a model and the attention before or after it, called ``layer`` and ``attn``."""

    def __init__(self, layer: nn.Module, attn: nn.Module, side: str) -> None:
        super().__init__()
        children = dict(layer=layer, attn=attn)
        for name in ('attn', 'layer') if side == 'before' else ('layer', 'attn'):
            self.add_module(name, children[name])


def insert(
    model: nn.Module,
    after: Optional[Layers] = None,
    attn: Callable[..., nn.Module] = SCSA,
    *,
    before: Optional[Layers] = None,
    example: Optional[Tensor] = None,
    **cfg: Any,
) -> nn.Module:
    """Put an attention before or after chosen layers of a built model, in place.

    Without ``after`` and ``before`` it goes into every block of timm's and torchvision's ResNets,
    MobileNetV2 and V3, EfficientNets and ConvNeXts: in ResNet and MobileNetV2 to its published
    place, in the others to our reading of it (:data:`PLACES`)::

        model = scsa.insert(torchvision.models.resnet50(weights='DEFAULT'))
        model = scsa.insert(model, after='layer4.*.bn2', window_size=-1)

    The weights of the model are not touched. Those of a layer are then called ``….layer.weight``,
    those of its attention ``….attn.…``; see :func:`published_keys`. Load plain weights before, and
    make the optimizer after it. :func:`remove` undoes it.

    Args:
        model: Any module; its chosen layers must give (``after``) or take (``before``) one map
            (B, C, H, W).
        after: Which layers: a name as in ``model.named_modules()``, with ``*`` and ``?`` for many
            (``*`` matches dots too); a class of modules; or a sequence of these.
        attn: What is built at each, as ``attn(C, **cfg)``: a class or a function.
        before: As ``after``. The better choice where a model calls one ReLU several times, as
            torchvision's ResNet does: ``before='layer1.*.conv3'``.
        example: An input of the model for a dry run, which finds C where the layer is neither a
            convolution nor a batch norm; by default zeros (1, C, 64, 64).
        **cfg: The other arguments of ``attn``.

    Returns:
        The same model. The attentions have the device, type and mode of their layers.

    Raises:
        ValueError: if no layer is found, if one has an attention already, or if its channels
            cannot be found or do not suit the attention. The model is then as before.
    """
    if after is None and before is None:
        places = _preset(model)
    else:
        places = [*_matching(model, after, 'after'), *_matching(model, before, 'before')]
    names = [name for name, _ in places]
    twice = [name for name in names if names.count(name) > 1]
    taken = [name for name in names if isinstance(model.get_submodule(name), Inserted)]
    if taken or twice:
        raise ValueError(
            f'{(taken or twice)[0]} takes one attention and would get a second; '
            'call scsa.remove(model) first, or choose other layers'
        )
    built = []
    for (name, side), channels in zip(places, _channels(model, places, example)):
        layer = model.get_submodule(name)
        try:
            module = attn(channels, **cfg)
        except ValueError as error:
            raise ValueError(f'{side} {name} ({channels} channels): {error}') from error
        like = next(layer.parameters(), next(model.parameters(), torch.empty(0)))
        module.to(like.device, like.dtype).train(layer.training)
        built.append(Inserted(layer, module, side))
        built[-1].training = layer.training  # and not .train(), for some of its parts may be frozen
    for name, module in zip(names, built):
        _replace(model, name, module)
    return model


def remove(model: nn.Module) -> nn.Module:
    """Take out, in place, every attention that :func:`insert` put in.

    Returns:
        The same model: layers, names and weights are those before :func:`insert`, trained or not.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, Inserted):
            _replace(model, name, module.layer)
    return model


def published_keys(model: nn.Module) -> Dict[str, str]:
    """How the keys of a model's ``state_dict`` are called without :class:`Inserted`.

    ``layer1.0.conv3.layer.weight`` is the plain ``layer1.0.conv3.weight``, and
    ``layer1.0.conv3.attn.q.weight`` becomes ``layer1.0.attn.q.weight``. So timm's and torchvision's
    ResNets have the keys of the published ``ResNetSCSA``, and a classifier beside them. Both ways::

        names = scsa.published_keys(model)
        published = {names[key]: value for key, value in model.state_dict().items()}
        model.load_state_dict({key: published[name] for key, name in names.items()})

    Raises:
        ValueError: if two attentions of one block would get the same name.
    """
    places = [name for name, module in model.named_modules() if isinstance(module, Inserted)]
    names = {}
    for key in model.state_dict():
        place = next((place for place in places if key.startswith(f'{place}.')), None)
        names[key] = key
        if place is not None:
            child, rest = key[len(place) + 1 :].split('.', 1)
            parent = place.rpartition('.')[0]
            new = f'{place}.{rest}' if child == 'layer' else f'{parent}.attn.{rest}'
            names[key] = new.lstrip('.')
    if len(set(names.values())) < len(names):
        raise ValueError(
            'a block has two attentions, and published names are for one; use the keys of '
            'model.state_dict() as they are'
        )
    return names


def _preset(model: nn.Module) -> List[Tuple[str, str]]:
    """(name of a layer, side) of every block whose place is known."""
    places = []
    for name, block in model.named_modules():
        side, path = PLACES.get(f'{type(block).__module__}.{type(block).__name__}', (None, ''))
        for part in path.split('.'):
            layers = list(block._modules)
            if part.startswith('-'):  # an index from the end
                part = layers[int(part)]
            if part not in layers:
                break
            name, block = f'{name}.{part}'.lstrip('.'), block._modules[part]
        else:
            places.append((name, side))
    if not places:
        raise ValueError(
            f'{type(model).__name__} has no block whose place for SCSA is known (those of '
            "timm's and torchvision's ResNet, MobileNetV2, MobileNetV3, EfficientNet and ConvNeXt);"
            " choose layers: after='NAME' or before='NAME', see model.named_modules()"
        )
    return places


def _matching(model: nn.Module, layers: Optional[Layers], side: str) -> List[Tuple[str, str]]:
    """(name, side) of every layer that is asked for, in the order of the model."""
    if layers is None:
        return []
    wanted = [layers] if isinstance(layers, (str, type)) else list(layers)
    places, inside = [], 'no name'
    for name, module in model.named_modules():
        if not name or name.startswith(inside):
            continue
        if isinstance(module, Inserted):
            inside = f'{name}.'
        if any(
            isinstance(module, w) if isinstance(w, type) else fnmatchcase(name, w) for w in wanted
        ):
            places.append((name, side))
    if not places:
        some = [name for name, _ in model.named_modules() if name][-3:]
        raise ValueError(
            f'{side}={layers!r} is no layer of {type(model).__name__}, whose layers are '
            f'called {", ".join(some)}, …; see model.named_modules()'
        )
    return places


def _channels(
    model: nn.Module, places: List[Tuple[str, str]], example: Optional[Tensor]
) -> List[int]:
    """The number of channels at each place."""
    known = {}
    for name, side in places:
        layer = model.get_submodule(name)
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            known[name] = layer.in_channels if side == 'before' else layer.out_channels
        elif isinstance(layer, nn.BatchNorm2d):
            known[name] = layer.num_features
    unknown = {name: side for name, side in places if name not in known}
    if unknown:
        known.update(_dry_run(model, unknown, example))
    return [known[name] for name, _ in places]


def _dry_run(model: nn.Module, sides: Dict[str, str], example: Optional[Tensor]) -> Dict[str, int]:
    """The channels of the maps that layers give or take, found by running the model once."""
    if example is None:
        convs = (m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
        like = next(model.parameters(), torch.empty(0))
        example = like.new_zeros((1, next(convs, 3), 64, 64))
    shapes: Dict[str, set] = {name: set() for name in sides}
    handles, modes = [], {module: module.training for module in model.modules()}
    for name, side in sides.items():

        def note(_, inputs, output, name=name, side=side):
            found = inputs[0] if side == 'before' and inputs else output
            shapes[name].add(found.shape if isinstance(found, Tensor) else type(found).__name__)

        handles.append(model.get_submodule(name).register_forward_hook(note))
    try:
        with torch.no_grad():
            model.eval()(example)
    except Exception as error:  # a model raises whatever it likes
        raise ValueError(
            f'the dry run with an input of {tuple(example.shape)} failed: {error}; '
            'give example=, an input that the model takes'
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    channels = {}
    for name, found in shapes.items():
        maps = {s[1] for s in found if isinstance(s, torch.Size) and len(s) == 4}
        if len(maps) != 1 or not all(isinstance(s, torch.Size) and len(s) == 4 for s in found):
            seen = sorted(str(tuple(s) if isinstance(s, torch.Size) else s) for s in found)
            raise ValueError(
                f'{sides[name]} {name} the dry run saw {" and ".join(seen) or "no call"}; '
                'an attention needs maps (B, C, H, W) of one C, choose another layer'
            )
        channels[name] = maps.pop()
    return channels


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition('.')
    model.get_submodule(parent)._modules[child] = module
