"""Points and boxes: they move with their picture, a network learns them, and what is wrong is said."""
import pickle
import matplotlib
matplotlib.use('Agg')
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from coursekit.vision.all import *
for _n in [n for n in globals() if n.startswith('test')]: del globals()[_n] # pytest would collect them
from coursekit.errors import full_message
torch.set_num_threads(1)

def draw(w, h, x, y, r=4., colour=(1,1,1)):
    "A dark picture with a soft dot around (x, y), pixels from the edges"
    u,v = np.arange(w)+0.5,np.arange(h)[:,None]+0.5
    d = np.exp(-((u-x)**2+(v-y)**2)/(2*r**2))
    return Image.fromarray((d[...,None]*np.array(colour)*255).round().astype(np.uint8))

def centre(t):
    h,w = t.shape
    return tensor([(t.sum(0)*(torch.arange(w)+0.5)).sum(), (t.sum(1)*(torch.arange(h)+0.5)).sum()])/t.sum()

@pytest.fixture(scope='module')
def dots(tmp_path_factory):
    "48 pictures with a dot somewhere, and a text file for each: x y"
    path = tmp_path_factory.mktemp('dots')
    rng = np.random.default_rng(0)
    for person in ('01','02','13'):
        (path/person).mkdir()
        for i in range(16):
            x,y = rng.uniform(0.25, 0.75, 2)*(80,60)
            im = draw(80, 60, x, y, 5, rng.uniform(0.6, 1, 3))
            im.save(path/person/f'frame_{i:05}_rgb.jpg', quality=95)
            (path/person/f'frame_{i:05}_pose.txt').write_text(f'{x:.3f} {y:.3f}\n')
    return path

def img2pose(f): return Path(f'{str(f)[:-7]}pose.txt')
def get_ctr(f): return tensor(np.genfromtxt(img2pose(f)))
def small_body():
    sizes = (3,8),(8,16),(16,32)
    return nn.Sequential(*[o for i,c in sizes for o in (nn.Conv2d(i,c,3,2,1), nn.BatchNorm2d(c), nn.ReLU())])
def small_net(n): return nn.Sequential(small_body(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32,n))
def quiet(learn):
    learn.no_bar().__enter__()
    learn.no_logging().__enter__()
    return learn
kw = dict(bs=8, num_workers=0, device='cpu')
def block(**k):
    person_13 = FuncSplitter(lambda o: o.parent.name=='13')
    own = dict(blocks=(ImageBlock, PointBlock), get_items=get_image_files, get_y=get_ctr, splitter=person_13)
    return DataBlock(**{**own, **k})
def loaders(dots, **k): return block(**k).dataloaders(dots, **kw)

# ---- end to end, the way fastai's users write it

@pytest.fixture(scope='module')
def biwi(dots):
    normalize = Normalize.from_stats(*imagenet_stats)
    return loaders(dots, batch_tfms=[*aug_transforms(size=(48,64)), normalize])

def test_batch(biwi):
    xb,yb = biwi.one_batch()
    assert (xb.shape, yb.shape, type(yb), biwi.c, get_c(biwi)) == ((8,3,48,64), (8,1,2), TensorPoint, 2, 2)
    assert yb.abs().max()<=1 and yb.img_size==(64,48) and yb.dtype==torch.float32
    x,y = biwi.decode_batch((xb,yb))[0]
    assert type(y) is TensorPoint and 0<=y.min() and y[0,0]<=64 and y[0,1]<=48
    bright = x.as_subclass(Tensor).sum(0).clamp(min=0.3)-0.3
    assert (centre(bright)-y[0].as_subclass(Tensor)).norm()<6  # what is shown lies on the dot
    assert 'MSE' in str(biwi.loss_func) and biwi.loss_func(torch.zeros(8,2), yb).ndim==0

def test_shows(biwi):
    biwi.show_batch(max_n=4, figsize=(4,4))
    axs = [a for a in plt.gcf().axes if a.collections]
    assert len(axs)==4 and len(axs[0].collections[0].get_offsets())==1
    plt.close('all')

