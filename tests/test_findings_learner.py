"What an adversary found in learner, callbacks and metrics, once: it stays mended"
import os, subprocess, sys, warnings
from functools import partial
import pytest, torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader as TorchLoader, SubsetRandomSampler, TensorDataset as TorchDataset
from coursekit.core import *
from coursekit.callback.core import *
from coursekit.callback.progress import *
from coursekit.callback.schedule import *
from coursekit.callback.tracker import *
from coursekit.callback.training import GradientClip
from coursekit.callback.hook import *
from coursekit.data.core import DataLoaders
from coursekit.data.load import DataLoader
from coursekit.learner import *
from coursekit.metrics import *
from coursekit.saving import save_atomic

torch.manual_seed(3); X = torch.randn(256,6); Y = X[:,:3].argmax(1)

def learner(cbs=None, dls=None, **kw):
    torch.manual_seed(1); m = nn.Sequential(nn.Linear(6,16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16,3))
    dls = dls or DataLoaders(DataLoader([*zip(X[:192],Y[:192])], bs=32, shuffle=True, seed=1), DataLoader([*zip(X[192:],Y[192:])], bs=32), device='cpu')
    learn = Learner(dls, m, loss_func=F.cross_entropy, cbs=cbs, **{**dict(metrics=accuracy, lr=0.01), **kw}); learn.logger = noop
    return learn

looks = ['before_epoch','before_train','before_batch','after_pred','after_loss','after_batch','after_train','before_validate','after_validate','after_epoch']
@pytest.mark.parametrize('ev', looks)
@pytest.mark.parametrize('look', ['get_preds','validate'])
def test_a_look_in_the_middle_changes_nothing(ev, look):
    "Predictions and validations inside a training leave steps, epochs, schedule, rows, losses and weights alone"
    class Look(Callback):
        order,run_valid,busy = 90,False,False
        def _look(self):
            if self.busy: return                                            # the look fires the events of a validation, too
            self.busy = True; rng = torch.get_rng_state()
            got = self.learn.get_preds(inner=True) if look=='get_preds' else self.learn.validate()
            torch.set_rng_state(rng); assert len(got)==2; self.busy = False
    setattr(Look, ev, Look._look)
    def trained(cbs):
        learn = learner(cbs); learn.fit_one_cycle(3, 0.01); r = learn.recorder
        return r.values,r.losses,r.hps['lr'],learn.train_iter,learn.epoch,torch.cat([p.detach().flatten() for p in learn.model.parameters()]).tolist()
    assert trained(Look)==trained(None)

def test_a_look_after_each_epoch_as_fastai_code_writes_it():
    "With `inner=True` no fit and no epoch begins: no endless recursion, and early stopping goes on counting"
    seen = []
    class Peek(Callback):
        def after_epoch(self): seen.append(len(self.learn.get_preds(dl=self.dls.valid, inner=True)[0]))
    learn = learner([Peek, EarlyStoppingCallback(patience=2, min_delta=9)]); learn.fit(12)
    assert seen==[64]*3 and len(learn.recorder.values)==3

def test_no_result_after_a_cancelled_beginning():
    def never(self): raise CancelFitException
    for f in (learner().validate, learner().get_preds, partial(learner().get_preds, with_loss=True)):
        with pytest.raises(RuntimeError, match='no result'): f(cbs=Callback(before_fit=never))

def test_torch_samplers_stay():
    dl = TorchLoader(TorchDataset(X,Y), batch_size=32, sampler=SubsetRandomSampler(range(200,256)))
    assert learner().get_preds(dl=dl)[0].shape==(56,3)

@pytest.mark.parametrize('cb', [SaveModelCallback, EarlyStoppingCallback])
def test_nan_in_validation_is_told(cb, tmp_path):
    bad = X.clone(); bad[200] = float('nan')
    dls = DataLoaders(DataLoader([*zip(X[:192],Y[:192])], bs=32), DataLoader([*zip(bad[192:],Y[192:])], bs=32), device='cpu')
    with warnings.catch_warnings(record=True) as seen: warnings.simplefilter('always'); learner(cb(), dls, path=tmp_path).fit(1)
    said = ' '.join(str(o.message) for o in seen)
    assert 'validation loss is not a number' in said and f"`{cb.__name__}` watches 'valid_loss', which is not a number in epoch 0" in said

def test_plot_loss_after_a_cancelled_epoch():
    def cancel(self):
        if self.epoch==0 and self.iter==2 and self.training: raise CancelEpochException
    learn = learner(); learn.fit(3, cbs=Callback(before_batch=cancel)); ax = learn.recorder.plot_loss()
    assert list(ax.lines[1].get_xdata())==[7,13]

def test_a_batch_cancelled_before_its_loss_is_not_recorded():
    def cancel(self):
        if self.iter%2==0: raise CancelBatchException
    learn = learner(); learn.fit(2, cbs=Callback(after_pred=cancel)); assert len(learn.recorder.losses)==6

def test_summary_of_a_model_that_takes_a_dict():
    class Named(nn.Module):
        def __init__(self): super().__init__(); self.lin = nn.Linear(6,3)
        def forward(self, d): return self.lin(d['x'])
    dl = [({'x':X[:32]},Y[:32])]*3
    learn = Learner((dl,dl), Named(), loss_func=F.cross_entropy); learn.logger = noop; learn.fit(1)
    assert 'Input shape: x: 32 x 6)' in learn.summary()

def test_loss_without_gradient():
    with pytest.raises(RuntimeError, match='such as `accuracy`'): _with_loss(accuracy).fit(1)

def _with_loss(f): learn = learner(); learn.loss_func = f; return learn

@pytest.mark.parametrize('f', [F1Score,FBeta,RocAuc,RecallMulti,PearsonCorrCoef,R2Score,RocAucMulti])
def test_metrics_without_brackets(f):
    with pytest.raises(TypeError, match=f'`{f.__name__}` makes a metric: it needs brackets'): learner(metrics=[f])

def test_bad_callback_leaves_no_other_behind():
    learn = learner(); names = [o.name for o in learn.cbs]
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
    def off(self): torch.set_grad_enabled(False); self.learn.recorder.run = False; raise KeyboardInterrupt
    class Reluctant(Callback):                                               # Ctrl-C in the middle of taking it away
        def __setattr__(self, k, v):
            super().__setattr__(k, v)
            if k=='learn' and v is None and not vars(self).get('gone'): super().__setattr__('gone', True); raise KeyboardInterrupt
    learn = learner(); names = [o.name for o in learn.cbs]
    for cb in (Callback(before_validate=off), Reluctant()):
        with pytest.raises(KeyboardInterrupt): getattr(learn, op)(**{'fit':dict(n_epoch=1)}.get(op, {}), cbs=[cb])
        assert torch.is_grad_enabled() and [o.name for o in learn.cbs]==names and all(o.run for o in learn.cbs) and learn.logger is noop

killed = '''import os, sys; from coursekit.saving import save_atomic
class Killed:
    def __reduce__(self): os.kill(os.getpid(), 9)
save_atomic(Killed(), sys.argv[1])'''
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no kill -9 here')
def test_what_a_killed_program_left_is_removed(tmp_path):
    f = tmp_path/'a.pth'; subprocess.run([sys.executable, '-c', killed, str(f)]); assert len([*tmp_path.iterdir()])==2  # half a file and its lock
    save_atomic(1, f); assert [*tmp_path.iterdir()]==[f]
