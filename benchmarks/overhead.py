"What a call of a callback costs: fit with many, fit with none, the difference divided by the calls."
import time, torch
from torch import nn
from .harness import Topic

EVENTS = ['before_batch', 'after_pred', 'after_loss', 'before_backward', 'after_backward', 'before_step',
          'after_step', 'after_batch']
K,N = 5,200             # callbacks for each event; batches

class Box: n = 0
def callbacks(Callback, box): # K for each event; each has one method, which only counts
    def f(self): box.n += 1
    return [type(f'Count{e.title().replace("_","")}{i}', (Callback,), {e:f})() for e in EVENTS
            for i in range(K)]

def fit_time(learn, cbs):
    with learn.no_bar(), learn.no_logging():
        t = time.perf_counter()
        learn.fit(1, cbs=cbs)
        return time.perf_counter()-t

def topic():
    import coursekit.learner as ck, coursekit.data.core as ckd, coursekit.data.load as ckl
    import coursekit.optimizer as cko, coursekit.callback.core as ckc
    import fastai.learner as fa, fastai.data.core as fad, fastai.data.load as fal
    import fastai.optimizer as fao, fastai.callback.core as fac
    import coursekit.callback.progress, fastai.callback.progress  # noqa: F401
    calls = len(EVENTS)*K*N
    t = Topic('callback', f'a call of a callback: fit with and without {len(EVENTS)*K} of them, each with a '
                          f'method for one of the events inside a batch, {N} batches', seconds=8, unit='µs')
    @t.run('bare: calling the methods', role='bare')
    def _():
        box = Box()
        fs = [getattr(o,e) for o,e in zip(callbacks(object, box), [e for e in EVENTS for _ in range(K)])]
        t = time.perf_counter()
        for _ in range(N):
            for f in fs: f()
        s = time.perf_counter()-t
        assert box.n==calls
        return s/calls*1e6
    items = [(torch.ones(1),torch.ones(1))]*N
    def add(name, learner, dls, loader, opt, Callback, **kw):
        learn = learner.Learner(dls.DataLoaders(*(loader.DataLoader(items[:n], bs=1, num_workers=0)
                                                  for n in (N,1))), nn.Linear(1,1), loss_func=nn.MSELoss(),
                                                  opt_func=opt.SGD, lr=0.)
        @t.run(name, **kw)
        def _():
            box = Box()
            cbs = callbacks(Callback, box)
            a = fit_time(learn, None)
            b = fit_time(learn, cbs)
            c = fit_time(learn, None)     # without, with, without: drift cancels
            assert box.n >= calls, f'{box.n} calls instead of {calls}'
            return (b-(a+c)/2)/box.n*1e6
    add('coursekit', ck, ckd, ckl, cko, ckc.Callback, below=5)
    add('fastai', fa, fad, fal, fao, fac.Callback, role='fastai')
    return t

TOPICS = {'callback': topic}
