"Saved weights: files that other programs read or wrote, and several processes at once."
import multiprocessing, os
from io import BytesIO
from types import SimpleNamespace
import pytest, safetensors.torch, torch, torch.nn.functional as F
from torch import nn
from coursekit.callback.core import *
from coursekit.callback.progress import *
from coursekit.core import *
from coursekit.data.load import DataLoader, TensorDataset
from coursekit.learner import *
from coursekit.optimizer import Adam
from coursekit.saving import load_model, save_model

set_seed(0)
x = torch.randn(64,6)
y = x[:,:3].argmax(1)

def learner(path, **kw):
    torch.manual_seed(1)
    dl = DataLoader(TensorDataset(x,y), bs=16)
    model = nn.Sequential(nn.Linear(6,16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16,3))
    dls = SimpleNamespace(train=dl, valid=dl, device='cpu')
    return Learner(dls, model, F.cross_entropy, path=path, lr=0.01, **kw)

def fit(learn, n=1):
    with learn.no_logging(): learn.fit(n)
    return learn

def same(a, b): return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

@pytest.mark.parametrize('name', ['stage-1','stage-1.pth'])
@pytest.mark.parametrize('opt_func', [Adam, torch.optim.AdamW])
def test_going_on_after_loading_equals_going_on(name, opt_func, tmp_path):
    a = fit(learner(tmp_path, opt_func=opt_func))
    a.save(name)
    b = learner(tmp_path, opt_func=opt_func).load('stage-1')
    for o in (a,b): fit(o, 2)
    assert same(a.model.state_dict(), b.model.state_dict())

def test_others_read_what_learn_save_writes(tmp_path):
    a = fit(learner(tmp_path))
    f = a.save('weights', with_opt=False)
    assert f==tmp_path/'models'/'weights.safetensors'
    assert same(safetensors.torch.load_file(f), a.model.state_dict())
    assert b'pickle' not in a.save('both').read_bytes()

def test_x_safetensors_comes_before_x_pth(tmp_path):
    a,b = fit(learner(tmp_path)),fit(learner(tmp_path), 2)
    a.save('x')
    b.save('x.pth')
    assert same(learner(tmp_path).load('x').model.state_dict(), a.model.state_dict())
    assert same(learner(tmp_path).load('x.pth').model.state_dict(), b.model.state_dict())
    neither = r"y\.safetensors` or `.*y\.pth`. Saved there: \['x'\]"
    with pytest.raises(FileNotFoundError, match=neither): a.load('y')

def test_open_files(tmp_path):
    a,f = fit(learner(tmp_path)),BytesIO()
    a.save(f)
    f.seek(0)
    assert same(learner(tmp_path).load(f).model.state_dict(), a.model.state_dict())

def test_files_of_fastai(tmp_path):
    "Weights and the optimizer's state, as `learn.save` of fastai writes them"
    fastai = pytest.importorskip('fastai.learner')
    from fastai.optimizer import Adam as FastaiAdam
    def model(): return nn.Sequential(nn.Linear(6,16), nn.ReLU(), nn.Linear(16,3))
    theirs = model()
    their_opt = FastaiAdam(theirs.parameters(), lr=0.1, wd=0.01)
    for _ in range(2):
        F.cross_entropy(theirs(x), y).backward()
        their_opt.step()
        their_opt.zero_grad()
    fastai.save_model(tmp_path/'theirs.pth', theirs, their_opt)
    ours = model()
    opt = Adam(ours.parameters(), lr=0.3)
    load_model(tmp_path/'theirs.pth', ours, opt)
    assert same(theirs.state_dict(), ours.state_dict())
    assert opt.hypers[0]['lr']==0.1 and opt.state_dict()['state'][0]['step']==2
    for m,o in ((theirs,their_opt),(ours,opt)):
        F.cross_entropy(m(x), y).backward()
        o.step()
    for p,q in zip(theirs.parameters(), ours.parameters()): assert torch.allclose(p, q, atol=1e-6)

def save_many(folder, name):
    for i in range(20):
        m = nn.Linear(30,30)
        nn.init.constant_(m.weight, i)
        save_model(folder/f'{name}_{i}.safetensors', m, None)
        save_model(folder/'all.safetensors', m, None)

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_several_processes_save_into_one_folder(tmp_path):
    "Files of their own, and one that all of them write"
    ps = [multiprocessing.get_context('fork').Process(target=save_many, args=(tmp_path,o)) for o in 'abcd']
    for p in ps: p.start()
    for p in ps: p.join()
    assert [p.exitcode for p in ps]==[0]*4
    names = {f'{c}_{i}.safetensors' for c in 'abcd' for i in range(20)}
    assert {o.name for o in tmp_path.iterdir()}==names | {'all.safetensors'}
    m = nn.Linear(30,30)
    for f in tmp_path.iterdir():
        load_model(f, m, None)
        want = 19 if f.stem=='all' else int(f.stem.split('_')[1])
        assert torch.equal(m.weight, torch.full((30,30), float(want)))
