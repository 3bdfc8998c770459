"""Do MixUp, CutMix, test-time augmentation and label smoothing equal fastai's? Both get the same inputs and
draw the same random numbers. The topic stops if a number differs by more than 1e-5 (of itself, if above 1).
"""
import torch
from torch import nn, Tensor
from .harness import agreement

def pictures(): # 40 pictures and the number of the class of each
    g = torch.Generator().manual_seed(0)
    return torch.rand(40,3,9,12, generator=g),torch.randint(0,4,(40,), generator=g)
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3*9*12,16), nn.ReLU(), nn.Linear(16,4))

def numbers(m): # A namespace with the names of a library
    x,y = pictures()
    res = {}
    def learner(loss_func, targets=y, tfms=None, lr=.1):
        ds = m.Datasets(range(40), [[lambda i: x[i]],[lambda i: targets[i]]],
                        splits=[list(range(32)),list(range(40))])
        dls = ds.dataloaders(bs=16, shuffle=False, num_workers=0, device='cpu', after_batch=tfms)
        return m.Learner(dls, model(), loss_func, lr=lr, opt_func=lambda p, lr: m.SGD(p, lr, mom=.9))
    class Seed(m.Callback): # fastai's loader draws a number of its own before each epoch
        order,run_valid = -1,False
        def before_batch(self): torch.manual_seed(self.iter)
    class Keep(m.Callback):
        order,run_valid = 70,False
        def before_fit(self): self.seen = []
        def after_loss(self): self.seen += [self.learn.xb[0], self.learn.yb[0], self.learn.loss]
    def train(name, cb, loss_func, **kwargs): # inputs, targets, losses and weights of two epochs
        learn,keep = learner(loss_func, **kwargs),Keep()
        with learn.no_logging(), learn.no_bar(): learn.fit(2, cbs=[Seed(),*([cb] if cb else []),keep])
        for i,o in enumerate(keep.seen): res[f'{name}, {"xyl"[i%3]}{i//3}'] = o
        for i,p in enumerate(learn.model.parameters()): res[f'{name}, weights {i}'] = p
        if ', weights' in name or ', sum' in name: return # fastai weighs batches by items, whatever counts
        res[f'{name}, validation'] = torch.tensor(learn.recorder.values[-1][1])
    several = torch.nn.functional.one_hot(y, 4).float()
    for cls in (m.MixUp,m.CutMix):
        for alpha in (None,.2,1.,3.):
            mixer = cls() if alpha is None else cls(alpha)
            train(f'{cls.__name__}({alpha or ""})', mixer, m.CrossEntropyLossFlat())
        weights = torch.tensor([1.,2.,.5,1.])
        train(f'{cls.__name__}, weights of classes', cls(), m.CrossEntropyLossFlat(weight=weights))
        train(f'{cls.__name__}, sum', cls(), m.CrossEntropyLossFlat(reduction='sum'), lr=.1/16)
        train(f'{cls.__name__}, label smoothing', cls(), m.LabelSmoothingCrossEntropyFlat())
        train(f'{cls.__name__}, several labels', cls(), m.BCEWithLogitsLossFlat(), targets=several)
    for eps in (0.,.1,.3): train(f'label smoothing {eps}', None, m.LabelSmoothingCrossEntropy(eps))

    class Brighter(m.Transform): # acts in training alone; a share for each picture, from torch's numbers
        split_idx = 0
        def encodes(self, o:Tensor):
            return o*(1+torch.rand(len(o),1,1,1, generator=g)) if o.dim()==4 else o
    g = torch.Generator().manual_seed(2)
    learn = learner(m.CrossEntropyLossFlat(), tfms=[Brighter()])
    for kw in ({}, dict(n=2), dict(beta=.6), dict(use_max=True), dict(ds_idx=0, n=1), dict(beta=None)):
        with learn.no_bar(): preds,targs = learn.tta(**kw)
        preds = preds if isinstance(preds, tuple) else (preds,)
        for i,o in enumerate((*preds,targs)): res[f'tta {kw} {i}'] = o
    return {k:o.detach().as_subclass(Tensor).double().numpy() for k,o in res.items()}

def agree():
    import fastai.vision.all as fa, coursekit.vision.all as ck
    return agreement('agree-mixup', 'MixUp, CutMix, TTA, label smoothing, equal to 1e-5', 1e-5,
                     lambda: numbers(ck), lambda: numbers(fa))

TOPICS = {'agree-mixup': agree}
