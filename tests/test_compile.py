"""A small network that is really compiled. It takes a minute of the compiler's, so only on demand:
`COURSEKIT_COMPILE=1 pytest tests/test_compile.py`"""
import os, shutil
import pytest
import torch
from torch import nn
from coursekit.callback.compile import check_compiler  # noqa: F401
from coursekit.callback.fp16 import MixedPrecision
from coursekit.learner import Learner

wanted = 'COURSEKIT_COMPILE' in os.environ
pytestmark = [pytest.mark.skipif(not wanted, reason='COURSEKIT_COMPILE is not set'),
              pytest.mark.skipif(not shutil.which('c++'), reason='there is no C++ compiler here')]

def tiny_learner(path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    batch = torch.randn(4, 6),torch.tensor([0,1,1,0])
    return Learner(([batch],[batch]), net, nn.CrossEntropyLoss(), path=path)

def test_compiled_learns_the_same_and_is_saved_as_usual(tmp_path):
    learn,plain = tiny_learner(tmp_path).compile(),tiny_learner(tmp_path)
    for o in (learn,plain):
        with o.no_logging(): o.fit(2)
    assert (learn.get_preds()[0]-plain.get_preds()[0]).abs().max()<1e-5
    learn.save('compiled')
    assert torch.equal(plain.load('compiled').get_preds()[0], plain.get_preds()[0])
    assert (plain.get_preds()[0]-learn.get_preds()[0]).abs().max()<1e-6
    learn.add_cb(MixedPrecision('bf16'))
    with learn.no_logging(): learn.fit(1)
    assert learn.get_preds()[0].dtype==torch.float32
