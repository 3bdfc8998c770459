"""`Learner.fit(1)`: training, validation, loss and accuracy; each with its own loader and optimizer."""
import torch
from .harness import Topic
from .work import (N, N_VALID, all_close, bare_fit, batch_accuracy, flat, linear, loaders, mnist_loss,
                   seeded, simple_net)

def topic(name, make, lr, **goals):
    import coursekit.learner as ck, coursekit.data.core as ckd, coursekit.optimizer as cko
    import fastai.learner as fa, fastai.data.core as fad, fastai.optimizer as fao
    # both show progress by default …
    import coursekit.callback.progress, fastai.callback.progress # noqa: F401
    t = Topic(f'fit-{name}', f'Learner.fit(1) of {make.__name__}: {N:,} + {N_VALID:,} items, batch 256, '
              'with accuracy, own SGD')
    train,valid = loaders(),loaders(valid=True)
    models = {k: seeded(make) for k in ('bare','coursekit','fastai')}
    opt = torch.optim.SGD(models['bare'].parameters(), lr=lr)
    def learner(k, m, d, o):
        dls = d.DataLoaders(train[k], valid[k])
        return m.Learner(dls, models[k], loss_func=mnist_loss, metrics=batch_accuracy, lr=lr, opt_func=o.SGD)
    learn = dict(coursekit=learner('coursekit', ck, ckd, cko), fastai=learner('fastai', fa, fad, fao))
    @t.run('bare: slices, torch.optim', role='bare')
    def _():
        bare_fit(models['bare'], opt, mnist_loss, batch_accuracy, train['bare'], valid['bare'])
        return flat(models['bare'])
    def fit(k):
        with learn[k].no_bar(), learn[k].no_logging(): learn[k].fit(1)   # … and neither does here
        return flat(models[k])
    t.run('coursekit Learner', **goals)(lambda: fit('coursekit'))
    t.run('fastai Learner', role='fastai')(lambda: fit('fastai'))
    t.same(all_close)
    return t

TOPICS = {'fit-linear':     lambda: topic('linear', linear, 1., at_most=1.25, faster=2),
          'fit-simple-net': lambda: topic('simple-net', simple_net, 0.1)}
