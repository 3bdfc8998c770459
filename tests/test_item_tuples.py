"""Items of several pictures: pairs, masks of another size than their picture, tuples that show themselves"""
import matplotlib
matplotlib.use('Agg')
import numpy as np, torch
from coursekit.vision.all import *
for _n in [n for n in globals() if n.startswith('test')]: del globals()[_n]   # pytest would collect them

def in_colour(a): return PILImage.create(np.stack([a]*3, -1))

def test_masks_of_another_size_show_the_same_place():
    a = np.zeros((60,80), np.uint8)
    a[20:50,10:40] = 1
    im,mask = in_colour(a*255),PILMask.create(a.repeat(2,0).repeat(2,1))
    tfms = [Resize(32), Resize(32, 'squish'), Resize(32, 'pad', pad_mode='zeros'), Resize((20,40)),
            RandomResizedCrop(32), RandomResizedCrop(32, min_scale=.3)]
    for t in tfms:
        for split_idx in (0,1):
            x,y = t((im,mask), split_idx=split_idx)
            assert x.size==y.size==t.size
            assert ((np.asarray(x)[...,0]>127) != (np.asarray(y)>0)).mean()<0.06, t

def test_pictures_of_other_shapes_are_not_distorted():
    a = np.zeros((60,80), np.uint8)
    a[20:40,30:50] = 255                                                                        # a square
    ims = tuple(in_colour(o) for o in (a, a.T.copy(), a.repeat(2,0).repeat(2,1)))
    tfms = [Resize(30), Resize(30, 'pad', pad_mode='zeros'), RandomResizedCrop(30, min_scale=.9, ratio=(1,1))]
    for t in tfms:
        for im in t(ims, split_idx=0):
            x = np.asarray(im)[...,0]>127
            rows,cols = int(x.any(1).sum()),int(x.any(0).sum())
            assert abs(rows-cols)<=1 and 7<=rows<=13, (t,rows,cols)
    assert [im.size for im in CropPad(50)(ims, split_idx=0)]==[(50,50)]*3

class SiameseImage(fastuple):
    def show(self, ctx=None, **kwargs):
        return show_image(torch.cat(self[:2], 2), title=str(self[2]), ctx=ctx, **kwargs)
class ImageTuple(fastuple):
    @classmethod
    def create(cls, fns): return cls(tuple(PILImage.create(f) for f in fns))
    def show(self, ctx=None, **kwargs): return show_image(torch.cat(self, 2), ctx=ctx, **kwargs)
class Twins(nn.Module):
    def __init__(self):
        super().__init__()
        self.body,self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()),nn.Linear(24,2)
    def forward(self, a, b=None):
        if b is None: a,b = a
        return self.head(torch.cat([self.body(a), self.body(b)], 1))

def test_siamese_by_transform(folder):
    fs,called = get_image_files(folder),[]
    def pair(f): return SiameseImage(PILImage.create(f), PILImage.create(fs[0]), int(f.name[0]=='c'))
    on_batch = [IntToFloatTensor, Normalize.from_stats(*imagenet_stats)]
    pairs = TfmdLists(fs, pair, splits=RandomSplitter(seed=1)(fs))
    dls = pairs.dataloaders(after_item=[Resize(16),ToTensor], after_batch=on_batch, bs=4, num_workers=0)
    assert type(dls.one_batch()) is SiameseImage and dls.n_inp is None
    dls.show_batch()                                          # nobody is registered: each item shows itself
    @typedispatch
    def show_batch(x:SiameseImage, y, samples, **kwargs): called.append((type(x),y,len(samples)))
    @typedispatch
    def show_results(x:SiameseImage, y, samples, outs, **kwargs): called.append((type(y),len(outs)))
    learn = Learner(dls, Twins(), loss_func=CrossEntropyLossFlat(), metrics=accuracy, lr=1e-2)
    with learn.no_bar(), learn.no_logging():
        dls.show_batch()
        learn.fit(1)
        learn.show_results()
    assert called==[(SiameseImage,None,4),(SiameseImage,4)]
    x,y,items = dls.train.show_batch(show=False)
    assert type(x) is SiameseImage and y is None and 0<=x[0].min()

def test_siamese_by_block(folder):
    fs = get_image_files(folder)
    items = [[f,fs[0],int(f.name[0]=='c')] for f in fs]
    pictures = TransformBlock(ImageTuple.create, batch_tfms=IntToFloatTensor)
    recipe = DataBlock((pictures,CategoryBlock), get_x=lambda t: t[:2], get_y=lambda t: t[2],
                       item_tfms=Resize(16))
    dls = recipe.dataloaders(items, bs=4, num_workers=0)
    x,y = dls.one_batch()
    assert type(x) is ImageTuple and type(x[0]) is TensorImage and x[1].shape==(4,3,16,16)
    learn = Learner(dls, Twins(), loss_func=CrossEntropyLossFlat(), metrics=accuracy, lr=1e-2)
    with learn.no_bar(), learn.no_logging():
        dls.show_batch()
        learn.fit(1)
        learn.show_results(rows=2, figsize=(4,4))
        inp,label,dec,out = learn.predict(items[0], with_input=True)
    assert len(inp)==2 and label in ('0','1') and out.shape==(2,)
