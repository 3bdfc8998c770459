"""Killed for good (SIGKILL), and resumed to the same bits: weights, optimizer, table, random numbers.
Run as a script, this file is the training that gets killed: `python test_resume.py CASE FOLDER kill`."""
import hashlib, os, random, signal, subprocess, sys, time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch, torch.nn.functional as F
import sklearn.metrics # noqa: F401  (here, because its import draws random numbers)
from torch import nn
from coursekit.core import *
from coursekit.learner import *
from coursekit.callback.core import *
from coursekit.callback.progress import *
from coursekit.callback.schedule import *
from coursekit.callback.tracker import *
from coursekit.callback.training import *
from coursekit.callback.resume import *
from coursekit.data.load import DataLoader, TensorDataset
from coursekit.metrics import *
from coursekit.optimizer import SGD
from coursekit.state import keep_rng

set_seed(0)
x = torch.randn(256,6)
y = x[:,:3].argmax(1)
def model():
    return nn.Sequential(nn.Linear(6,16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16,3))
def split(m): return [list(m[:2].parameters()), list(m[4].parameters())]
def train_ds(): return TensorDataset(x[:192],y[:192])
valid = DataLoader(TensorDataset(x[192:],y[192:]), bs=32)

class Noise(Callback):
    "Augmentation that draws from Python, NumPy and PyTorch"
    run_valid = False
    def before_batch(self):
        scale = 1+random.gauss(0,0.01)+np.random.randn()*0.01
        self.learn.xb = (self.xb[0]*scale+torch.randn(6)*0.01,)

class Stop(Callback):
    "In epoch `epoch` of a training of `n` epochs: say `now`, and wait to be killed"
    def __init__(self, epoch, n, say): self.at,self.say = (epoch,n),say
    def after_batch(self):
        if (self.epoch,self.n_epoch)==self.at and self.iter==2 and self.training: self.say()

def one_cycle(learn, cbs): learn.fit_one_cycle(5, 0.02, cbs=cbs)
def plateau(learn, cbs):
    best = SaveModelCallback('accuracy', fname=f'best_{os.getpid()}')
    slower = ReduceLROnPlateau('accuracy', min_delta=0.2, factor=3.)
    learn.fit(5, 0.3, cbs=[slower, best, GradientAccumulation(100), GradientClip(0.5), *cbs])
def tune(learn, cbs): learn.fine_tune(5, 0.05, freeze_epochs=1, cbs=cbs)
def flat_torch(learn, cbs): learn.fit_flat_cos(5, 0.02, cbs=cbs)

def loader(**kw): return DataLoader(train_ds(), bs=32, shuffle=True, **kw)
def generator_loader(): return loader(generator=torch.Generator().manual_seed(9))
def torch_loader():
    g = torch.Generator().manual_seed(3)
    return torch.utils.data.DataLoader(train_ds(), 32, shuffle=True, drop_last=True, generator=g)
cases = dict( # how to train, loader of the training data, more arguments of the learner
    one_cycle =(one_cycle,  partial(loader, seed=5), {}),
    plateau   =(plateau,    loader, dict(opt_func=partial(SGD, mom=0.9))),
    tune      =(tune,       generator_loader, {}),
    torch_opt =(flat_torch, torch_loader, dict(opt_func=torch.optim.AdamW)))

def train(case, folder, seed=7, stop=None, more=(), **kw):
    how,dl,args = cases[case]
    torch.set_num_threads(1)
    set_seed(7)
    m = model()
    set_seed(seed)
    dls = SimpleNamespace(train=dl(), valid=valid, device='cpu')
    learn = Learner(dls, m, F.cross_entropy, path=folder, splitter=split, cbs=Noise,
                    metrics=[accuracy,F1Score(average='macro')], **args)
    cbs = [CheckpointCallback(case, **kw), *([Stop(3, 5, stop)] if stop else []), *more]
    with learn.no_logging(): how(learn, cbs)
    return learn

def as_bytes(o): # Everything in nested lists and dicts of tensors and numbers
    if isinstance(o, torch.Tensor): return [o.detach().contiguous().numpy().tobytes()]
    if isinstance(o, dict): return [b for k in o for b in [str(k).encode(), *as_bytes(o[k])]]
    if isinstance(o, (list,tuple,L)): return [b for v in o for b in as_bytes(v)]
    return [repr(o.item() if isinstance(o, np.generic) else o).encode()]

