"""Ctrl-C, or an error, at any line of coursekit: afterwards the learner is as before, and works.
`COURSEKIT_INTERRUPTS=all python -m pytest tests/test_interrupts.py` tries every line instead of a few."""
import os, random, sys
from pathlib import Path
from types import SimpleNamespace
import pytest, torch
import coursekit
from torch import nn
from coursekit.core import *
from coursekit.learner import *
from coursekit.callback.core import *
from coursekit.callback.hook import *
from coursekit.callback.mixup import *
from coursekit.callback.progress import *
from coursekit.callback.resume import *
from coursekit.callback.schedule import *
from coursekit.callback.tracker import *
from coursekit.callback.training import *
from coursekit.data.load import DataLoader, TensorDataset
from coursekit.losses import CrossEntropyLossFlat
from coursekit.metrics import accuracy
from coursekit.state import _values, keep_rng

SAMPLE = os.environ.get('COURSEKIT_INTERRUPTS', '') # lines of each operation: a number, or `all`
LIB = str(Path(coursekit.__file__).parent)
x = torch.randn(8,3, generator=torch.Generator().manual_seed(0))
y = (x[:,0]>0).long()

class Shows(DataLoader): # shows its results as text
    def show_results(self, b, preds, max_n, **kw): str(preds[:max_n])

def learner(path):
    torch.manual_seed(0)
    ds = TensorDataset(x,y)
    dls = SimpleNamespace(train=DataLoader(ds, bs=4, shuffle=True), valid=Shows(ds, bs=4), device='cpu')
    model = nn.Sequential(nn.Linear(3,4), nn.ReLU(), nn.Linear(4,2))
    def split(m): return [list(m[0].parameters()), list(m[2].parameters())]
    return Learner(dls, model, CrossEntropyLossFlat(), metrics=accuracy, path=path, splitter=split, lr=1e-3)

def fit_with_all(learn):
    learn.fit(1, cbs=[SaveModelCallback(), CheckpointCallback(), CSVLogger(), EarlyStoppingCallback(),
                      ReduceLROnPlateau(), ActivationStats(), GradientClip(), GradientAccumulation(4),
                      TerminateOnNaNCallback()])
