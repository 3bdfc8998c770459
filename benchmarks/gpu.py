"""On a graphics card: half precision, channels last, and where the data is prepared. Skipped elsewhere.

`gpu-step` trains on batches that lie on the card already, so it measures the model alone. `gpu-epoch` opens
JPEG files: workers decode and resize, the batch goes over from pinned memory while the card still works on
the one before, and is cropped, flipped and normalized there, or, for comparison, in the workers.
"""
import torch, torch.nn.functional as F
from .half import Dls, bare_opt, batches, quiet_fit, seeded
from .harness import NotHere, Topic

def card():
    if not torch.cuda.is_available(): raise NotHere('there is no graphics card here')
    return torch.device('cuda')

def timed(f):
    "`f`, to its end also on the card"
    def run():
        f()
        if torch.cuda.is_available(): torch.cuda.synchronize()
    return run

def bare_fit(model, opt, dl, device, half=None):
    "One epoch; `half`: None, or a type of 16 bits"
    scaler = torch.amp.GradScaler(device.type, enabled=half==torch.float16)
    model.train()
    for x,y in dl:
        x,y = x.to(device, non_blocking=True),y.to(device, non_blocking=True)
        with torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()

def bare(model, dl, device, half=None):
    if half is not None: model.to(memory_format=torch.channels_last)
    model.to(device)
    opt = bare_opt(model, True, 1e-3)
    return timed(lambda: bare_fit(model, opt, dl, device, half))

def learner(lib, opt, dls, model, mode=None):
    "`mode`: None, 'fp16' or 'bf16', which brings channels last along"
    learn = lib.Learner(dls, model, loss_func=F.cross_entropy, opt_func=opt, lr=1e-3, wd=.01)
    if mode: learn.to_channelslast(use_amp=True, amp_mode=mode)
    return timed(lambda: quiet_fit(learn))

def libraries():
    import coursekit.callback.channelslast, coursekit.callback.progress  # noqa: F401
    import coursekit.learner as ck, coursekit.optimizer as cko
    import fastai.callback.channelslast, fastai.callback.progress  # noqa: F401
    import fastai.learner as fa, fastai.optimizer as fao
    return (ck,cko.Adam),(fa,fao.Adam)

def step(device=None, side=224, bs=64, n=20):
    import torchvision.models as tvm
    device = device or card()
    ck,fa = libraries()
    t = Topic('gpu-step', f'{n} batches of {bs} pictures of {side} × {side} on the card, resnet50, own Adam',
              seconds=60)
    data = [(x.to(device),y.to(device)) for x,y in batches(side, n, bs)]
    class OnCard(Dls): pass
    OnCard.device = device
    def model(): return seeded(tvm.resnet50, num_classes=10)
    t.run('bare, 32 bits', role='bare')(bare(model(), data, device))
    t.run('bare, bf16, channels last')(bare(model(), data, device, torch.bfloat16))
    t.run('bare, fp16, channels last')(bare(model(), data, device, torch.float16))
    for mode in (None,'bf16','fp16'):
        t.run(f'coursekit, {mode or "32 bits"}')(learner(*ck, OnCard([data,[]]), model(), mode))
    t.run('fastai, fp16, channels last', role='fastai')(learner(*fa, OnCard([data,[]]), model(), 'fp16'))
    t.run('fastai, 32 bits')(learner(*fa, OnCard([data,[]]), model()))
    return t

def bare_files(files, labels, side, bs, workers):
    "torch's loader, torchvision's transforms in the workers"
    import torchvision.transforms.v2 as T
    from PIL import Image
    tfm = T.Compose([T.ToImage(), T.RandomResizedCrop(side, scale=(.75,1.), antialias=True),
                     T.RandomHorizontalFlip(), T.ToDtype(torch.float32, scale=True),
                     T.Normalize([.5]*3, [.5]*3)])
    class Files(torch.utils.data.Dataset):
        def __len__(self): return len(files)
        def __getitem__(self, i):
            with Image.open(files[i]) as im: return tfm(im.convert('RGB')),labels[i]
    return torch.utils.data.DataLoader(Files(), batch_size=bs, shuffle=True, drop_last=True, pin_memory=True,
                                       num_workers=workers, persistent_workers=workers>0)

def epoch(device=None, side=224, bs=64, n=1024, workers=8):
    import coursekit.vision.all as ckv, fastai.vision.all as fav, torchvision.models as tvm
    from .transfer import breed
    device = device or card()
    ck,fa = libraries()
    path = ckv.untar_data(ckv.URLs.PETS_SKETCH)
    files = (sorted(ckv.get_image_files(path/'images'))*n)[:n]
    vocab = sorted({breed(f) for f in files})
    t = Topic('gpu-epoch', f'an epoch over {n} JPEG files, {side} × {side}, batch {bs}, {workers} workers, '
                           'resnet18, fp16 and channels last', seconds=90)
    def dls(v, on_card=True, **kwargs):
        norm = v.Normalize.from_stats([.5]*3, [.5]*3)
        items = v.Resize(int(side*1.15)) if on_card else v.RandomResizedCrop(side, min_scale=.75)
        tfms = [*v.aug_transforms(size=side, max_lighting=0., max_rotate=0., max_warp=0.), norm]
        block = v.DataBlock((v.ImageBlock, v.CategoryBlock(vocab=vocab)), splitter=v.IndexSplitter([0]),
                            get_y=breed, item_tfms=items, batch_tfms=tfms if on_card else [norm])
        res = block.dataloaders(files, bs=bs, num_workers=workers, device=device, **kwargs)
        res.valid.bs = 1
        return res
    def model(): return seeded(tvm.resnet18, num_classes=len(vocab))
    labels = [vocab.index(breed(f)) for f in files]
    t.run('bare, transforms in the workers', role='bare')(
        bare(model(), bare_files(files, labels, side, bs, workers), device, torch.float16))
    t.run('coursekit, transforms on the card')(learner(*ck, dls(ckv), model(), 'fp16'))
    t.run('coursekit, in the workers')(learner(*ck, dls(ckv, False), model(), 'fp16'))
    t.run('coursekit, not pinned')(learner(*ck, dls(ckv, pin_memory=False), model(), 'fp16'))
    t.run('coursekit, 32 bits')(learner(*ck, dls(ckv), model()))
    t.run('fastai, transforms on the card', role='fastai')(learner(*fa, dls(fav), model(), 'fp16'))
    return t

TOPICS = {'gpu-step': step, 'gpu-epoch': epoch}
