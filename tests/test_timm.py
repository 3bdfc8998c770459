"Networks of timm, by name: every kind trains in `vision_learner`, and their weights are strangers"
import os, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from torch import nn
from coursekit.vision.all import (DataBlock, ImageBlock, CategoryBlock, PILImage, PILImageBW, Normalize,
    RandomSplitter, Resize, create_vision_model, default_split, efficientnet_lite0, get_image_files, models,
    parent_label, resnet_tiny, vision_learner)
from coursekit.vision.zoo import TimmBody, WeightsError, load_arch, load_timm
timm = pytest.importorskip('timm', reason='timm is not installed (extra `timm`)')

class RGBA(PILImage): _open_args = {'mode':'RGBA'}

@pytest.fixture
def loaders(tmp_path):
    def make(cls=PILImage, size=64):
        rng = np.random.default_rng(0)
        for c in ('hen','owl'):
            (tmp_path/c).mkdir(exist_ok=True)
            for i in range(6):
                noise = rng.integers(0, 255, (40,40,3), dtype='uint8')
                Image.fromarray(noise).save(tmp_path/c/f'{c}{i}.png')
        block = DataBlock((ImageBlock(cls), CategoryBlock), get_items=get_image_files, get_y=parent_label,
                          splitter=RandomSplitter(seed=1), item_tfms=Resize(size))
        return block.dataloaders(tmp_path, bs=4, num_workers=0)
    return make

def normalizer(dls): return next((f for f in dls.train.after_batch.fs if isinstance(f, Normalize)), None)

# --- every kind of network

kinds = dict(convolutions='convnext_atto', residual='resnet10t', inverted='tf_efficientnet_lite0',
             head_with_a_convolution='mobilenetv3_small_050', tokens='vit_tiny_patch16_224',
             channels_last='swin_tiny_patch4_window7_224', distilled='levit_128s')

@pytest.mark.parametrize('name', kinds.values(), ids=kinds)
def test_trains(loaders, name):
    "Frozen, then unfrozen: the head learns, then everything does"
    dls = loaders()
    torch.manual_seed(0)
    learn = vision_learner(dls, name, pretrained=False, lr=1e-3)
    learn.freeze()
    before = {k:v.detach().clone() for k,v in learn.model.named_parameters()}
    def moved():
        weights = [(k,v) for k,v in learn.model.named_parameters() if v.dim()>1]
        return {k[0] for k,v in weights if not torch.equal(v, before[k])}
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        assert moved()=={'1'}
        learn.unfreeze()
        learn.fit(1)
    assert moved()=={'0','1'}
    learn.model.train()(dls.one_batch()[0]).sum().backward()
    assert all(p.grad is not None for p in learn.model.parameters())                # no part is idle
    preds,targs = learn.get_preds()
    assert preds.shape==(2,2) and preds.isfinite().all()

@pytest.mark.parametrize('cls,n_in', [(PILImageBW,1), (RGBA,4)])
def test_other_numbers_of_channels(loaders, cls, n_in):
    dls = loaders(cls)
    learn = vision_learner(dls, 'resnet10t', pretrained=False, n_in=n_in)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    with pytest.raises(ValueError, match=f'pass `n_in={n_in}`'): vision_learner(dls, 'resnet10t', n_in=3)
    assert vision_learner(dls, 'resnet10t', pretrained=False).model[0].model.conv1[0].in_channels==n_in

def test_size_of_the_pictures():
    "A network for one size is built for that of the pictures, or the size it takes is named"
    vit,_ = create_vision_model('vit_tiny_patch16_224', 2, pretrained=False, size=(48,80))
    assert vit(torch.zeros(2, 3, 48, 80)).shape==(2,2)
    with pytest.raises(ValueError, match='no pictures of 64×64, but it does of 224×224: use `Resize'):
        create_vision_model('efficientformer_l1', 2, pretrained=False, size=(64,64))

