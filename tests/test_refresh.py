"What a reader has put or changed in a folder of data outlives each refresh, also one that is killed."
import os, shutil, subprocess, sys, threading, time, warnings, zipfile
from pathlib import Path
import pytest
from coursekit.data.external import untar_data
from coursekit.fetch.cache import StorageError, keep_folder, read_stamp, results_path, write_stamp

OURS = {'labels.csv':'l', 'photos/a/1.jpg':'a1', 'photos/a/2.jpg':'a2', 'photos/b/1.jpg':'b1'}
NEW = {'labels.csv':'l2', 'photos/a/1.jpg':'a1', 'photos/b/1.jpg':'b1 new', 'photos/c/1.jpg':'c1'}
MINE = {'models/best.pth':'weights', 'history.csv':'loss', 'photos/a/note [*]?.txt':'note',
        'photos/a/sub/n':'n'}

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
    assert read_stamp(d)==dict(url='u', version='2', listed=True)

def test_refresh(dest, capsys):
    keep_folder(dest, maker(NEW), url='u', version='2')
    check(dest)
    err = capsys.readouterr().err
    assert str(results_path(dest)/'kept-1') in err and 'labels.csv' in err
    keep_folder(dest, maker(NEW), url='u', version='2', force=True)     # and again: nothing more to keep
    check(dest)

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_killed_at_any_step(tmp_path, monkeypatch, capfd):
    "The process dies before its k-th change of the disk; the next call brings all to its end"
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
    for k in range(0, 1000, 3):
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
    assert code==0 and k>40                                             # it came to its end, after many steps

def test_folder_of_an_older_version(tmp_path, capsys):
    "It has a stamp, but no list of our files"
    d = tmp_path/'data/pets'
    fill(d, OURS)
    (d/'photos/old.jpg').write_text('ours, or was it there before the stamp?')
    time.sleep(0.01)                                                    # the clock of files ticks slowly
    write_stamp(d, url='u', version='1')
    time.sleep(0.01)
    use(d)
    os.utime(d/'history.csv', (1,1))                                    # brought here from elsewhere
    keep_folder(d, maker(NEW), url='u', version='2')
    assert texts(d)=={**NEW, **MINE} and (d/'empty').is_dir()
    assert {*texts(results_path(d)/'kept-1')}=={'labels.csv', 'photos/c/1.jpg',     # as always, and in doubt:
                                                'photos/old.jpg', 'photos/a/2.jpg'}

def test_lost_list(dest):
    "Nobody knows any more whose is what: all is kept, but for what is the same in the new data"
    keep_folder(dest, maker(NEW), url='u', version='2')
    (dest.parent/'.pets.files').unlink()
    keep_folder(dest, maker({**OURS, 'photos/b/1.jpg':'b1 new'}), url='u', version='3')
    assert texts(dest)=={**OURS, 'photos/b/1.jpg':'b1 new', **MINE, 'photos/c/1.jpg':'c1'}
    kept = {'kept-1/labels.csv':'corrected', 'kept-1/photos/c/1.jpg':'mine', 'kept-2/labels.csv':'l2'}
    assert texts(results_path(dest))==kept

def test_older_versions_could_be_killed_between_two_renames(tmp_path, capsys):
    "What they left under a hidden name is rescued, not swept"
    fill(tmp_path/'data/.pets.tmp-abcd_123/replaced', {**OURS, **MINE})
    d = keep_folder(tmp_path/'data/pets', maker(NEW), url='u')
    assert texts(d)==NEW and texts(tmp_path/'data/pets.old1')=={**OURS, **MINE}
    assert 'pets.old1' in capsys.readouterr().err

@pytest.mark.skipif(sys.platform!='linux', reason='other systems refuse such names')
def test_names_that_cannot_be_printed(dest, capsys):
    "Bytes that are no text, and line ends: kept as they are, and told in a readable way"
    names = [os.fsdecode(b'photos/a/\xff\xfe'), 'two\nlines', ' ']
    fill(dest, dict.fromkeys(names, 'mine'))
    keep_folder(dest, maker({**NEW, names[0]:'theirs'}), url='u', version='2')
    assert texts(dest)['two\nlines']==texts(dest)[' ']=='mine'
    assert texts(results_path(dest))[f'kept-1/{names[0]}']=='mine'
    assert r'\udcff' in capsys.readouterr().err
    assert keep_folder(dest, maker(NEW), url='u', version='2')==dest

