"""Schedules, suggestions and discriminative rates: numbers recorded from fastai 2.8.7 (`make bench
ARGS=agree-schedules` compares all of them), `lr_find` that leaves no trace whatever happens, bad input,
and the idioms of the notes in the wild."""
import math, pickle, random, warnings
from functools import partial
from types import SimpleNamespace
import matplotlib
matplotlib.use('Agg')
import numpy as np, pytest, torch, torch.nn.functional as F
from torch import nn
from coursekit.core import *
from coursekit.callback.core import *
from coursekit.callback.schedule import *
from coursekit.callback.progress import *
from coursekit.callback.schedule import _group_lrs
from coursekit.data.load import DataLoader, TensorDataset
from coursekit.layers import simple_cnn
from coursekit.learner import *
from coursekit.metrics import accuracy
from coursekit.optimizer import SGD, Adam

@pytest.fixture(autouse=True, scope='module')
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

@pytest.fixture(autouse=True)
def no_figures():
    yield
    plt.close('all')

def model(bn=False):
    torch.manual_seed(0)
    first = nn.BatchNorm1d(8) if bn else nn.ReLU()
    return nn.Sequential(nn.Linear(4,8), first, nn.Linear(8,8), nn.ReLU(), nn.Linear(8,2))
def split(m): return [list(m[i].parameters()) for i in (0,2,4)]
def one_group(m): return list(m.parameters())
def data():
    torch.manual_seed(1)
    x = torch.randn(112,4)
    return x,(x[:,0]>0).long()
def loaders(**kw):
    items = list(zip(*data()))
    train,valid = DataLoader(items, bs=16, **kw),DataLoader(items, bs=112)
    return SimpleNamespace(train=train, valid=valid, device='cpu')
def learner(dls=None, m=None, opt_func=partial(SGD, mom=.9), **kw):
    kw = {**dict(opt_func=opt_func, splitter=split), **kw}
    return Learner(dls or loaders(), m or model(), F.cross_entropy, **kw)
def convnet(**kw): # Batch norm, one group, batches in a random order
    set_seed(42)
    ds = TensorDataset(torch.rand(96,1,8,8), torch.randint(0, 2, (96,)))
    dls = SimpleNamespace(train=DataLoader(ds, bs=16, shuffle=True), valid=DataLoader(ds, bs=96))
    return Learner(dls, simple_cnn([1,4,2], bn=True), F.cross_entropy, lr=.01, **kw)
def weights(l): return [o.clone() for o in l.model.state_dict().values()]

class Log(Callback):
    "Rate and momentum of each group at each step"
    order = 65
    def before_fit(self): self.all = []
    def after_step(self): self.all.append([(h['lr'],h['mom']) for h in self.opt.hypers])

class Endless: # Batches from somewhere: nobody knows how many
    def __init__(self, dl): self.dl = dl
    def __iter__(self): return iter(self.dl)

def trained(l, fit, *args, **kw): # `l`, after one of its fits
    with l.no_logging(): getattr(l, fit)(*args, **kw)
    return l

def logged(f):
    l = learner(cbs=Log)
    with l.no_logging(): f(l)
    return np.array(l.log.all)

# fastai's numbers: batch → (rates of the three groups, momentum)
ONE_CYCLE = {
    0:([.004]*3, .95),
    1:([.007060726243130646]*3, .9468117434967389),
    8:([.0982702175183596]*3, .8518018567517087),
    17:([.07754507217298742]*3, .8724551523785363),
    34:([.0003586500637869916]*3, .9496423463596766)}
SLICE = {
    0:([1e-6,3.1622776601683795e-05,.001], .9),
    3:([6.00383990322418e-06,.00018985808801193308,.006003839903224181], .8444017788530647),
    7:([9.33013379567352e-06,.00029504473668440375,.00933013379567352], .8100480935458327),
    13:([3.4572861488004665e-07,1.0932898753161259e-05,.0003457286148800462], .9448155189319886)}
SLICE_HI = {
    0:([4e-5,4e-5,4e-4], .95),
    3:([.0008665272698974381,.0008665272698974381,.008665272698974382], .863347406484321),
    6:([8.688973398991186e-05,8.688973398991186e-05,.0008688973398991197], .9413119397204059)}
