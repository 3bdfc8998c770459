"""Losses and metrics inside a learner: probabilities, answers, a loss for each item, and numbers that do not
depend on how the data was cut into batches"""
import math, warnings
from functools import partial
from types import SimpleNamespace
import numpy as np, pytest, torch, torch.nn.functional as F
from fastcore.test import test_close as close, test_eq as eq
from torch import nn
from coursekit.callback.core import *
from coursekit.callback.tracker import *
from coursekit.core import set_seed
from coursekit.data.load import DataLoader, TensorDataset
from coursekit.errors import error_text
from coursekit.learner import Learner
from coursekit.losses import *
from coursekit.metrics import *

g = torch.Generator().manual_seed(3)
x,y = torch.randn(23,5,generator=g),torch.arange(23)%3
maps,masks = torch.randn(23,4,3,2,generator=g),torch.randint(0,3,(23,3,2),generator=g)
masks[4:8] = masks[9,:2] = 255                          # the border; of four pictures nothing else is known
holes = torch.where(torch.arange(23)%4<2, y, -100)
several = (torch.randn(23,3,generator=g)>0.4).float()
w = torch.tensor([1.,7.,0.3])

def dl(xs, ys, bs, **kw): return DataLoader(TensorDataset(xs,ys), bs=bs, **kw)
def learner(xs, ys, bs, loss_func, metrics=None, **kw):
    torch.manual_seed(1)
    model = nn.Conv2d(4,3,1) if xs.dim()==4 else nn.Linear(5,3)
    loaders = dl(xs, ys, bs, drop_last=True, shuffle=True),dl(xs, ys, bs)
    return Learner(loaders, model, loss_func, metrics=metrics, lr=.01, **kw)
