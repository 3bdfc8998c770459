"""One epoch of the linear model: lesson 03's loop, fed by loaders of different kinds."""
import torch
from .harness import Topic
from .work import N, BS, digits, loaders, mnist_loss, all_close

def init():
    torch.manual_seed(0)
    return torch.randn(784,1).requires_grad_(),torch.randn(1).requires_grad_()

def epoch(dl, params, lr=1.): # The loop of lesson 03, the same for everyone
    weights,bias = params
    for xb,yb in dl:
        loss = mnist_loss(xb@weights+bias, yb)
        loss.backward()
        for p in params:
            p.data -= p.grad*lr
            p.grad.zero_()
    return torch.cat([p.detach().flatten() for p in params]).clone()

def topic(shuffle):
    how = 'shuffled' if shuffle else 'in order'
    t = Topic(f'linear-{how.replace(" ","-")}',
              f'one epoch of the linear model, {N:,} × 784, batch 256, {how}')
    dls = loaders(shuffle=shuffle)
    params = {k: init() for k in dls}
    def add(k, name, **kw): t.run(name, **kw)(lambda: epoch(dls[k], params[k]))
    add('bare', 'bare: slices of tensors', role='bare')
    add('torch', 'torch DataLoader')
    add('coursekit', 'coursekit DataLoader', at_most=1.25, faster=3)
    add('fastai', 'fastai DataLoader', role='fastai')
    # a first epoch pays for what later ones find prepared
    make = lambda: list(zip(*digits()[:2]))
    fresh = {k: init() for k in ('coursekit','fastai')}
    import coursekit.data.load as ck, fastai.data.load as fa
    t.run('coursekit, first epoch')(lambda: epoch(ck.DataLoader(make(), bs=BS, shuffle=shuffle),
                                                  fresh['coursekit']))
    t.run('fastai, first epoch')(lambda: epoch(fa.DataLoader(make(), bs=BS, shuffle=shuffle, num_workers=0),
                                               fresh['fastai']))
    if not shuffle: t.same(all_close)
    return t

TOPICS = {'linear-in-order': lambda: topic(False), 'linear-shuffled': lambda: topic(True)}
