"One epoch of `simple_net` (784 → 30 → 1): lesson 05's loop, each library with its own loader and SGD."
import torch
from .harness import Topic
from .work import N, loaders, mnist_loss, simple_net, seeded, flat, all_close

def epoch(dl, model, opt):
    for xb,yb in dl:
        mnist_loss(model(xb), yb).backward()
        opt.step()
        opt.zero_grad()
    return flat(model)

def topic():
    import coursekit.optimizer as ck, fastai.optimizer as fa
    t = Topic('simple-net', f'one epoch of simple_net, {N:,} × 784, batch 256, in order, own SGD')
    dls,nets = loaders(),{k: seeded(simple_net) for k in ('bare','torch','coursekit','fastai')}
    opts = {k: f(nets[k].parameters(), lr=0.1) for k,
            f in dict(bare=torch.optim.SGD, torch=torch.optim.SGD, coursekit=ck.SGD, fastai=fa.SGD).items()}
    def add(k, name, **kw): t.run(name, **kw)(lambda: epoch(dls[k], nets[k], opts[k]))
    add('bare', 'bare: slices, torch.optim', role='bare')
    add('torch', 'torch DataLoader, torch.optim')
    add('coursekit', 'coursekit')
    add('fastai', 'fastai', role='fastai')
    t.same(all_close)
    return t

TOPICS = {'simple-net': topic}
