"Published weights: the right file or none, and nothing in it is run"
import hashlib, io, os, socket, sys
from contextlib import contextmanager
from pathlib import Path
import numpy as np, pytest, torch, torchvision
from PIL import Image
from coursekit.vision.all import (DataBlock, ImageBlock, CategoryBlock, PILImage, PILImageBW, Normalize,
    Resize, RandomSplitter, get_image_files, models, parent_label, resnet18, squeezenet1_1, vision_learner)
from coursekit.vision.zoo import load_arch
import coursekit.vision.models as M
sys.path.insert(0, str(Path(__file__).parent))
from servers import FaultServer

class Evil:
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return os.mkdir,(str(self.mark),)

ways = {'load_arch': lambda: load_arch(models.resnet18), 'ours': lambda: M.resnet18(pretrained=True),
        'by name': lambda: resnet18(weights='DEFAULT'),
        'older spelling': lambda: models.resnet18(pretrained=True),
        'torchvision, given to us': lambda: load_arch(torchvision.models.resnet18, weights='IMAGENET1K_V1')}

@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    d = tmp_path/'hub'/'checkpoints'
    d.mkdir(parents=True)
    return d

def saved(o):
    b = io.BytesIO()
    torch.save(o, b)
    return b.getvalue()

@contextmanager
def publish(folder, content, monkeypatch):
    "`content` as resnet18's published file, under a name with its digest"
    w = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    name = f'resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    with monkeypatch.context() as m:
        m.setattr(w, '_value_', type(w.value)(url=f'http://127.0.0.1:9/{name}', transforms=w.value.transforms,
                                              meta=w.value.meta))
        (folder/name).write_bytes(content)
        yield folder/name

@pytest.mark.parametrize('way', ways)
@pytest.mark.parametrize('digest_fits', [False,True])
def test_a_file_of_weights_runs_nothing(cache, tmp_path, monkeypatch, way, digest_fits):
    "Eight letters of a digest can be made to fit, so the file is not trusted even then"
    bad = saved(Evil(tmp_path/'ran'))
    with publish(cache, bad, monkeypatch) as file:
        if not digest_fits: file.write_bytes(saved(Evil(tmp_path/'ran'))+b' ')
        with pytest.raises(ConnectionError, match='not the published file.*Move it away') as e: ways[way]()
    assert str(file) in str(e.value) and not (tmp_path/'ran').exists()
    assert ('digest' in str(e.value))!=digest_fits

others = [b'', b'PK\3\4 cut', b'<html>', saved([1,2]), saved({'a':1})]
@pytest.mark.parametrize('content', others, ids=range(len(others)))
def test_another_file_under_the_published_name(cache, content):
    file = cache/torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.split('/')[-1]
    file.write_bytes(content)
    with pytest.raises(M.WeightsError, match='its SHA256 digest begins with'): load_arch(resnet18)
    assert file.read_bytes()==content

def test_a_folder_or_a_pipe_under_the_published_name(cache):
    file = cache/torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.split('/')[-1]
    os.mkfifo(file)
    with pytest.raises(M.WeightsError, match='it is no file'): load_arch(resnet18)

@pytest.mark.parametrize('way', ways)
def test_the_published_file_is_loaded(cache, monkeypatch, way):
    net = torchvision.models.resnet18()
    with publish(cache, saved(net.state_dict()), monkeypatch): got = ways[way]()
    got = got[0] if isinstance(got, tuple) else got
    assert torch.equal(got.conv1.weight, net.conv1.weight)
    assert 'get_state_dict' not in vars(torchvision.models.ResNet18_Weights.IMAGENET1K_V1)

def test_a_server_that_falls_silent(cache, monkeypatch):
    with FaultServer() as server, publish(cache, b'x'*1000, monkeypatch) as file:
        file.unlink()
        w = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
        url,_ = server.put(f'/{file.name}', b'x'*1000, 'stall:10')
        monkeypatch.setattr(w, '_value_', type(w.value)(url=url, transforms=None, meta=w.value.meta))
        real = M._patience
        monkeypatch.setattr(M, '_patience', lambda seconds: real(.3))
        with pytest.raises(M.WeightsError, match='could not be downloaded.*timed out'): M.published_weights(w)
    assert socket.getdefaulttimeout() is None and not os.listdir(cache)

