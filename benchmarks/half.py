"""Half precision and channels last: a step of resnet18 at 224 pixels, its accuracy, and EfficientNet-Lite0.

fastai's `to_bf16` asks for autocast on graphics cards only, so on a processor it changes nothing: its row is
in 32 bits.
"""
from pathlib import Path
import numpy as np, torch, torch.nn.functional as F
from .harness import Topic
from .resnet18 import bare_opt, files, read

N_BATCHES,BS = 4,16

def batches(side, n=N_BATCHES, bs=BS, classes=10):
    g = torch.Generator().manual_seed(0)
    def x(): return torch.randn(bs, 3, side, side, generator=g)
    return [(x(),torch.randint(classes, (bs,), generator=g)) for _ in range(n)]

class Dls(list): # What fastai needs of data loaders
    device,path = torch.device('cpu'),Path('.')
    train,valid = property(lambda self: self[0]),property(lambda self: self[1])
    def cuda(self): return self

def learner(lib, opt, dls, model, half=False, **kwargs): # `lib`: a library's module `learner`
    learn = lib.Learner(dls, model, loss_func=F.cross_entropy, opt_func=opt, lr=1e-3, wd=.01, **kwargs)
    return learn.to_channelslast(use_amp=True, amp_mode='bf16') if half else learn

def quiet_fit(learn, n=1, f='fit'):
    with learn.no_bar(), learn.no_logging(): getattr(learn, f)(n)

def seeded(make, seed=0, **kwargs):
    torch.manual_seed(seed)
    return make(**kwargs)

def bare_epoch(model, opt, bs, half):
    model.train()
    for x,y in bs:
        with torch.autocast('cpu', torch.bfloat16, enabled=half): preds = model(x)
        F.cross_entropy(preds.float(), y).backward()
        opt.step()
        opt.zero_grad()

def speed():
    import coursekit.callback.channelslast, coursekit.callback.progress  # noqa: F401
    import coursekit.learner as ck, coursekit.optimizer as cko, coursekit.vision.models.resnet as ckv
    import fastai.callback.progress, fastai.learner as fa, fastai.optimizer as fao  # noqa: F401
    import torchvision.models as tvm
    from coursekit.callback.fp16 import has_fast_bf16
    known = 'has bf16' if has_fast_bf16('cpu') else 'has no instructions for bf16'
    t = Topic('half-resnet18', f'{N_BATCHES} batches of {BS} pictures of 224 × 224, resnet18, own '
                               f'Adam, from tensors; this processor {known}', seconds=90)
    bs = batches(224)
    ours = {half: learner(ck, cko.Adam, Dls([bs,[]]), seeded(ckv.resnet18, num_classes=10), half)
            for half in (False,True)}
    theirs = learner(fa, fao.Adam, Dls([bs,[]]), seeded(tvm.resnet18, num_classes=10))
    def bare(half):
        m = seeded(tvm.resnet18, num_classes=10)
        if half: m.to(memory_format=torch.channels_last)
        opt = bare_opt(m, True, 1e-3)
        return lambda: bare_epoch(m, opt, bs, half)
    t.run('coursekit, 32 bits', role='bare')(lambda: quiet_fit(ours[False]))
    t.run('coursekit, bf16 and channels last', at_most=1/1.8)(lambda: quiet_fit(ours[True]))
    t.run('bare loop, 32 bits')(bare(False))
    t.run('bare loop, bf16 and channels last')(bare(True))
    t.run('fastai, 32 bits', role='fastai')(lambda: quiet_fit(theirs))
    return t

def accuracy(side=64, n_seeds=5):
    import coursekit.callback.channelslast, coursekit.callback.progress  # noqa: F401
    import coursekit.callback.schedule  # noqa: F401
    import coursekit.learner as ck, coursekit.optimizer as cko, coursekit.vision.models.resnet as ckv
    from coursekit.metrics import accuracy
    t = Topic('half-accuracy', f'resnet18, 3 epochs of 768 digits of {side} × {side}, {n_seeds} seeds: how '
                               'many of 256 others are read right, and their scatter', once=True)
    train,valid = [[read(f) for f in fs] for fs in files()[1:]]
    def batched(items, order):
        x,y = torch.stack([o[0] for o in items]),torch.stack([o[1] for o in items])
        x = F.interpolate(x, size=(side,side), mode='bilinear')
        return [(x[i],y[i]) for i in order.split(32)]
    def run(half):
        accs = []
        for seed in range(n_seeds):
            model = seeded(ckv.resnet18, seed, num_classes=2)
            dls = batched(train, torch.randperm(len(train))),batched(valid, torch.arange(len(valid)))
            learn = learner(ck, cko.Adam, dls, model, half, metrics=accuracy)
            quiet_fit(learn, 3, 'fit_one_cycle')
            accs.append(float(learn.recorder.values[-1][-1]))
        return accs
    t.run('32 bits', role='bare')(lambda: run(False))
    t.run('bf16 and channels last')(lambda: run(True))
    @t.same
    def _(results):
        for c,accs in zip(t.cs, results.values()): c.name += f': {np.mean(accs):.1%} ± {np.std(accs):.1%}'
        a,b = map(np.array, results.values())
        limit = 2*max(a.std(), b.std(), 1/256)
        assert abs(a.mean()-b.mean())<=limit, f'the accuracies {a} and {b} differ by more than {limit:.1%}'
    return t

def lite0(side, frozen):
    import coursekit.callback.channelslast, coursekit.callback.progress  # noqa: F401
    import coursekit.learner as ck, coursekit.optimizer as cko
    from coursekit.vision.all import create_vision_model, default_split, efficientnet_lite0
    what = 'only the head trains' if frozen else 'all of it trains'
    t = Topic(f'half-lite0-{side}{"-head" if frozen else ""}',
              f'{N_BATCHES} batches of {BS} pictures of {side} × {side}, EfficientNet-Lite0, {what}',
              seconds=30)
    bs = batches(side, classes=37)
    def make(last, half):
        model,_ = create_vision_model(efficientnet_lite0, 37, pretrained=False)
        learn = ck.Learner((bs,[]), model, F.cross_entropy, cko.Adam, splitter=default_split, train_bn=False)
        if last: learn.to_channelslast(use_amp=half, amp_mode='bf16')
        elif half: learn.to_bf16()
        if frozen: learn.freeze()
        return lambda: quiet_fit(learn)
    t.run('32 bits, channels last', role='bare')(make(True, False))
    t.run('32 bits, usual order')(make(False, False))
    t.run('bf16, channels last')(make(True, True))
    return t

def lite0_topic(side, frozen): return lambda: lite0(side, frozen)

TOPICS = {'half-resnet18': speed, 'half-accuracy': accuracy,
          **{f'half-lite0-{s}{"-head"*f}': lite0_topic(s, f) for s in (128,224) for f in (0,1)}}
