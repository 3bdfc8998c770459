"""What the cells of library/sketch_pets cannot test: many pictures at once, the files on disk, another
kernel, and real photos."""
import os, re, signal, subprocess, sys, time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coursekit.sketch.breeds import BREEDS
from coursekit.sketch.pets import draw_pet, draw_pets

FEW = ('Abyssinian','Bombay','Sphynx','american_bulldog','basset_hound','pomeranian','scottish_terrier',
       'yorkshire_terrier')

@pytest.fixture(scope='module')
def pets(tmp_path_factory):
    "Forty sketches of eight breeds, drawn by two processes."
    d = tmp_path_factory.mktemp('pets')
    draw_pets(d,workers=2,per_breed=5,breeds=FEW)
    return d

def tree(d): return {p.relative_to(d).as_posix(): p.read_bytes() for p in d.rglob('*') if p.is_file()}

def test_layout(pets):
    names = {p.stem for p in (pets/'images').iterdir()}
    assert names=={f'{b}_{n}' for b in FEW
                   for n in range(1,6)}=={p.stem for p in (pets/'annotations'/'trimaps').iterdir()}
    assert all(re.fullmatch(r'(.+)_\d+.jpg',p.name) for p in (pets/'images').iterdir())
    assert {p.name for p in (pets/'annotations').iterdir()}=={'trimaps','list.txt','trainval.txt','test.txt'}

def test_pictures(pets):
    sizes = []
    for p in (pets/'images').iterdir():
        im,tri = Image.open(p),Image.open(pets/'annotations'/'trimaps'/f'{p.stem}.png')
        im.load()
        assert (im.format,im.mode,tri.format,tri.mode,im.size)==('JPEG','RGB','PNG','L',tri.size), p.name
        t = np.asarray(tri)
        sizes.append(im.size)
        assert t.dtype==np.uint8 and set(np.unique(t))=={1,2,3}, p.name
        assert .10<=(t!=2).mean()<=.90, (p.name,(t!=2).mean())
        assert (t==3).mean()<.25, f'{p.name}: the border should be a band'
        a = np.asarray(im,float)
        assert a.std()>8 and 25<a.mean()<235, f'{p.name}: too flat, dark or bright'
    assert all(200<=max(s)<=500 for s in sizes) and len(set(sizes))>20
    assert {np.sign(w-h) for w,h in sizes}>={-1,1}, 'both landscape and portrait'

def test_border_is_between(pets):
    "Pet and background never touch: there is border between them."
    for p in (pets/'annotations'/'trimaps').iterdir():
        t = np.asarray(Image.open(p)).astype(int)
        for a,b in ((t[1:],t[:-1]),(t[:,1:],t[:,:-1])): assert not ((a*b==2)).any(), p.name

def test_lists(pets):
    rows = [l for l in (pets/'annotations'/'list.txt').read_text().splitlines() if not l.startswith('#')]
    assert all(re.fullmatch(r'\w+_\d+ \d+ [12] \d+',r) for r in rows) and len(rows)==40
    order = sorted(BREEDS,key=str.lower)
    for r in rows:
        name,cls,species,breed = r.split()
        b = name.rsplit('_',1)[0]
        cat = b[0].isupper()
        assert int(cls)==order.index(b)+1 and int(species)==(1 if cat else 2)
        assert int(breed)==[o for o in order if o[0].isupper()==cat].index(b)+1
    train,test = ((pets/'annotations'/f'{k}.txt').read_text().splitlines() for k in ('trainval','test'))
    assert sorted(train+test)==sorted(rows) and not set(train)&set(test)
    assert set(Counter(r.rsplit('_',1)[0] for r in train).values())=={3}

def test_ids_are_oxfords():
    "The published ids: Abyssinian 1, american_bulldog 2, … yorkshire_terrier 37; cats 1–12, dogs 1–25."
    order = sorted(BREEDS,key=str.lower)
    assert order[:4]==['Abyssinian','american_bulldog','american_pit_bull_terrier',
                       'basset_hound'] and order[-1]=='yorkshire_terrier'
    assert len(order)==37 and sum(b[0].isupper() for b in order)==12

def test_one_process_same_bytes(pets, tmp_path):
    draw_pets(tmp_path,workers=1,per_breed=2,breeds=FEW[:4])
    one,two = tree(tmp_path),tree(pets)
    same = [k for k in one if k.endswith(('.jpg','.png'))]
    assert len(same)==16 and all(one[k]==two[k] for k in same)

def test_other_hash_seed_same_picture():
    "A picture may not depend on the process: Python's string hash differs in each."
    code = ("from coursekit.sketch.pets import draw_pet; import hashlib; "
            "print(hashlib.sha256(draw_pet('Bengal',4,size=120)[0].tobytes()).hexdigest())")
    run = lambda s: subprocess.run([sys.executable,'-c',code],env=os.environ|{'PYTHONHASHSEED':s},
                                   capture_output=True,text=True,check=True).stdout
    assert run('1')==run('2')!=''

