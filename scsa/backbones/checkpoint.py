"""What all three backbones do beyond their mmpretrain parents: load two kinds of checkpoints."""

from typing import Dict, List

from torch import Tensor


class CheckpointMismatch(ValueError):
    """A checkpoint that is neither one of the SCSA backbone nor one of its plain parent."""


class SCSABackbone:
    """Mixin, put before a backbone of mmpretrain, that loads SCSA checkpoints and plain ones.

    A checkpoint either holds the attention's parameters (of SCSA, ours and the published ones: all
    of them) or it is one of the plain backbone (none of them). Anything else is refused with the
    first differences, where mmengine would log a warning and train from wherever that left the
    model.
    """

    def attention_names(self) -> List[str]:
        """Names of the modules that stand in SCSA's places, SCSA or not."""
        raise NotImplementedError

    def is_free(self, key: str) -> bool:
        """Whether a checkpoint of the plain backbone may lack a key or hold it in another shape."""
        return False

    def train(self, mode: bool = True) -> 'SCSABackbone':
        super().train(mode)
        return self  # as nn.Module does; mmpretrain's backbones return None

    def adapt_plain_keys(self, state_dict: Dict[str, Tensor], prefix: str) -> None:
        """Rename, in place, keys of the plain backbone that are called otherwise with SCSA."""

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # Without a key of ours in a checkpoint of a whole model, that is the caller's affair.
        if not prefix or any(key.startswith(prefix) for key in state_dict):
            self.adapt_plain_keys(state_dict, prefix)
            self._check_fit(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _check_fit(self, state_dict: Dict[str, Tensor], prefix: str) -> None:
        own = {key: value.shape for key, value in self.state_dict().items()}
        given = {k[len(prefix) :]: v.shape for k, v in state_dict.items() if k.startswith(prefix)}
        attention = tuple(f'{name}.' for name in self.attention_names())
        plain = not any(key.startswith(attention) for key in given)
        differences = []
        for key, shape in own.items():
            # Torch before 1.0 did not count batches, and nothing here needs it.
            if self.is_free(key) or key.endswith('num_batches_tracked'):
                continue
            if key not in given:
                if not (plain and key.startswith(attention)):
                    differences.append(f'{key} is missing')
            elif given[key] != shape:
                differences.append(f'{key} is {tuple(given[key])} and not {tuple(shape)}')
        # A deeper backbone's checkpoint holds all our keys and more. What is not a stage or a stem
        # of ours (a classifier, a stage left out) is the business of strict loading.
        children = tuple(f'{name}.' for name, _ in self.named_children())
        differences += [
            f'{key} is not in the model'
            for key in given
            if key not in own and key.startswith(children) and not self.is_free(key)
        ]
        if not differences:
            return
        hint = ''
        if not any(key in given for key in own) and any(k.startswith('backbone.') for k in given):
            hint = "; its keys start with 'backbone.': pass prefix='backbone.'"
        raise CheckpointMismatch(
            f'the checkpoint fits neither {type(self).__name__} nor its plain parent: '
            f'{len(differences)} differences, first: {"; ".join(differences[:3])}{hint}'
        )
