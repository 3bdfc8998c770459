"""Callbacks of training under faults that a notebook cell cannot test: errors and Ctrl-C at any event,
a full disk, the packages of others"""
import copy, io, os, pickle, subprocess, sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
import pytest, torch, torch.nn.functional as F
from torch import nn
from coursekit.core import *
from coursekit.learner import *
from coursekit.callback.core import *
from coursekit.callback.progress import *
from coursekit.callback.schedule import *
from coursekit.callback.tracker import *
from coursekit.callback.training import *
from coursekit.callback.hook import *
from coursekit.callback.resume import *
from coursekit.data.load import DataLoader, TensorDataset
from coursekit.metrics import accuracy
from coursekit.optimizer import OptimWrapper

g = torch.Generator().manual_seed(0)
x = torch.randn(256,6,generator=g)
y = x[:,:3].argmax(1)
def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6,16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16,3))
def learner(cbs=None, path='.', **kw):
    dls = SimpleNamespace(train=DataLoader(TensorDataset(x[:192],y[:192]), bs=32, shuffle=True, seed=3),
                          valid=DataLoader(TensorDataset(x[192:],y[192:]), bs=32), device='cpu')
    kw = {**dict(lr=0.03, metrics=accuracy), **kw}
    return Learner(dls, model(), F.cross_entropy, cbs=cbs, path=path, **kw)
def everything(): # All callbacks at once
    return [TerminateOnNaNCallback(), SaveModelCallback('accuracy'), ReduceLROnPlateau(patience=9),
            EarlyStoppingCallback(patience=9), GradientClip(1.), GradientAccumulation(48), BnFreeze(),
            ActivationStats(every=2), CSVLogger(), CheckpointCallback()]
def saved(path): return torch.load(path, weights_only=True)
def n_hooks(learn): return sum(len(o._forward_hooks) for o in learn.model.modules())
def temps(path): return [o.name for o in Path(path).rglob('.tmp_*')]

EVENTS = ['before_fit','before_epoch','before_train','before_batch','after_pred','after_loss',
          'before_backward','after_backward','before_step','after_step','after_batch','after_train','before_validate','after_validate',
          'after_epoch','after_fit']