def test_vision_learner(biwi, dots):
    set_seed(0)
    learn = quiet(vision_learner(biwi, resnet18, y_range=(-1,1), pretrained=False, path=dots))
    assert learn.model[-1][-1].__class__.__name__=='SigmoidRange' and learn.model[-1][-2].out_features==2
    learn.fine_tune(1, 1e-3)
    preds,targs = learn.get_preds()
    assert preds.shape==(16,2) and targs.shape==(16,1,2) and preds.abs().max()<=1
    for nrows in (3,None):
        learn.show_results(ds_idx=1, nrows=nrows, max_n=4, figsize=(6,8))
        assert sum(bool(a.collections) for a in plt.gcf().axes)==(6 if nrows else 8)
        plt.close('all')
    f = get_image_files(dots/'13')[0]
    p,dec,raw = learn.predict(f)
    assert type(p) is TensorPoint and p.shape==(1,2) and torch.equal(dec, raw) and p.img_size==(64,48)
    pixels = (raw+1)*tensor([64,48])/2                         # of the picture that the network saw
    assert torch.allclose(p.as_subclass(Tensor)[0], pixels, atol=1e-4)
    assert learn.predict(f, with_input=True)[0].shape==(3,48,64)
    dl = biwi.test_dl(get_image_files(dots/'13'))
    assert torch.allclose(learn.get_preds(dl=dl)[0], preds, atol=1e-5)
    dl = biwi.test_dl(get_image_files(dots/'13'), with_labels=True)
    assert torch.allclose(learn.get_preds(dl=dl)[1].as_subclass(Tensor), targs.as_subclass(Tensor))
    learn.show_results(dl=dl, max_n=2)
    plt.close('all')

def test_it_learns(dots):
    set_seed(0)
    dls = loaders(dots, splitter=RandomSplitter(seed=1), item_tfms=Resize(48, method='squish'),
                  batch_tfms=aug_transforms(size=40, max_lighting=0))
    net = nn.Sequential(small_body(), nn.Flatten(), nn.Linear(32*25,2), SigmoidRange(-1,1))
    learn = quiet(Learner(dls, net, metrics=[mse, mae]))
    places = torch.cat([y for _,y in dls.valid]).as_subclass(Tensor)
    guess = places.var(0, unbiased=False).mean()               # of the best guess that does not look
    learn.fit_one_cycle(14, 1e-2)
    loss,m,_ = learn.validate()
    assert loss<guess/6 and abs(loss-m)<1e-6, (loss, guess)

def test_numbers_through_the_same_doors(dots):
    blocks = ImageBlock,RegressionBlock
    dls = loaders(dots, blocks=blocks, get_y=lambda f: get_ctr(f).tolist(), item_tfms=Resize(32),
                  splitter=EndSplitter(0.2))
    assert dls.c==2 and dls.one_batch()[1].shape==(8,2)
    learn = quiet(Learner(dls, small_net(2), metrics=mae))
    learn.fit(1)
    v,dec,raw = learn.predict(get_image_files(dots)[0])
    assert isinstance(v, tuple) and len(v)==2 and torch.equal(dec, raw)
    learn.show_results(max_n=2)
    plt.close('all')
    one = loaders(dots, blocks=blocks, get_y=lambda f: get_ctr(f)[0].item(), item_tfms=Resize(32))
    learn = quiet(Learner(one, small_net(one.c)))
    assert isinstance(learn.predict(get_image_files(dots)[0])[0], float)
    learn.show_results(max_n=2)
    plt.close('all')

# ---- the dot stays under the point

def dot_errors(item_tfms, batch_tfms=(), split_idx=0, w=160, h=120, n=8):
    res = []
    while len(res)<n:
        xy = (torch.rand(2)*0.7+0.15)*tensor([w,h])
        item = PILImage.create(draw(w, h, *xy.tolist(), 2)),TensorPoint.create(xy)
        b = Pipeline([PointScaler(), *L(item_tfms), ToTensor()], split_idx=split_idx)(item)
        x,y = Pipeline([IntToFloatTensor(), *L(batch_tfms)], split_idx=split_idx)(tuple(o[None] for o in b))
        t = x[0,0].as_subclass(Tensor)
        size = tensor([t.shape[1],t.shape[0]])
        assert tuple(y.img_size)==tuple(size.tolist())
        at = (y.as_subclass(Tensor)[0,0]+1)*size/2
        if (at>16).all() and (at<size-16).all(): res.append((centre(t)-at).norm().item())
    return max(res)