FLAT = {0:([.1]*3, .9), 14:([.1]*3, .9), 27:([.0019551125100527172]*3, .9)}
TUNE = {
    0:([2e-5,2e-4,2e-3], .95),
    5:([9.188529669956743e-05,.0009188529669956741,.009188529669956742], .8601433791255407),
    20:([1.138488383214595e-06,1.1384883832145842e-05,.00011384883832145885], .9488625002417878)}

@pytest.mark.parametrize('go,want', [
    (lambda l: l.fit_one_cycle(5, .1), ONE_CYCLE),
    (lambda l: l.fit_one_cycle(2, slice(1e-5,1e-2), pct_start=.4, div=10, moms=(.9,.8,.95)), SLICE),
    (lambda l: l.fit_one_cycle(1, slice(1e-2)), SLICE_HI),
    (lambda l: l.fit_flat_cos(4, .1, pct_start=.6), FLAT),
    (lambda l: l.fine_tune(3, 2e-2, freeze_epochs=2), TUNE)],
    ids=['one cycle','slice(lo,hi)','slice(hi)','flat cos','fine tune'])
def test_rates_and_momenta_are_fastais(go, want):
    got = logged(go)
    for i,(lrs,mom) in want.items():                        # fastai's positions have 32 bits
        np.testing.assert_allclose(got[i], [(lr,mom) for lr in lrs], rtol=1e-5, err_msg=f'batch {i}')

def curve(n, noise, fall, boom, seed): # What `lr_find` sees: flat, falling, exploding
    t = np.linspace(0, 1, n)
    losses = .7 - fall*.4/(1+np.exp(-18*(t-.55))) + boom*np.clip(t-.85,0,None)**2*20
    losses += noise*np.random.RandomState(seed).randn(n)
    return torch.tensor(1e-7*1e8**t, dtype=torch.float32),torch.tensor(losses, dtype=torch.float32)

CURVES = [(85,0.,.6,1.,0),(85,.02,.6,1.,1),(60,.05,.3,4.,2),(120,.01,1.5,.5,3),(40,.1,.8,2.,4)]
SUGGESTED = { # fastai's, for each of the curves
    'valley':[.00021544346236623824,.017301958054304123,.02652948535978794,.00808282196521759,.02154434658586979],
    'steep':[.0024040990974754095,.29935774207115173,.0015973122790455818,.004351665265858173,.05541020259261131],
    'minimum':[.05779693126678467,.04641588926315308,.00495353527367115,.06164757013320923,.058780163526535034],
    'slide':[.0010000000474974513,.05179474502801895,.00760949682444334,.8401749730110168,1.0608183629301493e-06],
}
@pytest.mark.parametrize('name', ['valley','steep','minimum','slide'])
def test_suggestions_are_fastais(name):
    f = globals()[name]
    np.testing.assert_allclose([f(*curve(*c), 100)[0] for c in CURVES], SUGGESTED[name], rtol=1e-6)

def test_rising_loss_suggests_the_lowest_rate():
    lrs = torch.logspace(-5, 0, 30)
    assert valley(lrs, torch.arange(30.), 30)[0]==lrs[0].item()

# lr_find leaves no trace
def memories(opt): # Hyper-parameters and states
    if opt is None: return None
    def copy(v): return v.clone() if torch.is_tensor(v) else v
    states = [{k:copy(v) for k,v in o.items()} for o in opt.state_dict()['state']]
    return [dict(h) for h in opt.hypers],states
def everything(l):
    rec,modes = l.recorder,[m.training for m in l.model.modules()]
    records = [list(o) for o in (rec.losses,rec.values,rec.lrs)]
    rngs = random.getstate(),np.random.get_state(),torch.get_rng_state()
    return weights(l),memories(l.opt),records,modes,[o.name for o in l.cbs],rngs
def alike(a, b):
    if torch.is_tensor(a): return torch.equal(a, b)
    if isinstance(a, np.ndarray): return (a==b).all()
    if isinstance(a, dict): return a.keys()==b.keys() and all(alike(a[k],b[k]) for k in a)
    if isinstance(a, (list,tuple,L)): return len(a)==len(b) and all(map(alike, a, b))
    return a==b

