"Optimizers against references from the papers, through files, with odd parameters, and through `Learner`"
import math
from functools import partial
import pytest, torch, torch.nn.functional as F
from torch import nn, tensor
from coursekit.core import set_seed
from coursekit.learner import Learner
from coursekit import optimizer as O
from coursekit.optimizer import *
torch.set_num_threads(1)

FAMILY = dict(sgd=partial(SGD, lr=.1), mom=partial(SGD, lr=.1, mom=.9, wd=.1),
              l2=partial(SGD, lr=.1, mom=.9, wd=.1, decouple_wd=False),
              rms=partial(RMSProp, lr=.01), rms_mom=partial(RMSProp, lr=.01, mom=.9),
              adam=partial(Adam, lr=.01), radam=partial(RAdam, lr=.01, wd=.1),
              lamb=partial(Lamb, lr=.01), qhadam=partial(QHAdam, lr=.01), larc=partial(Larc, lr=.1, wd=.1),
              ranger=partial(ranger, lr=.01))

def start():
    set_seed(3)
    return [torch.randn(4,3), torch.randn(5)*.01, torch.zeros(2)]
def grads(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [[torch.randn(s, generator=g) for s in ((4,3),(5,),(2,))] for _ in range(n)]
def run(opt, ps, gs):
    for g in gs:
        for p,o in zip(ps,g): p.grad = None if o is None else o.clone()
        opt.step()
    return [p.detach().clone() for p in ps]
def params(): return [p.requires_grad_() for p in start()]
def far(a, b): return max((x-y).abs().max().item() for x,y in zip(a,b))

def lamb_of_the_paper(xs, gs, lr, b1, b2, eps, wd=0.):
    "You et al. 2020, algorithm 2, in float64, number by number; φ is the identity, the ratio at most 10"
    xs = [x.double().flatten().tolist() for x in xs]
    ms,vs = [[[0.]*len(x) for x in xs] for _ in range(2)]
    for t,g in enumerate(gs, 1):
        for x,m,v,gi in zip(xs, ms, vs, (o.double().flatten().tolist() for o in g)):
            for i in range(len(x)):
                x[i] *= 1-lr*wd
                m[i] = b1*m[i] + (1-b1)*gi[i]
                v[i] = b2*v[i] + (1-b2)*gi[i]**2
            r = [(a/(1-b1**t))/(math.sqrt(b/(1-b2**t))+eps) for a,b in zip(m,v)]
            nx,nr = math.sqrt(sum(a*a for a in x)),math.sqrt(sum(a*a for a in r))
            ratio = min(nx/nr, 10) if nx>0 and nr>0 else 1.
            for i in range(len(x)): x[i] -= lr*ratio*r[i]
    return [tensor(x) for x in xs]

@pytest.mark.parametrize('wd', [0., .1])
def test_lamb_is_the_papers(wd):
    gs = grads(100)
    ps = params()
    ours = run(Lamb(ps, lr=.01, wd=wd), ps, gs)
    ref = [r.view_as(p) for r,p in zip(lamb_of_the_paper(start(), gs, .01, .9, .99, 1e-5, wd), ours)]
    assert far(ours, ref) < 1e-5
    other = [r.view_as(p) for r,p in zip(lamb_of_the_paper(start(), gs, .01, .9, .999, 1e-5, wd), ours)]
    assert far(ours, other) > 1e-3                                          # the check can fail
    assert ours[2].abs().max() > 0                                          # zeros move, too

def test_nesterov_as_a_piece_is_torchs():
    def nesterov_step(p, g, lr, mom, grad_avg:Buffer): p.add_(g + mom*grad_avg, alpha=-lr)
    gs,a,b = grads(100),params(),params()
    assert far(run(Optimizer(a, [average_grad,nesterov_step], lr=.1, mom=.9), a, gs),
               run(torch.optim.SGD(b, .1, momentum=.9, nesterov=True), b, gs)) < 1e-5

def test_torchs_rms_momentum_as_a_piece():
    "fastai, and so coursekit, divides the sum of gradients; torch sums the quotients; they differ"
    def sum_quotients(g, mom, eps, sqr_avg:Buffer, quot_avg:Buffer):
        quot_avg.mul_(mom).add_(g/sqr_avg.sqrt().add_(eps))
    def quotient_step(p, lr, quot_avg:Buffer): p.add_(quot_avg, alpha=-lr)
    gs,a,b,c = grads(100),params(),params(),params()
    torchs = run(torch.optim.RMSprop(b, .01, momentum=.9), b, gs)
    pieces = [average_sqr_grad,sum_quotients,quotient_step]
    assert far(run(Optimizer(a, pieces, lr=.01, mom=.9, sqr_mom=.99, eps=1e-8), a, gs), torchs) < 1e-5
    assert far(run(RMSProp(c, .01, mom=.9), c, gs), torchs) > 1e-2

@pytest.mark.parametrize('name', FAMILY)
def test_resumed_as_if_never_stopped(name, tmp_path):
    "Half of the training, a file, the other half; gradients are missing, groups freeze, and types differ"
    gs = grads(40)
    gs[7][1] = gs[8][0] = None
    def make():
        ps = params()
        ps[2] = ps[2].detach().double().requires_grad_()
        return ps,FAMILY[name]([[ps[0]],[ps[1],ps[2]]])
    fix = lambda gs: [[g[0],g[1],g[2].double()] for g in gs]
    a,oa = make()
    run(oa, a, fix(gs)[:15])
    oa.freeze()
    run(oa, a, [[None,*g[1:]] for g in fix(gs)[15:20]])
    oa.unfreeze()
    torch.save(oa.state_dict(), tmp_path/'opt.pth')
    b,ob = make()
    with torch.no_grad():
        for x,y in zip(a,b): y.copy_(x)
    ob.set_hyper('lr', 7.)
    ob.load_state_dict(torch.load(tmp_path/'opt.pth', weights_only=True))
    assert far(run(oa, a, fix(gs)[20:]), run(ob, b, fix(gs)[20:]))==0
    assert oa.state[a[0]]['step']==34 and oa.state[a[1]]['step']==39 and a[2].dtype==torch.float64
    c,oc = make()
    with torch.no_grad():
        for x,y in zip(a,c): y.copy_(x)
    # without its memories it goes elsewhere
    if name!='sgd': assert far(run(oa, a, fix(gs)[:9]), run(oc, c, fix(gs)[:9])) > 0

def test_strided_and_scheduled():
    "Memories of a transposed parameter; a rate that is changed at every step, by torch numbers too"
    def param(): return torch.randn(5,3, generator=torch.Generator().manual_seed(0)).t().requires_grad_()
    p,q = param(),param()
    a,b = Adam([p], lr=1., eps=1e-8, wd=.1),torch.optim.AdamW([q], lr=1., betas=(.9,.99), weight_decay=.1)
    for i in range(50):
        lr = .1/(i+1)
        a.set_hypers(lr=tensor(lr))
        b.param_groups[0]['lr'] = lr
        p.grad = torch.randn(3,5, generator=torch.Generator().manual_seed(i))
        q.grad = p.grad.clone()
        a.step()
        b.step()
    assert (p-q).abs().max() < 1e-5 and isinstance(a.hypers[0]['lr'], float)

# torch's optimizers
def net():  # a bias before the norm would have no slope but noise
    set_seed(0)
    return nn.Sequential(nn.Linear(3,4,bias=False), nn.BatchNorm1d(4), nn.Linear(4,1))
def data():
    x = torch.randn(64,3, generator=torch.Generator().manual_seed(1))
    return [(x[i:i+16], x[i:i+16].sum(1,keepdim=True)) for i in range(0,64,16)]

@pytest.mark.parametrize('wd_bn_bias', [False, True])
@pytest.mark.parametrize('ours,theirs', [
    (partial(Adam, eps=1e-8), partial(torch.optim.AdamW, betas=(.9,.99))),
    (partial(SGD, mom=.9, decouple_wd=False), partial(torch.optim.SGD, momentum=.9))])
def test_wrapper_spares_norms_and_biases(ours, theirs, wd_bn_bias):
    "In a Learner torch's twin, wrapped, trains exactly as ours, with decay of norms and biases and without"
    def train(f, wd_bn_bias):
        learn = Learner((data(),[]), net(), F.mse_loss, opt_func=f, lr=.01, wd=.5, wd_bn_bias=wd_bn_bias,
                        train_bn=True)
        learn.fit(5)
        return learn.opt,[p.detach() for p in learn.model.parameters()]
    wrapped,b = train(partial(OptimWrapper, opt=theirs), wd_bn_bias)
    assert far(train(ours, wd_bn_bias)[1], b) < 1e-5 < 1e-3 < far(train(ours, not wd_bn_bias)[1], b)
    assert len(wrapped.opt.param_groups)==len(wrapped.hypers)==1
    assert wrapped.hypers[0]['wd']==wrapped.opt.param_groups[0]['weight_decay']==.5

def test_wrapper_takes_closures_and_saves(tmp_path):
    w = tensor([3.,-2.], requires_grad=True)
    opt = OptimWrapper(w, torch.optim.LBFGS, lr=1.)
    def closure():
        opt.zero_grad()
        l = ((w-1)**2).sum()
        l.backward()
        return l
    for _ in range(5): opt.step(closure)
    assert (w-1).abs().max() < 1e-3
    a,b = net(),net()
    oa,ob = [OptimWrapper(m, torch.optim.Adam, lr=.1) for m in (a,b)]
    def one(m, o):
        m(data()[0][0]).pow(2).mean().backward()
        o.step()
        o.zero_grad()
    one(a, oa)
    torch.save(oa.state_dict(), tmp_path/'o.pth')
    b.load_state_dict(a.state_dict())
    ob.set_hyper('lr', 9.)
    ob.load_state_dict(torch.load(tmp_path/'o.pth', weights_only=True))
    one(a, oa)
    one(b, ob)
    assert far(list(a.parameters()), list(b.parameters()))==0 and ob.hypers[0]['lr']==.1

def test_a_mark_that_comes_late_counts():
    p,q = params()[:2],params()[:2]
    opt = SGD(p, .1, wd=1.)
    run(opt, p, [[torch.zeros_like(o) for o in p]])
    opt.state[p[1]]['do_wd'] = False
    run(opt, p, [[torch.zeros_like(o) for o in p]])
    assert torch.allclose(p[0], q[0]*.81) and torch.allclose(p[1], q[1]*.9)

def test_fastai_names():
    names = ('Optimizer sgd_step weight_decay l2_reg average_grad average_sqr_grad momentum_step SGD '
             'rms_prop_step RMSProp debias adam_step Adam radam_step RAdam qhadam_step QHAdam larc_step '
             'Larc lamb_step Lamb Lookahead ranger OptimWrapper').split()
    for n in names:
        assert hasattr(O, n) and n in O.__all__, n