def quiet(learn, *args, **kw):
    with learn.no_logging(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        learn.fit(*args, **kw)
    return [str(o.message) for o in said]
def all_losses(reduction):
    ce = partial(nn.CrossEntropyLoss, reduction=reduction)
    return {
        'plain': (x, y, ce()), 'weighted': (x, y, ce(w)), 'ignored': (x, holes, ce(w)),
        'flat': (x, y, CrossEntropyLossFlat(w, reduction=reduction)),
        'function': (x, y, partial(F.cross_entropy, weight=w, reduction=reduction)),
        'smoothed': (x, y, LabelSmoothingCrossEntropyFlat(weight=w, reduction=reduction)),
        'masks': (maps, masks, ce(w, ignore_index=255)),
        'masks, flat': (maps, masks, CrossEntropyLossFlat(w, axis=1, ignore_index=255, reduction=reduction)),
        'labels': (x, several, BCEWithLogitsLossFlat(pos_weight=w, reduction=reduction)),
        'labels of torch': (x, several, nn.BCEWithLogitsLoss(w, reduction=reduction)),
        'numbers': (x, several, nn.SmoothL1Loss(reduction=reduction))}

@pytest.mark.parametrize('name', all_losses('mean'))
def test_a_loss_does_not_depend_on_the_batch_size(name):
    "Nor on whether the batches are reduced by mean or sum; `validate` on the training data takes all of it"
    xs,ys,f = all_losses('mean')[name]
    whole = f(learner(xs, ys, 23, f).model(xs), ys).item()
    for reduction in ('mean','sum'):
        for bs in (1,3,7,23,99):
            learn = learner(xs, ys, bs, all_losses(reduction)[name][2], AvgMetric(f))
            for ds_idx in ((0,1) if bs<99 else (1,)): close(learn.validate(ds_idx), [whole]*2, 1e-4)
    learn = learner(xs, ys, 7, f, AvgMetric(f))
    learn.recorder.train_metrics = True
    learn.dls[0].drop_last = False
    quiet(learn, 1, 0.)
    close(list(learn.recorder.values[0])[1:4], [whole]*3, 1e-4)

def test_metrics_do_not_depend_on_the_batch_size():
    acc = partial(accuracy, axis=1, ignore_index=255)
    for bs in (1,3,7,23):
        learn = learner(maps, masks, bs, CrossEntropyLossFlat(axis=1, ignore_index=255), [
            acc, partial(foreground_acc, bkg_idx=2), partial(error_rate, axis=1), DiceMulti(ignore_index=255),
            JaccardCoeffMulti(ignore_index=255), Perplexity()])
        got = list(learn.validate())
        if bs==1: want = got
        close(got, want, 1e-5)
    preds = learn.model(maps)
    close(got[1:3], [acc(preds, masks), foreground_acc(preds, masks, bkg_idx=2)], 1e-5)

def test_a_batch_in_which_nothing_counts():
    "It is no step, no row of losses and no `nan`; a whole epoch of them has no loss, and says so"
    class Steps(Callback):
        n = 0
        def after_step(self): self.n += 1
    for f in (nn.CrossEntropyLoss(w, ignore_index=255), CrossEntropyLossFlat(axis=1, ignore_index=255)):
        learn = learner(maps, masks, 2, f, cbs=[TerminateOnNaNCallback(), Steps()])
        learn.dls[0].shuffle = False
        eq(quiet(learn, 1), [])
        eq((learn.steps.n, len(learn.recorder.losses), len(learn.recorder.lrs)), (9,9,9))
        assert all(map(math.isfinite, (*learn.recorder.values[0], *learn.recorder.losses)))
    void = torch.full_like(masks, 255)
    learn = learner(maps, void, 4, f, cbs=[SaveModelCallback()])
    said = quiet(learn, 2)
    eq(len(said), 1)
    assert 'nothing was counted' in said[0] and learn.save_model.last_saved_path is None
    eq(list(learn.recorder.values[-1]), [None,None])
    with warnings.catch_warnings(record=True): eq(list(learn.validate()), [None])

def test_nan_is_said_and_where_it_came_from():
    bad = x.clone()
    bad[10] = math.nan
    learn = learner(bad, several, 4, nn.MSELoss(), [mae,rmse])
    learn.dls[0].dataset.tensors = (x,several)
    said = quiet(learn, 1)
    assert 'It came from 1 of 6 batches, the first is number 2' in said[0] and len(said)==1
    assert all(map(math.isnan, learn.recorder.values[0][1:]))

def test_batches_that_a_callback_leaves_out_are_not_recorded():
    "Of one that it cancels at its loss, because that is not a number, nothing stays in the mean"
    def spoil(self):
        if self.training and self.iter==1: self.learn.xb = (self.xb[0]*math.nan,)
    def pass_over(self):
        if not self.loss.isfinite(): raise CancelBatchException()
    learn = learner(x, y, 4, F.cross_entropy, cbs=Callback(before_batch=spoil, after_loss=pass_over))
    eq(quiet(learn, 2), [])
    eq((len(learn.recorder.losses), len(learn.recorder.lrs), len(learn.recorder.values)), (8,8,2))
    assert all(map(math.isfinite, learn.recorder.losses))

def test_losses_of_items():
    "Of a picture: over the pixels that count; of a class with a weight: its share of the mean"
    f = CrossEntropyLossFlat(axis=1, ignore_index=255)
    learn = learner(maps, masks, 7, f)
    losses = learn.get_preds(with_loss=True)[-1]
    counts = (masks!=255).flatten(1).sum(1)
    close((losses*counts).sum()/counts.sum(), learn.validate()[0], 1e-5)
    eq(losses[4:8], torch.zeros(4))
    learn = learner(x, y, 7, nn.CrossEntropyLoss(w))
    losses = learn.get_preds(with_loss=True)[-1]
    close(losses.sum()/w[y].sum(), learn.validate()[0], 1e-5)

def test_a_learner_asks_the_loss_what_outputs_mean():
    set_seed(42)
    x = torch.randn(200,5)
    y = x[:,:3].argmax(1)
    dls = [(x[:150],y[:150])]*20, [(x[150:],y[150:])]
    class Own(nn.CrossEntropyLoss): pass
    for f in (CrossEntropyLossFlat(), nn.CrossEntropyLoss(), F.cross_entropy, Own(),
              partial(F.cross_entropy, label_smoothing=0.), LabelSmoothingCrossEntropy(eps=0.)):
        learn = Learner(dls, nn.Linear(5,3), f, lr=0.05)
        with learn.no_logging(): learn.fit(3)
        preds,targs,dec,losses = learn.get_preds(with_decoded=True, with_loss=True)
        close(preds.sum(1), torch.ones(50), 1e-5)
        eq(dec, preds.argmax(1))
        close(losses, -preds[range(50),targs].log(), 1e-4)
        assert (dec==targs).float().mean()>0.9
        close(learn.predict(x[150])[2], preds[0], 1e-5)

def test_what_does_not_fit_is_named():
    def text(f, xs=x, ys=y, **kw): return error_text(quiet, learner(xs, ys, 4, f, **kw), 1)
    assert '`weight` is float64' in text(nn.CrossEntropyLoss(w.double()))
    assert '`weight` has 2 numbers, and there are 3 outputs' in text(CrossEntropyLossFlat([1,2]))
    assert '`pos_weight` has 2 numbers' in text(BCEWithLogitsLossFlat(pos_weight=[1,2]), ys=several)
    assert '`weight` is a ndarray' in text(partial(F.cross_entropy, weight=np.ones(3)))
    assert '`ignore_index=255`' in text(CrossEntropyLossFlat(axis=1), maps, masks)
    labels = text(F.binary_cross_entropy_with_logits, ys=several, metrics=accuracy)
    assert '`accuracy_multi`' in labels and '(in the metric `accuracy`)' in labels
    for f in (MSELossFlat, CrossEntropyLossFlat, nn.MSELoss):
        assert f'`{f.__name__}()`' in error_text(learner, x, y, 4, f)
    numbers = Learner((dl(x, x[:,0], 4),)*2, nn.Linear(5,1), nn.MSELoss())
    assert 'predictions of shape [4, 1] and targets of shape [4]' in error_text(quiet, numbers, 1)
    numbers.loss_func,numbers.metrics = MSELossFlat(),lambda p,t: (p-t).abs().mean()
    assert 'spread over each other, as [4, 4]' in error_text(numbers.validate)

def test_two_metrics_of_one_name_have_two_columns():
    learn = learner(x, y, 7, F.cross_entropy, [top_k_accuracy, partial(top_k_accuracy, k=2)])
    quiet(learn, 1)
    eq(list(learn.recorder.metric_names)[3:-1], ['top_k_accuracy','top_k_accuracy_2'])

def test_the_mean_of_interpretation_is_that_of_validation():
    from coursekit.interpret import Interpretation
    for f in (nn.CrossEntropyLoss(w), CrossEntropyLossFlat(w), nn.CrossEntropyLoss()):
        learn = learner(x, holes, 4, f)
        interp = Interpretation.from_learner(learn)
        assert f'mean loss {learn.validate()[0]:.4f}' in repr(interp)

def test_every_kind_of_target_brings_a_loss_that_knows_what_outputs_mean():
    from coursekit.vision.data import (BBoxBlock, CategoryBlock, MaskBlock, MultiCategoryBlock, PointBlock,
                                       RegressionBlock)
    encoded = MultiCategoryBlock(encoded=True, vocab=list('abc'))
    kinds = {'softmax': [CategoryBlock(), MaskBlock(), MaskBlock(list('abc'))],
             'sigmoid': [MultiCategoryBlock(), encoded],
             'view_as': [RegressionBlock(), RegressionBlock(2), PointBlock(), BBoxBlock()]}
    for kind,blocks in kinds.items():
        for block in blocks:
            f, = (t.loss_func for t in block.type_tfms if hasattr(t, 'loss_func'))
            args = {'softmax': (getattr(f,'axis',0),), 'sigmoid': (), 'view_as': (x,)}[kind]
            assert isinstance(f, BaseLoss) and f.flatten
            eq(f.activation(x), getattr(x, kind)(*args))
            dls = SimpleNamespace(train=dl(x, y, 4), valid=[], loss_func=f)
            learn = Learner(dls, nn.Linear(5,3))
            learn.loss_func.reduction = 'sum'               # of this learner alone
            eq((type(learn.loss_func), f.reduction), (type(f), 'mean'))

def test_an_empty_batch():
    "It counts nothing, also for losses and metrics of which nothing is known"
    def own(p, t): return ((p-t)**2).mean()
    for f in (own, nn.MSELoss()):
        learn = learner(x, several, 8, f, [own, mae])
        want = learn.validate()
        empty = x[:0],several[:0]
        learn.dls = ([empty, (x,several)], [(x[:9],several[:9]), empty, (x[9:],several[9:])])
        close(list(learn.validate()), list(want), 1e-5)
        eq(quiet(learn, 2), [])
        eq((len(learn.recorder.losses), all(map(math.isfinite, learn.recorder.losses))), (2,True))

def test_class_weights_of_pandas_and_in_a_dict():
    pd = pytest.importorskip('pandas')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert CrossEntropyLossFlat(weight=pd.Series([1,2])).func.weight.tolist()==[1.,2.]
    with pytest.raises(TypeError, match='for o in dls.vocab'): CrossEntropyLossFlat(weight={'cat':1})
