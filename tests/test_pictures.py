"Picture files: what is opened, what is refused, how much memory it takes, and which way up it lies"
import io, os, subprocess, threading, time
import numpy as np, pytest
from PIL import Image, ImageOps
from coursekit.core import defaults
from coursekit.errors import error_text
from coursekit.data.block import DataBlock
from coursekit.state import replaced
from coursekit.torch_core import TensorPoint
from coursekit.vision.core import (ImageError, LargeImageError, PILImage, PILImageBW, PILMask, Resize,
    ToTensor, _room, verify_image, verify_images)
from coursekit.vision.data import BBoxBlock, BBoxLblBlock, ImageBlock, MaskBlock
from coursekit.vision.points import PointScaler

EPS = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n'

def saved(im, fmt, **kw):
    b = io.BytesIO()
    im.save(b, fmt, **kw)
    return b.getvalue()

@pytest.mark.parametrize('fmt', ['JPEG','PNG','GIF','BMP','WEBP','TIFF','PPM','JPEG2000'])
@pytest.mark.parametrize('name', ['a.jpg','a.png','a'])
def test_accepted_kinds_by_content_whatever_the_name(tmp_path, fmt, name):
    (tmp_path/name).write_bytes(saved(Image.new('RGB', (20,10), (200,0,0)), fmt))
    im = PILImage.create(tmp_path/name)
    assert im.size==(20,10) and im.getpixel((3,3))[0]>190 and verify_image(tmp_path/name)

@pytest.mark.parametrize('fmt', ['ICO','TGA','PCX','SGI','DDS','PDF','EPS'])
def test_other_kinds_are_refused_whatever_the_name(tmp_path, fmt):
    f = tmp_path/'a.jpg'
    f.write_bytes(saved(Image.new('RGB', (32,32)), fmt))
    with pytest.raises(ImageError, match='a.jpg.*it is'): PILImage.create(f)
    assert verify_images([f])==[f]

def test_no_other_program_is_called(tmp_path, monkeypatch):
    def fail(*a, **k): raise AssertionError('a program was started')
    for o in ('Popen','call','check_call','run'): monkeypatch.setattr(subprocess, o, fail)
    (tmp_path/'a.jpg').write_bytes(EPS)
    for o in (tmp_path/'a.jpg', EPS, io.BytesIO(EPS), Image.open(io.BytesIO(EPS))):
        for cls in (PILImage, PILImageBW, PILMask):
            with pytest.raises(ImageError, match='PostScript|kind EPS'): cls.create(o).load()

@pytest.mark.parametrize('kind', ['pipe','device','link to a device','sparse'])
def test_what_is_no_ordinary_file_is_refused_at_once(tmp_path, kind):
    f,start = tmp_path/'a.jpg',time.monotonic()
    if kind=='pipe': os.mkfifo(f)
    elif kind=='sparse':
        with open(f, 'wb') as o: o.truncate(10**11)
    elif kind=='device': f = '/dev/zero'
    else: f.symlink_to('/dev/zero')
    with pytest.raises(OSError, match='no file with a picture|bytes, and at most'): PILImage.create(f)
    with pytest.warns(UserWarning, match='could not be checked'): assert verify_images([f])==[]
    assert time.monotonic()-start<5

def test_cannot_be_read_is_not_broken(tmp_path, monkeypatch):
    good,cut,shut = (tmp_path/o for o in ('good.png','cut.png','shut.png'))
    raw = saved(Image.effect_noise((60,60), 90), 'PNG')
    for f in (good,shut): f.write_bytes(raw)
    cut.write_bytes(raw[:900])
    read = type(shut).read_bytes
    def failing(self):
        if self.name=='shut.png': raise PermissionError(13, 'Permission denied', str(self))
        return read(self)
    monkeypatch.setattr(type(shut), 'read_bytes', failing)
    with pytest.warns(UserWarning, match='1 of 3 files could not be checked.*shut.png'):
        assert verify_images([good,cut,shut])==[cut]
    with replaced(defaults, max_pixels=10_000), pytest.warns(UserWarning, match='3 of 3'):
        assert verify_images([good,cut,shut])==[]
    with pytest.raises(PermissionError): verify_image(shut)
    said = error_text(PILImage.create(cut).load)
    assert 'unlink' not in said and 'delete' not in said and 'verify_images' in said

def test_the_limit_counts_what_is_decoded():
    im = Image.new('RGB', (3000,2000))
    with replaced(defaults, max_pixels=4_000_000):
        for raw in (saved(im, 'PNG'), saved(im, 'JPEG', progressive=True)):
            with pytest.raises(LargeImageError, match=r'3000 × 2000.*defaults.max_pixels = 6_000_000'):
                ToTensor()(Resize(64)(PILImage.create(raw)))
        assert ToTensor()(Resize(64)(PILImage.create(saved(im, 'JPEG')))).shape==(3,64,64)
        with pytest.raises(LargeImageError): PILImage.create(saved(im, 'JPEG')).load()
        for size in ((1,5000),(5000,1)):                          # little to see, much to compute
            with pytest.raises(LargeImageError): PILImage.create(saved(Image.new('L', size), 'PNG')).load()
        defaults.max_pixels = 6_000_000
        assert PILImage.create(saved(im, 'PNG')).load() is not None

