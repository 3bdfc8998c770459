"""Lesson 10's networks where a notebook cell cannot: weights from disk, no network, copies, and the names of
torchvision"""
import copy, pickle
from urllib.error import URLError
import pytest, torch, torchvision
from torch import nn
import torch.nn.functional as F
from coursekit.vision.models import resnet as M, xresnet as X

NETS = 'resnet18 resnet34 resnet50 resnet101 resnet152'.split()
SIZES = [('resnet_tiny',96,1495648), ('xresnet18',134,11708744), ('xresnet34',230,21816904),
         ('xresnet50',332,25576264)]

def zeros(m): return sum(int((p.grad==0).sum()) for p in m.parameters())

@pytest.mark.parametrize('name', NETS)
def test_names_and_shapes_are_torchvisions(name):
    with torch.device('meta'):
        ours,theirs = getattr(M,name)(num_classes=7),getattr(torchvision.models,name)(num_classes=7)
    def shapes(m): return [(k,v.shape) for k,v in m.state_dict().items()]
    assert shapes(ours)==shapes(theirs)
    assert [n for n,_ in ours.named_children()]==[n for n,_ in theirs.named_children()]
    assert len(getattr(M,name).stats)==2

@pytest.mark.parametrize('side', [28,65])
def test_resnet18_equals_torchvisions(side):
    "Outputs in both modes, running averages, and every gradient"
    torch.manual_seed(1)
    ours,theirs = M.resnet18(num_classes=5),torchvision.models.resnet18(num_classes=5)
    ours.load_state_dict(theirs.state_dict())
    xb = torch.randn(4,3,side,side)
    for m in (ours,theirs): F.cross_entropy(m(xb), torch.arange(4)).backward()
    for (n,p),q in zip(ours.named_parameters(), theirs.parameters()):
        torch.testing.assert_close(p.grad, q.grad, msg=n)
    for (n,p),q in zip(ours.named_buffers(), theirs.buffers()): torch.testing.assert_close(p, q, msg=n)
    assert (ours.eval()(xb)-theirs.eval()(xb)).abs().max()<1e-5

def test_the_same_seed_starts_all_convolutions_with_torchvisions_spread():
    torch.manual_seed(0)
    a,b = M.resnet18(),torchvision.models.resnet18()
    for (n,p),q in zip(a.named_parameters(), b.parameters()):
        if p.dim()==4: assert abs(p.std()/q.std()-1)<.05, n
        elif p.dim()==1 and 'fc' not in n: assert torch.equal(p, q), n

def test_published_weights_from_disk(tmp_path, monkeypatch):
    "Both spellings load the file that torchvision would; its hash is checked"
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    (tmp_path/'checkpoints').mkdir()
    state = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.__class__, 'get_state_dict',
                        lambda self, *a, **k: state)
    for kw in (dict(pretrained=True), dict(weights='DEFAULT'),
               dict(weights=torchvision.models.ResNet18_Weights.IMAGENET1K_V1)):
        m = M.resnet18(**kw)
        assert all(torch.equal(v, state[k]) for k,v in m.state_dict().items()), kw

def test_without_a_network_the_message_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    def fail(*a, **k): raise URLError('no route')
    monkeypatch.setattr(torch.hub, 'download_url_to_file', fail)
    with pytest.raises(RuntimeError, match=r'resnet18.*no route.*pretrained=False.*resnet18-\w+\.pth') as e:
        M.resnet18(pretrained=True)
    assert str(tmp_path) in str(e.value)

@pytest.mark.parametrize('kw', [dict(num_classes=3), dict(c_in=1), dict(zero_init_residual=True)])
def test_published_weights_fit_one_shape_only(kw):
    with pytest.raises(ValueError, match=next(iter(kw))): M.resnet18(pretrained=True, **kw)

