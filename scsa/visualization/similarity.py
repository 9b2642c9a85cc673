"""How alike channels of a layer are (SSIM), and layers of one or two networks (CKA).

SSIM is scikit-image's. CKA is written out here: the libraries of it that take features and have the
unbiased estimator (ckatorch 1.0, pytorch-cka 1.1) need Python 3.10, one of them torch 2.3; this
package goes back to Python 3.8 and torch 2.1. The estimator is that of Song et al. 2012, as
Nguyen, Raghu, Kornblith 2021 (arXiv 2010.15327, equations 2 to 4) use it in batches.
"""

from __future__ import annotations

from typing import Iterable, Mapping

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ..cli import UserError

LEAST_IMAGES = 4  # the unbiased estimator divides by n - 3
_FEW = f'CKA needs batches of at least {LEAST_IMAGES} images; give more images or a larger --batch'
NUMBERED = 20  # a matrix of more layers is drawn without its numbers
WINDOW = 7  # of SSIM, scikit-image's default; smaller on smaller maps


def hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741, as the papers call it
    """The unbiased estimate of the Hilbert-Schmidt independence criterion.

    Args:
        k: Gram matrix (n, n) of n images, symmetric, n ≥ 4. Its diagonal does not count.
        l: Likewise, of the same images.
    """
    n = len(k)
    off = 1 - np.eye(n)
    k, l = k * off, l * off  # noqa: E741
    rest = k.sum() * l.sum() / (n - 1) - 2 * (k.sum(0) @ l.sum(0))
    return ((k * l).sum() + rest / (n - 2)) / (n * (n - 3))


def gram(features: np.ndarray) -> np.ndarray:
    """The products of the images' features, (n, …) to (n, n) in float64.

    The mean is taken away first. It does not change :func:`hsic`, but what is rounded.
    """
    x = features.reshape(len(features), -1).astype(np.float64)
    x -= x.mean(0)
    return x @ x.T


def cka(batches: Iterable[Mapping[str, np.ndarray]]) -> tuple[np.ndarray, list[str]]:
    """Linear CKA of every layer with every other, of one network or several, unbiased.

    1 for features that are alike up to a rotation, a shift and one scale; around 0 for independent
    ones, below it as often as above.

    Args:
        batches: The features of at least 4 images each: by layer (n, …). The estimates of
            :func:`hsic` of all batches are added up.

    Returns:
        (layers, layers), symmetric; NaN for a layer that gives the same for all images. And the
        names of the layers.

    Raises:
        UserError: if there is no batch, or one of fewer than 4 images.
    """
    crossed: np.ndarray | float = 0.0
    names: list[str] = []
    for features in batches:
        names = list(features)
        grams = [gram(one) for one in features.values()]
        if len(grams[0]) < LEAST_IMAGES:
            raise UserError(_FEW)
        crossed = crossed + np.array([[hsic(k, l) for l in grams] for k in grams])  # noqa: E741
    if not names:
        raise UserError(_FEW)
    own = np.diag(crossed)
    with np.errstate(divide='ignore', invalid='ignore'):
        return crossed / np.sqrt(np.outer(own, own)), names


def ssim(maps: np.ndarray) -> np.ndarray:
    """The structural similarity of every channel with every other, by scikit-image.

    Args:
        maps: (C, H, W). One range of values, that of all of them, counts for all pairs. The
            window has 7 × 7 pixels, on smaller maps as many as fit.

    Returns:
        (C, C), symmetric, 1 on the diagonal.

    Raises:
        UserError: if the maps are lower or narrower than 3 pixels.
    """
    from skimage.metrics import structural_similarity

    window = _window(maps)
    maps = maps.astype(np.float64)
    span = np.ptp(maps) or 1.0
    found = np.eye(len(maps))
    for i, one in enumerate(maps):
        for j in range(i):
            found[i, j] = found[j, i] = structural_similarity(
                one, maps[j], win_size=window, data_range=span
            )
    return found


def ssim_with_image(picture: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The structural similarity of every channel with the image.

    Args:
        picture: (height, width, 3) uint8, RGB; its grey values are averaged down to the map.
        maps: (C, H, W). Values count from a channel's least to its largest, those of the image
            likewise: what is compared is the pattern.

    Returns:
        (C,).

    Raises:
        UserError: if the maps are lower or narrower than 3 pixels.
    """
    from skimage.color import rgb2gray
    from skimage.metrics import structural_similarity
    from skimage.transform import resize

    window = _window(maps)
    grey = _stretched(resize(rgb2gray(picture), maps.shape[1:], anti_aliasing=True))
    return np.array([
        structural_similarity(grey, _stretched(one), win_size=window, data_range=1.0)
        for one in maps.astype(np.float64)
    ])  # fmt: skip


def _window(maps: np.ndarray) -> int:
    height, width = maps.shape[1:]
    if min(height, width) < 3:
        raise UserError(
            f'SSIM needs maps of at least 3 × 3 pixels, not {height} × {width}; '
            'give larger images or an earlier layer'
        )
    return min(WINDOW, (min(height, width) - 1) // 2 * 2 + 1)


def _stretched(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / (np.ptp(values) or 1.0)


def draw_cka(found: np.ndarray, names: list[str]) -> Figure:
    """Draws what :func:`cka` gave, from 0 to 1, with its numbers if there is room."""
    count = len(names)
    side = 0.42 * count + 2.5  # inches
    figure, axis = plt.subplots(figsize=(side + 0.8, side), layout='compressed')
    shown = axis.imshow(found, cmap='viridis', vmin=0, vmax=1)
    axis.set_xticks(range(count), names, rotation=90)
    axis.set_yticks(range(count), names)
    for i, j in np.ndindex(*found.shape) if count <= NUMBERED else ():
        axis.text(j, i, f'{found[i, j]:.2f}', ha='center', va='center', fontsize=7,
                  color='black' if found[i, j] > 0.6 else 'white')  # fmt: skip
    axis.set_title('linear CKA, unbiased')
    figure.colorbar(shown, ax=axis, fraction=0.046)
    plt.close(figure)
    return figure


def draw_ssim(found: Mapping[str, np.ndarray], with_image: Mapping[str, np.ndarray]) -> Figure:
    """Draws the matrices of :func:`ssim`, and sorted, what :func:`ssim_with_image` gave.

    Args:
        found: By model and layer (C, C).
        with_image: Likewise (C,).
    """
    figure, axes = plt.subplots(
        1, len(found) + 1, figsize=(3.8 * (len(found) + 1), 3.9), layout='constrained'
    )
    for axis, (name, matrix) in zip(axes, found.items()):
        shown = axis.imshow(matrix, cmap='viridis', vmin=min(0, *(m.min() for m in found.values())),
                            vmax=1)  # fmt: skip
        others = matrix[~np.eye(len(matrix), dtype=bool)]
        mean = f'\nmean of pairs {others.mean():.3f}' if len(others) else ''
        axis.set(title=f'{name}{mean}', xlabel='channel', ylabel='channel')
    figure.colorbar(shown, ax=list(axes[:-1]), fraction=0.046, label='SSIM')
    for number, (name, values) in enumerate(with_image.items()):
        style = dict(color=plt.get_cmap('viridis')(number / max(1, len(with_image) - 0.5)),
                     linestyle=('-', '--', ':', '-.')[number % 4])  # fmt: skip
        axes[-1].plot(np.sort(values)[::-1], label=name, **style)
    axes[-1].set(title='with the image', xlabel='channel, the most alike first', ylabel='SSIM')
    axes[-1].grid(alpha=0.3)
    axes[-1].legend(fontsize=8)
    plt.close(figure)
    return figure
