"""Draw docs/images/scsa.png, the module at a glance:  python docs/draw_module.py"""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

OUT = Path(__file__).parent / 'images' / 'scsa.png'
MAP, STRIP, TOKEN, GATE = '#dfe7f3', '#d8efe0', '#fbe8d3', '#f6d9dd'
GROUPS = ('#a9d8bb', '#7fc39b', '#57ab7b', '#33905d')


def box(axis, x, y, width, height, text, color, size=9):
    """A rounded box centred at (x, y)."""
    corner = (x - width / 2, y - height / 2)
    style = 'round,pad=0.02,rounding_size=0.08'
    axis.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc=color, ec='#444'))
    axis.text(x, y, text, ha='center', va='center', fontsize=size, linespacing=1.35)


def arrow(axis, start, end):
    style = dict(arrowstyle='-|>', mutation_scale=12, color='#444', shrinkA=0, shrinkB=0)
    axis.add_patch(FancyArrowPatch(start, end, **style))


def around(axis, start, end, height=3.97):
    """An arrow from the top of one box, over all others, to the top of another."""
    axis.plot([start, start, end, end], [2.78, height, height, 3.2], color='#444', lw=1.2)
    arrow(axis, (end, 3.2), (end, 2.74))


def draw(axis):
    axis.add_patch(FancyBboxPatch((1.55, 0.1), 6.5, 4.5, boxstyle='round,pad=0.02',
                                  fc='#fafafa', ec='#33905d', ls='--'))  # fmt: skip
    axis.add_patch(FancyBboxPatch((8.35, 0.1), 6.1, 4.5, boxstyle='round,pad=0.02',
                                  fc='#fafafa', ec='#c77a2b', ls='--'))  # fmt: skip
    axis.text(1.7, 4.3, 'SMSA  shareable multi-semantic spatial attention', fontsize=10,
              weight='bold', color='#33905d')  # fmt: skip
    axis.text(8.5, 4.3, 'PCSA  progressive channel-wise self-attention', fontsize=10,
              weight='bold', color='#c77a2b')  # fmt: skip

    box(axis, 0.75, 2.3, 1.0, 0.8, 'X\n(B, C, H, W)', MAP)
    box(axis, 2.35, 3.4, 1.1, 0.7, r'mean over W' + '\n(B, C, H)', STRIP)
    box(axis, 2.35, 1.2, 1.1, 0.7, r'mean over H' + '\n(B, C, W)', STRIP)
    arrow(axis, (1.25, 2.5), (1.8, 3.3))
    arrow(axis, (1.25, 2.1), (1.8, 1.3))

    for i, (kernel, color) in enumerate(zip((3, 5, 7, 9), GROUPS)):
        box(axis, 4.1, 3.14 - 0.56 * i, 1.5, 0.44, f'C/4: DWConv1d, k = {kernel}', color, 8)
    axis.text(4.1, 0.78, 'four groups of channels,\nthe same weights for both strips',
              ha='center', va='center', fontsize=7.5, color='#333')  # fmt: skip
    arrow(axis, (2.92, 3.4), (3.33, 2.9))
    arrow(axis, (2.92, 1.2), (3.33, 1.7))

    box(axis, 5.85, 3.4, 1.15, 0.7, 'GroupNorm$_4$\ngate  →  $A_h$', GATE)
    box(axis, 5.85, 1.2, 1.15, 0.7, 'GroupNorm$_4$\ngate  →  $A_w$', GATE)
    arrow(axis, (4.87, 2.9), (5.25, 3.3))
    arrow(axis, (4.87, 1.7), (5.25, 1.3))

    box(axis, 7.35, 2.3, 1.05, 0.9, '$X_s =$\n' + r'$X \cdot A_h \cdot A_w$', MAP)
    arrow(axis, (6.45, 3.3), (6.95, 2.78))
    arrow(axis, (6.45, 1.3), (6.95, 1.82))
    arrow(axis, (7.9, 2.3), (8.55, 2.3))

    box(axis, 9.2, 2.3, 1.25, 0.95, 'pool 7 × 7\n→ N tokens,\nGroupNorm$_1$', TOKEN)
    for i, name in enumerate('qkv'):
        box(axis, 10.55, 3.1 - 0.8 * i, 0.6, 0.5, f'${name}$', TOKEN, 10)
        arrow(axis, (9.85, 2.3), (10.22, 3.1 - 0.8 * i))
    axis.text(10.55, 0.85, 'one scale\na channel', ha='center', fontsize=7.5, color='#333')
    box(axis, 12.1, 2.7, 1.5, 0.75, 'softmax$(qk^T/\\sqrt{d})$\nchannel × channel', GATE, 8.5)
    arrow(axis, (10.88, 3.1), (11.32, 2.85))
    arrow(axis, (10.88, 2.3), (11.32, 2.6))
    box(axis, 12.1, 1.5, 1.5, 0.62, 'mean over tokens,\ngate  →  one a channel', GATE, 8)
    arrow(axis, (12.1, 2.3), (12.1, 1.85))
    arrow(axis, (10.88, 1.5), (11.32, 1.5))
    box(axis, 13.75, 2.3, 0.9, 0.8, '$X_s \\cdot$ gate', MAP)
    arrow(axis, (12.88, 1.5), (13.55, 1.87))
    arrow(axis, (14.23, 2.3), (14.95, 2.3))
    axis.text(14.75, 2.42, 'out', ha='center', fontsize=9)
    around(axis, 0.75, 7.2)
    around(axis, 7.5, 13.75)


def main():
    figure, axis = plt.subplots(figsize=(15.2, 5))
    draw(axis)
    axis.set(xlim=(0.1, 15.1), ylim=(-0.05, 4.9))
    axis.set_aspect('equal')
    axis.axis('off')
    figure.tight_layout(pad=0.2)
    OUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUT, dpi=110)


if __name__ == '__main__':
    main()
