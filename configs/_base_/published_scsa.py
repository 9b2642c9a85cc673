# The published settings of the module, the same in every published config but for the dropout.
_base_ = './scsa.py'

scsa_cfg = dict(
    head_num=1,
    window_size=7,
    group_kernel_sizes=(3, 5, 7, 9),
    down_sample_mode='avg_pool',
    attn_drop_ratio=0.0,
    gate_layer='sigmoid',
)