def test_cut_and_head_of_your_own():
    cut,_ = create_vision_model('convnext_atto', 2, pretrained=False, cut=2)
    assert not isinstance(cut[0], TimmBody) and cut(torch.zeros(2, 3, 64, 64)).shape==(2,2)
    head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(320, 2))
    own,_ = create_vision_model('convnext_atto', 2, pretrained=False, custom_head=head)
    assert own[1] is head and own(torch.zeros(2, 3, 64, 64)).shape==(2,2)

def test_constructors_of_timm():
    "They may bring arguments of their own; so may transformers of torchvision, which are no row of parts"
    def resnet10t(): return timm.create_model('resnet10t', drop_path_rate=.5)
    model,_ = create_vision_model(resnet10t, 2, pretrained=False)
    assert isinstance(model[0], TimmBody) and model[0].model.num_classes==0
    model,_ = create_vision_model(models.vit_b_32, 3, pretrained=False, size=(224,224))
    assert model(torch.zeros(2, 3, 224, 224)).shape==(2,3)

class TwoInputs(nn.Module): # More than its parts in a row
    def __init__(self):
        super().__init__()
        self.left,self.right,self.fc = nn.Conv2d(3,4,3),nn.Conv2d(3,4,3),nn.Linear(8,2)
    def forward(self, x): return self.fc(torch.cat([self.left(x),self.right(x)], 1).mean((2,3)))

def test_what_is_no_body():
    "A whole network is not taken for features: its 1000 outputs are classes"
    with pytest.raises(ValueError, match='pass `pool=False` if these numbers are features'):
        create_vision_model(timm.create_model('resnet10t'), 2)
    with pytest.raises(ValueError, match='pass `cut`.*or take its like from timm'):
        create_vision_model(TwoInputs, 2, pretrained=False)

# --- groups of parameters

families = [efficientnet_lite0, models.resnet18, models.resnet50, models.densenet121, models.vgg16_bn,
            models.mobilenet_v3_small, models.squeezenet1_1, models.convnext_tiny, resnet_tiny, 'resnet34',
            'convnext_tiny', 'tf_efficientnet_lite0', 'vit_tiny_patch16_224', 'regnetx_002',
            'swin_tiny_patch4_window7_224']
@pytest.mark.parametrize('arch', families, ids=lambda o: o if isinstance(o, str) else o.__name__)
def test_groups_suit_each_family(arch):
    "Early layers are a third to two thirds of the depth; all parameters are in one group, in their order"
    net,_ = create_vision_model(arch, 2, pretrained=False, size=(224,224))
    early,late,head = groups = default_split(net)
    depth = [sum(p.dim()>1 for p in g) for g in groups]
    assert .3 <= depth[0]/(depth[0]+depth[1]) <= .6
    everything = [id(p) for g in groups for p in g]
    assert len(everything)==len(set(everything)) and set(everything)=={id(p) for p in net.parameters()}
    assert {id(p) for p in head}=={id(p) for p in net[1].parameters()}

def test_groups_of_resnets_are_those_of_fastai():
    net,_ = create_vision_model(models.resnet34, 2, pretrained=False)
    early,late,head = default_split(net)
    assert [len(early),len(late)]==[len(list(net[0][:6].parameters())),len(list(net[0][6:].parameters()))]

# --- weights

@pytest.fixture
def hub(monkeypatch):
    "What timm fetches from the hub is `make(model)`, a function that tests set"
    def load(*args, **kwargs): return load.make()
    monkeypatch.setattr('timm.models._builder.load_state_dict_from_hf', load)
    return load

def test_weights_come_with_their_statistics(loaders, hub):
    whole = timm.create_model('tf_efficientnet_lite0')
    hub.make = lambda: whole.state_dict()
    dls = loaders()
    learn = vision_learner(dls, 'tf_efficientnet_lite0', channels_last=False) # which sums in another order
    assert torch.equal(learn.model[0].model.conv_stem.weight, whole.conv_stem.weight)
    assert normalizer(dls).mean.flatten().tolist()==[.5]*3
    assert not learn.model[0].model.conv_stem.weight.requires_grad     # it begins frozen
    x = torch.randn(1, 3, 64, 64)
    assert torch.allclose(learn.model[0].eval()(x), whole.eval().forward_features(x))