zeros = dict(pad_mode='zeros')
@pytest.mark.parametrize('split_idx', [0,1])
@pytest.mark.parametrize('tfms', [
    ([Resize(96)],), ([Resize((90,130), method='pad', **zeros)],), ([Resize((90,130), method='squish')],),
    ([Resize(200)],), ([RandomResizedCrop(96, min_scale=0.3)],),
    ([RandomResizedCrop((80,120), min_scale=0.3, ratio=(0.5,2))],),
    ([CropPad(100)],), ([CropPad((150,200))],), ([RandomCrop((100,90))],),
    ([FlipItem(1.)],), ([DihedralItem(1.)],), ([DihedralItem(0.5), Resize(96)],),
    ([], [Flip(p=1, **zeros)]),
    ([Resize(90)], [Dihedral(p=1, **zeros)]), ([], [Dihedral(p=1, size=90, **zeros)]),
    ([], [Rotate(60, p=1, **zeros)]), ([], [Rotate(60, p=0.5, size=(96,128), **zeros)]),
    ([], [Zoom(0.8, 1.5, p=1, **zeros)]), ([], [Warp(0.4, p=1, **zeros)]),
    ([], [Warp(0.3, p=1, size=(100,140), **zeros)]), ([], [RandomResizedCropGPU(96, min_scale=0.4, **zeros)]),
    ([Resize(140)], aug_transforms(size=96, max_rotate=30, max_warp=0.3, **zeros)),
    ([Resize(140)], aug_transforms(flip_vert=True, **zeros)),
    ([Resize(140)], aug_transforms(size=96, min_scale=0.5, **zeros)),
    ([RandomResizedCrop(140, min_scale=0.5)],
     aug_transforms(mult=2, size=96, align_corners=False, p_affine=1, **zeros)),
    ([], [Rotate(30, p=1, batch=True, **zeros), Warp(0.2, p=1, **zeros)]),
    ([Resize(300)], aug_transforms(size=75, **zeros)),
    ([], [*aug_transforms(size=64, **zeros), Normalize.from_stats([0.]*3, [1.]*3)])], ids=str)
def test_dot_stays_under_the_point(tfms, split_idx):
    set_seed(1)
    light = [o for o in tfms[1] if not isinstance(o, LightingTfm)] if len(tfms)>1 else []
    assert dot_errors(tfms[0], light, split_idx)<0.8

def test_each_picture_of_a_batch_its_own():
    set_seed(0)
    xy = torch.rand(6,1,2)*0.8-0.4
    x = torch.stack([image2tensor(draw(100, 80, *((o+1)/2*tensor([100,80])).tolist(), 2)) for o in xy[:,0]])
    for tfm in aug_transforms(p_affine=1, max_rotate=40, max_lighting=0, **zeros)[:1], [Flip(0.5)]:
        batch = TensorImage(x),TensorPoint(xy, img_size=(100,80))
        a,b = Pipeline([IntToFloatTensor(), *tfm], split_idx=0)(batch)
        for t,p in zip(a[:,0].as_subclass(Tensor), b.as_subclass(Tensor)):
            assert (centre(t)-(p[0]+1)*tensor([100,80])/2).norm()<0.8

def test_points_outside_stay_outside():
    sc,im = PointScaler(),PILImage.create(draw(80,60,9,9))
    _,p = Resize(40)(sc((im, TensorPoint.create([[-8,-6],[90,30]]))), split_idx=1)   # neither is clamped
    assert p.min()<-1 and p.max()>1
    q = sc.decode((TensorImage(torch.zeros(3,40,40)), p))[1]
    assert torch.allclose(q.as_subclass(Tensor), tensor([[(-8-10)*40/60,-4.],[(90-10)*40/60,20]]), atol=1e-3)

