"""Real photos, an ImageNet body, `fine_tune` through `DataBlock`: does transfer work outside sketches?

The data is not part of the project (see `COURSEKIT_REAL_DATA` in CONTRIBUTING.md): 185 photos, five of each
of Oxford's 37 breeds, and the body of a MobileNet v1 that was trained on ImageNet. Each fold trains on four
photos of a breed and validates on the fifth: five folds for cat or dog, three for the breeds, which are far
above their limit.
"""
import os
from collections import OrderedDict
import numpy as np, pytest, torch
from torch import nn
import torch.nn.functional as F
from coursekit.vision.all import *
for _n in [n for n in globals() if n.startswith('test')]:
    del globals()[_n]   # fastcore's own, which pytest would collect

class ConvBNReLU6(nn.Sequential):
    def __init__(self, ni, no, ks, stride, groups=1):
        super().__init__(OrderedDict(conv=nn.Conv2d(ni, no, ks, stride, 0 if stride==2 else ks//2,
                                                    groups=groups, bias=False),
                                     bn=nn.BatchNorm2d(no, eps=1e-3), act=nn.ReLU6(inplace=True)))
        self.pad = stride==2 # TensorFlow's "same": a stride of two pads right and bottom only
    def forward(self, x): return super().forward(F.pad(x, (0,1,0,1)) if self.pad else x)

def mobilenet_body(weights):
    "The network described in the data's README, with its weights"
    from safetensors.torch import load_file
    outs,strides = [64,128,128,256,256]+[512]*6+[1024],[1,2,1,2,1,2,1,1,1,1,1,2]
    layers,ni = OrderedDict(stem=ConvBNReLU6(3, 32, 3, 2)),32
    for i,(no,s) in enumerate(zip(outs, strides), 1):
        layers[f'block{i}'] = nn.Sequential(OrderedDict(depthwise=ConvBNReLU6(ni, ni, 3, s, groups=ni),
                                                        pointwise=ConvBNReLU6(ni, no, 1, 1)))
        ni = no
    body = nn.Sequential(layers)
    missing,unexpected = body.load_state_dict(load_file(weights), strict=False)
    assert not unexpected and all(k.endswith('num_batches_tracked') for k in missing), (missing, unexpected)
    return body.to(memory_format=torch.channels_last) # a third faster on a CPU

breed = using_attr(RegexLabeller(r'(.+)_\d+.jpg$'), 'name')
def is_cat(f): return f.name[0].isupper()

def folds(files, k=5):
    "Position of each file among the photos of its breed: 0…k-1"
    seen,res = {},[]
    for f in files:
        res.append(seen.get(breed(f), 0))
        seen[breed(f)] = res[-1]+1
    return np.array(res)%k

@pytest.fixture(autouse=True)
def all_cores():
    "Other tests ask torch for one thread and leave it so; here the work is large"
    n = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
                          else os.cpu_count())
    yield
    torch.set_num_threads(n)

def fold_accuracy(real_data, get_y, fold, epochs, freeze_epochs, item_tfms, batch_tfms=(), bs=16):
    set_seed(42)
    files = get_image_files(real_data/'pets'/'images')
    which = folds(files)
    block = DataBlock((ImageBlock, CategoryBlock), splitter=IndexSplitter(np.where(which==fold)[0]),
                      get_y=get_y, item_tfms=item_tfms,
                      batch_tfms=[*batch_tfms, Normalize.from_stats([.5]*3, [.5]*3)])
    dls = block.dataloaders(files, bs=bs)
    learn = vision_learner(dls, mobilenet_body(real_data/'weights'/'mobilenet_v1_imagenet_body.safetensors'),
                           metrics=accuracy, ps=0.2)
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(epochs, 4e-3, freeze_epochs=freeze_epochs)
    return learn.validate()[1]

def test_cat_or_dog(real_data):
    accs = [fold_accuracy(real_data, is_cat, k, epochs=2, freeze_epochs=3, item_tfms=Resize(224))
            for k in range(5)]
    print(f'\ncat or dog, five folds: {[round(a, 3) for a in accs]}, mean {np.mean(accs):.3f}')
    assert np.mean(accs)>=0.95

def test_37_breeds_with_four_photos_each(real_data):
    accs = [fold_accuracy(real_data, breed, k, epochs=5, freeze_epochs=4, item_tfms=Resize(300),
                          batch_tfms=aug_transforms(size=224, min_scale=0.75)) for k in range(3)]
    print(f'\n37 breeds, three folds: {[round(a, 3) for a in accs]}, mean {np.mean(accs):.3f}')
    assert np.mean(accs)>=0.50
