"Losses inside a learner: probabilities, answers, and a loss for each item."
import torch
from fastcore.test import test_close as close, test_eq as eq
from torch import nn
from coursekit.core import set_seed
from coursekit.learner import Learner
from coursekit.losses import CrossEntropyLossFlat

def test_a_learner_asks_the_loss_what_outputs_mean():
    set_seed(42)
    x = torch.randn(200,5)
    y = x[:,:3].argmax(1)
    dls = [(x[:150],y[:150])]*20, [(x[150:],y[150:])]
    learn = Learner(dls, nn.Linear(5,3), CrossEntropyLossFlat(), lr=0.05)
    with learn.no_logging(): learn.fit(3)
    preds,targs,dec,losses = learn.get_preds(with_decoded=True, with_loss=True)
    close(preds.sum(1), torch.ones(50), 1e-5)
    eq(dec, preds.argmax(1))
    close(losses, -preds[range(50),targs].log(), 1e-4)
    assert (dec==targs).float().mean()>0.9