def test_any_order_of_blocks_and_several_points(dots):
    def three(f):
        x,y = get_ctr(f).tolist()
        return [(x,y),(x+3,y),(x,y+3)]
    dls = loaders(dots, blocks=(ImageBlock, CategoryBlock, PointBlock), n_inp=1, get_y=[parent_label, three],
                  item_tfms=Resize(40), batch_tfms=aug_transforms(), splitter=RandomSplitter(seed=0))
    x,c,p = dls.one_batch()
    assert p.shape==(8,3,2) and type(c) is TensorCategory
    d = p.as_subclass(Tensor)
    assert torch.allclose((d[:,1]-d[:,0]).norm(dim=1), tensor(0.15).expand(8), atol=0.1)
    dls.show_batch(max_n=2)
    plt.close('all')
    six = loaders(dots, get_y=three, item_tfms=Resize(40))
    assert six.c==6 and six.decode_batch((six.one_batch()[0], torch.zeros(8,6)))[0][1].tolist()==[[20.,20.]]*3
    learn = quiet(vision_learner(six, small_body(), y_range=(-1,1), pretrained=False))
    learn.fit(1)
    assert learn.predict(get_image_files(dots)[0])[0].shape==(3,2)

kinds = [list, tuple, np.array, tensor, lambda p: [list(p)], lambda p: np.array([p]), L]
@pytest.mark.parametrize('kind', kinds)
def test_points_of_every_kind(dots, kind):
    dls = loaders(dots, get_y=lambda f: kind(get_ctr(f).tolist()), item_tfms=Resize(32))
    assert dls.one_batch()[1].shape==(8,1,2) and dls.c==2

def test_row_column(dots):
    def points(y_block, get_y):
        dls = loaders(dots, blocks=(ImageBlock, y_block), get_y=get_y, item_tfms=Resize(32, 'squish'))
        return dls.valid.one_batch()[1].as_subclass(Tensor)
    want = points(PointBlock, get_ctr)
    for y_block,get_y in ((PointBlock(y_first=True), lambda f: get_ctr(f).flip(0)),
                          (PointBlock(do_scale=False), lambda f: get_ctr(f)/tensor([40,30])-1)):
        assert torch.allclose(points(y_block, get_y), want, atol=1e-5)

def test_other_doors(dots):
    fs = get_image_files(dots)
    places = [get_ctr(f).tolist() for f in fs]
    df = pd.DataFrame(places, columns=['x','y'])
    df.insert(0, 'name', [f.relative_to(dots) for f in fs])
    own = dict(y_block=PointBlock, item_tfms=Resize(32), **kw)
    I = ImageDataLoaders
    for dls in (I.from_df(df, dots, label_col=['x','y'], **own), I.from_path_func(dots, fs, get_ctr, **own),
                I.from_lists(dots, fs, [get_ctr(f) for f in fs], **own)):
        assert dls.c==2 and type(dls.one_batch()[1]) is TensorPoint

def test_datasets_by_hand(dots):
    fs = get_image_files(dots)
    ds = Datasets(fs, [[PILImage.create],[get_ctr, TensorPoint.create]], splits=RandomSplitter(seed=0)(fs))
    dls = ds.dataloaders(after_item=[PointScaler(), Resize(32), ToTensor()],
                         after_batch=[IntToFloatTensor(), *aug_transforms()], **kw)
    assert (dls.c, dls.train.after_item.c, type(dls.one_batch()[1])) == (2, 2, TensorPoint)
    assert 'MSE' in str(dls.loss_func)
    dls.show_batch()
    plt.close('all')

def test_workers_and_pickles(dots):
    dls = block(item_tfms=Resize(32)).dataloaders(dots, bs=8, num_workers=2, device='cpu')
    y = next(iter(dls.valid))[1]
    assert type(y) is TensorPoint and tuple(y.img_size)==(32,32)
    e = dls.new_empty()
    assert e.c==2 and len(e.train_ds)==0
    learn = quiet(Learner(e, small_net(2)))
    assert type(learn.predict(get_image_files(dots)[0])[0]) is TensorPoint
    sc = pickle.loads(pickle.dumps(dls.train.after_item.point_scaler))
    assert sc.c==2

