"Faults and promises of `Learner` that a notebook cell cannot test: interruption anywhere, half-written files, resuming, loaders of torch, numbers of the loop"
import os, signal, subprocess, sys, textwrap, time
from functools import partial
from types import SimpleNamespace
import pytest, torch, torch.nn.functional as F
from torch import nn
from coursekit.core import *
from coursekit.learner import *
from coursekit.callback.core import *
from coursekit.callback.progress import *
from coursekit.callback.schedule import *
from coursekit.data.load import DataLoader
from coursekit.losses import *
from coursekit.metrics import *
from coursekit.optimizer import SGD, Adam, OptimWrapper

torch.manual_seed(0)
x = torch.randn(256,6); y = x[:,:3].argmax(1)

def model(): torch.manual_seed(1); return nn.Sequential(nn.Linear(6,16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16,3))
def split(m): return [list(m[0].parameters()), list(m[1].parameters()), list(m[4].parameters())]
def get_dls(seed=3, n=192):
    return SimpleNamespace(train=DataLoader(list(zip(x[:n],y[:n])), bs=32, shuffle=True, seed=seed), valid=DataLoader(list(zip(x[192:],y[192:])), bs=32), device='cpu')
def learner(**kw): return Learner(get_dls(), model(), CrossEntropyLossFlat(), **{**dict(lr=0.01, metrics=accuracy, splitter=split), **kw})
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
    assert learn.log.open==0 and learn.logger is print and not learn.training and learn.xb==(None,) and learn.pred is None
    assert all(p.grad is None for p in learn.model.parameters())
    learn.fit(3, 0.03)
    assert len(learn.recorder.values)==3 and learn.validate()[1]>0.5 and learn.get_preds()[0].shape==(64,3)

@pytest.mark.parametrize('ev', ['before_fit','before_epoch','before_train','before_batch','after_pred','after_loss','before_backward','after_backward','before_step',
                                'after_step','after_batch','after_train','before_validate','after_validate','after_epoch','after_fit'])
@pytest.mark.parametrize('ex', [KeyboardInterrupt, ZeroDivisionError])
def test_stop_anywhere(ev, ex, capsys):
    learn = learner(cbs=Log())
    def stop(self):
        if ev in ('before_fit','after_fit') or self.epoch==1: raise ex('now')
    with pytest.raises(ex): learn.fit(3, cbs=Callback(**{ev:stop}))
    out = capsys.readouterr().out
    if ex is KeyboardInterrupt and ev!='after_fit': assert 'Interrupted in epoch' in out and 'start_epoch=' in out
    if ev not in ('before_fit','after_fit'): assert '    0   ' in out and len(learn.recorder.values)==1     # the row of epoch 0 stays
    usable(learn)

def test_message_names_callback_and_event():
    class Bad(Callback):
        def after_pred(self): raise ValueError('oops')
    with pytest.raises(ValueError, match='(?s)oops.*callback `Bad`, event `after_pred`.*training, epoch 0, batch 0'): learner(cbs=Bad).fit(1)

