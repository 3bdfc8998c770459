"""Do schedules, suggestions and discriminative rates equal fastai's? Each contestant computes all of them
from the same inputs; the topic stops if a number differs by more than 1e-6."""
from types import SimpleNamespace
import numpy as np, torch, torch.nn.functional as F
from torch import nn
from .harness import Topic

def curves(): # Pairs of rates and losses such as `lr_find` sees: flat, falling, exploding; smooth and noisy
    rng = np.random.default_rng(42)
    for n,noise,fall,boom in ((85,0.,.6,1.),(85,.02,.6,1.),(60,.05,.3,4.),(120,.01,1.5,.5),(40,.1,.8,2.),
                              (85,0.,0.,3.)):
        t = np.linspace(0, 1, n)
        falling,exploding = fall*.4/(1+np.exp(-18*(t-.55))),boom*np.clip(t-.85,0,None)**2*20
        l = .7 - falling + exploding + noise*rng.standard_normal(n)
        yield torch.tensor(1e-7*(1e8)**t, dtype=torch.float32),torch.tensor(l, dtype=torch.float32)

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4,8), nn.ReLU(), nn.Linear(8,8), nn.ReLU(), nn.Linear(8,2))
def split(m): return [list(m[i].parameters()) for i in (0,2,4)]
def data():
    torch.manual_seed(1)
    x = torch.randn(112,4)
    return x,(x[:,0]>0).long()

def trainings(learner, Callback): # All rates and momenta of six ways to train, and of `lr_find`
    class Log(Callback):
        order = 65
        def before_fit(self): self.all = []
        def after_step(self): self.all.append([(h['lr'],h['mom']) for h in self.opt.hypers])
    res = {}
    for name,go in (('fit_one_cycle',lambda l: l.fit_one_cycle(5, .1)),
                    ('slice(lo,hi)',lambda l: l.fit_one_cycle(2, slice(1e-5,1e-2), pct_start=.4, div=10,
                                                              moms=(.9,.8,.95))),
                    ('slice(hi)',lambda l: l.fit_one_cycle(1, slice(1e-2))),
                    ('fit_flat_cos',lambda l: l.fit_flat_cos(4, .1, pct_start=.6)),
                    ('fit_sgdr',lambda l: l.fit_sgdr(3, 1, slice(1e-3,1e-1))),
                    ('fine_tune',lambda l: l.fine_tune(3, 2e-2, freeze_epochs=2))):
        l = learner()
        log = Log()
        l.add_cb(log)
        with l.no_logging(), l.no_bar(): go(l)
        res[name] = np.array(log.all)
    # where a cycle begins, fastai's rounding repeats the last rate of the one before
    res['fit_sgdr'] = np.delete(res['fit_sgdr'], [7,21], 0)
    l = learner()
    log = Log()
    l.add_cb(log)
    with l.no_bar(): s = l.lr_find(num_it=50, show_plot=False)
    res['lr_find'] = np.array([s.valley])
    return res

def agree():
    t = Topic('agree-schedules', 'rates, momenta and suggestions, equal to 1e-6', seconds=3)
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader as FDL
    import fastai.callback.schedule as fs, fastai.learner as fl, fastai.callback.core as fc
    from fastai.callback import progress as _
    from fastai.optimizer import SGD as FSGD
    import coursekit.callback.schedule as cs, coursekit.learner as cl, coursekit.callback.core as cc
    from coursekit.callback import progress as _
    from coursekit.data.load import DataLoader
    from coursekit.optimizer import SGD
    x,y = data()
    items = list(zip(x,y))
    def ours():
        return cl.Learner(SimpleNamespace(train=DataLoader(items, bs=16), valid=DataLoader(items, bs=112),
                                          device='cpu'), model(), F.cross_entropy, opt_func=lambda p,
                                          lr: SGD(p,lr,mom=.9), splitter=split)
    def theirs():
        return fl.Learner(DataLoaders(FDL(items, bs=16, num_workers=0), FDL(items, bs=112, num_workers=0),
                                      device='cpu'), model(), F.cross_entropy, opt_func=lambda p,
                                      lr: FSGD(p,lr,mom=.9), splitter=split)
    def suggestions(m):
        return {f'{f} {i}':np.array([getattr(m,f)(lrs, ls, 100)[0]])
                for f in ('valley','steep','minimum','slide') for i,(lrs,ls) in enumerate(curves())}
    def shapes(m):
        ps = np.linspace(0, .999, 50)
        fs = dict(SchedLin=m.SchedLin(.1,3), SchedCos=m.SchedCos(.1,3), SchedExp=m.SchedExp(.1,3),
                  SchedNo=m.SchedNo(.1,3), SchedPoly=m.SchedPoly(.1,3,2.5),
                  combined_cos=m.combined_cos(.3,.1,3,1e-4),
                  three=m.combine_scheds([.25,.25,.5],[m.SchedLin(0,1),m.SchedNo(1,1),m.SchedCos(1,0)]))
        return {k:np.array([float(f(p)) for p in ps]) for k,f in fs.items()}
    @t.run('coursekit')
    def _(): return trainings(ours, cc.Callback) | suggestions(cs) | shapes(cs)
    @t.run('fastai', role='fastai')
    def _(): return trainings(theirs, fc.Callback) | suggestions(fs) | shapes(fs)
    @t.same
    def _(results):
        a,b = results['coursekit'],results['fastai']
        assert a.keys()==b.keys()
        for k in b: assert a[k].shape==b[k].shape, f'{k}: {a[k].shape} numbers, fastai has {b[k].shape}'
        gaps = {k:float((np.abs(a[k]-b[k]).max(0)/np.abs(b[k]).max(0)).max()) for k in b}
        worst = max(gaps, key=gaps.get)   # for each group, relative to its largest rate
        assert gaps[worst]<=1e-6, f'{worst} differs from fastai by {gaps[worst]:.1e}'
        print(f'agree-schedules: {sum(o.size for o in b.values())} numbers of {len(b)} kinds; the largest '
              f'relative difference from fastai is {gaps[worst]:.1e} ({worst})')
    return t

TOPICS = {'agree-schedules': agree}
