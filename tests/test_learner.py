"The promises of `Learner`: what it computes, what it says when something goes wrong, what it leaves behind."
import os, signal, subprocess, sys, textwrap, time, warnings
from functools import partial
from types import SimpleNamespace
import pytest, torch, torch.nn.functional as F
from torch import nn
from coursekit.core import *
from coursekit.errors import error_text
from coursekit.learner import *
from coursekit.callback.core import *
from coursekit.callback.progress import *
from coursekit.callback.schedule import *
from coursekit.data.load import DataLoader
from coursekit.losses import *
from coursekit.metrics import *
from coursekit.optimizer import SGD, OptimWrapper

torch.manual_seed(0)
x = torch.randn(256,6)
y = x[:,:3].argmax(1)

def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6,16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16,3))
def split(m): return [list(m[0].parameters()), list(m[1].parameters()), list(m[4].parameters())]
def get_dls(seed=3, n=192):
    train = DataLoader(list(zip(x[:n],y[:n])), bs=32, shuffle=True, seed=seed)
    return SimpleNamespace(train=train, valid=DataLoader(list(zip(x[192:],y[192:])), bs=32), device='cpu')
def learner(**kw):
    kw = {**dict(lr=0.01, metrics=accuracy, splitter=split), **kw}
    return Learner(get_dls(), model(), CrossEntropyLossFlat(), **kw)
def weights(learn): return [o.clone() for o in learn.model.state_dict().values()]
def same(a, b): return all(torch.equal(p,q) for p,q in zip(a,b))

class Log(Callback):
    "Sets itself up and cleans up: it must do both, whatever happens"
    order = 99
    def __init__(self): self.open,self.n = 0,0
    def before_fit(self): self.open += 1
    def after_fit(self): self.open -= 1

def usable(learn):
    "After whatever happened: no leftovers, and training and validating work"
    assert [o.name for o in learn.cbs][:3]==['train_eval','recorder','progress'] and len(learn.cbs)==4
    assert learn.log.open==0 and learn.logger is print and not learn.training and learn.xb==(None,)
    assert learn.pred is None
    assert all(p.grad is None for p in learn.model.parameters())
    learn.fit(3, 0.03)
    assert len(learn.recorder.values)==3 and learn.validate()[1]>0.5 and learn.get_preds()[0].shape==(64,3)

@pytest.mark.parametrize('ev', [o for o in vars(event) if o!='after_create' and 'cancel' not in o])
@pytest.mark.parametrize('ex', [KeyboardInterrupt, ZeroDivisionError])
def test_stop_anywhere(ev, ex, capsys):
    learn = learner(cbs=Log())
    def stop(self):
        if ev in ('before_fit','after_fit') or self.epoch==1: raise ex('now')
    with pytest.raises(ex): learn.fit(3, cbs=Callback(**{ev:stop}))
    out = capsys.readouterr().out
    if ex is KeyboardInterrupt and ev!='after_fit':
        assert 'Interrupted in epoch' in out and 'start_epoch=' in out
    # the row of epoch 0 stays
    if ev not in ('before_fit','after_fit'): assert '    0   ' in out and len(learn.recorder.values)==1
    usable(learn)

def test_message_names_callback_and_event():
    class Bad(Callback):
        def after_pred(self): raise ValueError('oops')
    with pytest.raises(ValueError, match='(?s)oops.*`Bad`, event `after_pred`.*training, epoch 0, batch 0'):
        learner(cbs=Bad).fit(1)

