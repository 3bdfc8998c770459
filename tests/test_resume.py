"""Killed for good (SIGKILL), and resumed to the same bits: weights, optimizer, table, random numbers.
Run as a script, this file is the training that gets killed: `python test_resume.py CASE FOLDER kill|whole|resume`."""
import hashlib, os, random, resource, signal, subprocess, sys, time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, sklearn.metrics, torch, torch.nn.functional as F # sklearn here: its import draws random numbers
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
from coursekit.optimizer import SGD, Adam

set_seed(0); x = torch.randn(256,6); y = x[:,:3].argmax(1)
def model(): return nn.Sequential(nn.Linear(6,16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16,3))
def split(m): return [list(m[:2].parameters()), list(m[4].parameters())]
def train_ds(): return TensorDataset(x[:192],y[:192])
valid = DataLoader(TensorDataset(x[192:],y[192:]), bs=32)

class Noise(Callback):
    "Augmentation that draws from Python, NumPy and PyTorch"
    run_valid = False
    def before_batch(self): self.learn.xb = (self.xb[0]*(1+random.gauss(0,0.01)+np.random.randn()*0.01)+torch.randn(6)*0.01,)

class Stop(Callback):
    "In epoch `epoch` of a training of `n` epochs: say `now`, and wait to be killed"
    def __init__(self, epoch, n, say): self.at,self.say = (epoch,n),say
    def after_batch(self):
        if (self.epoch,self.n_epoch)==self.at and self.iter==2 and self.training: self.say()

def one_cycle(learn, cbs): learn.fit_one_cycle(5, 0.02, cbs=cbs)
def plateau(learn, cbs):
    learn.fit(5, 0.3, cbs=[ReduceLROnPlateau('accuracy', min_delta=0.2, factor=3.), SaveModelCallback('accuracy', fname=f'best_{os.getpid()}'), GradientAccumulation(100), GradientClip(0.5), *cbs])
def tune(learn, cbs): learn.fine_tune(5, 0.05, freeze_epochs=1, cbs=cbs)
def flat_torch(learn, cbs): learn.fit_flat_cos(5, 0.02, cbs=cbs)

def torch_loader(): return torch.utils.data.DataLoader(train_ds(), 32, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(3))
cases = dict( # how to train, loader of the training data, more arguments of the learner
    one_cycle =(one_cycle,  lambda: DataLoader(train_ds(), bs=32, shuffle=True, seed=5), {}),
    plateau   =(plateau,    lambda: DataLoader(train_ds(), bs=32, shuffle=True), dict(opt_func=partial(SGD, mom=0.9))),
    tune      =(tune,       lambda: DataLoader(train_ds(), bs=32, shuffle=True, generator=torch.Generator().manual_seed(9)), {}),
    torch_opt =(flat_torch, torch_loader, dict(opt_func=torch.optim.AdamW)))

def train(case, folder, seed=7, stop=None, **kw):
    how,dl,args = cases[case]
    torch.set_num_threads(1); set_seed(7); m = model(); set_seed(seed)
    learn = Learner(SimpleNamespace(train=dl(), valid=valid, device='cpu'), m, F.cross_entropy, path=folder, splitter=split, metrics=[accuracy,F1Score(average='macro')], cbs=Noise, **args)
    with learn.no_logging(): how(learn, [CheckpointCallback(case, **kw)] + ([Stop(3, 5, stop)] if stop else []))
    return learn

def flat(o): # Everything in nested lists and dicts of tensors and numbers, as bytes
    if isinstance(o, torch.Tensor): return [o.detach().contiguous().numpy().tobytes()]
    if isinstance(o, dict): return [b for k in o for b in [str(k).encode(), *flat(o[k])]]
    if isinstance(o, (list,tuple,L)): return [b for v in o for b in flat(v)]
    return [repr(o.item() if isinstance(o, np.generic) else o).encode()]

def digest(learn):
    "Of weights, optimizer, table, losses, rates, and of the next random numbers"
    r = learn.recorder
    parts = dict(weights=learn.model.state_dict(), opt=learn.opt.state_dict(), values=list(r.values), losses=r.losses, lrs=r.lrs, hps=r.hps, iters=r.iters,
                 next=[random.random(), float(np.random.rand()), torch.rand(()).item(), [i.tolist() for i,_ in learn.dls.train]])
    return {k:hashlib.sha256(b'|'.join(flat(v))).hexdigest()[:16] for k,v in parts.items()}

def script(*args): # This file in a process of its own
    return [sys.executable, __file__, *map(str,args)], {**os.environ, 'OMP_NUM_THREADS':'1', 'PYTHONPATH':os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get('PYTHONPATH','')])}