def torch_loaders(): # torch's own, whose order comes from a generator of theirs
    ds,g = torch.utils.data.TensorDataset(*data()),torch.Generator().manual_seed(5)
    def dl(bs, **kw): return torch.utils.data.DataLoader(ds, batch_size=bs, **kw)
    return SimpleNamespace(train=dl(16, shuffle=True, generator=g), valid=dl(112), device='cpu')

SHUFFLED = {'shuffled':partial(loaders, shuffle=True), 'seeded':partial(loaders, shuffle=True, seed=3),
            'torch':torch_loaders}
OPTS = {'Adam':Adam, 'SGD':partial(SGD, mom=.9), 'torch AdamW':torch.optim.AdamW}

@pytest.mark.parametrize('dls', SHUFFLED.values(), ids=SHUFFLED)
@pytest.mark.parametrize('opt', OPTS.values(), ids=OPTS)
def test_a_look_changes_nothing(dls, opt):
    def train(look):
        set_seed(7)
        l = learner(dls(), model(bn=True), opt_func=opt, lr=.01, splitter=one_group)
        with l.no_logging():
            if look: l.lr_find(show_plot=False)
            l.fit(2)
            if look: l.lr_find(show_plot=False, num_it=30, suggest_funcs=None)
            l.fit_one_cycle(2, .01)
        return weights(l),l.recorder.values,random.random(),torch.rand(1),np.random.rand()
    assert alike(train(False), train(True))

@pytest.mark.parametrize('when', ['before_fit','before_batch','after_loss','after_step','after_batch',
                                  'after_train'])