def digest(learn):
    "Of weights, optimizer, table, losses, rates, and of the next random numbers"
    r = learn.recorder
    numbers = [random.random(), float(np.random.rand()), torch.rand(()).item()]
    parts = dict(weights=learn.model.state_dict(), opt=learn.opt.state_dict(), values=list(r.values),
                 losses=r.losses, lrs=r.lrs, hps=r.hps, iters=r.iters,
                 next=[*numbers, [i.tolist() for i,_ in learn.dls.train]])
    return {k:hashlib.sha256(b'|'.join(as_bytes(v))).hexdigest()[:16] for k,v in parts.items()}

def script(*args): # This file in a process of its own
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get('PYTHONPATH','')])
    env = {**os.environ, 'OMP_NUM_THREADS':'1', 'PYTHONPATH':path}
    return subprocess.Popen([sys.executable, __file__, *map(str,args)], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)

def read(file): return torch.load(file, weights_only=True)

@pytest.fixture(autouse=True)
def as_before():
    "Threads and random numbers"
    n = torch.get_num_threads()
    with keep_rng(): yield
    torch.set_num_threads(n)

@pytest.mark.skipif(os.name=='nt', reason='needs SIGKILL')
@pytest.mark.parametrize('case', list(cases))
def test_killed_in_epoch_3_of_5(case, tmp_path):
    p = script(case, tmp_path, 'kill')
    line = p.stdout.readline()
    p.send_signal(signal.SIGKILL)
    out,err = p.communicate(timeout=60)
    assert line.strip()=='now' and p.returncode==-signal.SIGKILL, line+out+err
    assert read(tmp_path/'models'/f'{case}.ckpt')['epoch']==3
    want = digest(train(case, tmp_path/'whole'))
    if case=='one_cycle': # resumed by a process of its own, as after a restart
        out,err = script(case, tmp_path, 'resume').communicate(timeout=60)
        assert out.strip()==repr(want), out+err
    else: assert digest(train(case, tmp_path, seed=1234, resume=True))==want

def test_without_checkpoint_it_would_differ(tmp_path):
    "The check can fail: the same weights and optimizer, but other random numbers"
    want = digest(train('one_cycle', tmp_path/'whole'))
    def boom(): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): train('one_cycle', tmp_path, stop=boom)
    file = tmp_path/'models'/'one_cycle.ckpt'
    state = read(file)
    state['rng'][2] = torch.Generator().manual_seed(1).get_state()
    torch.save(state, file)
    got = digest(train('one_cycle', tmp_path, resume=True))
    assert got['weights']!=want['weights'] and got['lrs']==want['lrs'] and got['next']!=want['next']

@pytest.mark.skipif(os.name=='nt', reason='needs SIGKILL')
def test_killed_a_moment_after_saving(tmp_path):
    "Perhaps while the next file is being written: what lies on disk is whole, and the end is the same"
    p,killed = script('one_cycle', tmp_path, 'told'),False
    for line in p.stdout:
        if not line.startswith('saved') or killed: continue
        killed = True
        time.sleep(0.05)
        p.kill()
    p.communicate()
    assert read(tmp_path/'models'/'one_cycle.ckpt')['epoch']>=1                # whole, whenever it was
    resumed = digest(train('one_cycle', tmp_path, seed=3, resume=True))
    assert resumed==digest(train('one_cycle', tmp_path/'whole'))

@pytest.mark.skipif(os.name=='nt', reason='needs a limit on file sizes')
def test_full_disk(tmp_path):
    "A disk that takes no more: training goes on with a warning, and the last whole checkpoint stays, alone"
    out,err = script('one_cycle', tmp_path, 'full').communicate(timeout=60)
    assert 'trained 5' in out and 'File too large' in err, out+err
    assert err.count('could not write the checkpoint after epoch 2, training goes on')==1
    assert 'could not be written: ' + ', '.join(f'the checkpoint after epoch {i}' for i in (2,3,4)) in err
    assert [o.name for o in (tmp_path/'models').iterdir()]==['one_cycle.ckpt']
    assert read(tmp_path/'models'/'one_cycle.ckpt')['epoch']==2

class Full(Callback):
    order = 99
    def after_epoch(self):
        import resource
        if self.epoch!=2: return
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000,5000))

class Saved(Callback):
    order = 101
    def after_epoch(self): print('saved', self.epoch, flush=True)

def wait():
    print('now', flush=True)
    time.sleep(60)

if __name__=='__main__':
    case,folder,mode = sys.argv[1:]
    if mode=='kill': train(case, folder, stop=wait)
    elif mode=='resume': print(digest(train(case, folder, seed=1234, resume=True)))
    elif mode=='told': train(case, folder, more=[Saved()])
    elif mode=='full': print('trained', len(train(case, folder, more=[Full()]).recorder.values))
