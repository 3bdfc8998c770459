"The order of memory in `vision_learner`: on where it helps, off by an argument, and it stays"
import logging
import numpy as np, pytest, torch
from PIL import Image
from torch import nn
from coursekit.callback.channelslast import (channels_last_gain, channels_last_share, has_channels_last,
    suits_channels_last)
from coursekit.probe import why_no_features
from coursekit.vision.all import (ChannelsLast, ImageDataLoaders, MixUp, PILImageBW, Resize,
    efficientnet_lite0, models, resnet_tiny, vision_learner)

@pytest.fixture
def x86(monkeypatch): monkeypatch.setattr('platform.machine', lambda: 'x86_64')

@pytest.fixture
def dls(tmp_path):
    rng = np.random.default_rng(0)
    for c in ('hen','owl'):
        (tmp_path/c).mkdir()
        for i in range(8):
            Image.fromarray(rng.integers(0, 255, (40,40,3), dtype='uint8')).save(tmp_path/c/f'{i}.png')
    return ImageDataLoaders.from_folder(tmp_path, valid_pct=0.25, seed=1, bs=4, item_tfms=Resize(64),
                                        num_workers=0)

def quiet(learn):
    learn.logger = lambda *o: None
    return learn

def all_last(net, x): # Does every convolution give its output with the channels last?
    outs = []
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    hooks = [m.register_forward_hook(lambda m,i,o: outs.append(o)) for m in convs]
    with torch.no_grad(): net.eval()(x)
    for h in hooks: h.remove()
    grids = [o for o in outs if o.shape[-1]>1]
    return bool(grids) and all(o.stride(1)==1 for o in grids)

@pytest.mark.parametrize('arch,on', [(efficientnet_lite0,True), (resnet_tiny,True), (models.resnet18,False),
                                     (models.resnet50,True), (models.mobilenet_v3_small,True),
                                     (models.densenet121,True), (models.vgg11_bn,False)],
                         ids=lambda o: getattr(o, '__name__', o))
def test_the_rule(x86, arch, on):
    net = arch()
    assert suits_channels_last(net)==on and not suits_channels_last(net, 'cuda')
    share = channels_last_share(net)
    assert share>.45 or share<.2                                      # no network of ours is near the limit

def test_other_processors_are_left_alone(monkeypatch):
    monkeypatch.setattr('platform.machine', lambda: 'arm64')
    assert not suits_channels_last(efficientnet_lite0())

def test_in_vision_learner(x86, dls, caplog):
    with caplog.at_level(logging.INFO, logger='coursekit'):
        learn = vision_learner(dls, efficientnet_lite0, pretrained=False)
    assert has_channels_last(learn.model) and 'channels last' in caplog.text
    assert 'Order in memory: channels last' in learn.summary()
    off = vision_learner(dls, efficientnet_lite0, pretrained=False, channels_last=False)
    assert not has_channels_last(off.model) and 'Order in memory' not in off.summary()
    assert not has_channels_last(vision_learner(dls, models.resnet18, pretrained=False).model)
    assert has_channels_last(vision_learner(dls, models.resnet18, pretrained=False, channels_last=True).model)

@pytest.mark.parametrize('n_in', [1,3])
def test_it_stays(x86, dls, tmp_path, n_in):
    "Through freezing, training, saving and loading, also from weights in the usual order; grey pictures too"
    if n_in==1: dls = ImageDataLoaders.from_folder(tmp_path, valid_pct=0.25, seed=1, bs=4, img_cls=PILImageBW,
                                                   item_tfms=Resize(64), num_workers=0)
    def make(**kwargs):
        kwargs |= dict(pretrained=False, n_in=n_in, path=tmp_path)
        return quiet(vision_learner(dls, efficientnet_lite0, **kwargs))
    learn,usual = make(),make(channels_last=False)
    x = dls.one_batch()[0]
    assert all_last(learn.model[0], x) and not all_last(usual.model[0], x)
    with learn.no_bar():
        learn.freeze()
        learn.fit(1)
        learn.unfreeze()
        learn.fit(1)
    assert all_last(learn.model[0], x)
    learn.save('last')
    usual.load('last')                                                # the usual order stays what it is, too
    assert has_channels_last(learn.model) and not has_channels_last(usual.model)
    for a,b in zip(learn.get_preds()[0], usual.get_preds()[0]): assert torch.allclose(a, b, atol=1e-5)
    usual.save('usual')
    learn.load('usual')
    assert all_last(learn.model[0], x)

def test_results_are_the_same_each_time(x86, dls):
    def trained():
        torch.manual_seed(0)
        learn = quiet(vision_learner(dls, resnet_tiny, pretrained=False))
        with learn.no_bar(): learn.validate()
        return learn.get_preds()[0]
    assert torch.equal(trained(), trained())

def test_fastais_callback(x86, dls):
    learn = quiet(vision_learner(dls, models.resnet18, pretrained=False, cbs=ChannelsLast))
    learn.validate()
    assert has_channels_last(learn.model)
    assert not has_channels_last(learn.to_contiguous().model) and not hasattr(learn, 'channels_last')

def test_measuring_leaves_the_network_alone():
    net = models.mobilenet_v3_small()
    net(torch.randn(2, 3, 64, 64)).sum().backward()
    before = [t.clone() for t in (*net.state_dict().values(), *(p.grad for p in net.parameters()))]
    rng,mode = torch.get_rng_state(),net.training
    assert channels_last_gain(net, (32,32), bs=2, tries=1)>0
    after = [*net.state_dict().values(), *(p.grad for p in net.parameters())]
    assert all(torch.equal(a, b) for a,b in zip(before, after))
    assert torch.equal(rng, torch.get_rng_state()) and net.training==mode and not has_channels_last(net)

def test_layout_and_half_precision_keep_the_probe(dls):
    "Both take features as well as pictures, so `fine_tune` still fits the head on features computed once"
    learn = vision_learner(dls, efficientnet_lite0, pretrained=False, linear=True, train_bn=False)
    learn.freeze()
    assert why_no_features(learn)==''
    learn.to_bf16()
    assert why_no_features(learn.to_channelslast())==''
    assert 'MixUp' in why_no_features(learn.add_cb(MixUp()))