def test_every_breed_draws():
    for b in BREEDS:
        im,tri = draw_pet(b,30,size=110)
        assert im.size==tri.size and (np.asarray(tri)==1).any(), b

def test_extreme_views():
    for v in (dict(yaw=90,shot='head'),dict(yaw=-90),dict(body=180,shot='full'),dict(pitch=40,roll=40)):
        im,tri = draw_pet('Maine_Coon',2,size=(130,90),**v)
        assert im.size==(130,90) and (np.asarray(tri)==1).any(), v

DRAWING = """
import sys
from coursekit.sketch.pets import draw_pets
print('go', flush=True)
draw_pets(sys.argv[1], workers=2)
"""

def helpers_of(pid):
    "Processes that draw for the process `pid`"
    said = subprocess.run(['ps','-wweo','ppid,pid,args'],capture_output=True,text=True,check=True).stdout
    rows = [r.split(None,2) for r in said.splitlines()[1:]]
    return [int(p) for pp,p,args in rows if int(pp)==pid and '_serve' in args]

def is_alive(pid):
    try: os.kill(pid,0)
    except ProcessLookupError: return False
    state = subprocess.run(['ps','-o','stat=','-p',str(pid)],capture_output=True,text=True).stdout
    return bool(state.strip()) and not state.strip().startswith('Z')

def wait_for(f, seconds):
    end = time.monotonic()+seconds
    while not (res := f()) and time.monotonic()<end: time.sleep(.05)
    return res

@pytest.mark.skipif(os.name=='nt', reason='sends signals')
@pytest.mark.parametrize('how', ['SIGTERM','SIGKILL','SIGINT'])
def test_helpers_end_with_the_program(tmp_path, how):
    "However it ends, in seconds; after Ctrl-C the folder is as it was"
    p = subprocess.Popen([sys.executable,'-c',DRAWING,tmp_path],stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL)
    p.stdout.readline()
    assert wait_for(lambda: list(tmp_path.rglob('*.jpg')), 30)
    helpers = helpers_of(p.pid)
    assert len(helpers)==min(2, os.cpu_count())
    p.send_signal(getattr(signal,how))
    p.wait(10)
    assert wait_for(lambda: not any(map(is_alive,helpers)), 5)
    if how=='SIGINT': assert [*tmp_path.iterdir()]==[]

@pytest.mark.skipif(os.name=='nt', reason='sends signals')
@pytest.mark.parametrize('how', ['SIGKILL','SIGSTOP'])
def test_draws_alone_when_a_helper_dies_or_hangs(tmp_path, how, monkeypatch):
    monkeypatch.setattr('coursekit.sketch.workers._n_cores',lambda: 2)
    hit = []
    def progress(i, n):
        if not hit: hit.extend(helpers_of(os.getpid()))
        monkeypatch.setattr('coursekit.sketch.workers._Helper.patience',1)
        if i>16: os.kill(hit[0],getattr(signal,how))
    assert draw_pets(tmp_path,2,progress,per_breed=12,breeds=FEW[:4])==48
    assert len(hit)==2 and len(list((tmp_path/'images').iterdir()))==48
    assert not any(map(is_alive,hit))

def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    from coursekit.sketch import pets as sketch_pets
    def no_space(job):
        if job[2]==2: raise OSError(28,'No space left on device',str(job[0]))
        (job[0]/'images'/'half.jpg').write_text('')
    monkeypatch.setattr(sketch_pets,'save_pet',no_space)
    with pytest.raises(OSError,match='No space'): draw_pets(tmp_path/'new',1,per_breed=3,breeds='pug')
    assert [*(tmp_path/'new').iterdir()]==[]

def test_errors_of_helpers_arrive(tmp_path, monkeypatch):
    "A folder that vanishes while two processes draw into it"
    from coursekit.sketch.pets import save_pet
    from coursekit.sketch.workers import share
    with pytest.raises(FileNotFoundError,match='nowhere'):
        share(save_pet,[(tmp_path/'nowhere','pug',i) for i in range(1,5)],2,few=1)

def test_a_script_without_main_guard(tmp_path):
    "It draws with two processes, and runs once"
    (tmp_path/'script.py').write_text('print("once")\nfrom coursekit.sketch.pets import draw_pets\n'
                                      'draw_pets("out",2,per_breed=2,breeds=["pug","Bombay"])')
    r = subprocess.run([sys.executable,'script.py'],cwd=tmp_path,capture_output=True,text=True,timeout=60)
    assert (r.returncode,r.stdout)==(0,'once\n'), r.stderr
    assert len(list((tmp_path/'out'/'images').iterdir()))==4