@pytest.mark.parametrize('ev', EVENTS)
@pytest.mark.parametrize('ex', [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize('order', [-50,200])
def test_stop_anywhere_with_all_callbacks(ev, ex, order, tmp_path, capsys):
    """Before or after the others heard of the event: afterwards no hook, open file or gradient is left,
    what is saved is whole, and training works"""
    learn,stop = learner(everything(), tmp_path),Callback()
    stop.order = order
    def raise_(self):
        if ev in ('before_fit','after_fit') or self.epoch==1: raise ex('now')
    setattr(stop, ev, raise_.__get__(stop))
    with pytest.raises(ex): learn.fit(3, cbs=stop)
    assert n_hooks(learn)==0 and getattr(learn.csv_logger,'file',None) is None and temps(tmp_path)==[]
    assert all(p.grad is None for p in learn.model.parameters())
    if ev not in ('before_fit','after_fit'): # epoch 0 is on disk
        assert saved(tmp_path/'models'/'checkpoint.ckpt')['epoch'] in (1,2)
        assert len(learn.csv_logger.read_log()) in (1,2) and (tmp_path/'models'/'model.safetensors').exists()
    learn.fit(3)
    assert len(learn.recorder.values)==3 and learn.validate()[1]==max(o[2] for o in learn.recorder.values)>0.6
    assert len(learn.csv_logger.read_log())==3 and n_hooks(learn)==0

def test_pickles_and_copies_after_training_with_all_callbacks(tmp_path, capsys):
    learn = learner(everything(), tmp_path)
    learn.fit(2)
    preds = learn.get_preds()[0]
    torch.save(learn, io.BytesIO())
    for other in (pickle.loads(pickle.dumps(learn)), copy.deepcopy(learn)):
        assert torch.equal(other.get_preds()[0], preds) and all(o.learn is other for o in other.cbs)
        other.fit(1)
    assert torch.equal(learn.get_preds()[0], preds)

def test_names_of_two_callbacks_of_one_kind(tmp_path):
    "One for a training only leaves the other as it was; the same one is not added twice"
    mine = SaveModelCallback(fname='mine')
    learn = learner(mine, tmp_path)
    with learn.no_logging(): learn.fit(1, cbs=SaveModelCallback(fname='other'))
    assert learn.save_model is mine and mine.learn is learn
    with learn.no_logging(): learn.fit(1, cbs=mine)
    assert [o for o in learn.cbs if o is mine]==[mine] and learn.save_model is mine
    order = list(learn.cbs)
    with learn.no_bar(): pass
    assert list(learn.cbs)==order

full = '''
import signal, sys, torch, warnings
from safetensors.torch import load_file
from resource import RLIMIT_FSIZE, RLIM_INFINITY, setrlimit
sys.path.insert(0, sys.argv[2])
from test_callbacks import *
class Full(Callback):
    order = 55
    def after_epoch(self):
        if self.epoch!=1: return
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        setrlimit(RLIMIT_FSIZE, (1000,RLIM_INFINITY))
learn = learner([Full(), SaveModelCallback('train_loss')], sys.argv[1])
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter('always')
    learn.fit(4)
print('went on', len(learn.recorder.values), *(o.message for o in seen))
f = learn.path/'models'/'model.safetensors'
print('whole', sorted(load_file(f))==sorted(learn.model.state_dict()), [o.name for o in f.parent.iterdir()])
setrlimit(RLIMIT_FSIZE, (RLIM_INFINITY,RLIM_INFINITY))
learn.remove_cb(Full)
learn.fit(2)
print('again', len(learn.recorder.values))
'''
@pytest.mark.skipif(os.name=='nt', reason='needs a limit on file sizes')
def test_full_disk_while_saving_the_best(tmp_path):
    "Training goes on and says what is missing; what was saved is whole; with room again, all is saved"
    cmd = [sys.executable, '-c', full, str(tmp_path), str(Path(__file__).parent)]
    env = {**os.environ, 'OMP_NUM_THREADS':'1'}
    r = subprocess.run(cmd, capture_output=True, text=True, timeout=90, env=env)
    file = tmp_path/'models'/'model.safetensors'
    why = f"training goes on: [Errno 27] File too large: '{file}'"
    for o in ('went on 4', f'`SaveModelCallback` could not write `model` of epoch 1, {why}',
              'keeps the weights of the last epoch', '`model` of epoch 1, `model` of epoch 2',
              "whole True ['model.safetensors']", 'again 2'): assert o in r.stdout, r.stdout+r.stderr

def test_csv_logger_appends_after_a_resume(tmp_path):
    "A training in two parts leaves one file with one header"
    def stop(self):
        if self.epoch==2 and self.training: raise KeyboardInterrupt
    first = learner([CSVLogger(), CheckpointCallback(), Callback(after_step=stop)], tmp_path)
    with pytest.raises(KeyboardInterrupt): first.fit(4)
    learn = learner([CSVLogger(append=True), CheckpointCallback(resume=True)], tmp_path)
    learn.fit(4)
    log = learn.csv_logger.read_log()
    assert list(log.epoch)==[0,1,2,3]
    assert log.valid_loss.tolist()==pytest.approx([o[1] for o in learn.recorder.values])

def test_resume_with_the_best_model(tmp_path):
    "`SaveModelCallback` knows after a resume which model was the best, also when it came before"
    def stop(self):
        if self.epoch==3: raise KeyboardInterrupt
    def worse(a, b): return a>b                                         # keeps the worst, which is the first
    def cbs(**kw): return [SaveModelCallback('valid_loss', comp=worse), CheckpointCallback(**kw)]
    with pytest.raises(KeyboardInterrupt): learner([*cbs(), Callback(before_train=stop)], tmp_path).fit(5)
    learn = learner(cbs(resume=True), tmp_path)
    learn.fit(5)
    first = max(o[1] for o in learn.recorder.values)
    assert first==learn.recorder.values[0][1] and learn.validate()[0]==pytest.approx(first, abs=1e-6)

def test_interrupted_and_fitted_again_goes_on(tmp_path):
    "The same learner, the same call again: it goes on where it stopped, and a call after that starts anew"
    whole = learner([], tmp_path/'w')
    whole.fit_one_cycle(4, 0.05)
    learn,stops = learner(CheckpointCallback(resume=True), tmp_path),[1]
    def stop(self):
        if self.epoch==2 and stops:
            stops.clear()
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): learn.fit_one_cycle(4, 0.05, cbs=Callback(after_batch=stop))
    learn.fit_one_cycle(4, 0.05)
    tensors = zip(whole.model.state_dict().values(), learn.model.state_dict().values())
    assert all(torch.equal(a, b) for a,b in tensors)
    learn.fit(2)
    assert len(learn.recorder.values)==2 and learn.start_epoch==0

def test_gradient_accumulation_with_torch_optimizer():
    "Two batches of 32 make the step of one of 64, and the momentum too; each batch is recorded"
    res,opt_func = [],partial(OptimWrapper, opt=torch.optim.SGD, momentum=0.9)
    for bs,cbs in ((64,[]),(32,[GradientAccumulation(64)])):
        torch.manual_seed(1)
        dl = DataLoader(TensorDataset(x[:192],y[:192]), bs=bs)
        learn = Learner((dl,dl), nn.Linear(6,3), F.cross_entropy, cbs=cbs, opt_func=opt_func, lr=0.1)
        learn.fit(3)
        res.append(learn.model.weight.detach())
    assert torch.allclose(*res, atol=1e-6)
    assert len(learn.recorder.losses)==18 and learn.model.weight.grad is None

def test_tensorboard_for_real(tmp_path):
    "With the package itself: what is written can be read"
    pytest.importorskip('tensorboard', reason='tensorboard is not installed')
    from coursekit.callback.tensorboard import TensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    learn = learner(TensorBoardCallback(str(tmp_path), projector=True, layer=None), tmp_path)
    learn.tensor_board.layer = learn.model[2]
    learn.fit(2)
    ea = EventAccumulator(str(tmp_path))
    ea.Reload()
    assert [o.value for o in ea.Scalars('train_loss')]==pytest.approx(learn.recorder.smoothed)
    assert [o.step for o in ea.Scalars('accuracy')]==[6,12]
    assert ea.Graph() and list(tmp_path.rglob('tensors.tsv'))
