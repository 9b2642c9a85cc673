import os

import torch

# Without a GPU the Triton kernels run through Triton's interpreter. Triton reads this when it is
# first imported, which may be by any test.
if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'
