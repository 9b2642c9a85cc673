"""The features of a data set in the plane by t-SNE, coloured by class."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, Sequence

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ..cli import UserError
from .images import Images

MARKERS = 'os^vD<>Pp*'  # with the colours: classes can be told apart without seeing these
NAMED = 20  # more classes are not named in the picture


def class_images(folder: str | Path, per_class: int | None = None) -> Images:
    """The images of a folder with one folder for each class.

    Args:
        folder: That folder.
        per_class: At most so many of each class, the first by name.

    Raises:
        UserError: if there are fewer than two classes with images.
    """
    folder = Path(folder)
    images = Images(folder)
    by_class: dict[str, list[Path]] = {}
    for path in images.paths if folder.is_dir() else ():
        if path.parent != folder:
            by_class.setdefault(class_of(path, folder), []).append(path)
    if len(by_class) < 2:
        raise UserError(f'{folder} must be a folder with a folder of images for each class')
    images.paths = [path for paths in by_class.values() for path in paths[:per_class]]
    return images


def class_of(path: Path, folder: str | Path) -> str:
    """The class of an image: the name of its folder below that of the data set."""
    return path.relative_to(folder).parts[0]


def embed(features: np.ndarray, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """Lays features out in the plane, by scikit-learn, starting from their two main directions.

    Args:
        features: (N, C).
        perplexity: About how many neighbours of a point count; at most a third of the points.
        seed: Of scikit-learn's random numbers.

    Returns:
        (N, 2). Which points are near says something; how far apart groups are does not.

    Raises:
        UserError: if there are fewer than four points.
    """
    from sklearn.manifold import TSNE

    if len(features) < 4:
        raise UserError(f't-SNE of {len(features)} images shows nothing; give more')
    perplexity = min(perplexity, (len(features) - 1) / 3)
    tsne = TSNE(init='pca', learning_rate='auto', perplexity=perplexity, random_state=seed)
    return tsne.fit_transform(features)


def draw(points: Mapping[str, np.ndarray], labels: Sequence[str]) -> Figure:
    """Draws the points of each model in a panel of its own.

    Args:
        points: By model (N, 2).
        labels: The class of each of the N.
    """
    classes = sorted(set(labels), key=lambda name: (len(name), name))  # 2 before 10
    labels = np.array(labels)
    figure, axes = plt.subplots(
        1, len(points), figsize=(4.6 * len(points), 4.8), squeeze=False, layout='constrained'
    )
    colours = plt.get_cmap('tab10' if len(classes) <= 10 else 'tab20')
    for axis, (name, xy) in zip(axes[0], points.items()):
        for i, one in enumerate(classes):
            mine = xy[labels == one]
            axis.scatter(*mine.T, s=14, marker=MARKERS[i % len(MARKERS)], alpha=0.7, linewidth=0,
                         color=colours(i % colours.N))  # fmt: skip
            if len(classes) <= NAMED:
                top = (np.median(mine[:, 0]), mine[:, 1].max())
                axis.annotate(one, top, (0, 5), textcoords='offset points', ha='center',
                              weight='bold', color=colours(i % colours.N))  # fmt: skip
        axis.margins(0.08)
        axis.set(title=f't-SNE, {name}', xticks=[], yticks=[])
    plt.close(figure)
    return figure
