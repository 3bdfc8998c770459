"""Transfer learning: the same pretrained network, the same photos, one call of `fine_tune` in each library.

Three seeds, each with another fifth of the photos kept for validation. Real photos where
`COURSEKIT_REAL_DATA` names them (five of each of 37 breeds), else as many sketches.
"""
import os, re
from pathlib import Path
import numpy as np
from .harness import Topic

SEEDS,SIZE,BS = (0,1,2),224,16

def lite0(pretrained=True, **kwargs):
    "timm's `tf_efficientnet_lite0` with the weights of the pip package"
    import timm
    from coursekit.vision.efficientnet import efficientnet_lite0
    m = timm.create_model('tf_efficientnet_lite0', pretrained=False)
    theirs,ours = m.state_dict(),efficientnet_lite0(pretrained=True).state_dict()
    m.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))
    return m

def photos(): # Files, five of each breed in a row
    from coursekit.vision.all import URLs, get_image_files, untar_data
    real = os.environ.get('COURSEKIT_REAL_DATA')
    path = Path(real)/'pets' if real else untar_data(URLs.PETS_SKETCH)
    files = sorted(get_image_files(path/'images'))
    by_breed = {}
    for f in files: by_breed.setdefault(breed(f), []).append(f)
    return [f for fs in by_breed.values() for f in fs[:5]],'real photos' if real else 'sketches'

def breed(f): return re.match(r'(.+)_\d+.jpg$', f.name)[1]

def fit(v, files, seed): # `v`: a library's `vision.all`
    "The share that it names right of the fifth that it does not see"
    v.set_seed(seed)
    kept = np.arange(seed, len(files), 5)
    block = v.DataBlock((v.ImageBlock, v.CategoryBlock), splitter=v.IndexSplitter(kept), get_y=breed,
                        item_tfms=v.Resize(SIZE), batch_tfms=v.Normalize.from_stats([.5]*3, [.5]*3))
    learn = v.vision_learner(block.dataloaders(files, bs=BS, num_workers=0), lite0, metrics=v.accuracy)
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(1)
    return float(learn.validate()[1])

def topic():
    import coursekit.vision.all as ck, fastai.vision.all as fa
    files,kind = photos()
    t = Topic('transfer', f'fine_tune(1) of EfficientNet-Lite0 on {len(files)*4//5} {kind} of 37 breeds, '
                          f'{SIZE} × {SIZE}, batch {BS}, {len(SEEDS)} seeds together', once=True)
    t.run('coursekit', faster=1/0.6)(lambda: [fit(ck, files, s) for s in SEEDS])
    t.run('fastai', role='fastai')(lambda: [fit(fa, files, s) for s in SEEDS])
    @t.same
    def _(results):
        for c,accs in zip(t.cs, results.values()):
            c.name += f': {np.mean(accs):.1%} right ({", ".join(f"{o:.1%}" for o in accs)})'
    return t

TOPICS = {'transfer': topic}
