"""What the cells of library/sketch_pets cannot test: many pictures at once, the files on disk, another
kernel, and real photos."""
import os, re, subprocess, sys
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

def test_draws_alone_where_no_process_can_start(tmp_path, monkeypatch):
    from concurrent.futures.process import BrokenProcessPool
    from coursekit.sketch import pets as sketch_pets
    class Broken:
        def __init__(self, n): raise BrokenProcessPool('no processes here')
    monkeypatch.setattr(sketch_pets,'ProcessPoolExecutor',Broken)
    seen = []
    assert sketch_pets.draw_pets(tmp_path,workers=4,progress=lambda i,n: seen.append((i,n)),per_breed=1,
                                 breeds=FEW[:2])==2
    assert seen==[(2,2)] and len(list((tmp_path/'images').iterdir()))==2

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