def test_large_pictures_are_decoded_together_only_as_far_as_they_fit():
    now,most = [0],[0]
    def work():
        with _room.taken_by(40):
            now[0] += 1
            most[0] = max(most[0], now[0])
            time.sleep(0.01)
            now[0] -= 1
    with replaced(defaults, max_pixels=100):
        ts = [threading.Thread(target=work) for _ in range(8)]
        for t in ts: t.start()
        for t in ts: t.join()
    assert most[0]<=2 and _room.taken==0

@pytest.mark.parametrize('fmt', ['JPEG','PNG','WEBP','TIFF'])
@pytest.mark.parametrize('note', [1,2,3,4,5,6,7,8])
def test_one_rule_for_the_note_turn_me(fmt, note):
    a = np.zeros((24,40,3), 'uint8')
    a[:12,:12] = 255,0,0
    a[12:,:20] = 0,255,0
    exif = Image.Exif()
    exif[0x0112] = note
    raw = saved(Image.fromarray(a), fmt, exif=exif)
    ways = [raw, io.BytesIO(raw), Image.open(io.BytesIO(raw)), Image.open(io.BytesIO(raw)).copy(),
            ImageOps.exif_transpose(Image.open(io.BytesIO(raw))), PILImage.create(raw)]
    ims = [PILImage(o) if isinstance(o, Image.Image) else PILImage.create(o) for o in ways]
    ims += [PILImage.create(o) for o in ims]                      # once, not twice
    assert len({(im.size, np.asarray(im).tobytes()) for im in ims})==1
    assert ims[0].size==((24,40) if note>4 else (40,24))
    assert PILMask.create(Image.open(io.BytesIO(raw))).size==ims[0].size

@pytest.mark.parametrize('size', [(0,0), (0,5)])
def test_a_picture_without_pixels_is_refused(size):
    assert 'has no pixels' in error_text(PILImage.create, Image.new('RGB', size))

def test_a_broken_note_is_no_broken_picture():
    im = Image.new('RGB', (8,4))
    for exif in (b'Exif\0\0rubbish', b'Exif\0\0MM\0*\xff\xff\xff\xff'):
        assert PILImage.create(saved(im, 'JPEG', exif=exif)).size==(8,4)
    odd = Image.Exif()
    odd[0x0112] = 99
    assert PILImage.create(saved(im, 'JPEG', exif=odd)).size==(8,4)

# --- what belongs to a picture

def test_a_mask_with_a_class_that_has_no_name(tmp_path):
    files = [tmp_path/f'{i}.png' for i in range(5)]
    for f in files: Image.new('RGB', (16,16)).save(f)
    def loaders(value):
        def get_y(f): return np.full((16,16), value if f.name=='2.png' else 1, np.uint8)
        block = DataBlock((ImageBlock, MaskBlock(['sky','sea'])), get_items=lambda o: files, get_y=get_y,
                          item_tfms=Resize(8))
        return block.dataloaders(tmp_path, bs=4, num_workers=0)
    for value in (1,255):                                          # 255: does not count
        assert sum(len(b[0]) for dl in loaders(value) for b in dl)==5
    said = error_text(lambda: [list(dl) for dl in loaders(7)])
    assert 'class 7, and there are names for 0…1' in said and '2.png' in said
    assert 'subtract 1' in said

def test_an_unknown_coordinate_leaves_the_other_alone():
    im = PILImage.create(np.zeros((40,80,3), np.uint8))
    p = TensorPoint([[float('nan'),10.],[20,10]])
    _,scaled = PointScaler()((im,p))
    _,moved = Resize((20,40), method='squish')((im,scaled))
    assert moved[0,0].isnan() and moved[0,1]==scaled[0,1] and not moved[1].isnan().any()

def test_boxes_and_labels_must_be_as_many(tmp_path):
    files = [tmp_path/f'{i}.png' for i in range(5)]
    for f in files: Image.new('RGB', (16,16)).save(f)
    def loaders(boxes):
        block = DataBlock((ImageBlock, BBoxBlock, BBoxLblBlock), get_items=lambda o: files, n_inp=1,
                          get_y=[lambda f: boxes if f.name=='2.png' else [[1,1,9,9]], lambda f: ['cat']])
        return [list(dl) for dl in block.dataloaders(tmp_path, bs=4, num_workers=0)]
    for boxes,why in (([[1,1,9,9]]*2,'2 box'), ([[1,1,float('nan'),9]],'leave it out')):
        said = error_text(loaders, boxes)
        assert why in said and '2.png' in said