@pytest.mark.parametrize('n_in', [1,4])
def test_filters_of_pretrained_weights_fit_the_channels(hub, n_in):
    whole = timm.create_model('resnet10t')
    hub.make = lambda: whole.state_dict()
    model,stats = create_vision_model('resnet10t', 2, n_in=n_in)
    got,w = model[0].model.conv1[0].weight,whole.conv1[0].weight
    wanted = w.sum(1, keepdim=True) if n_in==1 else torch.cat([w, w[:,:1]], 1)*3/4
    assert torch.allclose(got, wanted, atol=1e-6)

def test_no_network(loaders, hub):
    def refuse(): raise OSError('Name or service not known')
    hub.make = refuse
    dls = loaders()
    with pytest.raises(WeightsError, match=r'timm/convnext_tiny.* \(Name or service.*pretrained=False'):
        vision_learner(dls, 'convnext_tiny')
    assert normalizer(dls) is None

class Evil:
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return os.mkdir,(str(self.mark),)

@pytest.mark.parametrize('content', ['evil', 'cut', 'text', 'list'])
def test_a_file_of_weights_runs_nothing(tmp_path, content):
    file = tmp_path/'w.pth'
    torch.save({'conv1.weight':Evil(tmp_path/'ran')} if content=='evil' else [1,2], file)
    if content=='cut': file.write_bytes(file.read_bytes()[:200])
    if content=='text': file.write_text('<html>')
    with pytest.raises(WeightsError, match='w.pth cannot be read as weights of resnet10t'):
        load_arch('resnet10t', weights=file)
    assert not (tmp_path/'ran').exists()

def test_weights_by_tag(hub):
    whole = timm.create_model('convnext_tiny')
    hub.make = lambda: whole.state_dict()
    assert load_timm('convnext_tiny', weights='in12k_ft_in1k').pretrained_cfg['tag']=='in12k_ft_in1k'
    with pytest.raises(ValueError, match="has no weights 'no'"): load_timm('convnext_tiny', weights='no')

def test_slips(loaders):
    dls = loaders()
    for name,match in (('resnet-34',"'resnet34'"), ('convnext_tiney',"'convnext_tiny'"), ('', 'no network')):
        with pytest.raises(ValueError, match=match): vision_learner(dls, name)
    with pytest.raises(ValueError, match='without quotes'): vision_learner(dls, 'shufflenet_v2_x1_0')
    assert normalizer(dls) is None

def test_timm_is_not_imported_in_vain():
    code = ('import sys\nfrom coursekit.vision.all import *\nassert "timm" not in sys.modules')
    root = Path(__file__).resolve().parents[1]
    assert not subprocess.run([sys.executable, '-c', code], cwd=root).returncode

@pytest.mark.parametrize('name', ['tresnet_l','csatv2','naflexvit_base_patch16_gap'])
def test_networks_whose_first_layer_is_no_convolution_of_colours(name):
    "It makes blocks, frequencies or tokens, and does not tell how many channels a picture has"
    if name not in timm.list_models(): pytest.skip(f'timm {timm.__version__} has no {name}')
    size = tuple(timm.get_pretrained_cfg(name).input_size[1:])
    with torch.device('meta'):
        model,_ = create_vision_model(name, 5, pretrained=False, size=size, init=None)
        assert model(torch.zeros(2, 3, *size)).shape==(2,5)

def test_unets():
    from coursekit.vision.all import create_unet_model, total_params
    for name,most in (('tf_efficientnet_lite0',10e6), ('convnext_atto',11e6)):
        net = create_unet_model(name, 2, (64,64), pretrained=False).eval()
        assert total_params(net)[0]<most                       # without the layer for the classifier
        with torch.no_grad(): assert net(torch.randn(1,3,61,75)).shape==(1,2,61,75)
    with pytest.raises(ValueError, match='made of convolutions'):
        create_unet_model('vit_tiny_patch16_224', 2, (64,64), pretrained=False)
