"""`Learner.fit(1)` of resnet18 on the 3s and 7s, 28×28.

On 12 batches of 64 of them, so that there are many rounds; and once on all of them.
"""
import functools, random, torch, torch.nn.functional as F
from .harness import Topic
from .work import flat

N,N_VALID,BS,THREE = 768,256,64,('3','7')

@functools.cache
def files(): # Folder, training files, validation files: as many 3s as 7s, in a random order
    from coursekit.data.external import untar_data, URLs
    path,dice = untar_data(URLs.MNIST_SAMPLE_SKETCH),random.Random(0)
    def some(kind, n):
        fs = [f for c in THREE for f in sorted((path/kind/c).iterdir())[:n//2]]
        dice.shuffle(fs)
        return fs
    return path,some('train', N),some('valid', N_VALID)

def read(f): # A picture of 3 × 28 × 28 and its class, without any library's help
    import numpy as np
    from PIL import Image
    with Image.open(f) as im:
        x = torch.from_numpy(np.array(im.convert('RGB'))).permute(2,0,1)/255
        return x,torch.tensor(THREE.index(f.parent.name))

def seeded(make):
    torch.manual_seed(0)
    return make(num_classes=2)

def bare_fit(model, opt, train, valid): # What a `Learner` does, without one
    model.train()
    losses,n = 0.,0
    for xb,yb in train:
        loss = F.cross_entropy(model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses += loss.detach()*len(xb)
        n += len(xb)
    model.eval()
    vloss = acc = 0.
    m = 0
    with torch.no_grad():
        for xb,yb in valid:
            p = model(xb)
            vloss += F.cross_entropy(p, yb)*len(xb)
            acc += (p.argmax(1)==yb).float().sum()
            m += len(xb)
    return float(losses)/n,float(vloss)/m,float(acc)/m

def bare_opt(model, adam, lr): # As each library's: no decay for biases and norms
    if not adam: return torch.optim.SGD(model.parameters(), lr=lr)
    ps = [p for p in model.parameters() if p.dim()>1],[p for p in model.parameters() if p.dim()<=1]
    return torch.optim.AdamW([dict(params=ps[0], weight_decay=.01), dict(params=ps[1], weight_decay=0.)],
                             lr=lr, betas=(.9,.99), eps=1e-5)

def from_tensors(): # {'bare', 'coursekit', 'fastai'}: (training, validation) loaders, of lists of tensors
    import coursekit.data.load as ck, coursekit.data.core as ckd
    import fastai.data.load as fa, fastai.data.core as fad
    sets = [[read(f) for f in fs] for fs in files()[1:]]
    def two(f): return [f(o) for o in sets]
    return dict(bare=two(lambda o: torch.utils.data.DataLoader(o, batch_size=BS)),
                coursekit=ckd.DataLoaders(*two(lambda o: ck.DataLoader(o, bs=BS))),
                fastai=fad.DataLoaders(*two(lambda o: fa.DataLoader(o, bs=BS, num_workers=0))))

class Files(torch.utils.data.Dataset):
    def __init__(self, fs): self.fs = fs
    def __len__(self): return len(self.fs)
    def __getitem__(self, i): return read(self.fs[i])

def from_files(): # As `from_tensors`, of files: each library opens them in its own way, anew in each epoch
    import coursekit.vision.all as ck, fastai.vision.all as fa
    path,train,valid = files()
    test = {str(f) for f in valid}
    def dls(m):
        return m.DataBlock(blocks=(m.ImageBlock, m.CategoryBlock),
                           splitter=m.FuncSplitter(lambda f: str(f) in test),
                           get_y=m.parent_label).dataloaders(train+valid, path=path, bs=BS, val_bs=BS,
                                                             num_workers=0)
    L = torch.utils.data.DataLoader
    return dict(bare=(L(Files(train), batch_size=BS, shuffle=True, drop_last=True),
                      L(Files(valid), batch_size=BS)), coursekit=dls(ck), fastai=dls(fa))

def topic(name, what, make_dls, adam, **goals):
    import coursekit.learner as ck, coursekit.optimizer as cko
    import coursekit.metrics as ckm, coursekit.vision.models.resnet as ckv
    import fastai.learner as fa, fastai.optimizer as fao, fastai.metrics as fam, torchvision.models as tvm
    import coursekit.callback.progress, fastai.callback.progress  # noqa: F401
    t = Topic(name, f'Learner.fit(1) of resnet18: {N} + {N_VALID} digits of 3 × 28 × 28, batch {BS}, with '
                    f'accuracy, {what}', seconds=45)
    dls,lr = make_dls(),1e-3 if adam else 1e-2
    models = dict(bare=seeded(tvm.resnet18), coursekit=seeded(ckv.resnet18), fastai=seeded(tvm.resnet18))
    opt,start = bare_opt(models['bare'], adam, lr),flat(models['bare'])
    learn = {k: m.Learner(dls[k], models[k], loss_func=F.cross_entropy, opt_func=o.Adam if adam else o.SGD,
                          lr=lr, wd=.01 if adam else 0., metrics=mm.accuracy)
             for k,m,o,mm in (('coursekit',ck,cko,ckm), ('fastai',fa,fao,fam))}
    def fit(k):
        with learn[k].no_bar(), learn[k].no_logging(): learn[k].fit(1)
        return flat(models[k])
    @t.run('bare: torch DataLoader, torch.optim', role='bare')
    def _():
        bare_fit(models['bare'], opt, *dls['bare'])
        return flat(models['bare'])
    t.run('coursekit Learner', **goals)(lambda: fit('coursekit'))
    t.run('fastai Learner', role='fastai')(lambda: fit('fastai'))
    @t.same
    def _(results):
        # Ours and fastai's go the same way; torch's Adam rounds otherwise, and that grows. From files, all
        # see batches of their own
        if make_dls is from_files: return
        base = results.pop('fastai Learner')
        for k,r in results.items():
            gap = float((r-base).norm()/(base-start).norm())
            limit = .01 if k=='coursekit Learner' else .5
            assert gap<limit, \
                f'{k} and fastai did not do the same work: their ways differ by {gap:.1%} of their length'
    return t

def epoch(): # All of the sample, once
    from coursekit.vision.all import (untar_data, URLs, ImageDataLoaders, vision_learner, resnet18, accuracy,
                                      set_seed)
    t = Topic('resnet18-epoch', 'fit_one_cycle(1, 0.1) on all 3s and 7s, from files, with validation',
              once=True)
    path = untar_data(URLs.MNIST_SAMPLE_SKETCH)
    set_seed(42)
    learn = vision_learner(ImageDataLoaders.from_folder(path, num_workers=0), resnet18, pretrained=False,
                           loss_func=F.cross_entropy, metrics=accuracy)
    @t.run('coursekit', below=60)
    def _():
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 0.1)
        return learn.recorder.values[-1][-1]
    @t.same
    def _(results):
        acc = results['coursekit']
        t.cs[0].name = f'coursekit: {acc:.1%} right (goal ≥ 99 %: {"met" if acc>=.99 else "MISSED"})'
    return t

TOPICS = {'fit-resnet18':       lambda: topic('fit-resnet18', 'own Adam', from_tensors, True, faster=1.05),
          'fit-resnet18-sgd':   lambda: topic('fit-resnet18-sgd', 'own SGD', from_tensors, False),
          'fit-resnet18-files': lambda: topic('fit-resnet18-files', 'own Adam, from files', from_files, True,
                                              faster=1.05),
          'resnet18-epoch':     epoch}
