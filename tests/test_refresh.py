"What a reader has put or changed in a folder of data outlives each refresh, also one that is killed."
import os, shutil, subprocess, sys, threading, time, warnings, zipfile
from pathlib import Path
import pytest
from coursekit.data.external import untar_data
from coursekit.fetch import cache
from coursekit.fetch.cache import keep_folder, read_stamp, results_path, saved_file, write_stamp

OURS = {'labels.csv':'l', 'photos/a/1.jpg':'a1', 'photos/a/2.jpg':'a2', 'photos/b/1.jpg':'b1'}
NEW = {'labels.csv':'l2', 'photos/a/1.jpg':'a1', 'photos/b/1.jpg':'b1 new', 'photos/c/1.jpg':'c1'}
MINE = {'models/best.pth':'weights', 'history.csv':'loss', 'photos/a/note [*]?.txt':'note', 'photos/a/sub/n':'n'}

def maker(files):
    def make(d):
        for k,v in files.items():
            (d/k).parent.mkdir(parents=True, exist_ok=True)
            (d/k).write_text(v)
    return make

def fill(folder, files): maker(files)(folder)
def texts(folder):
    return {str(o.relative_to(folder)):o.read_text() for o in Path(folder).rglob('*') if o.is_file()}

@pytest.fixture
def dest(tmp_path):
    "A folder that was made, and then used and changed by its reader"
    d = keep_folder(tmp_path/'data/pets', maker(OURS), url='u', version='1')
    use(d)
    return d

def use(d):
    fill(d, MINE)
    fill(d, {'labels.csv':'corrected', 'photos/c/1.jpg':'mine'})
    (d/'empty').mkdir()

def check(d):
    "All of the new and all of the reader's is there, and nothing else"
    assert texts(d)=={**NEW, **MINE} and (d/'empty').is_dir()
    assert texts(d.parents[1]/'results')=={f'pets/kept-1/{k}':v for k,v in
                                           {'labels.csv':'corrected', 'photos/c/1.jpg':'mine'}.items()}
    names = {o.name for o in d.parent.iterdir()}
    assert {o for o in names if not o.endswith('.lock')}=={'pets', '.pets.json', '.pets.files'}
    assert read_stamp(d)==dict(url='u', version='2')

def test_refresh(dest, capsys):
    keep_folder(dest, maker(NEW), url='u', version='2')
    check(dest)
    err = capsys.readouterr().err
    assert str(results_path(dest)/'kept-1') in err and 'labels.csv' in err
    keep_folder(dest, maker(NEW), url='u', version='2', force=True)     # and again: nothing more to keep
    check(dest)

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_killed_at_any_step(tmp_path, monkeypatch, capfd):
    "The process dies before its k-th change of the disk, for each k; the next call brings all to its end"
    changes = {'os.rename', 'os.link', 'os.remove', 'os.rmdir', 'os.mkdir', 'os.chmod', 'shutil.rmtree'}
    monkeypatch.setattr(os, 'fsync', lambda fd: None)                  # nobody pulls the plug
    def killed_at(k, d):
        def hook(event, args):
            nonlocal k
            if event in changes or event=='open' and args[1] and set(args[1]) & set('wx'):
                k -= 1
                if k<0: os._exit(9)
        sys.addaudithook(hook)
        keep_folder(d, maker(NEW), url='u', version='2')
        os._exit(0)
    first = keep_folder(tmp_path/'data/pets', maker(OURS), url='u', version='1')
    use(first)
    for k in range(1000):
        home = tmp_path/f'home{k}'
        shutil.copytree(first.parent, home/'data')                     # keeps the times
        pid = os.fork()
        if not pid:
            with open(os.devnull, 'w') as null:
                os.dup2(null.fileno(), 2)
                killed_at(k, home/'data/pets')
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        keep_folder(home/'data/pets', maker(NEW), url='u', version='2')
        for o in (home/'data').glob('.pets.tmp-*'):
            assert {*texts(o)} <= {'files'}                             # rubbish, for the next one to sweep
            shutil.rmtree(o)
        check(home/'data/pets')
        shutil.rmtree(home)
        if code==0: break
    assert code==0 and k>40

# ------------------------------------------------------------------ with a learner
def pack(file, **labels):
    "A zip of pictures in folders"
    import numpy as np
    from PIL import Image
    with zipfile.ZipFile(file, 'w') as z:
        for label,n in labels.items():
            for i in range(n):
                with z.open(f'photos/{label}/{i}.png', 'w') as f:
                    Image.fromarray(np.full((8,8,3), 10*i, 'uint8')).save(f, 'png')
    return file

@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('COURSEKIT_HOME', str(tmp_path/'home'))
    return tmp_path/'home'

def learner(data, **kw):
    from coursekit.vision.all import ImageDataLoaders, Learner, nn
    dls = ImageDataLoaders.from_folder(data, valid_pct=.25, seed=1, bs=4, num_workers=0)
    return Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192,2)), **kw)

def test_weights_lie_beside_the_data(home, tmp_path):
    "And outlive a newer archive"
    path = untar_data(pack(tmp_path/'photos.zip', a=4, b=4))
    f = learner(path).save('mine')
    assert f==home/'results/photos/models/mine.safetensors'
    assert learner(path, path=path).save('there')==path/'models/there.safetensors'       # as the reader says
    untar_data(pack(tmp_path/'photos.zip', a=5, b=4))
    assert len([*path.glob('a/*')])==5 and f.exists() and (path/'models/there.safetensors').exists()
    learner(path).load('mine')
    learner(path).load('there')                                     # as older versions saved

def test_checkpoints_of_older_versions_are_found(home, tmp_path):
    from coursekit.callback.resume import CheckpointCallback
    path = untar_data(pack(tmp_path/'photos.zip', a=4, b=4))
    learner(path, path=path, cbs=CheckpointCallback()).fit(1)
    learn = learner(path, cbs=CheckpointCallback(resume=True))
    learn.fit(2)
    assert learn.start_epoch==1 and (home/'results/photos/models/checkpoint.ckpt').exists()