@pytest.mark.parametrize('make', [M.resnet18, M.resnet50, X.resnet_tiny, X.xresnet18])
def test_copies_and_pickles(make):
    torch.manual_seed(0)
    m = make(c_in=1).eval()
    x = torch.randn(2,1,32,32)
    for c in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))): assert torch.equal(c(x), m(x))

@pytest.mark.parametrize('name,n_tensors,n_params', SIZES)
def test_xresnets_keep_their_shape(name, n_tensors, n_params):
    "Weights saved with earlier versions still fit"
    with torch.device('meta'): m = getattr(X,name)()
    assert (len(m.state_dict()), sum(p.numel() for p in m.parameters()))==(n_tensors,n_params)
    assert next(iter(m.state_dict()))=='0.0.weight' and isinstance(m[-1], nn.Linear)

@pytest.mark.parametrize('make', [lambda: M.resnet18(zero_init_residual=True),
                                  lambda: M.resnet50(zero_init_residual=True)])
def test_zero_start_is_the_identity(make):
    torch.manual_seed(0)
    m = make().eval()
    for s in (m.layer1,m.layer2,m.layer3,m.layer4):
        for b in list(s)[1:]:
            x = torch.randn(1, b.conv1.in_channels, 4, 4)
            assert torch.allclose(b(x), x.relu(), atol=1e-6)

def test_a_plain_net_is_worse_the_deeper_and_skips_mend_it():
    "On the training set: gradients of two batches agree with skips, not without"
    def net(skip, n=16):
        class B(nn.Module):
            def __init__(self):
                super().__init__()
                self.b = M.BasicBlock(8,8)
            def forward(self, x):
                if skip: return self.b(x)
                return self.b.bn2(self.b.conv2(self.b.bn1(self.b.conv1(x)).relu())).relu()
        return nn.Sequential(nn.Conv2d(1,8,3,padding=1), *(B() for _ in range(n)), nn.AdaptiveAvgPool2d(1),
                             nn.Flatten(), nn.Linear(8,10))
    from sklearn.datasets import load_digits
    d = load_digits()
    xs,ys = torch.tensor(d.images).float()[:256,None]/16,torch.tensor(d.target[:256])
    def agree(skip):
        torch.manual_seed(0)
        m,gs = net(skip),[]
        for i in (slice(0,128),slice(128,256)):
            m.zero_grad()
            F.cross_entropy(m(xs[i]), ys[i]).backward()
            gs.append([b.b.conv1.weight.grad.flatten() for b in list(m)[1:-3]])
        return sum(F.cosine_similarity(a, b, 0).item() for a,b in zip(*gs))/16
    assert agree(True)>agree(False)+.15

def test_at_28_pixels_most_of_the_last_stage_sees_only_padding():
    torch.manual_seed(0)
    m = M.resnet18(num_classes=2)
    F.cross_entropy(m(torch.randn(16,3,28,28)), torch.arange(16)%2).backward()
    assert zeros(m.layer4)>=6_946_816 and zeros(m.layer2)==0
    m.zero_grad()
    F.cross_entropy(m(torch.randn(4,3,96,96)), torch.arange(4)%2).backward()
    assert zeros(m.layer4)<100_000

def test_our_resnet18_is_an_architecture_for_vision_learner(tmp_path):
    from PIL import Image
    from coursekit.vision.all import ImageDataLoaders, vision_learner, accuracy
    for part in ('train','valid'):
        for c in '37':
            (tmp_path/part/c).mkdir(parents=True)
            for i in range(8): Image.new('L', (28,28), 20*i).save(tmp_path/part/c/f'{i}.png')
    dls = ImageDataLoaders.from_folder(tmp_path, bs=4)
    learn = vision_learner(dls, M.resnet18, pretrained=False, loss_func=F.cross_entropy, metrics=accuracy)
    with learn.no_logging(): learn.fit_one_cycle(1, .1)
    assert len(learn.recorder.values)==1 and learn.model[0][0].weight.shape==(64,3,7,7)
