"Published weights: the right file or none, and nothing in it is run"
import hashlib, io, os, socket, sys, warnings
from contextlib import contextmanager
from pathlib import Path
import numpy as np, pytest, torch, torchvision
from PIL import Image
from torch import nn
from coursekit.vision.all import (CategoryBlock, DataBlock, DataLoader, DataLoaders, ImageBlock, Learner,
    Normalize, PILImage, PILImageBW, RandomSplitter, Resize, TensorDataset, create_vision_model, cut_model,
    fit_stats, get_image_files, models, parent_label, resnet18, squeezenet1_1, vision_learner)
from coursekit.vision.zoo import load_arch, torchvision_names
import coursekit.vision.models.resnet as M
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

def loaders(path, cls=PILImage, bs=4, size=64, names=('hen','owl'), **kw):
    rng = np.random.default_rng(0)
    for c in names:
        (path/c).mkdir(parents=True, exist_ok=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 255, (40,40,3), dtype='uint8')).save(path/c/f'{c}{i}.png')
    block = DataBlock((ImageBlock(cls), CategoryBlock), get_items=get_image_files, get_y=parent_label,
                      splitter=RandomSplitter(seed=1), item_tfms=Resize(size), **kw)
    return block.dataloaders(path, bs=bs, num_workers=0)

def normalizers(dls): return [f for dl in dls for f in dl.after_batch.fs if isinstance(f, Normalize)]

class RGBA(PILImage): _open_args = {'mode':'RGBA'}

@pytest.mark.parametrize('cls,mean,std', [(PILImageBW,[.449],[.226]),
                                          (RGBA,[.485,.456,.406,.449],[.229,.224,.225,.226])])
def test_other_numbers_of_channels_get_the_mean_statistics(tmp_path, offline, caplog, cls, mean, std):
    caplog.set_level('INFO', logger='coursekit')
    dls = loaders(tmp_path, cls)
    raw = dls.valid.one_batch()[0]
    learn = vision_learner(dls, squeezenet1_1, n_in=len(mean))
    by_hand = (raw-torch.tensor(mean).view(1,-1,1,1))/torch.tensor(std).view(1,-1,1,1)
    assert torch.allclose(dls.valid.one_batch()[0], by_hand, atol=1e-3) and learn.dls is dls
    assert f'normalized with mean {mean} and standard deviation {std}' in caplog.text
    with learn.no_bar(), learn.no_logging(): learn.fit(1)

def test_the_statistics_of_two_channels_and_of_three(tmp_path):
    assert fit_stats(([.4,.6,.8],[.1,.2,.3]), 2)==([.4,.6],[.1,.2])
    assert fit_stats(([.4,.6,.8],[.1,.2,.3]), 3)==([.4,.6,.8],[.1,.2,.3])

# --- loaders that somebody else uses, too

