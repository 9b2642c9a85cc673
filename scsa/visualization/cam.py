"""Class activation maps, by the grad-cam library, for models of all three tasks."""

from __future__ import annotations

import copy
from typing import Callable, NamedTuple

import numpy as np
import torch
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, LayerCAM, XGradCAM
from torch import Tensor, nn

from ..cli import UserError
from .layers import find_layer, stage_ends, to_map
from .models import LoadedModel

METHODS = {
    'gradcam': GradCAM,
    'gradcam++': GradCAMPlusPlus,
    'xgradcam': XGradCAM,
    'layercam': LayerCAM,
}
BACKGROUND = 'background'


class NothingFound(UserError):
    """The model finds nothing in this image, or nothing of the class that is asked about."""


class ActivationMap(NamedTuple):
    """What a class activation map shows.

    Attributes:
        heat: (H, W) float32 over the network's input, 0 to 1: smallest to largest value of this
            map. All 0 where nothing speaks for the class.
        picture: (H, W, 3) uint8, RGB, the network's input.
        label: The class that was asked about.
        name: Its name.
        score: Its probability; of a box its score; of a class mask the mean probability inside.
        region: What was asked about: None for a whole image, a box (x1, y1, x2, y2) in pixels of
            the input, or a mask (H, W) bool.
        layer: The name of the layer.
    """

    heat: np.ndarray
    picture: np.ndarray
    label: int
    name: str
    score: float
    region: np.ndarray | None
    layer: str


def explain(
    model: LoadedModel,
    image: np.ndarray,
    layer: str | None = None,
    category: str | None = None,
    method: str = 'gradcam',
) -> ActivationMap:
    """The class activation map of an image.

    What is differentiated is the score of the class before the softmax (classification), the score
    of the best box (detection), or the mean score of a class before the softmax over the pixels
    that are given to it (segmentation).

    Args:
        model: For any of the three tasks.
        image: (height, width, 3) uint8, RGB.
        layer: Name of a layer that gives a map or tokens; the last block of the last stage if None.
        category: Name or number of a class. If None, what the model finds: the predicted class; the
            box with the highest score; the class with most pixels but the background.
        method: One of ``METHODS``.

    Raises:
        NothingFound: see there.
        UserError: There is no such layer or class; see :func:`activation_map` too.
    """
    layer = layer or stage_ends(model.model)[-1]
    label = None if category is None else find_class(model, category)
    inputs, samples = model.prepare(image)
    question = {'classification': Whole, 'detection': Box, 'segmentation': Mask}[model.task]
    with torch.no_grad():
        asked = question(model, inputs, samples, label)
    heat = activation_map(asked, inputs, find_layer(model.model, layer), layer, method)
    height, width = asked.size(inputs)  # what is padded is no part of the image
    name = model.class_name(asked.label)
    picture = model.picture(inputs)[:height, :width]
    return ActivationMap(
        heat[:height, :width], picture, asked.label, name, asked.score, asked.region, layer
    )


def activation_map(
    score: nn.Module, inputs: Tensor, layer: nn.Module, name: str, method: str = 'gradcam'
) -> np.ndarray:
    """The class activation map of a score.

    Args:
        score: Gives the score (1,) of inputs (1, 3, H, W).
        inputs: (1, 3, H, W).
        layer: A layer that gives a map (1, C, h, w) or tokens.
        name: Its name, for errors.
        method: One of ``METHODS``.

    Returns:
        (H, W) float32, 0 to 1.

    Raises:
        UserError: The layer gives no map, or the score does not depend on it.
    """
    seen = []  # how high and wide the tokens of Swin are stands in what the layer is given
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given))
    reshape = _reshape(seen, name)
    cam = METHODS[method](model=score, target_layers=[layer], reshape_transform=reshape)
    try:
        # With a gradient of its own, for a backbone may be frozen. No `with cam`: it hides errors.
        inputs = inputs.detach().clone().requires_grad_()
        return cam(inputs, targets=[lambda output: output])[0].astype(np.float32)
    except (AttributeError, IndexError, TypeError) as error:  # what grad-cam stumbles over then
        if cam.activations_and_grads.gradients:
            raise
        raise UserError(
            f'the score does not depend on one map of layer {name!r}; give another --layer'
        ) from error
    finally:
        cam.activations_and_grads.release()
        handle.remove()
        score.zero_grad(set_to_none=True)


def _reshape(seen: list[tuple], name: str) -> Callable[[Tensor], Tensor]:
    return lambda output: to_map(output, seen[-1], name)