def test_sweeping_leaves_other_folders_alone(tmp_path):
    "Names with wildcards, and names that begin like another's temporary folder"
    others = {'.pets.tmp-1', '.pets.tmp-x.tmp-0123456789ab', '.pets.tmp-notes.json', '.pet1.tmp-0123456789ab'}
    for o in others: (tmp_path/o).mkdir()
    for name in ('pets', 'pet[0-9]', 'pet?', '*'): keep_folder(tmp_path/name, maker(NEW), url=name)
    keep_folder(tmp_path/'pets', maker(NEW), url='pets', force=True)
    assert others <= {o.name for o in tmp_path.iterdir()}

def test_training_goes_on_while_the_data_is_replaced(dest):
    "What is saved meanwhile, by name or through an open file, arrives"
    stop,saved = threading.Event(),[]
    log = open(dest/'history.csv', 'a')
    def train():
        while not stop.is_set():
            (dest/'models').mkdir(parents=True, exist_ok=True)
            try: (dest/f'models/{len(saved)}.pth').write_text(f'w{len(saved)}')
            except FileNotFoundError: continue
            saved.append(1)
    thread = threading.Thread(target=train)
    thread.start()
    for i in range(5): keep_folder(dest, maker(NEW), url='u', version=f'{i}', force=True)
    stop.set()
    thread.join()
    with log: log.write(' and more')
    keep_folder(dest, maker(NEW), url='u', version='last')
    found = {Path(k).name:v for o in (dest, dest.parents[1]/'results') for k,v in texts(o).items()}
    assert found['history.csv']=='loss and more' and found['best.pth']=='weights'
    assert {f'{i}.pth':f'w{i}' for i in range(len(saved))}.items() <= found.items() and len(saved)>1

def test_two_processes_refresh(dest):
    code = """
import sys
from coursekit.fetch.cache import keep_folder
def make(d): (d/'a').write_text('new')
for i in range(10): keep_folder(sys.argv[1], make, url='u', version=f'{sys.argv[2]}{i}')
"""
    ps = [subprocess.Popen([sys.executable, '-c', code, str(dest), o]) for o in 'xy']
    assert [p.wait(timeout=60) for p in ps]==[0,0]
    found = texts(dest)
    assert found.pop('a')=='new' and found=={**MINE, 'photos/c/1.jpg':'mine'}
    assert texts(results_path(dest))=={'kept-1/labels.csv':'corrected'}

def test_folder_behind_a_link(tmp_path):
    "Data that the reader moved to another disk stays there"
    d = keep_folder(tmp_path/'data/pets', maker(OURS), url='u', version='1')
    (tmp_path/'disk').mkdir()
    d.rename(tmp_path/'disk/pets')
    d.symlink_to(tmp_path/'disk/pets')
    use(d)
    keep_folder(d, maker(NEW), url='u', version='2')
    check(d)
    assert d.is_symlink() and texts(tmp_path/'disk/pets')==texts(d)

@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid(), reason='only root can become somebody else')
def test_folders_that_may_not_be_written(tmp_path):
    "The reader protected some; as an ordinary user we bring them over all the same"
    d = keep_folder(tmp_path/'data/pets', maker(OURS), url='u', version='1')
    use(d)
    for o in (tmp_path, *tmp_path.rglob('*')): os.chown(o, 65534, 65534)
    for o in ('models', 'photos/a', 'photos/a/sub'): (d/o).chmod(0o555)
    (d/'models/best.pth').chmod(0o444)
    for o in tmp_path.parents: o.chmod(o.stat().st_mode | 0o055) if 'pytest' in str(o) else None
    pid = os.fork()
    if not pid:
        os.setgid(65534)
        os.setuid(65534)
        keep_folder(d, maker(NEW), url='u', version='2')
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])==0
    check(d)
    assert (d/'models').stat().st_mode & 0o777==0o555