def test_slips():
    with pytest.raises(TypeError, match='`nn.Module`'): load_arch(3)
    with pytest.raises(KeyError, match="there are 'IMAGENET1K_V1'"): load_arch(resnet18, weights='V1')
    with pytest.raises(ValueError, match='no torchvision constructor'): load_arch(lambda: 0)

# --- statistics and channels

@pytest.fixture
def offline(monkeypatch):
    "ImageNet's weights, without a download"
    from torchvision.models import _api
    monkeypatch.setattr(_api, 'load_state_dict_from_url',
                        lambda *a, **k: torchvision.models.squeezenet1_1().state_dict())

def loaders(path, cls=PILImage, bs=4, **kw):
    rng = np.random.default_rng(0)
    for c in ('hen','owl'):
        (path/c).mkdir(exist_ok=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 255, (40,40,3), dtype='uint8')).save(path/c/f'{c}{i}.png')
    block = DataBlock((ImageBlock(cls), CategoryBlock), get_items=get_image_files, get_y=parent_label,
                      splitter=RandomSplitter(seed=1), item_tfms=Resize(64), **kw)
    return block.dataloaders(path, bs=bs, num_workers=0)

def normalizers(dls): return [f for dl in dls for f in dl.after_batch.fs if isinstance(f, Normalize)]

class RGBA(PILImage): _open_args = {'mode':'RGBA'}

@pytest.mark.parametrize('cls,n_in', [(PILImageBW,1), (RGBA,4)])
def test_other_numbers_of_channels_are_not_normalized_with_three_means(tmp_path, offline, cls, n_in):
    dls = loaders(tmp_path, cls)
    before = dls.one_batch()[0].shape
    learn = vision_learner(dls, squeezenet1_1, n_in=n_in)
    assert dls.one_batch()[0].shape==before and not normalizers(dls)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)

def test_wrong_channels_are_named_and_leave_the_loaders(tmp_path, offline):
    dls = loaders(tmp_path, PILImageBW)
    with pytest.raises(ValueError, match='pass `n_in=1`'): vision_learner(dls, squeezenet1_1)
    assert not normalizers(dls)
    vision_learner(dls, squeezenet1_1, n_in=1)
    grey_to_colour = loaders(tmp_path, PILImageBW, batch_tfms=lambda x: x.repeat(1,3,1,1) if x.ndim==4 else x)
    vision_learner(grey_to_colour, squeezenet1_1)
    assert len(normalizers(grey_to_colour))==2

@pytest.mark.parametrize('slip', [dict(n_out=0), dict(n_out='2'), dict(cut=0), dict(n_in=0), dict(n_in=4),
                                  dict(weights='none'), dict(splitter=lambda m: 1/0)])
def test_a_learner_that_could_not_be_made_leaves_the_loaders_as_they_were(tmp_path, offline, slip):
    dls = loaders(tmp_path)
    with pytest.raises((ValueError,TypeError,KeyError,ZeroDivisionError)):
        vision_learner(dls, squeezenet1_1, **slip)
    assert not normalizers(dls)

def test_normalized_once(tmp_path, offline):
    dls = loaders(tmp_path)
    for _ in range(3): vision_learner(dls, squeezenet1_1)
    assert len(normalizers(dls))==2                                   # training and validation
    dls = loaders(tmp_path)
    vision_learner(dls, squeezenet1_1, pretrained=False)
    assert not normalizers(dls)

def test_what_are_no_loaders(tmp_path):
    for o,what in ((tmp_path,'the folder'), (str(tmp_path),'the folder'), (None,'NoneType'), ([1],'list')):
        with pytest.raises(TypeError, match=f'dls is .*{what}.*ImageDataLoaders.from_folder'):
            vision_learner(o, squeezenet1_1, pretrained=False)