# fastai 2.8.7's numbers for the same points (pixels of 160 × 120) and draws
@pytest.mark.parametrize('tfm,want', [
    (Resize(96), [[-1.3333334,-1],[-0.825,0.2866667]]),
    (Resize((90,130), method='pad'), [[-0.9306358,-1],[-0.5780346,0.2866667]]),
    (Resize((90,130), method='squish'), [[-1,-1],[-0.61875,0.2866667]])], ids=str)
def test_fastais_numbers_for_items(tfm, want):
    x = PILImage.create(Image.new('RGB', (160,120))),TensorPoint.create([[0,0],[30.5,77.2]])
    y = Pipeline([PointScaler(), tfm, ToTensor()], split_idx=1)(x)[1].as_subclass(Tensor)
    assert torch.allclose(y, tensor(want), atol=1e-6), y

@pytest.mark.parametrize('tfm,want', [
    (Rotate(draw=20., p=1), [[0.0255652,0.2221406],[-0.7092604,0.4867748]]),
    (Zoom(draw=1.3, draw_x=.3, draw_y=.6, p=1), [[0.25,0.2],[-0.53,0.85]]),
    (Warp(draw_x=.2, draw_y=-.1, p=1), [[0.303,0.094],[-0.3385542,0.6771084]]),
    (Flip(p=1), [[-0.1,0.2],[0.5,0.7]])], ids=str)
def test_fastais_numbers_for_batches(tfm, want): # it takes the middles of the outer pixels for the edges
    p = TensorPoint(tensor([[[.1,.2],[-.5,.7]]]), img_size=(120,120))
    y = Pipeline([tfm], split_idx=0)((TensorImage(torch.zeros(1,3,120,120)), p))[1].as_subclass(Tensor)
    assert (y-tensor([want])).abs().max()*60<0.5

# ---- what is wrong, and what to do

def test_wrong_points(dots):
    def fails(y, *texts, **k):
        with pytest.raises(ValueError) as e:
            loaders(dots, **{**dict(get_y=y, item_tfms=Resize(32)), **k}).one_batch()
        text = full_message(e.value)
        assert all(t in text for t in texts) and ('_rgb.jpg' in text or 'item ' in text), text
    fails(lambda f: tensor([1.,2,3]), 'shape (3,) is no list of points', '(x, y)')
    fails(lambda f: tensor([[1.,2,3],[4,5,6]]), 'shape (2, 3)')
    fails(lambda f: None, 'no point (None)')
    fails(lambda f: [[1.,2]]*(1+int(f.stem[6:11])%2), 'the same points in the same order', 'BBoxBlock')
    fails(lambda f: [7.,900.], 'far outside its picture, which is 80 wide and 60 high', 'y_first=True')
    fails(get_ctr, 'leave do_scale=False out', blocks=(ImageBlock, PointBlock(do_scale=False)))

def test_summary_names_the_step(dots, capsys):
    block(item_tfms=Resize(32), batch_tfms=aug_transforms()).summary(dots, device='cpu')
    assert 'TensorPoint of shape (4, 1, 2)' in capsys.readouterr().out
    with pytest.raises(ValueError, match='no list of points'):
        block(get_y=lambda f: [1.,2.,3.], item_tfms=Resize(32)).summary(dots, device='cpu')

# ---- boxes

def boxes_of(f):
    x,y = get_ctr(f).tolist()
    res = [[x-8,y-8,x+8,y+8]]
    return res+[[0,0,4,4]] if int(f.stem[6:11])%2 else res
def names_of(f): return ['dot','corner'] if int(f.stem[6:11])%2 else ['dot']
def box_loaders(dots, **k):
    blocks = ImageBlock,BBoxBlock,BBoxLblBlock
    return loaders(dots, blocks=blocks, n_inp=1, get_y=[boxes_of, names_of], **k)

def test_boxes(dots):
    dls = box_loaders(dots, item_tfms=Resize((60,80), 'squish'), splitter=RandomSplitter(seed=0))
    x,b,l = dls.valid.one_batch()
    assert (b.shape[:2]==l.shape) and b.shape[-1]==4 and type(b) is TensorBBox
    assert dls.vocab==['#na#','corner','dot']
    for f,bb,ll in zip(dls.valid_ds.items, b.as_subclass(Tensor), l.as_subclass(Tensor)):
        want = tensor(boxes_of(f))/tensor([40,30,40,30])-1
        assert torch.allclose(bb[:len(want)], want.clamp(-1,1), atol=1e-5) and (bb[len(want):]==0).all()
        assert [dls.vocab[i] for i in ll if i]==names_of(f)
    dls.show_batch(max_n=4)
    assert [t.get_text() for a in plt.gcf().axes for t in a.texts].count('dot')==4
    plt.close('all')