@pytest.mark.parametrize('err', [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_look_changes_nothing(when, err):
    class Bomb(Callback):
        on,order = False,61
    def boom(self):
        if self.on and (when in ('before_fit','after_train') or self.train_iter==5): raise err('stop')
    setattr(Bomb, when, boom)
    l = learner(loaders(shuffle=True), model(bn=True), cbs=Bomb, opt_func=Adam, splitter=one_group)
    trained(l, 'fit', 1, .01)
    before,l.bomb.on = everything(l),True
    with pytest.raises(err): l.lr_find(show_plot=False)
    assert alike(everything(l), before) and all(p.grad is None for p in l.model.parameters())
    l.bomb.on = False
    l.lr_find(show_plot=False)

def test_nan_ends_the_sweep_without_a_word_and_suggests_still():
    l = learner()
    start = weights(l)
    def bad(p, y): return F.cross_entropy(p, y) * (float('nan') if l.opt.hypers[-1]['lr']>.1 else 1)
    l.loss_func = bad
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        res = l.lr_find(show_plot=False)
    assert res.valley<.1 and alike(weights(l), start)

def test_a_waiting_gradient_and_a_learnable_loss_survive():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.register_buffer('n', torch.zeros(1))
        def forward(self, p, y):
            self.n += 1
            return F.cross_entropy(p*self.scale, y)
    l = learner()
    l.loss_func = f = Loss()
    l.model[0].weight.grad = g = torch.ones_like(l.model[0].weight)
    l.lr_find(show_plot=False)
    assert l.model[0].weight.grad is g and (g==1).all() and f.n==0 and f.scale==1 and f.scale.grad is None

def test_a_fresh_learner_stays_fresh():
    l = convnet()
    l.lr_find(show_plot=False, num_it=20)
    assert l.opt is None and l.recorder.losses==[]

@pytest.mark.parametrize('make', [learner, convnet])
def test_finder_as_a_plain_callback_restores_the_weights(make):
    l = make()
    start = weights(l)
    trained(l, 'fit', 10, cbs=LRFinder(num_it=40, stop_div=False))
    assert alike(weights(l), start) and len(l.recorder.lr_find_lrs)==40
    np.testing.assert_allclose(l.recorder.lr_find_lrs, [1e-7*1e8**(i/40) for i in range(40)], rtol=1e-9)
    assert l.recorder.plot_lr_find().get_xscale()=='log'

def test_a_sweep_over_groups():
    finder,log = LRFinder([1e-6,1e-5,1e-4], [.1,1,10], num_it=20, stop_div=False),Log()
    trained(learner(), 'fit', 3, cbs=[finder,log])
    middle = [(a*b)**.5 for a,b in ((1e-6,.1),(1e-5,1),(1e-4,10))]
    np.testing.assert_allclose([lr for lr,_ in log.all[10]], middle, rtol=1e-9)

def test_a_sweep_over_data_without_a_length():
    l = convnet()
    l.dls.train = Endless(l.dls.train)
    l.lr_find(num_it=40, show_plot=False)
    assert len(l.recorder.lr_find_lrs)==40

def test_a_sweep_over_batches_that_a_callback_skips():
    def skip(cb):
        if cb.iter%2==0: raise CancelBatchException
    l = convnet(cbs=Callback(before_batch=skip))
    l.lr_find(num_it=60, show_plot=False)
    seen = [1e-7*1e8**(i/60) for i in (1,3,5)]                                  # every second was skipped
    assert l.recorder.lr_find_lrs[:3]==pytest.approx(seen)

def test_suggestions_are_drawn_where_they_lie_on_the_curve():
    l = convnet()
    res = l.lr_find(num_it=40, suggest_funcs=(valley,minimum))
    dots,line,*points = plt.gca().lines
    assert [p.get_xdata()[0] for p in points]==pytest.approx(list(res), rel=1e-9)
    on_line = np.interp(np.log(res), np.log(line.get_xdata()), line.get_ydata())
    assert [p.get_ydata()[0] for p in points]==pytest.approx(list(on_line), rel=1e-6)
    assert len(dots.get_xdata())==len(line.get_xdata())
    assert dots.get_ydata()[0]==pytest.approx(line.get_ydata()[0], abs=1e-5)

def test_names_of_fastai():
    l = convnet()
    res = l.lr_find(num_it=40, suggest_funcs=(SuggestionMethod.Valley,SuggestionMethod.Steep))
    assert res._fields==('valley','steep') and l.recorder.plot().get_xscale()=='log'

@pytest.mark.parametrize('kw,ex,says', [
    (dict(num_it=3), ValueError, 'too few'),
    (dict(start_lr=0), ValueError, '0 < start_lr'),
    (dict(suggest_funcs='valley'), TypeError, "functions such as `valley`, not 'valley'")])
def test_a_sweep_that_cannot_work_says_why(kw, ex, says):
    with pytest.raises(ex, match=says): convnet().lr_find(**kw)

def test_ways_to_suggest_are_checked_before_the_sweep():
    class Never(Callback):
        def before_fit(self): raise AssertionError('it began')
    with pytest.raises(TypeError, match="not 'valley'"):
        convnet(cbs=Never).lr_find(suggest_funcs=[minimum,'valley'])

def test_no_plot_before_a_sweep():
    with pytest.raises(ValueError, match='first'): convnet().recorder.plot_lr_find()

# the shapes of training
def test_rates_of_the_groups():
    l = convnet()
    assert list(_group_lrs(l, .1))==[.1] and list(_group_lrs(l, None))==[.01]

@pytest.mark.parametrize('args,kw,ex,says', [
    (['1e-3'], {}, TypeError, '`lr`, the learning rate'),
    ([], dict(div=0), ValueError, '`div` divides'),
    ([], dict(div_final=-1), ValueError, '`div_final`'),
    ([], dict(moms=(.9,)), ValueError, 'three numbers'),
    ([], dict(moms=.9), ValueError, 'three numbers'),
    ([], dict(pct_start=-.1), ValueError, 'pct_start=-0.1')])
def test_one_cycle_checks_its_numbers(args, kw, ex, says):
    with pytest.raises(ex, match=says): convnet().fit_one_cycle(1, *args, **kw)

def test_one_cycle_without_a_length_warns_and_moves_on_by_epochs():
    l = convnet()
    l.dls.train = Endless(l.dls.train)
    with pytest.warns(UserWarning, match='how many batches') as ws: trained(l, 'fit_one_cycle', 4, .1)
    assert len(ws)==1 and len(set(l.recorder.hps['lr']))==4

def test_flat_cos_falls_along_a_cosine():
    lrs = trained(convnet(), 'fit_flat_cos', 7, .1).recorder.hps['lr']
    assert lrs[:31]==pytest.approx([.1]*31)
    assert lrs[-1]==pytest.approx(1e-6 + .1*(1+math.cos(math.pi*(41/42-.75)/.25))/2, abs=1e-6)

def test_warm_restarts():
    lrs = trained(convnet(), 'fit_sgdr', 3, 1, .1).recorder.hps['lr']
    assert len(lrs)==42 and [lrs[i] for i in (0,6,18)]==pytest.approx([.1]*3)
    assert [lrs[i] for i in (3,12,30)]==pytest.approx([.05]*3)
    lrs = trained(convnet(), 'fit_sgdr', 3, 1, .1, cycle_mult=1).recorder.hps['lr']  # cycles of equal length
    assert [lrs[i] for i in (0,6,12)]==pytest.approx([.1]*3)
    for args,kw in (((2,1),dict(cycle_mult=1.5)), ((0,1),{})):
        with pytest.raises(ValueError, match='whole epochs'): convnet().fit_sgdr(*args, **kw)

# what the notes in the wild do
def test_notes_in_the_wild(capsys):
    ns = dict(learn=learner(cbs=Log))
    exec('''
from coursekit.vision.all import *
learn.lr_find(); learn.recorder.plot()
learn.unfreeze()
learn.fit_one_cycle(2, max_lr=slice(1e-5,1e-4))
learn.lr_find(suggest_funcs=(SuggestionMethod.Valley, SuggestionMethod.Steep))
learn.fit_one_cycle(1, lr_max=1e-5)
learn.recorder.plot_sched()
learn.recorder.plot_loss()
learn.fit_one_cycle(1, lr_max=slice(1e-6,1e-4))
learn.recorder.plot_loss(skip_start=0, with_valid=False)
lrs,moms = learn.recorder.hps['lr'],learn.recorder.hps['mom']
learn.freeze_to(-2); frozen = [p.requires_grad for p in learn.model.parameters()]
''', ns)
    assert len(ns['lrs'])==7 and max(ns['lrs'])<=1e-4 and ns['frozen']==[False]*2+[True]*4
    np.testing.assert_allclose(np.array(ns['learn'].log.all)[:,0,0].max(), max(ns['lrs'])*1e-2, rtol=1e-6)

def test_schedules_pickle():
    for s in (SchedLin(1,2),SchedCos(1,2),SchedExp(1,2),SchedNo(1,2)):
        assert pickle.loads(pickle.dumps(s))(.3)==s(.3)

def test_restarts_start_at_the_top():
    "At the first batch of each cycle the rate is the highest, whatever rounding does"
    for n in (3,7,10):
        l = trained(learner(), 'fit_sgdr', n, 1, .1, cycle_mult=1)
        assert l.recorder.hps['lr'][::7]==pytest.approx([.1]*n)


def body_and_head(cbs=None, n=96):
    "A learner as `vision_learner` makes them: a body that is frozen, and a linear head that starts at zero"
    torch.manual_seed(1)
    x,y = torch.randn(n,3,9,9),torch.arange(n)%2
    x[y==1,0] += 0.5
    body = nn.Sequential(nn.Conv2d(3,8,3), nn.BatchNorm2d(8), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8,2))
    nn.init.zeros_(head[2].weight)
    nn.init.zeros_(head[2].bias)
    loaders = DataLoader(TensorDataset(x, y), bs=32, shuffle=True),DataLoader(TensorDataset(x, y), bs=32)
    def groups(m): return [list(m[0].parameters()),list(m[1].parameters())]
    return Learner(loaders, nn.Sequential(body, head), nn.CrossEntropyLoss(), splitter=groups,
                   metrics=accuracy, cbs=cbs, train_bn=False)

class Watch(Callback):
    "Notes of each training: epochs, the highest rate of each group, how many parameters learn, steps"
    only_numbers = True
    def before_fit(self):
        self.seen = getattr(self, 'seen', [])
        self.seen.append([self.n_epoch, 0., 0, sum(p.requires_grad for p in self.model.parameters())])
    def after_step(self):
        now = self.seen[-1]
        now[1],now[2] = max(now[1], *(h['lr'] for h in self.opt.hypers)),now[2]+1

def test_fine_tune_fits_the_head_on_features_first():
    learn = body_and_head(Watch)
    with learn.no_logging(): learn.fine_tune(2, freeze_epochs=2)
    (n1,lr1,steps1,learn1),(n2,lr2,steps2,learn2) = learn.watch.seen
    assert (n1,steps1,learn1) == (2,1000,2)             # the linear layer alone, to convergence
    assert (n2,steps2,learn2) == (2,6,6)                # everything, as many steps as there are batches
    assert lr2==pytest.approx(2e-3/20, rel=0.02) and lr1>lr2
    assert learn.validate()[1]>0.8

def test_fine_tune_as_fastai_does_it():
    learn = body_and_head(Watch)
    with learn.no_logging(): learn.fine_tune(2, freeze_epochs=2, probe=False)
    assert [o[2:] for o in learn.watch.seen] == [[6,2],[6,6]]
    assert learn.watch.seen[1][1]==pytest.approx(1e-3, rel=0.02)

@pytest.mark.parametrize('kw,ex,says', [
    (dict(epochs=-1), ValueError, '`epochs`, a number of epochs'),
    (dict(epochs=1.5), ValueError, '`epochs`, a number of epochs'),
    (dict(freeze_epochs=-1), ValueError, '`freeze_epochs`'),
    (dict(freeze_epochs=1.5), ValueError, '`freeze_epochs`'),
    (dict(base_lr=None), TypeError, '`base_lr` is a number'),
    (dict(lr_mult=0), ValueError, '`lr_mult` divides the highest rate'),
    (dict(lr_mult='100'), ValueError, '`lr_mult` divides'),
    (dict(div=0), ValueError, '`div` divides'),
    (dict(div_final=-1), ValueError, '`div_final` divides'),
    (dict(pct_start=2), ValueError, 'pct_start=2: .*at most 1'),
    (dict(moms=(.9,)), ValueError, 'three numbers'),
    (dict(wd='x'), TypeError, '`wd`'),
    (dict(probe='no'), ValueError, "`probe` is True, False or None, not 'no'"),
    (dict(max_lr=1.), TypeError, "unknown argument 'max_lr'.*the rate of `fine_tune` is `base_lr`"),
    (dict(lr_max=1.), TypeError, "'lr_max'.*`base_lr`"),
    (dict(lr=1.), TypeError, "'lr'.*`base_lr`"),
    (dict(n_epoch=1), TypeError, '`epochs` and `freeze_epochs`')])
def test_fine_tune_checks_its_arguments_before_it_trains(kw, ex, says):
    learn = body_and_head(Watch)
    trains = [p.requires_grad for p in learn.model.parameters()]
    with learn.no_logging(), pytest.raises(ex, match=says): learn.fine_tune(**{'epochs':1}|kw)
    assert not hasattr(learn.watch, 'seen') and [p.requires_grad for p in learn.model.parameters()]==trains

def test_fine_tune_lets_a_callback_see_the_pictures():
    class Sees(Callback):
        shapes = set()
        def before_batch(self): self.shapes.add(tuple(self.xb[0].shape[1:]))
    learn = body_and_head(Sees)
    with learn.no_logging(): learn.fine_tune(1)
    assert Sees.shapes=={(3,9,9)}
    with pytest.raises(ValueError, match='the callback `Sees` may want to see'):
        learn.fine_tune(1, probe=True)
    with pytest.raises(ValueError, match='the callback `Sees` may want to see'):
        body_and_head().fine_tune(1, probe=True, cbs=Sees)

def test_a_failing_fine_tune_gives_the_learner_back():
    learn = body_and_head()
    model,dls = learn.model,learn.dls
    class Fails(Callback):
        only_numbers = True
        def after_step(self): raise RuntimeError('now')
    learn.add_cb(Fails)
    with learn.no_logging(), pytest.raises(RuntimeError, match='now'): learn.fine_tune(1)
    assert learn.model is model and learn.dls is dls and all(p.requires_grad for p in model.parameters())