# ------------------------------------------------------------------ what was deleted or changed
def test_deleted_and_changed_files_are_told_once(tmp_path):
    d = keep_folder(tmp_path/'data/pets', maker(OURS), url='u')
    def told():
        with warnings.catch_warnings(record=True) as ws:
            warnings.simplefilter('always')
            keep_folder(d, maker(OURS), url='u')
        return [str(o.message) for o in ws]
    assert told()==[]
    fill(d, MINE)
    assert told()==[]                                                   # the reader's files are no news
    (d/'photos/a/1.jpg').unlink()
    (d/'photos/b/1.jpg').write_text('B1')                               # as long as before
    text, = told()
    assert 'Gone: photos/a/1.jpg. Changed: photos/b/1.jpg.' in text and "force_download=True" in text
    assert told()==[] and (d/'photos/b/1.jpg').read_text()=='B1'
    shutil.rmtree(d/'photos')
    assert 'Gone: photos/a/2.jpg, photos/b/1.jpg.' in told()[0] and told()==[]
    keep_folder(d, maker(OURS), url='u', force=True)
    assert told()==[] and texts(d).items()>=OURS.items()

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
    "One that trains on the pictures in `data`"
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

@pytest.mark.filterwarnings('ignore:.*the schedule will be another')
def test_checkpoints_and_histories_of_older_versions_are_found(home, tmp_path):
    from coursekit.callback.progress import CSVLogger
    from coursekit.callback.resume import CheckpointCallback
    path = untar_data(pack(tmp_path/'photos.zip', a=4, b=4))
    learner(path, path=path, cbs=[CheckpointCallback(), CSVLogger()]).fit(1)
    learn = learner(path, cbs=[CheckpointCallback(resume=True), CSVLogger(append=True)])
    assert len(learn.csv_logger.read_log())==1
    learn.fit(2)
    assert learn.start_epoch==1 and (home/'results/photos/models/checkpoint.ckpt').exists()
    assert len(learn.csv_logger.read_log())==2 and (home/'results/photos/history.csv').exists()

def test_a_folder_or_stamp_that_cannot_be_read_for_a_moment(tmp_path, monkeypatch):
    "Not to be told what is there is not to be told that nothing is: a virus scanner, or a drive far away"
    for k in range(60):
        d = keep_folder(tmp_path/str(k)/'data'/'pets', maker(OURS), url='u', version='1')
        use(d)
        left = k
        def once(real):
            def f(path='.', *args, **kw):
                nonlocal left
                left -= 1
                if left==-1: raise PermissionError(13, 'Permission denied', str(path))
                return real(path, *args, **kw)
            return f
        with monkeypatch.context() as m, warnings.catch_warnings():
            warnings.simplefilter('ignore')
            m.setattr(os, 'listdir', once(os.listdir))
            m.setattr(os, 'scandir', once(os.scandir))
            m.setattr(Path, 'read_text', once(Path.read_text))
            try: keep_folder(d, maker(NEW), url='u', version='2')
            except StorageError as e: assert 'COURSEKIT_HOME' in str(e)
        keep_folder(d, maker(NEW), url='u', version='2')
        mine = [*MINE.values(), 'corrected', 'mine']
        there = [o.read_text() for o in (tmp_path/str(k)).rglob('*') if o.is_file()]
        assert not [o for o in mine if o not in there], k
        assert {k:v for k,v in texts(d).items() if k in NEW}==NEW, k
        if left>=0: break
    assert left>=0 and k>5

@pytest.mark.parametrize('stamp', ['[', '['*100_000, '{"url":5, "version":"1"}', '{"url":null}',
    '{"url":"u", "version":"1", "unfinished":5}', '{"url":"u", "version":"1", "unfinished":{}}',
    '{"url":"u", "version":"1", "unfinished":{"tmp":"../../outside", "stamp":{}, "kept":"x"}}'])
@pytest.mark.parametrize('listed', ['', '['*100_000, '[5,1,2]\n', '["../../x",1,2]\n', '["labels.csv"]\n'])
def test_stamps_and_lists_of_nonsense(dest, stamp, listed):
    for name,text in (('.pets.json',stamp), ('.pets.files',listed)): dest.with_name(name).write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for version in '112': keep_folder(dest, maker(NEW), url='u', version=version)
    there = [o.read_text() for o in dest.parents[1].rglob('*') if o.is_file()]
    assert not [o for o in [*MINE.values(), 'corrected', 'mine'] if o not in there]
