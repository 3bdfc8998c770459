"""Pictures and their augmentation, where a notebook cell does not reach: real photos, broken files, worker
processes, references written the slow way."""
import io, math, os, pickle, random, time
import numpy as np, pytest, torch
from PIL import Image, ImageFilter, ImageOps, JpegImagePlugin
from coursekit.core import *
from coursekit.transform import *
from coursekit.torch_core import *
from coursekit.data.core import *
from coursekit.data.transforms import *
from coursekit.data.block import *
from coursekit.vision.core import *
from coursekit.vision.augment import *
from coursekit.vision.data import *
import coursekit.vision.data as vdata

del globals()['test_set']                                  # a function of the library, no test

def plain(x): return x.as_subclass(torch.Tensor)
def scene(w, h, seed=0): # A smooth picture with some edges
    g = np.random.default_rng(seed)
    im = Image.fromarray(g.integers(0, 256, (6,8,3), dtype=np.uint8)).resize((w,h), Image.Resampling.BICUBIC)
    im.paste((250,20,20), (w//4, h//4, w//2, h//2))
    return im
def jpeg(im, **kw):
    b = io.BytesIO()
    im.save(b, 'jpeg', **{'quality':92, **kw})
    return b.getvalue()

@pytest.fixture(scope='module')
def photos(real_data): return get_image_files(real_data/'pets'/'images')
@pytest.fixture
def drawn(tmp_path):
    "A folder of drawn JPEGs of several shapes"
    for i in range(24):
        kind = 'Cat' if i%2 else 'dog'
        scene(90+17*(i%5), 70+13*(i%7), i).save(tmp_path/f'{kind}_{i}.jpg', quality=90)
    return tmp_path
def is_cat(x): return x[0].isupper()

# --- opening

def test_all_photos_through_the_pets_pipeline(photos):
    breed = using_attr(RegexLabeller(r'(.+)_\d+.jpg$'), 'name')
    block = DataBlock((ImageBlock, CategoryBlock), get_y=breed,
                      splitter=IndexSplitter(range(0, len(photos), 5)),
                      item_tfms=Resize(460), batch_tfms=aug_transforms(size=224, min_scale=0.75))
    dls = block.dataloaders(photos, bs=37, drop_last=False, device='cpu')
    for dl,n in zip(dls, (148,37)):
        got = 0
        for xb,yb in dl:
            assert type(xb) is TensorImage and xb.shape[1:]==(3,224,224)
            assert xb.dtype==torch.float32 and xb.is_contiguous()
            assert torch.isfinite(xb).all() and 0<=xb.min() and xb.max()<=1
            assert plain(xb).std((1,2,3)).min()>0.02
            got += len(xb)
        assert got==n

def test_validation_is_the_middle_of_the_photo(photos):
    "Through the whole pipeline, validation pictures are PIL's own crop and resize, up to interpolation"
    move = aug_transforms(size=224, min_scale=0.75)[0]
    for f in photos[::23]:
        im = Image.open(f).convert('RGB')
        s = min(im.size)
        l,t = (im.width-s)//2,(im.height-s)//2
        ref = image2tensor(im.resize((224,224), Image.Resampling.BILINEAR, box=(l,t,l+s,t+s)))/255
        x = ToTensor()(Resize(460)(PILImage.create(f), split_idx=1))
        got = move(TensorImage(x[None]), split_idx=1)[0]
        def inner(x): return plain(x)[:,2:-2,2:-2]
        here = (inner(got)-inner(ref)).abs().mean()
        shifts = (1,0),(-1,0),(0,1),(0,-1)
        shifted = [(inner(got)-inner(ref.roll(d, (1,2)))).abs().mean() for d in shifts]
        assert here<0.03 and here<min(shifted), f

def test_coarse_decoding_is_close_and_never_too_coarse(photos, monkeypatch):
    seen,used,psnr,draft = [],[],[],JpegImagePlugin.JpegImageFile.draft
    def spy(self, mode, size):
        res = draft(self, mode, size)
        seen.append(self.size)
        return res
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, 'draft', spy)
    big = sorted(photos, key=lambda f: -min(Image.open(f).size))[:5]
    for f in big:
        whole = Image.open(f).convert('RGB')
        w,h = whole.size
        for side in (64, 128, 224):
            seen.clear()
            box = (w//8, h//8, w-w//8, h-h//8)
            got = plain(ToTensor()(PILImage.create(f).cut(box, (side,side)))).float()
            ref = image2tensor(whole.resize((side,side), Image.Resampling.BILINEAR, box=box)).float()
            (dw,dh), = seen
            assert (box[2]-box[0])*dw/w>=side-1e-6 and (box[3]-box[1])*dh/h>=side-1e-6
            used.append(dw<w)
            psnr.append(20*math.log10(255/(got-ref).square().mean().sqrt().clamp(min=0.1)))
            assert psnr[-1]>27, (f, side)
    assert np.mean(psnr)>35 and sum(used)>=len(used)/2         # … and it was used

@pytest.mark.parametrize('turn', range(1,9))
def test_orientation(turn):
    im = scene(80, 48)
    exif = Image.Exif()
    exif[0x0112] = turn
    raw = jpeg(im, exif=exif)
    ref = ImageOps.exif_transpose(Image.open(io.BytesIO(raw))).convert('RGB')
    got = PILImage.create(raw)
    assert got.size==ref.size and np.array_equal(np.asarray(got), np.asarray(ref))
    assert got.getexif().get(0x0112, 1)==1 or turn==1          # nobody turns it a second time
    small = PILImage.create(jpeg(scene(800, 480), exif=exif))
    w,h = small.width//8,small.height//8
    assert small.cut((0,0,*small.size), (w,h)).planes().shape==(3,h,w)

def test_kinds_of_files():
    rgb = np.asarray(scene(40,30)).copy()
    def png(im, fmt='png', **kw):
        b = io.BytesIO()
        im.save(b, fmt, **kw)
        return b.getvalue()
    colour,grey = Image.fromarray(rgb),Image.fromarray(rgb[...,0])
    files = dict(rgb=colour, grey=grey, one=Image.fromarray(rgb[...,0]>99), pal=colour.quantize(16),
                 rgba=Image.fromarray(np.dstack([rgb,rgb[...,:1]])), la=grey.convert('LA'),
                 deep=Image.fromarray(rgb[...,0].astype(np.uint16)*257))
    for nm,im in files.items():
        for cls,c in ((PILImage,3),(PILImageBW,1)):
            x = ToTensor()(cls.create(png(im)))
            assert x.shape==(c,30,40) and x.dtype==torch.uint8 and x.float().std()>10, nm
    for nm in ('L','CMYK'):
        assert ToTensor()(PILImage.create(jpeg(scene(40,30).convert(nm)))).shape==(3,30,40)
    for fmt in ('gif','bmp','webp','tiff'): assert PILImage.create(png(files['rgb'], fmt)).mode=='RGB'
    clear = files['pal'].copy()
    clear.info['transparency'] = 0
    assert PILImage.create(png(clear, transparency=0)).mode=='RGB'
    deep = np.array([[0,300]], np.uint16)
    with pytest.raises(OSError, match='300'): ToTensor()(PILMask.create(png(Image.fromarray(deep))))

def test_broken_files_are_named_however_late_they_fail(tmp_path):
    raw,rng = jpeg(scene(300,200)),random.Random(0)
    for n in (0, 1, 100, 400, 700, len(raw)//2, len(raw)-200):
        f = tmp_path/f'cut_{n}.jpg'
        f.write_bytes(raw[:n])
        with pytest.raises(ImageError, match=f'cut_{n}.jpg.*verify_images'):
            ToTensor()(Resize(64)(PILImage.create(f)))
        assert not verify_image(f)
    for _ in range(60):                                        # bytes gone wrong: a picture, or a named error
        bad = bytearray(raw)
        for _ in range(5): bad[rng.randrange(len(bad))] = rng.randrange(256)
        try: ToTensor()(Resize(64)(PILImage.create(bytes(bad))))
        except ImageError: pass
    assert len(verify_images(tmp_path.ls()))==7

def test_no_file_stays_open(drawn):
    if not os.path.isdir('/proc/self/fd'): pytest.skip('no /proc to count open files in')
    n = len(os.listdir('/proc/self/fd'))
    ims = [PILImage.create(f) for f in get_image_files(drawn)]
    assert len(os.listdir('/proc/self/fd'))==n
    for im in ims: im.load()
    assert len(os.listdir('/proc/self/fd'))==n

def test_a_waiting_image_is_a_pil_image(drawn):
    f = get_image_files(drawn)[3]
    ref = Image.open(f).convert('RGB')
    for do in (lambda o: o.rotate(20), lambda o: o.crop((3,4,30,40)), lambda o: o.resize((33,22)),
               lambda o: o.convert('L'), lambda o: o.transpose(Image.Transpose.ROTATE_90), ImageOps.invert,
               lambda o: o.copy(), lambda o: pickle.loads(pickle.dumps(o)),
               lambda o: o.filter(ImageFilter.BLUR)):
        assert np.array_equal(np.asarray(do(PILImage.create(f))), np.asarray(do(ref)))
    a,b = PILImage.create(f),PILImage.create(f)
    b.putpixel((0,0), (1,2,3))
    assert a.getpixel((0,0))==ref.getpixel((0,0)) and b.getpixel((0,0))==(1,2,3)
    assert PILImage.create(f)==PILImage.create(f)
    assert max(PILImage.create(f).to_thumb(32).size)==32
    im = PILImage.create(f).cut((5,5,65,65), (30,30))
    early = ToTensor()(im)
    im.prefetch()
    assert torch.equal(plain(ToTensor()(im)), plain(early))
    assert np.array_equal(np.asarray(im), early.permute(1,2,0).numpy())

# --- loaders

def loaders(drawn, **kw):
    fs,kw = get_image_files(drawn),{**dict(seed=1, bs=4, device='cpu'), **kw}
    return ImageDataLoaders.from_name_func(drawn, fs, label_func=is_cat, **kw)

def test_threads_do_not_change_the_batches(drawn, monkeypatch):
    def batch():
        set_seed(7)
        dls = loaders(drawn, item_tfms=Resize(48), batch_tfms=aug_transforms(), bs=8)
        return [plain(b[0]) for b in dls.train]
    a = batch()
    monkeypatch.setattr(vdata, 'prefetch', lambda samples: None)
    for x,y in zip(a, batch(), strict=True): assert torch.equal(x, y)

def test_worker_processes(drawn):
    dls = loaders(drawn, item_tfms=RandomResizedCrop(40), batch_tfms=aug_transforms(size=32), num_workers=2)
    assert all(b[0].shape==(4,3,32,32) for b in dls.train) and len(list(dls.train))==5

@pytest.mark.parametrize('workers', (0, 2))
def test_a_corrupt_file_among_good_ones_is_named(drawn, workers):
    bad = get_image_files(drawn)[5]
    bad.write_bytes(bad.read_bytes()[:900])
    dls = loaders(drawn, item_tfms=Resize(40), num_workers=workers)
    with pytest.raises(Exception) as e:
        for dl in dls:
            for _ in dl: pass
    assert bad.name in str(e.value) and 'verify_images' in str(e.value)
    assert verify_images(get_image_files(drawn))==[bad]

def test_unequal_sizes_say_resize(drawn):
    dls = loaders(drawn, bs=8)
    with pytest.raises(ValueError, match=r'unequal size.*shape.*Resize\('): dls.one_batch()

def test_constructors(drawn):
    import pandas as pd
    fs,kw = get_image_files(drawn),dict(item_tfms=Resize(32), bs=4, seed=3, device='cpu')
    kinds = [f.name[:3] for f in fs]
    df = pd.DataFrame({'name':[f.name for f in fs], 'label':kinds, 'tags':[o+';all' for o in kinds]})
    df.to_csv(drawn/'labels.csv', index=False)
    for f in fs:
        d = drawn/'by'/('train' if int(f.stem[4:])<16 else 'valid')/f.name[:3]
        d.mkdir(parents=True, exist_ok=True)
        (d/f.name).write_bytes(f.read_bytes())
    I = ImageDataLoaders
    for dls in (I.from_folder(drawn/'by', **kw), I.from_folder(drawn/'by', valid_pct=0.5, **kw),
                I.from_path_func(drawn, fs, lambda o: o.name[:3], **kw),
                I.from_path_re(drawn, fs, r'(\w{3})_\d+.jpg$', **kw),
                I.from_name_re(drawn, fs, r'^(.{3})', **kw),
                I.from_df(df, drawn, **kw), I.from_csv(drawn, **kw), I.from_lists(drawn, fs, kinds, **kw)):
        assert list(dls.vocab)==['Cat','dog'] and dls.one_batch()[0].shape==(4,3,32,32)
    multi = I.from_df(df, drawn, label_col='tags', label_delim=';', **kw)
    assert list(multi.vocab)==['Cat','all','dog'] and multi.one_batch()[1].shape==(4,3)
    names = [f.name for f in I.from_name_func(drawn, fs, is_cat, **kw).valid_ds.items]
    assert names==[f.name for f in I.from_name_func(drawn, fs, is_cat, **kw).valid_ds.items]
    grey = I.from_name_func(drawn, fs, is_cat, img_cls=PILImageBW, **kw).one_batch()[0]
    assert grey.shape==(4,1,32,32) and type(grey) is TensorImageBW
    with pytest.raises(ValueError, match='24 pictures but 3 labels'): I.from_lists(drawn, fs, [1,2,3])

def test_arguments_by_position_as_in_fastai(drawn):
    fs,usual = get_image_files(drawn),(0.25, 3, Resize(32), None, PILImageBW)
    kinds,kw,I = [f.name[:3] for f in fs],dict(bs=4, device='cpu'),ImageDataLoaders
    for dls in (I.from_path_func(drawn, fs, lambda o: o.name[:3], *usual, **kw),
                I.from_lists(drawn, fs, kinds, 0.25, 3, CategoryBlock, *usual[2:], **kw)):
        assert len(dls.valid_ds)==6 and dls.one_batch()[0].shape==(4,1,32,32)
    for t in (Flip(0.5, None, 24, 'nearest', 'border'), Dihedral(0.5, None, 24, 'nearest', 'border'),
              Rotate(9, 0.5, None, 24, 'nearest', 'border'),
              Warp(.1, 0.5, None, None, 24, 'nearest', 'border'),
              Zoom(1., 1.1, 0.5, None, None, None, 24, 'nearest', 'border')):
        assert (t.p, t.size, t.mode, t.pad_mode)==(0.5, (24,24), 'nearest', 'border'), t

def test_masks_follow_their_pictures():
    "A mask made of the picture's own edges stays on them through crop, flip, turn and warp"
    def pair(i):
        im = Image.new('RGB', (90,70))
        im.paste((255,255,255), (20+i,10,60,50))
        return im
    block = DataBlock((ImageBlock, MaskBlock(codes=['back','box'])), get_x=pair, splitter=EndSplitter(),
                      get_y=lambda i: PILMask.create(np.asarray(pair(i))[...,0]//255),
                      item_tfms=Resize(64), batch_tfms=aug_transforms(size=48, max_lighting=0))
    dls = block.dataloaders(list(range(20)), bs=8, device='cpu')
    for xb,yb in dls.train:
        assert type(yb) is TensorMask and yb.shape==(8,48,48) and yb.dtype==torch.int64
        assert ((plain(xb)[:,0]>0.5)==(plain(yb)==1)).float().mean()>0.97
    dls.show_batch(max_n=2)

# --- moving pixels

def slow_sample(x, m, size, pad, align): # One picture (c, h, w) by one matrix, pixel by pixel
    (c,h,w),(oh,ow) = x.shape,size
    def norm(i, n): return (2*i/(n-1)-1 if n>1 else 0.) if align else (2*i+1)/n-1
    def pix(v, n):  return (v+1)/2*(n-1) if align else ((v+1)*n-1)/2
    def fold(p, n):
        if pad=='border': return min(max(p,0),n-1)
        if pad=='reflection':
            lo,hi = (0,n-1) if align else (-.5,n-.5)
            p = (p-lo)%(2*(hi-lo))
            p = lo+min(p, 2*(hi-lo)-p)
            return min(max(p,0),n-1)
        return p
    out = np.zeros((c,oh,ow))
    for i in range(oh):
        for j in range(ow):
            a,b,d = m@np.array([norm(j,ow), norm(i,oh), 1.])
            px,py = fold(pix(a/d,w),w),fold(pix(b/d,h),h)
            for yy in (math.floor(py), math.floor(py)+1):
                for xx in (math.floor(px), math.floor(px)+1):
                    if 0<=yy<h and 0<=xx<w: out[:,i,j] += (1-abs(px-xx))*(1-abs(py-yy))*x[:,yy,xx]
    return out

@pytest.mark.parametrize('pad', ('reflection','border','zeros'))
@pytest.mark.parametrize('align', (True,False))
def test_sampling_against_the_slow_way(pad, align):
    set_seed(1)
    x = torch.rand(5,2,11,14)
    kw = dict(pad_mode=pad, align_corners=align)
    tfms = [Flip(**kw), Warp(0.3, p=1, **kw), Rotate(40, p=1, **kw), Zoom(0.8, 1.4, p=1, **kw)]
    t = AffineCoordTfm(tfms, size=(9,12), **kw)
    y = t(TensorImage(x))
    for a,b,m in zip(x, y, t.mats):
        slow = slow_sample(a.double().numpy(), m.double().numpy(), (9,12), pad, align)
        assert np.abs(slow-plain(b).numpy()).max()<1e-3

def test_fine_sources_are_averaged_first():
    stripes = torch.zeros(2,3,96,96)  # one pixel black, one white: from afar, grey
    stripes[...,::2] = 1
    for x in (stripes, (stripes*255).byte(), stripes[...,:94,:94]):
        y = aug_transforms(size=40, max_rotate=5, max_lighting=0)[0](TensorImage(x))
        assert plain(y).std()<0.12 and abs(plain(y).mean()-0.5)<0.02
    byte = TensorImage(torch.randint(0, 256, (3,3,64,64), dtype=torch.uint8))
    m = aug_transforms(size=32, max_lighting=0)[0]
    set_seed(5)  # bytes or floats: the same
    a = m(byte)
    set_seed(5)
    b = m(TensorImage(byte.float()/255))
    assert (plain(a)-plain(b)).abs().max()<0.03

def test_distributions():
    set_seed(2)
    n = 6000
    x = TensorImage(torch.zeros(n,1,2,2))
    def mats(t):
        t.before_call(x, 0)
        return t.mats
    z = Zoom(1., 1.1, p=0.75)
    m = mats(z)
    s = 1/m[:,0,0]
    assert abs((s!=1).float().mean()-0.75)<0.03 and abs(s[s!=1].mean()-1.05)<0.003
    assert s.min()>=1-1e-5 and s.max()<=1.1+1e-5
    assert (m[:,0,2].abs()<=(1-m[:,0,0])+1e-6).all()           # a zoomed picture never looks over the edge
    assert abs((mats(Flip(0.3))[:,0,0]<0).float().mean()-0.3)<0.03
    m = mats(Warp(0.2, p=0.75))
    inv = torch.linalg.inv(m.double())
    corner = inv@torch.tensor([-1.,-1.,1.]).double()
    c = corner[:,:2]/corner[:,2:]+1
    assert c.abs().max()<=0.2+1e-4 and abs(c[:,0].mean())<0.01
    assert abs((c[:,0].abs()>1e-6).float().mean()-0.75)<0.03
    ks = {tuple(o) for o in mats(Dihedral(1.))[:,:2,:2].reshape(n,4).round().int().tolist()}
    assert len(ks)==8
    m = mats(RandomResizedCropGPU(8, min_scale=0.5, ratio=(1,1), align_corners=False))
    assert m.shape==(n,3,3)
    big = TensorImage(torch.zeros(1,1,200,300)).expand(3000,1,200,300)
    t = RandomResizedCropGPU(8, min_scale=0.2, align_corners=False)
    t.before_call(big, 0)
    area,ratio = t.mats[:,0,0]*t.mats[:,1,1],t.mats[:,0,0]*300/(t.mats[:,1,1]*200)
    assert area.min()>0.19 and area.max()<=1 and ratio.min()>0.74 and ratio.max()<1.35
    assert (t.mats[:,0,2].abs()<=1-t.mats[:,0,0]+1e-5).all()
    x = TensorImage(torch.full((n,1,1,1), 0.5))
    b = plain(Brightness(0.2, p=0.75)(x)).flatten()
    assert abs((b!=0.5).float().mean()-0.75)<0.03 and b.min()>=0.4-1e-4 and b.max()<=0.6+1e-4
    x = TensorImage(torch.full((n,1,1,1), 0.7))
    c = torch.logit(plain(Contrast(0.2, p=1)(x)).flatten())/math.log(7/3)
    assert c.min()>=0.8-1e-3 and c.max()<=1.25+1e-3 and abs(c.log().mean())<0.01

def test_the_seed_rules_and_batch_means_batch():
    x = TensorImage(torch.rand(6,3,24,24))
    for t in (*aug_transforms(size=20, min_scale=0.5), Saturation(), Hue(), RandomErasing(p=1.)):
        set_seed(3)
        a = t(x)
        set_seed(3)
        b = t(x)
        c = t(x)
        assert torch.equal(plain(a), plain(b)) and not torch.equal(plain(a), plain(c)), t
    same = TensorImage(x[:1].repeat(6,1,1,1))
    for t in aug_transforms(batch=True, p_affine=1., p_lighting=1.):
        y = plain(t(same))
        assert torch.allclose(y, y[:1].expand_as(y), atol=1e-6) and not torch.allclose(y, plain(same))

def test_copies_prints_and_single_pictures():
    x = TensorImage(torch.rand(3,20,30))
    m = TensorMask(torch.randint(0,3,(20,30)))
    for t in (Flip(), Dihedral(), Rotate(), Zoom(), Warp(), RandomResizedCropGPU(16), Brightness(),
              Contrast(), Saturation(), Hue(), RandomErasing(), *aug_transforms(), Resize(3),
              RandomResizedCrop(4), CropPad(3), RandomCrop(3), FlipItem(), DihedralItem()):
        u = pickle.loads(pickle.dumps(t))
        assert repr(u)==repr(t) and len(repr(t))<400
    for t in aug_transforms(size=16):
        y,z = t((x,m))
        assert type(y) is TensorImage and y.ndim==3 and z.ndim==2
        x,m = y,z
    bw = TensorImageBW(torch.rand(4,1,16,16))
    for t in (Saturation(p=1), Hue(p=1), *aug_transforms()):
        assert type(t(bw)) is TensorImageBW and t(bw).shape==bw.shape
    keep = TensorImage(torch.rand(2,3,8,8))
    old = keep.clone()
    for t in (*aug_transforms(), Hue(p=1), Saturation(p=1), RandomErasing(1.)): # leave their batch as it was
        t(keep)
        assert torch.equal(plain(keep), plain(old))
    assert len(setup_aug_tfms([Flip(), Rotate(mode='nearest')]))==2    # two ways to look up pixels

def test_cost_against_decoding_alone(photos):
    "Processor time for the whole pets pipeline, in multiples of opening the photos with PIL and nothing else"
    fs,old = list(photos[:128]),torch.get_num_threads()
    tfms = dict(item_tfms=Resize(460), batch_tfms=aug_transforms(size=224, min_scale=0.75))
    dls = ImageDataLoaders.from_name_func('.', fs+fs[:1], label_func=is_cat, splitter=IndexSplitter([128]),
                                          bs=64, device='cpu', num_workers=0, **tfms)
    def cpu(f):
        t = time.process_time()
        f()
        return time.process_time()-t
    try:
        torch.set_num_threads(1)
        ours   = min(cpu(lambda: list(dls.train)) for _ in range(3))
        decode = min(cpu(lambda: [Image.open(f).load() for f in fs]) for _ in range(3))
        ratio = ours/decode
    finally: torch.set_num_threads(old)
    print(f'pets pipeline: {ratio:.1f} times the cost of decoding')
    assert ratio<5