@contextmanager
def as_before():
    n,rng = torch.get_num_threads(),(random.getstate(),np.random.get_state(),torch.get_rng_state())
    try: yield
    finally: torch.set_num_threads(n); random.setstate(rng[0]); np.random.set_state(rng[1]); torch.set_rng_state(rng[2])

@pytest.mark.skipif(os.name=='nt', reason='needs SIGKILL')
@pytest.mark.parametrize('case', list(cases))
def test_killed_in_epoch_3_of_5(case, tmp_path):
    cmd,env = script(case, tmp_path, 'kill')
    p = subprocess.Popen(cmd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = p.stdout.readline(); p.send_signal(signal.SIGKILL); out,err = p.communicate(timeout=60)
    assert line.strip()=='now' and p.returncode==-signal.SIGKILL, line+out+err
    file = tmp_path/'models'/f'{case}.ckpt'
    assert torch.load(file, weights_only=True)['epoch']==3
    with as_before(): want = digest(train(case, tmp_path/'whole'))
    if case=='one_cycle': # resumed by a process of its own, as after a restart
        cmd,env = script(case, tmp_path, 'resume'); r = subprocess.run(cmd, env=env, capture_output=True, text=True, timeout=60)
        assert r.stdout.strip()==repr(want), r.stdout+r.stderr
    else:
        with as_before(): got = digest(train(case, tmp_path, seed=1234, resume=True))
        assert got==want

def test_without_checkpoint_it_would_differ(tmp_path):
    "The check can fail: the same weights and optimizer, but other random numbers"
    with as_before():
        want = digest(train('one_cycle', tmp_path/'whole'))
        a = tmp_path/'models'/'one_cycle.ckpt'
        def boom(): raise KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt): train('one_cycle', tmp_path, stop=boom)
        state = torch.load(a, weights_only=True); state['rng'][2] = torch.Generator().manual_seed(1).get_state(); torch.save(state, a)
        got = digest(train('one_cycle', tmp_path, resume=True))
    assert got['weights']!=want['weights'] and got['lrs']==want['lrs'] and got['next']!=want['next']

@pytest.mark.skipif(os.name=='nt', reason='needs SIGKILL')
def test_killed_a_moment_after_saving(tmp_path):
    "Wherever that is, perhaps while the next file is being written: what lies on disk is whole, and the end is the same"
    cmd,env = script('one_cycle', tmp_path, 'told')
    p = subprocess.Popen(cmd, env=env, stdout=subprocess.PIPE, text=True); killed = False
    file = tmp_path/'models'/'one_cycle.ckpt'
    for line in p.stdout:
        if line.startswith('saved') and not killed: killed = True; time.sleep(0.05); p.kill()
    p.wait(); state = torch.load(file, weights_only=True)                      # whole, whenever it was
    assert state['epoch']>=1
    with as_before(): assert digest(train('one_cycle', tmp_path, seed=3, resume=True))==digest(train('one_cycle', tmp_path/'whole'))

@pytest.mark.skipif(os.name=='nt', reason='needs a limit on file sizes')
def test_full_disk(tmp_path):
    "A disk that takes no more: training goes on with a warning, and the last whole checkpoint stays, alone"
    cmd,env = script('one_cycle', tmp_path, 'full'); r = subprocess.run(cmd, env=env, capture_output=True, text=True, timeout=60)
    assert 'trained 5' in r.stdout and r.stderr.count('RuntimeWarning: No checkpoint after epoch')==3 and 'File too large' in r.stderr, r.stdout+r.stderr
    assert [o.name for o in (tmp_path/'models').iterdir()]==['one_cycle.ckpt'] and torch.load(tmp_path/'models'/'one_cycle.ckpt', weights_only=True)['epoch']==2

class Full(Callback):
    order = 99
    def after_epoch(self):
        if self.epoch==2: signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (5000,5000))

class Saved(Callback):
    order = 101
    def after_epoch(self): print('saved', self.epoch, flush=True)

if __name__=='__main__':
    case,folder,mode = sys.argv[1:]
    def wait(): print('now', flush=True); time.sleep(60)
    if mode=='kill': train(case, folder, stop=wait)
    elif mode=='resume': print(digest(train(case, folder, seed=1234, resume=True)))
    elif mode=='told': cases[case] = (lambda learn,cbs: one_cycle(learn, [*cbs,Saved()]), *cases[case][1:]); train(case, folder)
    elif mode=='full': cases[case] = (lambda learn,cbs: one_cycle(learn, [*cbs,Full()]), *cases[case][1:]); print('trained', len(train(case, folder).recorder.values))