def arch_with(mean, std): # A constructor of a small network that was "pretrained" with these statistics
    def small(pretrained=False):
        return nn.Sequential(nn.Conv2d(3,4,3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(4,9))
    small.stats,small.__name__ = ([mean]*3,[std]*3),f'small_{mean}'
    return small
half,dark = arch_with(.5,.5),arch_with(.1,.25)

def predictions(learn):
    with learn.no_bar(): return learn.get_preds()[0]

def test_a_network_with_other_statistics_gets_loaders_of_its_own(tmp_path):
    dls = loaders(tmp_path)
    raw = dls.valid.one_batch()[0]
    first = vision_learner(dls, half)
    before = predictions(first)
    says = r'mean \[0.5.*for small_0.5; but small_0.1 needs mean \[0.1.*`learn.dls`'
    with pytest.warns(UserWarning, match=says):
        second = vision_learner(dls, dark)
    assert first.dls is dls is not second.dls and torch.equal(predictions(first), before)
    assert [f.weights_of for f in normalizers(dls)]==['small_0.5']*2
    assert [f.weights_of for f in normalizers(second.dls)]==['small_0.1']*2
    assert torch.allclose(second.dls.valid.one_batch()[0], (raw-.1)/.25, atol=1e-5)
    assert second.dls.vocab==dls.vocab and second.dls.train.bs==dls.train.bs
    files = get_image_files(tmp_path)[:2]
    assert torch.allclose(second.dls.test_dl(files).one_batch()[0]*.25+.1,
                          first.dls.test_dl(files).one_batch()[0]*.5+.5, atol=1e-5)
    with second.no_bar(), second.no_logging(): second.fit(1)

def plain(dls): return Learner(dls, nn.Sequential(half()[:3], nn.Flatten(), nn.Linear(4,2)))
def untouched_by(**kwargs): return lambda dls: vision_learner(dls, half, **kwargs)

@pytest.mark.parametrize('make', [untouched_by(pretrained=False), untouched_by(normalize=False), plain],
                         ids=['from scratch','as they are','plain'])
def test_an_earlier_learner_keeps_its_pictures(tmp_path, make):
    dls = loaders(tmp_path)
    first = make(dls)
    before = predictions(first)
    with pytest.warns(UserWarning, match='belong to another learner.*small_0.1 needs mean'):
        second = vision_learner(dls, dark)
    assert not normalizers(dls) and len(normalizers(second.dls))==2
    assert torch.equal(predictions(first), before)
    del first # it has circles of references, so it is still there, but nobody can have it any more
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        third = vision_learner(dls, dark)
    assert third.dls is dls and len(normalizers(dls))==2

@pytest.mark.parametrize('chosen', [Normalize.from_stats([.3]*3,[.2]*3), Normalize(.3,.2), Normalize()])
def test_what_somebody_chose_is_respected(tmp_path, chosen):
    dls = loaders(tmp_path, batch_tfms=chosen)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for arch in (half,dark): assert vision_learner(dls, arch).dls is dls
    assert len({id(f) for f in normalizers(dls)})==1

def test_loaders_without_transforms_of_batches_are_named(tmp_path):
    x,y = torch.rand(8,3,16,16),torch.arange(8)%2
    dls = DataLoaders(*(DataLoader(TensorDataset(x, y), bs=4) for _ in range(2)))
    with pytest.warns(UserWarning, match=r'not normalized .* mean \[0.1, 0.1, 0.1\].*`normalize=False`'):
        vision_learner(dls, dark, n_out=2, loss_func=nn.CrossEntropyLoss())

# --- heads

def test_weights_of_a_pretrained_learner_fit_one_that_needs_no_download(tmp_path):
    dls = loaders(tmp_path)
    def make(**kwargs): return vision_learner(dls, half, path=tmp_path, **kwargs)
    learn = make()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    learn.save('linear')
    assert torch.equal(predictions(make(pretrained=False, linear=True).load('linear')), predictions(learn))
    with pytest.raises(RuntimeError, match=r'Only the head differs, the part `1`.*linear=True'):
        make(pretrained=False).load('linear')
    make(pretrained=False).save('two')
    with pytest.raises(RuntimeError, match=r'Only the head differs.*linear=False'): make().load('two')
    make(linear=False).load('two')
    with pytest.raises(RuntimeError) as e:
        vision_learner(dls, squeezenet1_1, pretrained=False, path=tmp_path).load('two')
    assert 'Only the head' not in str(e.value)

@pytest.mark.parametrize('other', [dict(lin_ftrs=[8]), dict(y_range=(0,1)), dict(custom_head=nn.Flatten())])
def test_a_linear_head_or_another(tmp_path, other):
    with pytest.raises(ValueError, match=f'linear=True.*`{next(iter(other))}`'):
        vision_learner(loaders(tmp_path), half, linear=True, **other)

# --- torchvision

@pytest.mark.slow
def test_every_classifier_of_torchvision_can_be_cut():
    "Without memory for their weights: on the device `meta`, on which torch builds all but the regnets"
    for name in torchvision_names():
        arch = getattr(torchvision.models, name)
        if name.startswith('regnet'):
            if name=='regnet_y_400mf': create_vision_model(arch, 5, pretrained=False, size=(64,64))
            continue
        with torch.device('meta'):
            model,_ = create_vision_model(arch, 5, pretrained=False, size=(224,224), init=None)
            assert model(torch.zeros(2, 3, 224, 224)).shape==(2,5), name

@pytest.mark.parametrize('name', ['googlenet','inception_v3','maxvit_t'])
def test_bodies_of_networks_that_are_more_than_a_row(name):
    net = getattr(torchvision.models, name)(**({} if name=='maxvit_t' else {'init_weights':False})).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        want,grid = net(x),cut_model(net)(x)
        got = net.classifier(grid) if name=='maxvit_t' else net.fc(net.avgpool(grid).flatten(1))
    assert torch.equal(got, want)

def test_a_body_gets_the_statistics_that_its_network_makes_of_pictures(cache, monkeypatch):
    "googlenet turns ImageNet's statistics into a half and a half when it is called, which a body is not"
    net = torchvision.models.googlenet(init_weights=False).state_dict()
    monkeypatch.setattr('coursekit.vision.models.published_weights', lambda *args, **kwargs: net)
    net,stats = load_arch(torchvision.models.googlenet)
    assert stats==([.5]*3,[.5]*3) and not net.transform_input

def test_wrong_channels_are_named_and_leave_the_loaders(tmp_path, offline):
    dls = loaders(tmp_path, PILImageBW)
    with pytest.raises(ValueError, match='pass `n_in=1`'): vision_learner(dls, squeezenet1_1, n_in=3)
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

# --- other loaders for the same learner: progressive resizing

def test_a_learner_goes_on_with_larger_pictures(tmp_path):
    small,large = loaders(tmp_path, size=32),loaders(tmp_path, size=48)
    raw = large.valid.one_batch()[0]
    assert raw.shape[-1]==48
    learn = vision_learner(small, half)
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(1)
        weights = {k:v.clone() for k,v in learn.model.state_dict().items()}
        learn.dls = large
        assert learn.dls is large and learn.get_preds(with_input=True)[0].shape[-1]==48
        assert torch.allclose(large.valid.one_batch()[0], (raw-.5)/.5, atol=1e-5)
        assert all(torch.equal(v, weights[k]) for k,v in learn.model.state_dict().items())
        learn.fine_tune(1)
        learn.lr_find(num_it=3, show_plot=False, suggest_funcs=None)
        learn.validate(), learn.predict(get_image_files(tmp_path)[0])
    assert learn.dls is large and [f.weights_of for f in normalizers(large)]==['small_0.5']*2
    learn.dls = small # and back again: nothing is normalized twice
    assert learn.dls is small and len(normalizers(small))==2

def test_other_classes_are_refused(tmp_path):
    learn = vision_learner(loaders(tmp_path/'a'), half)
    before = learn.dls
    other = loaders(tmp_path/'b', names=('mango','kiwi'))
    with pytest.raises(ValueError, match="learned the classes .*kiwi.*same classes"): learn.dls = other
    assert learn.dls is before