def test_real_ctrl_c(tmp_path):
    "A real SIGINT in the middle of training, as from the keyboard"
    code = textwrap.dedent('''
        import time, torch, torch.nn.functional as F
        from torch import nn
        from coursekit.learner import *; from coursekit.callback.core import *; from coursekit.callback.progress import *
        b = [(torch.randn(8,2), torch.randint(0,2,(8,)))]*50
        learn = Learner((b,b[:2]), nn.Linear(2,2), F.cross_entropy, cbs=Callback(after_batch=lambda self: (print('go', flush=True) if self.train_iter==10 else None, time.sleep(0.05))))
        try: learn.fit(5)
        except KeyboardInterrupt: print('caught')
        print('valid', learn.validate()[0]>0)
    ''')
    p = subprocess.Popen([sys.executable,'-c',code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS':'1'})
    out = ''
    for line in p.stdout:
        out += line
        if line.strip()=='go': p.send_signal(signal.SIGINT); break
    rest,err = p.communicate(timeout=60); out += rest
    assert 'Interrupted in epoch 0, batch' in out and 'caught' in out and 'valid True' in out, out+err

def test_nan_stops_before_the_step():
    learn = learner(); seen = []
    def poison(self):
        if self.training and self.epoch==1 and self.iter==2: seen.append(weights(self.learn)); self.learn.xb = (self.xb[0]*float('nan'),)
    with pytest.warns(RuntimeWarning, match='epoch 1, batch 2.*still good.*lower learning rate'): learn.fit(3, cbs=Callback(before_batch=poison))
    assert same([o for o in seen[0] if o.shape==(16,6)], [o for o in weights(learn) if o.shape==(16,6)])
    assert all(p.isfinite().all() for p in learn.model.parameters())
    assert len(learn.recorder.losses)==6+2 and len(learn.recorder.values)==1

def test_nan_found_late_names_the_batch():
    "On a graphics card losses are read in bulk; here a loss pretends to be there"
    learn = learner(); r = learn.recorder; learn.epoch,learn.iter = 4,7
    learn.create_opt()
    r.smooth_loss.pending = [torch.tensor(v) for v in (1.,1.,float('nan'),1.)]       # batches 4 to 7
    with pytest.warns(RuntimeWarning, match='epoch 4, batch 6.*still good'), pytest.raises(CancelFitException): r.check_losses()

def test_losses_are_not_numbers_from_the_start():
    learn = Learner((([(x*1e30,y)]*3),[]), nn.Sequential(nn.Linear(6,3)), CrossEntropyLossFlat(), lr=1e30, opt_func=SGD)
    with pytest.warns(RuntimeWarning, match='epoch 0, batch 1.*no numbers any more'): learn.fit(2)     # the first step already overflowed

def test_out_of_memory_says_which_batch_size():
    def oom(self): raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')
    with pytest.raises(torch.OutOfMemoryError, match='(?s)batches of 32 items. Try `bs=16`'): learner(cbs=Callback(after_pred=oom)).fit(1)

# saving
def test_save_load_roundtrip(tmp_path):
    a = learner(path=tmp_path); a.fit(2); f = a.save('m')
    assert f==tmp_path/'models'/'m.pth' and a.save('m')==f
    b = learner(path=tmp_path).load('m')
    assert same(weights(a), weights(b))
    for l in (a,b): set_seed(5); l.dls = get_dls(); l.fit(1)
    assert same(weights(a), weights(b))                                     # the optimizer went on as well
    c = learner(path=tmp_path); c.fit(1); c.load('m', with_opt=False); assert c.opt.state_dict()['state'][0]['step']==6
    assert set(torch.load(f, weights_only=True))=={'model','opt'}

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
    code = ("import sys,torch; from pathlib import Path; from coursekit.learner import save_atomic\n"
            "f = Path(sys.argv[1]); o = torch.zeros(400_000)\n"
            "save_atomic({'a':o}, f); print('go', flush=True)\n"
            "while True: save_atomic({'a':o}, f)")
    f = tmp_path/'w.pth'
    p = subprocess.Popen([sys.executable,'-c',code,str(f)], stdout=subprocess.PIPE, text=True); p.stdout.readline()
    time.sleep(0.137); p.kill(); p.wait()
    assert torch.load(f, weights_only=True)['a'].shape==(400_000,)

def test_load_refuses_what_does_not_fit(tmp_path):
    a = learner(path=tmp_path); a.save('m')
    b = Learner(get_dls(), nn.Sequential(nn.Linear(6,16), nn.Linear(16,3)), CrossEntropyLossFlat(), path=tmp_path); before = weights(b)
    with pytest.raises(RuntimeError, match='another model'): b.load('m')
    assert same(before, weights(b))
    class Evil:
        def __reduce__(self): return (os.mkdir, (str(tmp_path/'pwned'),))
    torch.save({'model':Evil(),'opt':{}}, tmp_path/'models'/'evil.pth')
    with pytest.raises(RuntimeError, match='run code'): a.load('evil')
    assert not (tmp_path/'pwned').exists()

# optimizer and training
def test_optimizer_state_survives_freezing():
    learn = learner(); learn.fit(1)
    p,bn = learn.model[0].weight,learn.model[1].weight
    avg,w,b = learn.opt.state[p]['grad_avg'].clone(),p.detach().clone(),bn.detach().clone()
    learn.freeze(); learn.fit(1)
    assert torch.equal(p,w) and torch.equal(learn.opt.state[p]['grad_avg'],avg) and not p.requires_grad
    assert not torch.equal(bn,b)                                            # batch norm goes on training
    learn.unfreeze(); learn.fit(1)
    assert learn.opt.state[p]['step']==12 and learn.opt.state[learn.model[4].weight]['step']==18 and not torch.equal(p,w)

def test_no_weight_decay_for_norms_and_biases():
    learn = learner(opt_func=SGD, wd=0.5); learn.create_opt()
    free = [n for n,p in learn.model.named_parameters() if learn.opt.state[p].get('do_wd') is False]
    assert free==['0.bias','1.weight','1.bias','4.bias']
    learn.opt.set_hypers(wd=0.5, lr=0.1); before = weights(learn)
    for p in learn.model.parameters(): p.grad = torch.zeros_like(p)
    learn.opt.step()
    assert torch.allclose(learn.model[0].weight, before[0]*0.95) and torch.equal(learn.model[0].bias, before[1])

def test_resume_equals_uninterrupted(tmp_path):
    "Interrupted after epoch 1 of 4, saved, loaded by another learner: the same rates and the same record as in one go"
    def one(cbs=None, **kw):
        learn = learner(path=tmp_path, cbs=cbs); learn.model[3].p = 0.; learn.dls = get_dls()
        return learn
    a = one(); a.fit_one_cycle(4, 0.02)
    b = one()
    with pytest.raises(KeyboardInterrupt): b.fit_one_cycle(4, 0.02, cbs=Callback(after_epoch=lambda self: stop_after(self, 1)))
    b.save('half'); dl = b.dls
    c = one().load('half'); c.dls = dl; c.fit_one_cycle(4, 0.02, start_epoch=2)
    assert same(weights(a), weights(c)) and [o[1:] for o in a.recorder.values[2:]]==[o[1:] for o in c.recorder.values]   # the smoothed loss starts anew
    assert a.recorder.hps['lr'][12:]==c.recorder.hps['lr']
def stop_after(self, n):
    if self.epoch==n: raise KeyboardInterrupt

def test_torch_optimizers_and_loaders():
    ds = torch.utils.data.TensorDataset(x,y)
    dls = SimpleNamespace(train=torch.utils.data.DataLoader(ds, 32, shuffle=True, drop_last=True), valid=torch.utils.data.DataLoader(ds, 50))
    for opt in (torch.optim.AdamW, partial(OptimWrapper, opt=torch.optim.SGD)):
        learn = Learner(dls, model(), F.cross_entropy, opt_func=opt, lr=0.02, metrics=accuracy)
        learn.fit_one_cycle(3, 0.05); assert learn.recorder.values[-1][2]>0.6
        assert learn.opt.opt.param_groups[0]['lr']==learn.opt.hypers[0]['lr']==learn.recorder.hps['lr'][-1]<0.001
    p,t = learn.get_preds(0); assert torch.equal(t,y)                       # in order although the loader shuffles
    assert (p-learn.get_preds(dl=torch.utils.data.DataLoader(ds,7))[0]).abs().max()<1e-5

def test_equal_to_a_bare_loop():
    "The loop, its table and its metrics give the numbers of ten plain lines"
    dls,m,n = get_dls(),model(),model()
    learn = Learner(dls, m, F.cross_entropy, opt_func=torch.optim.AdamW, lr=0.01, metrics=[accuracy,error_rate], wd_bn_bias=True, cbs=Log())
    set_seed(7); learn.fit(2)
    set_seed(7); dls,opt = get_dls(),torch.optim.AdamW(n.parameters(), lr=0.01, weight_decay=0.01)
    smooth,k = 0.,0
    for _ in range(2):
        n.train()
        for xb,yb in dls.train:
            loss = F.cross_entropy(n(xb),yb); loss.backward(); opt.step(); opt.zero_grad()
            smooth,k = smooth*0.98+loss.item()*0.02,k+1
    n.eval(); out = n(x[192:])
    assert same(m.state_dict().values(), n.state_dict().values())
    want = [smooth/(1-0.98**k), F.cross_entropy(out,y[192:]).item(), (out.argmax(1)==y[192:]).float().mean().item()]
    assert list(learn.recorder.values[-1][:3])==pytest.approx(want, abs=1e-6)

def test_predictions_options():
    learn = learner(); learn.fit(1)
    inp,p,t,dec,losses = learn.get_preds(with_input=True, with_decoded=True, with_loss=True)
    assert torch.equal(inp,x[192:]) and torch.equal(t,y[192:]) and torch.equal(dec,p.argmax(1)) and torch.allclose(p.sum(1), torch.ones(64), atol=1e-5)
    assert torch.allclose(losses, -p[range(64),t].log(), atol=1e-4) and learn.loss_func.reduction=='mean'
    q = learn.get_preds(0)[1]; assert torch.equal(q, y[:192])
    assert [o.name for o in learn.cbs]==['train_eval','recorder','progress'] and len(learn.recorder.values)==1
    def mean_loss(p, t): return ((p.softmax(1)-F.one_hot(t,3))**2).mean()      # knows no `reduction`
    learn.loss_func = mean_loss; l = learn.get_preds(with_loss=True)[-1]
    assert l.shape==(64,) and abs(l.mean().item()-learn.validate()[0])<1e-5 and learn.loss_func is mean_loss

def test_semantic_tensors_reach_the_model_plain():
    class TensorThing(torch.Tensor): pass
    kinds = []
    class M(nn.Linear):
        def forward(self, x): kinds.append(type(x)); return super().forward(x)
    b = [(x[:8].as_subclass(TensorThing), y[:8])]*2
    learn = Learner((b,b), M(6,3), F.cross_entropy); got = []
    learn.fit(1, cbs=Callback(after_batch=lambda self: got.append(type(self.batch[0]))))
    assert set(kinds)=={torch.Tensor} and set(got)=={TensorThing}

def test_short_and_missing_loaders():
    class Short(list):
        def __len__(self): return 5
    b = [(x[:8],y[:8])]*3
    with pytest.warns(UserWarning, match='promised 5 batches and gave 3'): Learner((Short(b),b), nn.Linear(6,3), F.cross_entropy).fit(1)
    learn = Learner((b,[]), nn.Linear(6,3), F.cross_entropy, metrics=accuracy); learn.fit(1)
    assert list(learn.recorder.metric_names)==['epoch','train_loss','time'] and len(learn.recorder.values[0])==1
    with pytest.raises(ValueError, match='no validation data'): learn.validate()

def test_terminal_lines_are_aligned(capsys):
    learner().fit(2); lines = capsys.readouterr().out.splitlines()
    assert len(lines)==3 and lines[0].split()==['epoch','train_loss','valid_loss','accuracy','time'] and len({len(o) for o in lines})==1

def test_each_event_asks_only_those_who_listen():
    learn = learner(); learn.fit(1)
    for ev,calls in learn._calls.items(): assert all(ev in vars(type(cb)) or any(ev in vars(c) for c in type(cb).__mro__) for cb,_,_ in calls)
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
    learn = learner(cbs=Log()); learn.fit(3, cbs=[Callback(**{ev:stop}), Callback(before_backward=look)])
    assert seen==[False]*(1 if ex is CancelFitException else 3) and all(p.grad is None for p in learn.model.parameters())
    usable(learn)

def test_cancelled_batch_may_keep_its_gradients():
    "Gradient accumulation lives on that"
    seen = []
    def skip(self):
        if self.iter%2==0: seen.append(self.model[0].weight.grad.clone()); raise CancelBatchException()
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
    learn = learner(cbs=Log()); good = learn.dls
    learn.dls = SimpleNamespace(train=DataLoader(Deadly(True), bs=32, num_workers=1), valid=good.valid, device='cpu')
    with pytest.raises(RuntimeError, match='worker process died.*num_workers=0.*smaller bs'): learn.fit(2)
    learn.dls = good; usable(learn)

def test_ctrl_c_leaves_whole_files(tmp_path):
    "The log has whole rows, the saved model is whole, and no temporary file is left"
    from coursekit.callback.tracker import SaveModelCallback
    learn = learner(cbs=Log(), path=tmp_path)
    def stop(self):
        if self.epoch==2 and self.training and self.iter==3: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): learn.fit(4, cbs=[CSVLogger(), SaveModelCallback(), Callback(after_loss=stop)])
    rows = (tmp_path/'history.csv').read_text().splitlines()
    assert len(rows)==3 and all(len(o.split(','))==5 for o in rows) and [o.name for o in (tmp_path/'models').iterdir()]==['model.pth']
    learn.load('model'); usable(learn)

def test_live_plot_keeps_quiet_without_a_notebook(capsys):
    learner(cbs=ShowGraphCallback()).fit(2); lines = capsys.readouterr().out.splitlines()
    assert len(lines)==3 and [o.name for o in learner(cbs=ShowGraphCallback()).cbs][-1]=='show_graph'

def test_callback_changes_everything():
    "Batch, predictions, loss, gradients, weights, optimizer, model: what a callback writes is what the loop goes on with"
    seen = {}
    class Change(Callback):
        run_valid = False
        def before_batch(self): self.learn.xb,self.learn.yb = (self.xb[0]*0+1,),(self.yb[0]*0,)
        def after_pred(self): self.learn.pred = self.pred*0
        def after_loss(self): seen.setdefault('loss', self.loss.item()); self.learn.loss_grad = sum((p**2).sum() for p in self.model.parameters())
        def after_backward(self): p = self.model[0].weight; seen['grad'] = torch.allclose(p.grad, 2*p); p.grad.fill_(1.)
        def before_step(self): self.opt.set_hyper('lr', 0.25); self.before = self.model[0].weight.detach().clone()
        def after_step(self): seen['step'] = torch.allclose(self.before-self.model[0].weight, torch.tensor(0.25))
    def new_model(self): self.learn.model = nn.Sequential(self.model[0], nn.Tanh(), nn.Linear(16,3))
    learn = Learner(get_dls(), model(), F.cross_entropy, opt_func=SGD, lr=0.1)
    learn.model[0].register_forward_hook(lambda m,i,o: seen.update(inp=i[0].detach().clone()) if m.training else None)
    learn.fit(1, cbs=[Change, Callback(after_fit=new_model)])
    assert torch.equal(seen['inp'], torch.ones(32,6)) and seen['loss']==pytest.approx(torch.log(torch.tensor(3.)).item(), abs=1e-6) and seen['grad'] and seen['step'] and len(learn.model)==3

# what a practitioner stumbled over
def test_after_fit_runs_after_a_crash_only_for_who_opened_something():
    "Ended or cancelled: everyone hears of it; crashed or interrupted: only those with a `before_fit` to clean up after"
    for ex,want in ((None,['end']),(CancelFitException,['end']),(ValueError,[]),(KeyboardInterrupt,[])):
        told,log = [],Log()
        def stop(self):
            if ex: raise ex('now')
        learn = learner(cbs=[log, Callback(after_fit=lambda self: told.append('end')), Callback(after_batch=stop)])
        if want: learn.fit(1)
        else:
            with pytest.raises(ex): learn.fit(1)
        assert told==want and log.open==0

def test_metrics_are_asked_once_and_their_errors_come_out():
    asked = []
    with pytest.raises(ValueError, match=r"(?s)multiclass.*metric `f1_score`"): learner(metrics=F1Score()).fit(1)
    learn = learner(metrics=ValueMetric(lambda: asked.append(1) or torch.tensor(31), 'n')); learn.fit(3)
    assert len(asked)==3 and [o[2] for o in learn.recorder.values]==[31]*3 and type(learn.recorder.values[0][2]) is int

def test_rmse_of_one_output():
    "A column of predictions against a row of targets is not a square of differences"
    t = x[:,0]; b = [(x[:150],t[:150]),(x[150:],t[150:])]
    learn = Learner((b,b), nn.Linear(6,1), MSELossFlat(), metrics=[rmse,mse]); r,m = learn.validate()[1:]
    assert r==pytest.approx(m**0.5, abs=1e-6)

def test_scikit_learn_leaves_the_dice_alone():
    code = ("import random, torch, numpy as np; from coursekit.core import set_seed; from coursekit.metrics import F1Score\n"
            "def draw(make):\n    set_seed(1); make(); return random.random(),np.random.rand(),torch.rand(1).item()\n"
            "import sys; assert 'sklearn' not in sys.modules; assert draw(F1Score)==draw(lambda: 0)")
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
        it = iter(DataLoader(Pid(), bs=2, num_workers=1)); b = next(it); time.sleep(0.2)
        os.kill(int(b.flatten()[0]), signal.SIGKILL)
        with pytest.raises(RuntimeError, match='worker process died.*num_workers=0'): list(it)
    with pytest.raises(RuntimeError, match='^DataLoader: a worker process died.*killed by signal.*num_workers=0'):   # in the middle of somebody's loop
        for b in DataLoader(Pid(), bs=2, num_workers=1): os.kill(int(b.flatten()[0]), signal.SIGKILL); time.sleep(9)
    with pytest.raises(Exception, match='no photo 5') as e: list(DataLoader(Pid(5), bs=2, num_workers=1))      # a missing file is no dead worker
    assert 'worker process died' not in str(e.value)

def test_unknown_arguments_are_refused():
    for kw in (dict(with_decod=True), dict(ds_index=0), dict(foo=0)):
        with pytest.raises(TypeError, match=next(iter(kw))): learner().get_preds(**kw)
    assert learner().get_preds(inner=True)[0].shape==(64,3)

def test_save_adds_the_ending_to_a_path(tmp_path):
    from pathlib import Path
    a = learner(path=tmp_path)
    assert a.save(Path('m'))==tmp_path/'models'/'m.pth' and a.save(tmp_path/'n')==tmp_path/'n.pth' and a.save(tmp_path/'o.pth')==tmp_path/'o.pth'
    for f in (Path('m'), 'm', tmp_path/'n', tmp_path/'n.pth'): a.load(f)

def test_x_and_y():
    seen = []
    learner().fit(1, cbs=Callback(before_batch=lambda self: seen.append(self.x is self.xb[0] and self.y is self.learn.yb[0])))
    assert len(seen)==8 and all(seen)

def test_plain_cross_entropy_predicts_classes():
    learn = learner(); plain = Learner(learn.dls, learn.model, F.cross_entropy)
    assert plain.predict(x[0])[1]==learn.predict(x[0])[1]==learn.get_preds(dl=[(x[:1],)])[0].argmax()

@pytest.mark.parametrize('args,ex', [((-1,),ValueError), ((1.5,),ValueError), ((1,'1e-3'),TypeError), ((1,slice('1e-5',1e-3)),TypeError)])
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
    learn = learner(path=tmp_path); learn.fit(2, cbs=[CSVLogger(), Callback(after_batch=stop)]); lines = capsys.readouterr().out.splitlines()
    assert len({len(o) for o in lines})==1 and lines[1].split()[0]=='0' and len(lines[1].split())==2
    assert [len(o.split(',')) for o in (tmp_path/'history.csv').read_text().splitlines()]==[5]*3
    with learn.no_bar(): learn.fit(1)
    row = capsys.readouterr().out.strip()
    assert row.startswith('[0, ') and all(len(o.split('.')[1])==6 for o in row.split(', ')[1:4])

# cancelling, and a look in between
LEVELS = dict(batch=CancelBatchException, train=CancelTrainException, validate=CancelValidException, epoch=CancelEpochException, fit=CancelFitException,
              backward=CancelBackwardException, step=CancelStepException)

@pytest.mark.parametrize('name', LEVELS)
def test_cancelling_what_is_over_skips_nothing(name):
    "A level's own exception in its `after_…`: the others still hear the event, and the training is that without it"
    def cancel(self): raise LEVELS[name]()
    heard = []; plain,learn = learner(),learner(); torch.manual_seed(0); plain.fit(2); torch.manual_seed(0)
    learn.fit(2, cbs=[Callback(**{f'after_{name}':cancel}), Callback(**{f'after_{name}':lambda self: heard.append(1)})])
    assert heard and same(weights(plain), weights(learn)) and [o[:2] for o in learn.recorder.values]==[o[:2] for o in plain.recorder.values]

def test_a_cancel_that_nobody_catches_says_who_raised_it():
    class Odd(Callback):
        run_train = False
        def after_pred(self): raise CancelTrainException
    with pytest.raises(CancelTrainException, match='`Odd` raised `CancelTrainException` at `after_pred`'): learner(cbs=Odd).fit(1)

@pytest.mark.parametrize('ev', ['before_epoch','before_train','after_batch','after_train','before_validate','after_validate','after_epoch'])
def test_a_look_in_the_middle_of_a_training_changes_nothing(ev, capsys):
    n = []
    def look(self):
        if self.only_validate: return
        n.append(len(self.learn.get_preds(inner=True)[0])); n.append(round(self.learn.validate()[1]))
    plain,learn = learner(),learner(); torch.manual_seed(0); plain.fit_one_cycle(2, 0.02); torch.manual_seed(0); learn.fit_one_cycle(2, 0.02, cbs=Callback(**{ev:look}))
    assert n and n[0]==64 and same(weights(plain), weights(learn)) and plain.recorder.values==learn.recorder.values and plain.recorder.lrs==learn.recorder.lrs
    assert len(learn.cbs)==3 and not learn.training and torch.is_grad_enabled()