def test_boxes_move(dots):
    set_seed(0)
    dls = box_loaders(dots, item_tfms=Resize((48,64), 'squish'),
                      batch_tfms=aug_transforms(max_warp=0.1, max_lighting=0))
    for _ in range(3):
        x,b,l = dls.one_batch()
        for im,bb,ll in zip(x,b,l):
            k = next(i for i,o in enumerate(ll) if dls.vocab[o]=='dot')
            mid = (bb[k,:2]+bb[k,2:]).as_subclass(Tensor)/2
            lum = (im.as_subclass(Tensor).sum(0)-0.5).clamp(min=0)
            lum[~_near(lum, mid)] = 0
            assert (centre(lum)-(mid+1)*tensor([64,48])/2).norm()<2.5
def _near(t, mid):
    h,w = t.shape
    u,v = torch.arange(w)+0.5,torch.arange(h)[:,None]+0.5
    c = (mid+1)*tensor([w,h])/2
    return (u-c[0])**2+(v-c[1])**2<14**2

def test_a_box_that_a_crop_removes(dots):
    sc,im = PointScaler(),PILImage.create(draw(80,60,40,30))
    _,b = CropPad(40)(sc((im, TensorBBox.create([[0,0,10,10],[10,5,40,30],[38,28,42,32]]))))
    bb,l = clip_remove_empty(b, TensorMultiCategory([1,2,3]))
    assert l.tolist()==[2,3] and type(bb) is TensorBBox
    assert torch.allclose(bb.as_subclass(Tensor), tensor([[-1,-1,0,0],[-0.1,-0.1,0.1,0.1]]), atol=1e-6)
    none = TensorBBox(torch.zeros(0,4)),TensorMultiCategory(torch.zeros(0, dtype=torch.long))
    s = bb_pad([(0, b, TensorMultiCategory([1,2,3])), (0, *none)])
    assert [o[1].shape for o in s]==[(2,4)]*2 and [o[2].tolist() for o in s]==[[2,3],[0,0]]

def test_boxes_without_names(dots):
    dls = loaders(dots, blocks=(ImageBlock, BBoxBlock), get_y=lambda f: boxes_of(f)[:1], item_tfms=Resize(32))
    assert dls.c==4 and dls.one_batch()[1].shape==(8,1,4) and 'MSE' in str(dls.loss_func)
    dls.show_batch(max_n=2)
    plt.close('all')
    with pytest.raises(ValueError, match=r'\(left, top, right, bottom\)'):
        loaders(dots, blocks=(ImageBlock, BBoxBlock), get_y=get_ctr, item_tfms=Resize(32)).one_batch()

# ---- what a loader knows of its data

def test_masks_say_their_classes(dots):
    def mask(f): return PILMask.create(Image.open(f).convert('L').point(lambda v: v>99))
    blocks = ImageBlock,MaskBlock(codes=['dark','light'])
    dls = loaders(dots, blocks=blocks, get_y=mask, item_tfms=Resize(32))
    assert dls.vocab==['dark','light'] and dls.c==2
    learn = quiet(Learner(dls, nn.Conv2d(3,2,1), loss_func=CrossEntropyLossFlat(axis=1)))
    assert type(learn.predict(get_image_files(dots)[0])[0]) is TensorMask
    with pytest.raises(AttributeError): dls.nonsense
    assert not hasattr(loaders(dots, blocks=(ImageBlock, TransformBlock), item_tfms=Resize(32)), 'c')

def test_top_losses(dots):
    dls = loaders(dots, item_tfms=Resize(32), splitter=RandomSplitter(seed=0))
    learn = quiet(Learner(dls, small_net(2)))
    Interpretation.from_learner(learn).plot_top_losses(2)
    assert [len(a.collections) for a in plt.gcf().axes if a.images]==[2,2]
    plt.close('all')