def test_real_ctrl_c(tmp_path):
    "A real SIGINT in the middle of training, as from the keyboard"
    code = textwrap.dedent('''
        import time, torch, torch.nn.functional as F
        from torch import nn
        from coursekit.learner import *
        from coursekit.callback.core import *
        from coursekit.callback.progress import *
        b = [(torch.randn(8,2), torch.randint(0,2,(8,)))]*50
        def wait(self):
            if self.train_iter==10: print('go', flush=True)
            time.sleep(0.05)
        learn = Learner((b,b[:2]), nn.Linear(2,2), F.cross_entropy, cbs=Callback(after_batch=wait))
        try: learn.fit(5)
        except KeyboardInterrupt: print('caught')
        print('valid', learn.validate()[0]>0)
    ''')
    env = {**os.environ, 'OMP_NUM_THREADS':'1'}
    p = subprocess.Popen([sys.executable,'-c',code], text=True, env=env,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out = ''
    for line in p.stdout:
        out += line
        if line.strip()=='go':
            p.send_signal(signal.SIGINT)
            break
    rest,err = p.communicate(timeout=60)
    out += rest
    assert 'Interrupted in epoch 0, batch' in out and 'caught' in out and 'valid True' in out, out+err

def test_nan_stops_before_the_step():
    learn = learner()
    seen = []
    def poison(self):
        if self.training and self.epoch==1 and self.iter==2:
            seen.append(weights(self.learn))
            self.learn.xb = (self.xb[0]*float('nan'),)
    with pytest.warns(RuntimeWarning, match='epoch 1, batch 2.*still good.*lower learning rate'):
        learn.fit(3, cbs=Callback(before_batch=poison))
    assert same([o for o in seen[0] if o.shape==(16,6)], [o for o in weights(learn) if o.shape==(16,6)])
    assert all(p.isfinite().all() for p in learn.model.parameters())
    assert len(learn.recorder.losses)==6+2 and len(learn.recorder.values)==1

def test_nan_found_late_names_the_batch():
    "On a graphics card losses are read in bulk; here a loss pretends to be there"
    learn = learner()
    r = learn.recorder
    learn.epoch,learn.iter = 4,7
    learn.create_opt()
    r.smooth_loss.pending = [(torch.tensor(v),1) for v in (1.,1.,float('nan'),1.)]       # batches 4 to 7
    with pytest.warns(RuntimeWarning, match='epoch 4, batch 6.*still good'):
        with pytest.raises(CancelFitException): r.check_losses()

def test_losses_are_not_numbers_from_the_start():
    net = nn.Sequential(nn.Linear(6,3))
    learn = Learner((([(x*1e30,y)]*3),[]), net, CrossEntropyLossFlat(), lr=1e30, opt_func=SGD)
    # the first step already overflowed
    with pytest.warns(RuntimeWarning, match='epoch 0, batch 1.*no numbers any more'): learn.fit(2)

def test_out_of_memory_says_which_batch_size():
    def oom(self): raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')
    with pytest.raises(torch.OutOfMemoryError, match='(?s)batches of 32 items. Try `bs=16`'):
        learner(cbs=Callback(after_pred=oom)).fit(1)
    with pytest.raises(torch.OutOfMemoryError, match='(?s)batches of [0-9]+ items. Try `bs='):
        learner(cbs=Callback(after_pred=oom)).get_preds()
    class TooLarge(list): # a loader that cannot make its batch
        bs = 8
        def __iter__(self): raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
    with pytest.raises(RuntimeError, match='(?s)validation data.*batches of 8 items. Try `bs=4`'):
        learner().validate(dl=TooLarge([0]))

# saving
def test_save_load_roundtrip(tmp_path):
    a = learner(path=tmp_path)
    a.fit(2)
    f = a.save('m')
    assert f==tmp_path/'models'/'m.safetensors' and a.save('m')==f
    b = learner(path=tmp_path).load('m')
    assert same(weights(a), weights(b))
    for l in (a,b):
        set_seed(5)
        l.dls = get_dls()
        l.fit(1)
    assert same(weights(a), weights(b))                                     # the optimizer went on as well
    c = learner(path=tmp_path)
    c.fit(1)
    c.load('m', with_opt=False)
    assert c.opt.state_dict()['state'][0]['step']==6
    assert set(torch.load(a.save('m.pth'), weights_only=True))=={'model','opt'}

def test_save_is_atomic(tmp_path, monkeypatch):
    a = learner(path=tmp_path)
    a.fit(1)
    f = a.save('m')
    before = f.read_bytes()
    a.fit(1)
    def full(fd): raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m, pytest.raises(OSError, match=f"No space left on device: '.*{f.name}'"):
        m.setattr(os, 'fsync', full)
        a.save('m')
    assert f.read_bytes()==before and [o.name for o in f.parent.iterdir()]==[f.name]

def test_killed_while_saving(tmp_path):
    "SIGKILL at a random moment of a stream of saves leaves a file that loads"
    code = textwrap.dedent('''
        import sys, torch
        from pathlib import Path
        from coursekit.learner import save_atomic
        file,o = Path(sys.argv[1]),torch.zeros(400_000)
        save_atomic({'a':o}, file)
        print('go', flush=True)
        while True: save_atomic({'a':o}, file)
    ''')
    f = tmp_path/'w.pth'
    p = subprocess.Popen([sys.executable,'-c',code,str(f)], stdout=subprocess.PIPE, text=True)
    p.stdout.readline()
    time.sleep(0.137)
    p.kill()
    p.wait()
    assert torch.load(f, weights_only=True)['a'].shape==(400_000,)

def test_load_refuses_what_does_not_fit(tmp_path):
    a = learner(path=tmp_path)
    a.save('m')
    other = nn.Sequential(nn.Linear(6,16), nn.Linear(16,3))
    b = Learner(get_dls(), other, CrossEntropyLossFlat(), path=tmp_path)
    before = weights(b)
    with pytest.raises(RuntimeError, match='another model'): b.load('m')
    assert same(before, weights(b))
    class Evil:
        def __reduce__(self): return (os.mkdir, (str(tmp_path/'pwned'),))
    torch.save({'model':Evil(),'opt':{}}, tmp_path/'models'/'evil.pth')
    with pytest.raises(RuntimeError, match='run code'): a.load('evil')
    assert not (tmp_path/'pwned').exists()

# optimizer and training
def test_optimizer_state_survives_freezing():
    learn = learner()
    learn.fit(1)
    p,bn = learn.model[0].weight,learn.model[1].weight
    avg,w,b = learn.opt.state[p]['grad_avg'].clone(),p.detach().clone(),bn.detach().clone()
    learn.freeze()
    learn.fit(1)
    assert torch.equal(p,w) and torch.equal(learn.opt.state[p]['grad_avg'],avg) and not p.requires_grad
    assert not torch.equal(bn,b)                                            # batch norm goes on training
    learn.unfreeze()
    learn.fit(1)
    assert learn.opt.state[p]['step']==12 and learn.opt.state[learn.model[4].weight]['step']==18
    assert not torch.equal(p,w)

def test_no_weight_decay_for_norms_and_biases():
    learn = learner(opt_func=SGD, wd=0.5)
    learn.create_opt()
    free = [n for n,p in learn.model.named_parameters() if learn.opt.state[p].get('do_wd') is False]
    assert free==['0.bias','1.weight','1.bias','4.bias']
    learn.opt.set_hypers(wd=0.5, lr=0.1)
    before = weights(learn)
    for p in learn.model.parameters(): p.grad = torch.zeros_like(p)
    learn.opt.step()
    assert torch.allclose(learn.model[0].weight, before[0]*0.95)
    assert torch.equal(learn.model[0].bias, before[1])

def test_resume_equals_uninterrupted(tmp_path):
    "Interrupted after epoch 1 of 4, saved, loaded by another learner: rates and record are as in one go"
    def one(cbs=None, **kw):
        learn = learner(path=tmp_path, cbs=cbs)
        learn.model[3].p = 0.
        learn.dls = get_dls()
        return learn
    a = one()
    a.fit_one_cycle(4, 0.02)
    b = one()
    with pytest.raises(KeyboardInterrupt):
        b.fit_one_cycle(4, 0.02, cbs=Callback(after_epoch=lambda self: stop_after(self, 1)))
    b.save('half')
    dl = b.dls
    c = one().load('half')
    c.dls = dl
    c.fit_one_cycle(4, 0.02, start_epoch=2)
    # the smoothed loss starts anew
    assert same(weights(a), weights(c))
    assert [o[1:] for o in a.recorder.values[2:]]==[o[1:] for o in c.recorder.values]
    assert a.recorder.hps['lr'][12:]==c.recorder.hps['lr']
def stop_after(self, n):
    if self.epoch==n: raise KeyboardInterrupt

def test_torch_optimizers_and_loaders():
    ds = torch.utils.data.TensorDataset(x,y)
    dls = SimpleNamespace(train=torch.utils.data.DataLoader(ds, 32, shuffle=True, drop_last=True),
                          valid=torch.utils.data.DataLoader(ds, 50))
    for opt in (torch.optim.AdamW, partial(OptimWrapper, opt=torch.optim.SGD)):
        learn = Learner(dls, model(), F.cross_entropy, opt_func=opt, lr=0.02, metrics=accuracy)
        learn.fit_one_cycle(3, 0.05)
        assert learn.recorder.values[-1][2]>0.6
        last = learn.recorder.hps['lr'][-1]
        assert learn.opt.opt.param_groups[0]['lr']==learn.opt.hypers[0]['lr']==last<0.001
    p,t = learn.get_preds(0)
    assert torch.equal(t,y)  # in order although the loader shuffles
    assert (p-learn.get_preds(dl=torch.utils.data.DataLoader(ds,7))[0]).abs().max()<1e-5

def test_equal_to_a_bare_loop():
    "The loop, its table and its metrics give the numbers of ten plain lines"
    dls,m,n = get_dls(),model(),model()
    learn = Learner(dls, m, F.cross_entropy, opt_func=torch.optim.AdamW, lr=0.01, wd_bn_bias=True,
                    metrics=[accuracy,error_rate], cbs=Log())
    set_seed(7)
    learn.fit(2)
    set_seed(7)
    dls,opt = get_dls(),torch.optim.AdamW(n.parameters(), lr=0.01, weight_decay=0.01)
    smooth,k = 0.,0
    for _ in range(2):
        n.train()
        for xb,yb in dls.train:
            loss = F.cross_entropy(n(xb),yb)
            loss.backward()
            opt.step()
            opt.zero_grad()
            smooth,k = smooth*0.98+loss.item()*0.02,k+1
    n.eval()
    out = n(x[192:])
    assert same(m.state_dict().values(), n.state_dict().values())
    right = (out.argmax(1)==y[192:]).float().mean().item()
    want = [smooth/(1-0.98**k), F.cross_entropy(out,y[192:]).item(), right]
    assert list(learn.recorder.values[-1][:3])==pytest.approx(want, abs=1e-6)

def test_predictions_options():
    learn = learner()
    learn.fit(1)
    inp,p,t,dec,losses = learn.get_preds(with_input=True, with_decoded=True, with_loss=True)
    assert torch.equal(inp,x[192:]) and torch.equal(t,y[192:]) and torch.equal(dec,p.argmax(1))
    assert torch.allclose(p.sum(1), torch.ones(64), atol=1e-5)
    assert torch.allclose(losses, -p[range(64),t].log(), atol=1e-4) and learn.loss_func.reduction=='mean'
    q = learn.get_preds(0)[1]
    assert torch.equal(q, y[:192])
    assert [o.name for o in learn.cbs]==['train_eval','recorder','progress'] and len(learn.recorder.values)==1
    def mean_loss(p, t): return ((p.softmax(1)-F.one_hot(t,3))**2).mean()      # knows no `reduction`
    learn.loss_func = mean_loss
    l = learn.get_preds(with_loss=True)[-1]
    assert l.shape==(64,) and abs(l.mean().item()-learn.validate()[0])<1e-5 and learn.loss_func is mean_loss

def test_semantic_tensors_reach_the_model_plain():
    class TensorThing(torch.Tensor): pass
    kinds = []
    class M(nn.Linear):
        def forward(self, x):
            kinds.append(type(x))
            return super().forward(x)
    b = [(x[:8].as_subclass(TensorThing), y[:8])]*2
    learn = Learner((b,b), M(6,3), F.cross_entropy)
    got = []
    learn.fit(1, cbs=Callback(after_batch=lambda self: got.append(type(self.batch[0]))))
    assert set(kinds)=={torch.Tensor} and set(got)=={TensorThing}

def test_short_and_missing_loaders():
    class Short(list):
        def __len__(self): return 5
    b = [(x[:8],y[:8])]*3
    with pytest.warns(UserWarning, match='promised 5 batches and gave 3'):
        Learner((Short(b),b), nn.Linear(6,3), F.cross_entropy).fit(1)
    learn = Learner((b,[]), nn.Linear(6,3), F.cross_entropy, metrics=accuracy)
    learn.fit(1)
    assert list(learn.recorder.metric_names)==['epoch','train_loss','time']
    assert len(learn.recorder.values[0])==1
    with pytest.raises(ValueError, match='no validation data'): learn.validate()

def test_terminal_lines_are_aligned(capsys):
    learner().fit(2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines)==3 and lines[0].split()==['epoch','train_loss','valid_loss','accuracy','time']
    assert len({len(o) for o in lines})==1

def test_each_event_asks_only_those_who_listen():
    learn = learner()
    learn.fit(1)
    for ev,calls in learn._calls.items():
        assert all(ev in vars(type(cb)) or any(ev in vars(c) for c in type(cb).__mro__) for cb,_,_ in calls)
    assert not learn._calls['after_pred'] and not learn._calls['after_step']

@pytest.mark.parametrize('ev', ['before_backward','after_backward','before_step','after_step'])
@pytest.mark.parametrize('ex', [CancelTrainException, CancelEpochException, CancelFitException])
def test_cancelling_leaves_no_gradient_behind(ev, ex):
    "What a cancelled batch computed must not be added to the first batch of the next epoch"
    seen = []
    def stop(self):
        if self.training and self.iter==2: raise ex()
    def look(self):
        if self.iter==0: seen.append(any(p.grad is not None for p in self.model.parameters()))
    learn = learner(cbs=Log())
    learn.fit(3, cbs=[Callback(**{ev:stop}), Callback(before_backward=look)])
    assert seen==[False]*(1 if ex is CancelFitException else 3)
    assert all(p.grad is None for p in learn.model.parameters())
    usable(learn)

def test_cancelled_batch_may_keep_its_gradients():
    "Gradient accumulation lives on that"
    seen = []
    def skip(self):
        if self.iter%2==0:
            seen.append(self.model[0].weight.grad.clone())
            raise CancelBatchException()
    def look(self):
        if self.iter%2==1: seen.append(self.model[0].weight.grad.clone())
    learner().fit(1, cbs=[Callback(before_step=skip), Callback(before_backward=look)])
    assert len(seen)==6 and all(torch.equal(a,b) and a.norm()>0 for a,b in zip(seen[::2],seen[1::2]))

class Deadly(torch.utils.data.Dataset):
    "The worker process that reads item 0 is killed, as by a system that is out of memory"
    def __init__(self, armed): self.armed = armed
    def __len__(self): return 192
    def __getitem__(self, i):
        if self.armed and i==0: os.kill(os.getpid(), signal.SIGKILL)
        return x[i],y[i]

@pytest.mark.skipif(os.name=='nt', reason='needs SIGKILL')
def test_worker_process_killed():
    "A message that says what happened and what helps, and a usable learner"
    learn = learner(cbs=Log())
    good = learn.dls
    deadly = DataLoader(Deadly(True), bs=32, num_workers=1)
    learn.dls = SimpleNamespace(train=deadly, valid=good.valid, device='cpu')
    with pytest.raises(RuntimeError, match='worker process died.*num_workers=0.*smaller bs'): learn.fit(2)
    learn.dls = good
    usable(learn)

def test_ctrl_c_leaves_whole_files(tmp_path):
    "The log has whole rows, the saved model is whole, and no temporary file is left"
    from coursekit.callback.tracker import SaveModelCallback
    learn = learner(cbs=Log(), path=tmp_path)
    def stop(self):
        if self.epoch==2 and self.training and self.iter==3: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        learn.fit(4, cbs=[CSVLogger(), SaveModelCallback(), Callback(after_loss=stop)])
    rows = (tmp_path/'history.csv').read_text().splitlines()
    assert len(rows)==3 and all(len(o.split(','))==5 for o in rows)
    assert [o.name for o in (tmp_path/'models').iterdir()]==['model.safetensors']
    learn.load('model')
    usable(learn)

def test_live_plot_keeps_quiet_without_a_notebook(capsys):
    learner(cbs=ShowGraphCallback()).fit(2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines)==3 and [o.name for o in learner(cbs=ShowGraphCallback()).cbs][-1]=='show_graph'

def test_callback_changes_everything():
    "Batch, predictions, loss, gradients, weights, optimizer, model: the loop takes what a callback writes"
    seen = {}
    class Change(Callback):
        run_valid = False
        def before_batch(self): self.learn.xb,self.learn.yb = (self.xb[0]*0+1,),(self.yb[0]*0,)
        def after_pred(self): self.learn.pred = self.pred*0
        def after_loss(self):
            seen.setdefault('loss', self.loss.item())
            self.learn.loss_grad = sum((p**2).sum() for p in self.model.parameters())
        def after_backward(self):
            p = self.model[0].weight
            seen['grad'] = torch.allclose(p.grad, 2*p)
            p.grad.fill_(1.)
        def before_step(self):
            self.opt.set_hyper('lr', 0.25)
            self.before = self.model[0].weight.detach().clone()
        def after_step(self):
            seen['step'] = torch.allclose(self.before-self.model[0].weight, torch.tensor(0.25))
    def new_model(self): self.learn.model = nn.Sequential(self.model[0], nn.Tanh(), nn.Linear(16,3))
    learn = Learner(get_dls(), model(), F.cross_entropy, opt_func=SGD, lr=0.1)
    def note(m, inp, out):
        if m.training: seen['inp'] = inp[0].detach().clone()
    learn.model[0].register_forward_hook(note)
    learn.fit(1, cbs=[Change, Callback(after_fit=new_model)])
    assert torch.equal(seen['inp'], torch.ones(32,6))
    assert seen['loss']==pytest.approx(torch.log(torch.tensor(3.)).item(), abs=1e-6) and seen['grad']
    assert seen['step'] and len(learn.model)==3

# what a practitioner stumbled over
@pytest.mark.parametrize('ex,want', [(None,['end']), (CancelFitException,['end']), (ValueError,[]),
                                     (KeyboardInterrupt,[])])
def test_after_fit_runs_after_a_crash_only_for_who_opened_something(ex, want):
    "Ended or cancelled: all hear of it. Crashed or interrupted: only who has a `before_fit` to clean up"
    told,log = [],Log()
    def stop(self):
        if ex: raise ex('now')
    def end(self): told.append('end')
    learn = learner(cbs=[log, Callback(after_fit=end), Callback(after_batch=stop)])
    if want: learn.fit(1)
    else:
        with pytest.raises(ex): learn.fit(1)
    assert told==want and log.open==0

def test_metrics_are_asked_once_and_their_errors_come_out():
    asked = []
    with pytest.raises(ValueError, match=r"(?s)multiclass.*metric `f1_score`"):
        learner(metrics=F1Score()).fit(1)
    learn = learner(metrics=ValueMetric(lambda: asked.append(1) or torch.tensor(31), 'n'))
    learn.fit(3)
    assert len(asked)==3 and [o[2] for o in learn.recorder.values]==[31]*3
    assert type(learn.recorder.values[0][2]) is int

def test_rmse_of_one_output():
    "A column of predictions against a row of targets is not a square of differences"
    t = x[:,0]
    b = [(x[:150],t[:150]),(x[150:],t[150:])]
    learn = Learner((b,b), nn.Linear(6,1), MSELossFlat(), metrics=[rmse,mse])
    r,m = learn.validate()[1:]
    assert r==pytest.approx(m**0.5, abs=1e-6)

def test_scikit_learn_leaves_random_numbers_alone():
    code = textwrap.dedent('''
        import random, sys, torch, numpy as np
        from coursekit.core import set_seed
        from coursekit.metrics import F1Score
        def draw(make):
            set_seed(1)
            make()
            return random.random(),np.random.rand(),torch.rand(1).item()
        assert 'sklearn' not in sys.modules
        assert draw(F1Score)==draw(lambda: 0)
    ''')
    subprocess.run([sys.executable,'-c',code], check=True, timeout=120)

class Pid(torch.utils.data.Dataset):
    "Items tell who made them"
    def __init__(self, lost=None): self.lost = lost
    def __len__(self): return 64
    def __getitem__(self, i):
        if i==self.lost: raise FileNotFoundError(f'no photo {i}')
        return torch.full((4096,), os.getpid())

@pytest.mark.skipif(os.name=='nt', reason='needs SIGKILL')
def test_worker_killed_with_batches_in_its_pipe():
    for _ in range(3):
        it = iter(DataLoader(Pid(), bs=2, num_workers=1))
        b = next(it)
        time.sleep(0.2)
        os.kill(int(b.flatten()[0]), signal.SIGKILL)
        with pytest.raises(RuntimeError, match='worker process died.*num_workers=0'): list(it)
    # in the middle of somebody's loop
    died = '^DataLoader: a worker process died.*killed by signal.*num_workers=0'
    with pytest.raises(RuntimeError, match=died):
        for b in DataLoader(Pid(), bs=2, num_workers=1):
            os.kill(int(b.flatten()[0]), signal.SIGKILL)
            time.sleep(9)
    # a missing file is no dead worker
    with pytest.raises(Exception, match='no photo 5') as e: list(DataLoader(Pid(5), bs=2, num_workers=1))
    assert 'worker process died' not in str(e.value)

def test_unknown_arguments_are_refused():
    for kw in (dict(with_decod=True), dict(ds_index=0), dict(foo=0)):
        with pytest.raises(TypeError, match=next(iter(kw))): learner().get_preds(**kw)
    assert learner().get_preds(inner=True)[0].shape==(64,3)

def test_save_adds_the_ending_to_a_path(tmp_path):
    from pathlib import Path
    a = learner(path=tmp_path)
    assert a.save(Path('m'))==tmp_path/'models'/'m.safetensors'
    assert a.save(tmp_path/'n')==tmp_path/'n.safetensors'
    assert a.save(tmp_path/'o.pth')==tmp_path/'o.pth'
    for f in (Path('m'), 'm', tmp_path/'n', tmp_path/'n.pth'): a.load(f)

def test_x_and_y():
    seen = []
    def look(self): seen.append(self.x is self.xb[0] and self.y is self.learn.yb[0])
    learner().fit(1, cbs=Callback(before_batch=look))
    assert len(seen)==8 and all(seen)

def test_plain_cross_entropy_predicts_classes():
    learn = learner()
    plain = Learner(learn.dls, learn.model, F.cross_entropy)
    assert plain.predict(x[0])[1]==learn.predict(x[0])[1]==learn.get_preds(dl=[(x[:1],)])[0].argmax()

@pytest.mark.parametrize('args,ex', [((-1,),ValueError), ((1.5,),ValueError), ((1,'1e-3'),TypeError),
                                     ((1,slice('1e-5',1e-3)),TypeError)])
def test_fit_refuses_nonsense(args, ex):
    learn = learner()
    with pytest.raises(ex, match='n_epoch|learning rate'): learn.fit(*args)
    assert learn.opt is None

def test_misspelt_event_warns(recwarn):
    with pytest.warns(UserWarning, match='`after_bach`.*`after_batch`'):
        class A(Callback):
            def after_bach(self): pass
    recwarn.clear()
    class B(Callback):
        def after_batch(self): pass
        def before_we_start(self): pass
    assert not recwarn.list

def test_validating_without_targets_says_so():
    with pytest.raises(ValueError, match='no targets.*get_preds'): learner().validate(dl=[(x[:5],)])

def test_row_of_a_cancelled_epoch_is_aligned(capsys, tmp_path):
    def stop(self):
        if self.epoch==0 and self.training: raise CancelEpochException()
    learn = learner(path=tmp_path)
    learn.fit(2, cbs=[CSVLogger(), Callback(after_batch=stop)])
    lines = capsys.readouterr().out.splitlines()
    assert len({len(o) for o in lines})==1 and lines[1].split()[0]=='0' and len(lines[1].split())==2
    assert [len(o.split(',')) for o in (tmp_path/'history.csv').read_text().splitlines()]==[5]*3
    with learn.no_bar(): learn.fit(1)
    row = capsys.readouterr().out.strip()
    assert row.startswith('[0, ') and all(len(o.split('.')[1])==6 for o in row.split(', ')[1:4])

# cancelling, and a look in between
LEVELS = dict(batch=CancelBatchException, train=CancelTrainException, validate=CancelValidException,
              epoch=CancelEpochException, fit=CancelFitException, backward=CancelBackwardException,
              step=CancelStepException)

@pytest.mark.parametrize('name', LEVELS)
def test_cancelling_what_is_over_skips_nothing(name):
    "A level's own exception in its `after_…`: the others still hear the event, training is as without it"
    def cancel(self): raise LEVELS[name]()
    heard = []
    plain,learn = learner(),learner()
    torch.manual_seed(0)
    plain.fit(2)
    torch.manual_seed(0)
    def hear(self): heard.append(1)
    learn.fit(2, cbs=[Callback(**{f'after_{name}':f}) for f in (cancel,hear)])
    assert heard and same(weights(plain), weights(learn))
    assert [o[:2] for o in learn.recorder.values]==[o[:2] for o in plain.recorder.values]

def test_a_cancel_that_nobody_catches_says_who_raised_it():
    class Odd(Callback):
        run_train = False
        def after_pred(self): raise CancelTrainException
    with pytest.raises(CancelTrainException, match='`Odd` raised `CancelTrainException` at `after_pred`'):
        learner(cbs=Odd).fit(1)

@pytest.mark.parametrize('ev', ['before_epoch','before_train','after_batch','after_train','before_validate',
                                'after_validate','after_epoch'])
def test_a_look_in_the_middle_of_a_training_changes_nothing(ev, capsys):
    n = []
    def look(self):
        if self.only_validate: return
        n.append(len(self.learn.get_preds(inner=True)[0]))
        n.append(round(self.learn.validate()[1]))
    plain,learn = learner(),learner()
    torch.manual_seed(0)
    plain.fit_one_cycle(2, 0.02)
    torch.manual_seed(0)
    learn.fit_one_cycle(2, 0.02, cbs=Callback(**{ev:look}))
    assert n and n[0]==64 and same(weights(plain), weights(learn))
    assert plain.recorder.values==learn.recorder.values and plain.recorder.lrs==learn.recorder.lrs
    assert len(learn.cbs)==3 and not learn.training and torch.is_grad_enabled()

# who listens
def quiet(**kw): # Without the callbacks that everybody has
    return learner(default_cbs=False, **kw)

def test_callbacks_come_and_go():
    class Zero(Callback): pass
    told = []
    def tells(word, order=0):
        cb = Callback(before_fit=lambda self: told.append(word))
        cb.order = order
        return cb
    learn = quiet(cbs=[tells('second'), tells('first', -1)])
    with learn.added_cbs(tells('third', 1)): learn('before_fit')
    learn(['before_fit','after_fit'])
    assert told==['first','second','third','first','second']
    assert [o.order for o in learn.ordered_cbs('before_fit')]==[-1,0] and not learn.ordered_cbs('after_step')
    with learn.added_cbs(Zero): assert isinstance(learn.zero, Zero) and len(learn.cbs)==3
    assert not hasattr(learn, 'zero')
    with learn.removed_cbs(learn.cbs[:1]): assert len(learn.cbs)==1
    assert len(learn.cbs)==2 and len(learn.remove_cb(Callback).cbs)==0

def test_what_is_no_callback_is_refused():
    class Zero(Callback): pass
    class Cbs(Callback): pass
    learn = quiet()
    def with_bad_one():
        with learn.added_cbs([Zero,'x']): pass
    assert 'A callback was expected' in error_text(with_bad_one) and not hasattr(learn, 'zero')
    for bad in (3,noop,int): assert 'A callback was expected' in error_text(learn.add_cb, bad)
    text = error_text(learn.add_cb, Cbs)
    assert text.startswith('ValueError: A callback `Cbs` would be known as `learn.cbs`')

def test_a_callback_that_is_switched_off_does_not_run():
    learn = quiet(cbs=Callback(before_fit=lambda self: 1/0))
    learn.cbs[0].run = False
    learn('before_fit')

def test_an_error_in_after_create_names_the_callback():
    bad = Callback(after_create=lambda self: 1/0)
    assert 'in callback `Callback`, event `after_create`' in error_text(learner, cbs=bad)

def test_an_event_announced_by_hand_names_the_callback_that_fails():
    learn = quiet(cbs=Callback(before_fit=lambda self: 1/0))
    text = error_text(learn, 'before_fit')
    assert text=='ZeroDivisionError: division by zero\n(in callback `Callback`, event `before_fit`)'

# a batch on its way to the model
def first_batch(dl): # Inputs, targets, batch and number of batches, as a callback finds them
    learn = Learner((dl,[]), nn.Linear(2,2), F.mse_loss)
    seen = []
    def note(self):
        seen.append((self.xb,self.yb,self.batch,self.n_iter))
        raise CancelFitException()
    learn.fit(1, cbs=Callback(before_batch=note))
    return seen[0]

def test_a_batch_becomes_inputs_and_targets():
    class Three(list): n_inp = 2
    ones = torch.ones(4)
    three = Three([(torch.ones(4,2),torch.ones(4,3),ones)])
    for dl,want in ((three,(2,1)), ([(ones,ones)],(1,1)), ([ones],(1,0))):
        xb,yb,_,n = first_batch(dl)
        assert (len(xb),len(yb))==want and n==1

def test_loaders_and_devices():
    learn = Learner((get_dls().train,[]), model(), F.cross_entropy)
    assert learn.get_dl(1) is None and learn.get_dl(7) is None and learn.device==default_device()

# errors say where they happened, and what helps
small_x,small_y = torch.ones(8,3),torch.zeros(8,1)

def small(train, valid=None, net=None, loss_func=F.mse_loss, cbs=()):
    # A learner with three inputs, and a little data
    torch.manual_seed(42)
    dls = SimpleNamespace(train=train, valid=valid, device='cpu')
    learn = Learner(dls, net or nn.Linear(3,1), loss_func, SGD, lr=0.1, cbs=cbs)
    learn.logger = noop
    return learn

@pytest.mark.parametrize('said,targets,n_out', [
    ('the model has 10 outputs', torch.full((8,),10), 10),
    ('8 predictions for 9 targets', torch.zeros(9).long(), 10),
    ('class numbers', torch.zeros(8), 10), ('batch 0; inputs: [3, 8] float32', torch.zeros(8), 1)])
def test_loss_and_model_say_what_does_not_fit(said, targets, n_out):
    xb = small_x.T if n_out==1 else small_x
    assert said in error_text(small([(xb,targets)], net=nn.Linear(3,n_out), loss_func=F.cross_entropy).fit, 1)

def test_the_batch_that_does_not_fit_is_named():
    text = error_text(small([(small_x,small_y),(small_x[:,:2],small_y)]).fit, 1)
    assert '(in training, epoch 0, batch 1; inputs: [8, 2] float32; targets: [8, 1] float32)' in text

def test_each_note_stands_once_and_in_order():
    def div(self): 1/0
    text = error_text(small([(small_x,small_y)], cbs=Callback(after_pred=div)).fit, 1)
    assert text==('ZeroDivisionError: division by zero\n(in callback `Callback`, event `after_pred`)\n'
                  '(in training, epoch 0, batch 0; inputs: [8, 3] float32; targets: [8, 1] float32)')

@pytest.mark.parametrize('said,f', [
    ('such as `accuracy`?', lambda p,y: (p>y).float().mean()), ('take its mean', lambda p,y: (p-y)[:,0]),
    ('gave a tuple', lambda p,y: (p,y))])
def test_a_loss_that_cannot_be_trained_on(said, f):
    assert said in error_text(small([(small_x,small_y)], loss_func=f).fit, 1)

def test_a_loader_that_fails_says_which_batch_was_asked_for():
    def broken():
        yield small_x,small_y
        raise OSError('no photo')
    text = error_text(small(broken()).fit, 1)
    assert text=='OSError: no photo\n(while the training data was asked for batch 1, in epoch 0)'
    text = error_text(small([(small_x,small_y)]).validate, dl=broken())
    assert text=='OSError: no photo\n(while the validation data was asked for batch 1, in epoch 0)'

@pytest.mark.parametrize('inner', [False,True])
def test_errors_of_a_validation_in_a_context_or_in_the_middle_of_a_fit(inner):
    learn,bad = small([(small_x,small_y)]),[(small_x,small_y),(small_x[:,:2],small_y)]
    where = '(in validation, epoch 0, batch 1; inputs: [8, 2] float32; targets: [8, 1] float32)'
    def in_context():
        with learn.validation_context(): learn._do_epoch_validate(dl=bad)
    class Midfit(Callback):
        run_valid = False
        def after_batch(self): self.learn.validate(dl=bad)
    text = error_text(learn.fit, 1, cbs=Midfit) if inner else error_text(in_context)
    assert where in text
    outer = '(in training, epoch 0, batch 0; inputs: [8, 3] float32; targets: [8, 1] float32)'
    if inner: assert text.endswith(f'(in callback `Midfit`, event `after_batch`)\n{outer}')

def test_loaders_without_data():
    assert 'There is no training data' in error_text(small(None).fit, 1)
    for empty in ([],iter([])): assert 'gave no batch' in error_text(small(empty).fit, 1)
    # no validation, then
    told = []
    def note(self): told.append(1)
    for none in (DataLoader([], bs=4),DataLoader(range(3), bs=4, drop_last=True),[],None):
        small([(small_x,small_y)], none, cbs=Callback(before_validate=note)).fit(2)   # no validation, then
    assert told==[]

class Stream(torch.utils.data.IterableDataset):
    "Knows no length"
    def __iter__(self): return zip(torch.ones(100,3),torch.zeros(100,1))

@pytest.mark.parametrize('make', [partial(DataLoader, bs=50),
                                  partial(torch.utils.data.DataLoader, batch_size=50)])
def test_loaders_without_a_length(make):
    seen = []
    def note(self): seen.append(self.training)
    small(make(Stream()), make(Stream()), cbs=Callback(after_batch=note)).fit(1)
    assert seen==[True]*2+[False]*2

def test_after_fit_comes_whatever_happens():
    class File(Callback):
        def before_fit(self): told.append('open')
        def after_fit(self): told.append('closed')
    def raises(ex):
        def f(self): raise ex()
        return f
    for ex in (KeyboardInterrupt,ZeroDivisionError,CancelFitException):
        told = []
        learn = small([(small_x,small_y)]*3, cbs=[File, Callback(before_step=raises(ex))])
        try:
            learn.fit(1)
        except (KeyboardInterrupt,ZeroDivisionError): pass
        assert told==['open','closed'] and learn.model.weight.grad is None and not learn.training
        assert learn.pred is None

# the optimizer
def test_the_optimizer_is_made_of_what_was_given():
    net = nn.Sequential(nn.Linear(3,4), nn.BatchNorm1d(4), nn.Linear(4,1))
    def made(opt_func, **kw):
        learn = Learner(([],[]), net, F.mse_loss, opt_func, lr=0.1, **kw)
        learn.create_opt()
        return learn
    def marks(learn, k, default): return [learn.opt.state[p].get(k, default) for p in net.parameters()]
    assert marks(made(SGD), 'do_wd', True)==[True,False,False,False,True,False]
    assert marks(made(SGD), 'force_train', False)==[False]*2+[True]*2+[False]*2
    assert not any(made(SGD, wd_bn_bias=True, train_bn=False).opt.state.values())
    assert isinstance(made(torch.optim.SGD).opt, OptimWrapper)
    learn = made(partial(SGD, lr=0.3))
    assert learn.lr==learn.opt.hypers[0]['lr']==0.3

def test_some_groups_only():
    def groups(m): return [list(m[0].parameters()),list(m[1:].parameters())]
    learn = learner(splitter=groups)
    learn.freeze()
    assert [all(p.requires_grad for p in g) for g in learn.opt.param_lists]==[False,True]
    learn.unfreeze()
    assert all(p.requires_grad for p in learn.model.parameters())
    learn.freeze_to(-1)
    assert not learn.model[0].weight.requires_grad
    def steps(): return {s['step'] for s in learn.opt.state.values() if 'step' in s}
    learn.fit(1)
    assert steps()=={6}
    learn.unfreeze()
    assert steps()=={6}
    learn.opt.clear_state()
    assert steps()==set()
    assert 'ValueError' in error_text(learn.fit, 1, [1e-3]*3)
    assert '3 values of `lr` for 2' in error_text(learn.fit, 1, [1e-3]*3)

# what a learner holds
def test_what_a_new_learner_remembers():
    assert learner(path='there').path==Path('there') and learner(lr=None).lr==defaults.lr
    assert '`lr`, the learning rate' in error_text(learner, lr='1e-3')
    learn = learner(metrics=F.mse_loss)
    assert learn.metrics.attrgot('name')==['mse_loss']
    learn.metrics = None
    assert len(learn.metrics)==0

def test_x_and_y_of_several():
    learn = learner()
    learn.xb,learn.yb = (x,),(y,)
    assert learn.x is x and learn.y is y
    learn.xb,learn.yb = (x,x),()
    assert len(learn.x)==2 and learn.y is None

def test_repr_of_a_learner():
    def groups(m): return [list(m[0].parameters()),list(m[1:].parameters())]
    loss = partial(F.cross_entropy, label_smoothing=.1)
    learn = Learner(get_dls(), model(), loss, lr=0.05, splitter=groups, metrics=[accuracy,F.mse_loss])
    learn.freeze()
    lines = repr(learn).splitlines()
    assert lines[0]=='Learner' and len(lines)==7
    for o in ('Sequential, 195 parameters, 83 of them trainable', '6 training batches, 2 validation batches',
              'cross_entropy', 'Adam, lr 0.05, parameter groups: 2', 'accuracy, mse_loss'):
        assert o in repr(learn), o
    assert '0 parameters' in repr(Learner(get_dls(), nn.LazyLinear(3), F.cross_entropy))

def test_no_logging(capsys):
    learn = learner()
    with learn.no_logging(): learn.fit(1)
    assert capsys.readouterr().out=='' and learn.logger is print
    assert learn.smooth_loss==pytest.approx(learn.recorder.losses[-1])

def my_loss(p, t): return F.cross_entropy(p, t)                             # knows no `reduction`

@pytest.mark.parametrize('f', [F.cross_entropy, nn.CrossEntropyLoss(), CrossEntropyLossFlat(), my_loss])
def test_loss_of_each_item(f):
    p,t = torch.randn(5,3),torch.arange(5)%3
    learn = Learner(get_dls(), model(), f)
    with learn.loss_not_reduced():
        assert torch.allclose(learn.loss_func(p,t), F.cross_entropy(p, t, reduction='none'))
    assert learn.loss_func is f and torch.allclose(f(p,t), F.cross_entropy(p, t))

# validation and predictions
def test_validate_leaves_the_record_alone():
    learn = learner()
    learn.fit(1)
    assert learn.validate()==learn.recorder.values[-1][1:3] and len(learn.recorder.values)==1
    for none in ([],None):
        learn.dls = SimpleNamespace(train=[(x[:8],y[:8])], valid=none, device='cpu')
        learn.fit(1)
        for f in (learn.validate,learn.get_preds): assert 'pass `dl`' in error_text(f)
    assert 'no data loader number 7' in error_text(learn.get_preds, 7)

def test_looking_twice_in_every_batch_changes_nothing():
    seen = []
    def look(self): seen.append((self.learn.validate(dl=valid)[1], len(self.learn.get_preds(inner=True)[0])))
    class Look(Callback):
        run_valid,after_pred,after_batch = False,look,look
    valid,results = get_dls().valid,[]
    for cbs in (None,[Look, Callback(after_epoch=look)]):
        learn = learner(default_cbs=True)
        learn.model[3].p = 0.
        train = [(x[i:i+32],y[i:i+32]) for i in range(0,192,32)]
        learn.dls = SimpleNamespace(train=train, valid=valid, device='cpu')
        learn.fit(2, cbs=cbs)
        results.append(([o[:3] for o in learn.recorder.values],weights(learn)))
    (rows,w),(rows2,w2) = results
    assert rows==rows2 and same(w, w2)
    assert len(seen)==2*2*6+2 and {n for _,n in seen}=={64} and seen[-1][0]==rows[-1][2]

def test_validation_context_as_fastai_has_it():
    learn = learner()
    with learn.validation_context(): learn._do_epoch_validate()
    assert learn.final_record==learn.validate() and learn.dl is None and not learn.only_validate
    assert learn.logger is print and torch.equal(learn.to_detach((x,[y]))[1][0], y)

def test_predictions_are_those_of_the_model():
    learn = Learner(get_dls(), model(), F.cross_entropy, lr=0.05, metrics=accuracy)
    learn.fit(1)
    preds,targs = learn.get_preds()
    loss,acc = learn.validate()
    assert torch.equal(targs, y[192:]) and acc==pytest.approx(accuracy(preds,targs).item())
    assert loss==pytest.approx(F.nll_loss(preds.log(),targs).item(), abs=1e-5)
    *_,losses = learn.get_preds(with_loss=True)
    assert losses.mean().item()==pytest.approx(loss, abs=1e-5)
    inp,again,*_ = learn.get_preds(with_input=True, with_decoded=True)
    assert torch.equal(inp, x[192:]) and torch.equal(again, preds)
    assert torch.allclose(learn.get_preds(act=lambda o: o.softmax(1))[0].sum(1), torch.ones(64), atol=1e-5)
    assert learn.get_preds(dl=[(x[:5],)])[1] is None                        # no targets, no problem

def test_predictions_of_any_loader_in_its_order():
    learn = Learner(get_dls(), model(), F.cross_entropy)
    preds = learn.get_preds()[0]
    a,b,ya,yb = x[192:224],x[224:],y[192:224],y[224:]
    for dl in ([[a,ya],[b,yb]], [(a,),(b,)], [a,b], iter([(a,ya),(b,yb)])):
        assert torch.allclose(learn.get_preds(dl=dl)[0], preds, atol=1e-6)
    ds = torch.utils.data.TensorDataset(x,y)
    assert torch.equal(learn.get_preds(dl=torch.utils.data.DataLoader(ds, 50, shuffle=True))[1], y)
    some = torch.utils.data.DataLoader(ds, 4, sampler=[5,3,9,1,0], drop_last=True)
    assert torch.equal(learn.get_preds(dl=some)[1], y[[5,3,9,1,0]])
    sampler = torch.utils.data.SubsetRandomSampler(range(200,256))
    part = torch.utils.data.DataLoader(ds, batch_size=32, sampler=sampler)
    assert learn.get_preds(dl=part)[0].shape==(56,3)

class Decoding(nn.CrossEntropyLoss):
    def decodes(self, out): return out.argmax(-1)

def test_predict_one_item():
    learn = Learner(get_dls(), model(), Decoding())
    label,decoded,out = learn.predict(x[192])
    preds = learn.get_preds()[0]
    assert label==decoded==preds[0].argmax() and torch.allclose(out, preds[0], atol=1e-5)
    assert torch.equal(learn.predict(x[192], None, True)[0], x[192])
    # a model with two inputs
    two,(a,b) = Learner([], nn.Bilinear(3,3,2), F.cross_entropy),torch.randn(2,4,3)
    assert torch.allclose(two.predict((a[0],b[0]))[2], two.model(a,b)[0].softmax(0), atol=1e-5)

class Shows(list): # A loader that shows itself as text
    def one_batch(self): return self[0]
    def show_results(self, b, preds, max_n):
        print(*(f'{t} predicted as {p}' for t,p in zip(b[1][:max_n].tolist(), preds.tolist())), sep='\n')

def test_show_results(capsys):
    learn = Learner(get_dls(), model(), Decoding())
    learn.show_results(dl=Shows([(x[192:],y[192:])]), max_n=3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines)==3 and all(f'{t} predicted as ' in o for t,o in zip(y[192:195].tolist(), lines))
    assert 'know how to show' in error_text(learn.show_results)

def test_outputs_that_the_data_cannot_read():
    "The error says that the loss function has no `decodes`, and how to give it one"
    # data that reads class numbers only
    class Reads(SimpleNamespace):
        def test_dl(self, items, **kw): return [(torch.stack(items),)]
        def decode_batch(self, b): return [(b[0][0], 'abc'[int(b[1][0])])]
    class Fails(Shows):
        def show_results(self, b, preds, max_n): print('abc'[int(preds[0])])
    def own_loss(p, t): return F.cross_entropy(p, t)
    dls = get_dls()
    own = Learner(Reads(train=dls.train, valid=dls.valid, device='cpu'), model(), own_loss)
    preds = own.get_preds()[0]
    assert torch.allclose(preds, own.model(x[192:]), atol=1e-6)             # no activation: as they are
    assert '`own_loss.decodes = lambda preds: preds.argmax(1)`' in error_text(own.predict, x[192])
    assert 'has no `decodes`' in error_text(own.show_results, dl=Fails([(x[192:],y[192:])]))
    own_loss.decodes = lambda preds: preds.argmax(1)
    assert own.predict(x[192])[0]=='abc'[int(preds[0].argmax())]

# files and devices
def test_files_and_devices(tmp_path):
    learn = Learner(get_dls(), model(), F.cross_entropy, path=tmp_path)
    learn.fit(1)
    file = learn.save('first')
    assert file==tmp_path/'models'/'first.safetensors' and [*file.parent.iterdir()]==[file]
    other = Learner(get_dls(), model(), F.cross_entropy, path=tmp_path).load('first')
    assert torch.equal(other.get_preds()[0], learn.get_preds()[0])
    steps = [o.opt.state_dict()['state'][0]['step'] for o in (other,learn)]
    assert steps[0]==steps[1] and "Saved there: ['first']" in error_text(other.load, 'frist')
    assert learn.to('cpu').device==learn.dls.device==torch.device('cpu')
    file.unlink()
    assert 'no `' in error_text(other.load, file)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no graphics card')
def test_to_the_graphics_card_and_back():
    learn = learner()
    learn.fit(1)
    assert next(learn.to('cuda').model.parameters()).is_cuda
    learn.fit(1)
    assert not next(learn.to('cpu').model.parameters()).is_cuda

# a validation in the middle of a training
looks = ['before_epoch','before_train','before_batch','after_pred','after_loss','after_batch','after_train',
         'before_validate','after_validate','after_epoch']
@pytest.mark.parametrize('ev', looks)
@pytest.mark.parametrize('look', ['get_preds','validate'])
def test_a_look_at_any_event_changes_nothing(ev, look):
    "Steps, epochs, schedule, rows, losses and weights are those of a training without it"
    class Look(Callback):
        order,run_valid,busy = 90,False,False
        def look(self):
            # it fires the events of a validation, too
            if self.busy: return
            self.busy,rng = True,torch.get_rng_state()
            got = self.learn.get_preds(inner=True) if look=='get_preds' else self.learn.validate()
            torch.set_rng_state(rng)
            assert len(got)==2
            self.busy = False
    setattr(Look, ev, Look.look)
    def trained(cbs):
        learn = learner(cbs=cbs)
        torch.manual_seed(0)
        learn.fit_one_cycle(3, 0.01)
        r = learn.recorder
        w = torch.cat([p.detach().flatten() for p in learn.model.parameters()]).tolist()
        return [o[:3] for o in r.values],r.losses,r.hps['lr'],learn.train_iter,learn.epoch,w
    assert trained(Look)==trained(None)

def test_a_look_after_each_epoch_as_fastai_code_writes_it():
    "With `inner=True` no fit and no epoch begins: no endless recursion, and early stopping goes on counting"
    from coursekit.callback.tracker import EarlyStoppingCallback
    seen = []
    class Peek(Callback):
        def after_epoch(self): seen.append(len(self.learn.get_preds(dl=self.dls.valid, inner=True)[0]))
    learn = learner(cbs=[Peek, EarlyStoppingCallback(patience=2, min_delta=9)])
    learn.fit(12)
    assert seen==[64]*3 and len(learn.recorder.values)==3

def test_no_result_after_a_cancelled_beginning():
    def never(self): raise CancelFitException
    for f in (learner().validate, learner().get_preds, partial(learner().get_preds, with_loss=True)):
        with pytest.raises(RuntimeError, match='no result'): f(cbs=Callback(before_fit=never))

def test_bad_callback_leaves_no_other_behind():
    from coursekit.callback.training import GradientClip
    learn = learner()
    names = [o.name for o in learn.cbs]
    with pytest.raises(TypeError): learn.fit(1, cbs=[GradientClip(),'x'])
    assert [o.name for o in learn.cbs]==names

def test_names_of_fastai():
    learn = learner()
    with learn.no_mbar(): learn.fit(1)
    with learn.removed_cbs(learn.progress): assert not hasattr(learn, 'progress')
    with learn.validation_context(): learn._do_epoch_validate()
    assert learn.final_record==learn.validate() and learn.progress.learn is learn

@pytest.mark.parametrize('op', ['fit','validate','get_preds'])
def test_ctrl_c_while_gradients_are_off_or_callbacks_go(op):
    "Gradients are computed again, callbacks are as they were, all of them active"
    def off(self):
        torch.set_grad_enabled(False)
        self.learn.recorder.run = False
        raise KeyboardInterrupt
    # Ctrl-C in the middle of taking it away
    class Reluctant(Callback):
        def __setattr__(self, k, v):
            super().__setattr__(k, v)
            if k=='learn' and v is None and not vars(self).get('gone'):
                super().__setattr__('gone', True)
                raise KeyboardInterrupt
    learn = learner()
    learn.logger = noop
    names = [o.name for o in learn.cbs]
    kw = {'n_epoch':1} if op=='fit' else {}
    for cb in (Callback(before_validate=off), Reluctant()):
        with pytest.raises(KeyboardInterrupt): getattr(learn, op)(**kw, cbs=[cb])
        assert torch.is_grad_enabled() and [o.name for o in learn.cbs]==names
        assert all(o.run for o in learn.cbs) and learn.logger is noop

# the recorder, metrics and a hook under odd circumstances
@pytest.mark.parametrize('name', ['SaveModelCallback','EarlyStoppingCallback'])
def test_nan_in_validation_is_told(name, tmp_path):
    from coursekit.callback import tracker
    bad = x.clone()
    bad[200] = float('nan')
    dls = get_dls()
    dls.valid = DataLoader(list(zip(bad[192:],y[192:])), bs=32)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        Learner(dls, model(), F.cross_entropy, cbs=getattr(tracker, name)(), path=tmp_path).fit(1)
    said = ' '.join(str(o.message) for o in seen)
    assert 'validation loss is not a number' in said
    assert f"`{name}` watches 'valid_loss', which is not a number in epoch 0" in said

def test_plot_loss_after_a_cancelled_epoch():
    def cancel(self):
        if self.epoch==0 and self.iter==2 and self.training: raise CancelEpochException
    learn = learner()
    learn.fit(3, cbs=Callback(before_batch=cancel))
    assert list(learn.recorder.plot_loss().lines[1].get_xdata())==[7,13]

def test_a_batch_cancelled_before_its_loss_is_not_recorded():
    def cancel(self):
        if self.iter%2==0: raise CancelBatchException
    learn = learner()
    learn.fit(2, cbs=Callback(after_pred=cancel))
    assert len(learn.recorder.losses)==6

def test_cells_of_fastai():
    "What its own notebooks do with a learner"
    class Told(Callback): # Of every event
        def __init__(self): self.seen = set()
        def __call__(self, name): self.seen.add(name)
    class TrainingStep(Callback): pass
    learn = learner(cbs=[Told(), TrainingStep()])
    learn.model.training_step,learn.model.scaler = 1,2
    learn.fit(1)
    assert {'before_fit','after_step','after_fit'}<=learn.told.seen
    assert [*learn.parameters()]==[*learn.model.parameters()] and learn.scaler==2
    with pytest.raises(AttributeError, match='Neither.*`smoth_loss`'): learn.smoth_loss
    assert learn.smooth_loss.item()==learn.recorder.losses[-1].item()
    learn.dl = SimpleNamespace(to_detach=lambda b, *args: 'kept')
    assert learn.to_detach(x)=='kept'

def test_summary_of_a_model_that_takes_a_dict():
    import coursekit.callback.hook # noqa: F401 (it adds `summary`)
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(6,3)
        def forward(self, d): return self.lin(d['x'])
    dl = [({'x':x[:32]},y[:32])]*3
    learn = Learner((dl,dl), Named(), loss_func=F.cross_entropy)
    learn.fit(1)
    assert 'Input shape: x: 32 x 6)' in learn.summary()

def test_a_metric_as_loss():
    with pytest.raises(RuntimeError, match='such as `accuracy`'): Learner(get_dls(), model(), accuracy).fit(1)

@pytest.mark.parametrize('f', [F1Score,FBeta,RocAuc,RecallMulti,PearsonCorrCoef,R2Score,RocAucMulti])
def test_metrics_without_brackets(f):
    with pytest.raises(TypeError, match=f'`{f.__name__}` makes a metric: it needs brackets'):
        learner(metrics=[f])

killed = '''import os, sys
from coursekit.saving import save_atomic
class Killed:
    def __reduce__(self): os.kill(os.getpid(), 9)
save_atomic(Killed(), sys.argv[1])'''

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no kill -9 here')
def test_what_a_killed_program_left_is_removed(tmp_path):
    file = tmp_path/'a.pth'
    subprocess.run([sys.executable, '-c', killed, str(file)])
    assert len([*tmp_path.iterdir()])==2                                    # half a file and its lock
    save_atomic(1, file)
    assert [*tmp_path.iterdir()]==[file]

def test_predictions_are_what_a_callback_sees():
    class Keep(Callback):
        def before_validate(self): self.kept = []
        def after_batch(self): self.kept.append(self.learn.pred)
    keep,learn = Keep(),learner()
    learn.validate(cbs=keep)
    assert torch.equal(torch.cat(keep.kept).softmax(1), learn.get_preds()[0])
    _,_,output = learn.predict(x[192])
    assert torch.allclose(output, learn.get_preds()[0][0], atol=1e-5)

def test_a_batch_of_nan_reaches_no_weight_and_training_goes_on():
    class Hole(Callback):
        def before_batch(self):
            if self.training and self.iter==2: self.learn.xb = (self.xb[0]*float('nan'),)
    learn = Learner(get_dls(), nn.Linear(6,3), CrossEntropyLossFlat(), lr=0.01, metrics=accuracy)
    with pytest.warns(RuntimeWarning, match='not a number'): learn.fit(1, cbs=Hole())
    assert all(p.isfinite().all() for p in learn.model.parameters())
    learn.fit(1)
    assert len(learn.recorder.values)==1

def test_a_misspelt_file_is_told_what_is_there(tmp_path):
    learn = learner(path=tmp_path)
    learn.save('threes')
    assert same(weights(learner(path=tmp_path).load('threes')), weights(learn))
    assert "Saved there: ['threes']" in error_text(learn.load, 'treeths')

def test_training_goes_on_after_ctrl_c(capsys):
    class CtrlC(Callback):
        def after_loss(self):
            if self.epoch==1 and self.iter==2: raise KeyboardInterrupt
    learn = learner()
    with pytest.raises(KeyboardInterrupt): learn.fit(3, cbs=CtrlC())
    assert 'Interrupted in epoch 1, batch 2 of 6.' in capsys.readouterr().out
    before = learn.validate()[0]
    learn.fit(1)
    assert len(learn.recorder.values)==1 and learn.validate()[0]<before
