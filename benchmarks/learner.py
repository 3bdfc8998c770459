"""`Learner.fit(1)`: training and validation with loss and accuracy.

Each library has its own loader, optimizer and default callbacks.
"""
import torch
from .harness import Topic
from .work import N, N_VALID, loaders, mnist_loss, batch_accuracy, linear, simple_net, seeded, flat, all_close

def bare_fit(model, opt, train, valid): # What a `Learner` does, without one
    model.train()
    losses,n = 0.,0
    for xb,yb in train:
        loss = mnist_loss(model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses += loss.detach()*len(xb)
        n += len(xb)
    model.eval()
    vloss = acc = 0.
    m = 0
    with torch.no_grad():
        for xb,yb in valid:
            p = model(xb)
            vloss += mnist_loss(p, yb)*len(xb)
            acc += batch_accuracy(p, yb)*len(xb)
            m += len(xb)
    return float(losses)/n,float(vloss)/m,float(acc)/m

def topic(name, make, lr, **goals):
    import coursekit.learner as ck, coursekit.data.core as ckd, coursekit.optimizer as cko
    import fastai.learner as fa, fastai.data.core as fad, fastai.optimizer as fao
    import coursekit.callback.progress, fastai.callback.progress  # noqa: F401 (both show progress by default …)
    t = Topic(f'fit-{name}', f'Learner.fit(1) of {make.__name__}: {N:,} + {N_VALID:,} items, batch 256, with '
                             'accuracy, own SGD')
    train,valid = loaders(),loaders(valid=True)
    models = {k: seeded(make) for k in ('bare','coursekit','fastai')}
    opt = torch.optim.SGD(models['bare'].parameters(), lr=lr)
    kw = dict(loss_func=mnist_loss, metrics=batch_accuracy, lr=lr)
    learn = {k: m.Learner(d.DataLoaders(train[k], valid[k]), models[k], opt_func=o.SGD, **kw) for k,m,d,
             o in (('coursekit',ck,ckd,cko), ('fastai',fa,fad,fao))}
    @t.run('bare: slices, torch.optim', role='bare')
    def _():
        bare_fit(models['bare'], opt, train['bare'], valid['bare'])
        return flat(models['bare'])
    def fit(k):
        with learn[k].no_bar(), learn[k].no_logging(): learn[k].fit(1)   # … and neither does here
        return flat(models[k])
    t.run('coursekit Learner', **goals)(lambda: fit('coursekit'))
    t.run('fastai Learner', role='fastai')(lambda: fit('fastai'))
    t.same(all_close)
    return t

TOPICS = {'fit-linear': lambda: topic('linear', linear, 1., at_most=1.25, faster=2),
          'fit-simple-net': lambda: topic('simple-net', simple_net, 0.1)}