def quiet_fit(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
class Look(Callback):
    run_valid = False
    def after_batch(self): self.learn.get_preds(), self.learn.validate()
def look_in_a_fit(learn): learn.fit(1, cbs=Look)
def mixed_fit(learn): learn.fit(1, cbs=[MixUp(),Look])
def losses(learn):
    with learn.loss_not_reduced(): learn.loss_func(learn.model(x), y)
def midway(learn):
    with learn.validation_context(): learn._do_epoch_validate()

ops = dict( # what is done; is the learner the same afterwards, weights and random numbers too?
    fit=(lambda l: l.fit(1), False), fit_with_all=(fit_with_all, False), quiet_fit=(quiet_fit, False),
    look_in_a_fit=(look_in_a_fit, False), mixed_fit=(mixed_fit, False),
    fit_one_cycle=(lambda l: l.fit_one_cycle(1), False), fine_tune=(lambda l: l.fine_tune(1), False),
    lr_find=(lambda l: l.lr_find(num_it=6, show_plot=False, suggest_funcs=None), True),
    validate=(lambda l: l.validate(), True), get_preds=(lambda l: l.get_preds(), True),
    with_loss=(lambda l: l.get_preds(with_loss=True, with_decoded=True, with_input=True), True),
    predict=(lambda l: l.predict(x[0]), True), show_results=(lambda l: l.show_results(shuffle=False), True),
    losses=(losses, True), validation_context=(midway, True),
    freeze=(lambda l: (l.freeze(), l.unfreeze()), False), create_opt=(lambda l: l.create_opt(), False),
    save=(lambda l: (l.save('a'), l.save('b.pth')), True), load=(lambda l: (l.load('a'), l.load('b')), True))

def run(f, stop=None, exc=KeyboardInterrupt, count=1):
    "How many lines of coursekit `f` runs; with `stop`, raise `exc` at that line, and say which it was"
    n = 0
    def on_line(frame, ev, arg):
        nonlocal n
        if ev=='line':
            n += 1
            if stop is not None and stop<=n<stop+count:
                where.append(f'{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}')
                raise exc('now')
        return on_line
    def on_call(frame, ev, arg): return on_line if frame.f_code.co_filename.startswith(LIB) else None
    where,old = [],sys.gettrace()
    sys.settrace(on_call)
    try:
        f()
    except exc:
        if not where: raise
    finally: sys.settrace(old)
    return where if stop is not None else n

def weights(learn):
    return {**learn.model.state_dict(), **{f'opt {i} {k}':torch.as_tensor(v) for i,s in
            enumerate(learn.opt.state_dict()['state']) for k,v in s.items()}}
def generators(): return random.getstate(),torch.get_rng_state().tolist()

def rest(learn): # What is always as before
    kept = 'dls model opt_func loss_func logger path model_dir lr wd moms splitter turns'.split()
    state = {k:getattr(learn, k) for k in kept}
    state['metrics'] = list(learn.metrics)
    state['attributes'] = sorted(k for k in vars(learn) if not k.startswith('_') and k not in changing)
    state['cbs'] = [(type(o).__name__, id(o), o.run, o.learn is learn) for o in learn.cbs]
    state.update(only_validate=learn.only_validate, busy=learn._busy, training=learn.training,
                 xb=learn.xb, reduction=learn.loss_func.reduction, grad=torch.is_grad_enabled(),
                 turn=learn.turns.is_mine(), locked=learn.turns.lock._is_owned(), replaced=dict(_values),
                 grads=[p.grad is None for p in learn.model.parameters()],
                 hooks=[len(m._forward_hooks) for m in learn.model.modules()])
    return state
changing = {'loss','final_record','pct_train','train_iter','n_inp','lr_finder'}

def differences(a, b): return [f'{k}: {a[k]} -> {b[k]}' for k in a if a[k]!=b[k]]
def same(a, b): return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def problems(learn, op, n, folder, exc, count=1):
    f,keeps = ops[op]
    learn.unfreeze()
    before,w,rng = rest(learn),{k:v.clone() for k,v in weights(learn).items()},generators()
    modes = [m.training for m in learn.model.modules()]
    where = run(lambda: f(learn), n, exc, count)
    bad = differences(before, rest(learn))
    after = weights(learn)
    if keeps and op!='load' and not same(w, after): bad.append('weights')
    if op=='load' and not (same(w, after) or same(learn.saved, after)): bad.append('half loaded')
    if op=='lr_find' and generators()!=rng: bad.append('random numbers')
    if op=='lr_find' and [m.training for m in learn.model.modules()]!=modes: bad.append('modes')
    try:
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        assert len(learn.recorder.values)==1 and learn.validate()[1] is not None
        assert torch.equal(learn.get_preds()[1], y) and learn.predict(x[0])[2].shape==(2,)
        assert learn.get_preds(with_loss=True)[2].shape==(8,)
        for name in ('a','b.pth','model'): # whole, old or new
            if learn.file_for(name).exists(): learner(folder).load(name)
        learn.save('c')
        left = [o.name for o in folder.rglob('.*')]
        assert not left, left
    except Exception as e: bad.append(f'afterwards {type(e).__name__}: {e}')
    bad += differences(before, rest(learn))
    return [f'{op} at line {n}, {where}: {o}' for o in dict.fromkeys(bad)]

def check(op, tmp_path, exc, count=1, sample=9):
    with keep_rng():
        learn = learner(tmp_path)
        learn.fit(1)
        learn.saved = {k:v.clone() for k,v in weights(learn).items()}
        learn.save('a')
        learn.save('b.pth')
        ops[op][0](learn)
        n = run(lambda: ops[op][0](learn))
        if SAMPLE.isdigit(): sample = int(SAMPLE)
        lines = random.Random(op+exc.__name__).sample(range(1, n+1), n if SAMPLE=='all' else min(n, sample))
        bad = [o for i in lines for o in problems(learn, op, i, tmp_path, exc, count)]
    assert not bad, f'{len(bad)} of {len(lines)}:\n' + '\n'.join(bad[:40])

@pytest.mark.parametrize('op', list(ops))
def test_ctrl_c_at_any_line(op, tmp_path, capsys): check(op, tmp_path, KeyboardInterrupt)

@pytest.mark.parametrize('exc', [OSError, MemoryError])
@pytest.mark.parametrize('op', list(ops))
@pytest.mark.filterwarnings('ignore')
def test_an_error_at_any_line(op, exc, tmp_path, capsys): check(op, tmp_path, exc, sample=4)