def find_class(model: LoadedModel, category: str) -> int:
    """The number of a class, given by its name or number.

    Raises:
        UserError: There is none.
    """
    names = model.classes or []
    if category in names:
        return names.index(category)
    if category.isdecimal() and (not names or int(category) < len(names)):
        return int(category)
    raise UserError(
        f'{model.name} has no class {category!r}; give a number from 0 to {len(names) - 1}, '
        f'or a name: {", ".join(names[:12])}{" …" if len(names) > 12 else ""}'
    )


class Question(nn.Module):
    """A score of a model for an image, as a function of the input, chosen by its prediction.

    Args:
        model: The model.
        inputs: (1, 3, H, W).
        samples: The data sample of the image.
        label: The class to ask about; None for what the model finds.

    Attributes:
        label: The class.
        score: Its score, for people.
        region: See :class:`ActivationMap`.
    """

    def __init__(
        self, model: LoadedModel, inputs: Tensor, samples: list, label: int | None
    ) -> None:
        super().__init__()
        self.network, self.samples, self.region = model.model, samples, None
        self.label, self.score = self.choose(inputs, label, model)

    def choose(self, inputs: Tensor, label: int | None, model: LoadedModel) -> tuple[int, float]:
        """The class and its score."""
        raise NotImplementedError

    def size(self, inputs: Tensor) -> tuple[int, int]:
        """Height and width of the image in the input, which may be padded."""
        height, width = self.samples[0].metainfo.get('img_shape', inputs.shape[2:])[:2]
        return min(height, inputs.size(2)), min(width, inputs.size(3))


class Whole(Question):
    """The score of a class for the whole image, of mmpretrain."""

    def choose(self, inputs: Tensor, label: int | None, model: LoadedModel) -> tuple[int, float]:
        probabilities = self.logits(inputs).softmax(0)
        label = int(probabilities.argmax()) if label is None else label
        return label, float(probabilities[label])

    def size(self, inputs: Tensor) -> tuple[int, int]:
        return inputs.size(2), inputs.size(3)  # nothing is padded

    def logits(self, inputs: Tensor) -> Tensor:
        scores = self.network(inputs, mode='tensor')
        return (scores[-1] if isinstance(scores, (tuple, list)) else scores)[0]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits(inputs)[self.label : self.label + 1]


class Box(Question):
    """The score of a box, of mmdet: the best one of the class, or of all."""

    def choose(self, inputs: Tensor, label: int | None, model: LoadedModel) -> tuple[int, float]:
        found = self.boxes(inputs)
        mine = range(len(found)) if label is None else (found.labels == label).nonzero()[:, 0]
        if len(mine) == 0:
            what = 'nothing' if label is None else f'no {model.class_name(label)!r}'
            raise NothingFound(f'{model.name} finds {what} in this image')
        best = int(max(mine, key=lambda i: float(found.scores[i])))
        self.region = found.bboxes[best].cpu().numpy()
        return int(found.labels[best]), float(found.scores[best])

    def boxes(self, inputs: Tensor):
        """What is found, in pixels of the input; it is written into the samples: into copies."""
        found = self.network.predict(inputs, copy.deepcopy(self.samples), rescale=False)
        return found[0].pred_instances

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.boxes(inputs)  # with gradients equal scores may stand in another order
        far = (found.bboxes.detach() - found.bboxes.new_tensor(self.region)).abs().sum(1)
        far[found.labels != self.label] = float('inf')
        return found.scores[far.argmin()][None]


class Mask(Question):
    """The mean score of a class over the pixels that mmseg's model gives to it."""

    def choose(self, inputs: Tensor, label: int | None, model: LoadedModel) -> tuple[int, float]:
        logits = self.logits(inputs)
        found = logits.argmax(0)
        if label is None:
            pixels = found.flatten().bincount(minlength=len(logits))
            for number in range(len(logits)):
                if model.class_name(number) == BACKGROUND and pixels.sum() > pixels[number]:
                    pixels[number] = 0
            label = int(pixels.argmax())
        self.inside = found == label
        if not self.inside.any():
            raise NothingFound(f'{model.name} finds no {model.class_name(label)!r} in this image')
        height, width = self.size(inputs)
        mask = nn.functional.interpolate(self.inside[None, None].float(), inputs.shape[2:])
        self.region = mask[0, 0, :height, :width].cpu().numpy() > 0
        return label, float(logits.softmax(0)[label][self.inside].mean())

    def logits(self, inputs: Tensor) -> Tensor:
        return self.network(inputs, self.samples, mode='tensor')[0]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits(inputs)[self.label][self.inside].mean()[None]