@pytest.mark.parametrize('bad,said', [
    (dict(per_breed=10**9),'between 1 and 10,000'),(dict(per_breed=2.),'whole number'),
    (dict(workers=0),'workers'),(dict(workers='2'),'whole number'),(dict(breeds='poodle'),"'poodle'"),
    (dict(breeds=['pug','pug']),'2 times'),(dict(breeds=[]),'no breed'),(dict(breeds=[7]),'7')])
def test_odd_arguments(tmp_path, bad, said):
    with pytest.raises((TypeError,ValueError),match=said): draw_pets(tmp_path/'new',**bad)
    assert not (tmp_path/'new').exists()

def test_breeds_as_array_or_name(tmp_path):
    assert draw_pets(tmp_path/'a',10_000,per_breed=1,breeds=np.array(['pug','Bombay']))==2
    assert draw_pets(tmp_path/'b',per_breed=1,breeds='pug')==1
    with pytest.raises(FileExistsError,match='empty'): draw_pets(tmp_path/'a',per_breed=1)
    assert len(list((tmp_path/'a'/'images').iterdir()))==2

def real_photos():
    d = os.environ.get('COURSEKIT_REAL_DATA')
    if not d or not (Path(d)/'pets'/'images').is_dir():
        pytest.skip('COURSEKIT_REAL_DATA does not name a folder with pets/images')
    return Path(d)

def test_as_varied_as_photos(pets):
    """Sketches vary in brightness and colour about as photos do: breeds cannot be told by the mean colour
    alone."""
    look = lambda ps: np.array([np.asarray(Image.open(p).convert('RGB').resize((8,8)),float).mean((0,1))
                                for p in ps])
    real = look(sorted((real_photos()/'pets'/'images').glob('*.jpg')))
    ours = look(sorted((pets/'images').iterdir()))
    assert np.abs(real.mean(0)-ours.mean(0)).max()<35, (real.mean(0),ours.mean(0))
    assert (ours.std(0)>.6*real.std(0)).all(), (real.std(0),ours.std(0))

def body(weights, x):
    "ImageNet features (n,1024) of pictures (n,3,h,w) in −1…1: MobileNet v1 as described beside the weights."
    import torch.nn.functional as F
    def bn(x, p):
        return F.relu6(F.batch_norm(x,*(weights[f'{p}.bn.{k}']
                                        for k in ('running_mean','running_var','weight','bias')),eps=1e-3))
    x = bn(F.conv2d(F.pad(x,(0,1,0,1)),weights['stem.conv.weight'],stride=2),'stem')
    for i,s in enumerate((1,2,1,2,1,2,1,1,1,1,1,2),1):
        w = weights[f'block{i}.depthwise.conv.weight']
        x = F.pad(x,(0,1,0,1) if s==2 else (1,1,1,1))
        x = bn(F.conv2d(x,w,stride=s,groups=len(w)),f'block{i}.depthwise')
        x = bn(F.conv2d(x,weights[f'block{i}.pointwise.conv.weight']),f'block{i}.pointwise')
    return x.mean((2,3))

def test_what_sketches_teach_about_photos():
    """A linear classifier on ImageNet features that has only seen sketches tells cats from dogs in photos,
    and breeds far better than chance."""
    import torch
    from safetensors.torch import load_file
    from sklearn.linear_model import LogisticRegression
    root = real_photos()
    w = load_file(root/'weights'/'mobilenet_v1_imagenet_body.safetensors')
    px = 128
    def square(im):
        k = min(im.size)
        x,y = (im.width-k)//2,(im.height-k)//2
        return np.asarray(im.convert('RGB').resize((px,px),Image.BILINEAR,(x,y,x+k,y+k)))
    def feats(ims):
        x = torch.tensor(np.stack([square(i) for i in ims])).permute(0,3,1,2)/127.5-1
        with torch.no_grad(): f = torch.cat([body(w,b) for b in x.split(32)]).numpy()
        return (f-f.mean(0))/(f.std(0)+.1)
    sk = [(b,draw_pet(b,n,size=180)[0]) for b in BREEDS for n in range(1,5)]
    ph = [(p.stem.rsplit('_',1)[0],Image.open(p)) for p in sorted((root/'pets'/'images').glob('*.jpg'))]
    (yb,xs),(tb,xp) = ((np.array(b),feats(i)) for b,i in (zip(*sk),zip(*ph)))
    cat = lambda names: np.array([b[0].isupper() for b in names])
    species = LogisticRegression(C=.003,max_iter=300).fit(xs,cat(yb)).score(xp,cat(tb))
    breed = LogisticRegression(C=.01,max_iter=300).fit(xs,yb).score(xp,tb)
    print(f'trained on {len(sk)} sketches, tested on {len(ph)} photos: cat or dog {species:.3f}, 37 breeds '
          f'{breed:.3f} (chance {1/37:.3f})')
    assert species>=.80 and breed>=.15
