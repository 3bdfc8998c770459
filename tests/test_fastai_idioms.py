"""The idioms of the notes and chapters that the course grows from run as written; only the import is changed.

They run on a small drawn set and, so that no test needs a network, on weights that lie where torchvision
would have put its download."""
import contextlib, hashlib, io
import matplotlib
matplotlib.use('Agg')
import pytest, torch
from torchvision.models import ResNet34_Weights, ResNet18_Weights
from coursekit.sketch.pets import draw_pets
import coursekit.vision.all as V
from servers import FaultServer as Server

BREEDS = ['Bengal','Sphynx','pug','samoyed','great_pyrenees']

@pytest.fixture(scope='module')
def pets(tmp_path_factory):
    d = tmp_path_factory.mktemp('pets')
    draw_pets(d, per_breed=8, breeds=BREEDS)
    return d

@pytest.fixture
def weights(tmp_path, monkeypatch):
    "Weights in torch's cache, as after a download"
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    torch.manual_seed(0)
    for arch,ws in ((V.resnet34,ResNet34_Weights),(V.resnet18,ResNet18_Weights)):
        w,buf = ws.IMAGENET1K_V1,io.BytesIO()
        torch.save(arch(weights=None).state_dict(), buf)
        name = f'{arch.__name__}-{hashlib.sha256(buf.getvalue()).hexdigest()[:8]}.pth'
        monkeypatch.setattr(w, '_value_', type(w.value)(url=f'http://127.0.0.1:9/{name}', meta=w.value.meta,
                                                        transforms=w.value.transforms))
        f = tmp_path/'hub'/'checkpoints'/name
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_bytes(buf.getvalue())

def run(code, **names):
    "Run `code` after the one import; returns its names and what it printed"
    ns,out = {},io.StringIO()
    exec('from coursekit.vision.all import *', ns)
    ns.update(names)
    with contextlib.redirect_stdout(out): exec(code, ns)
    V.plt.close('all')
    return ns,out.getvalue()

def test_cats_and_breeds(pets, weights):
    ns,out = run('''
set_seed(42)
path = untar_data(URLs.PETS_SKETCH)/'images'
def is_cat(x): return x[0].isupper()
dls = ImageDataLoaders.from_name_func(path, get_image_files(path), valid_pct=0.2, seed=42,
    label_func=is_cat, item_tfms=Resize(224), bs=8)
dls.show_batch()
learn = vision_learner(dls, resnet34, metrics=error_rate)
learn.fine_tune(1)

pets = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files,
                 splitter=RandomSplitter(seed=42),
                 get_y=using_attr(RegexLabeller(r'(.+)_\\d+.jpg$'), 'name'),
                 item_tfms=Resize(460), batch_tfms=aug_transforms(size=224, min_scale=0.75))
breeds = pets.dataloaders(path)
interp = ClassificationInterpretation.from_learner(learn)
interp.plot_confusion_matrix()
mc = interp.most_confused(min_val=2)
interp.plot_top_losses(8)
label,idx,probs = learn.predict(get_image_files(path)[0])
learn.show_results()
''', untar_data=lambda url: pets)
    learn,dls = ns['learn'],ns['dls']
    assert dls.vocab==[False,True] and sorted(ns['breeds'].vocab)==sorted(BREEDS)
    assert len(learn.recorder.values)==1 and 'error_rate' in out
    assert V.Normalize in map(type, dls.train.after_batch.fs), 'pretrained weights bring their statistics'
    assert len(learn.opt.param_lists)==3
    assert ns['interp'].confusion_matrix().sum()==len(dls.valid_ds)
    assert str(ns['label']) in ('True','False') and abs(ns['probs'].sum()-1)<1e-4
    xb,yb = ns['breeds'].one_batch()
    assert tuple(xb.shape[1:])==(3,224,224)

def test_cnn_learner_is_vision_learner(pets, weights):
    ns,_ = run('''
fnames = get_image_files(path)
dls = ImageDataLoaders.from_name_re(path, fnames, pat=r'(.+)_\\d+.jpg$', item_tfms=Resize(64), bs=8)
learn = cnn_learner(dls, resnet18, metrics=[accuracy, error_rate])
frozen = [p.requires_grad for p in learn.model[0][0].parameters()]
learn.unfreeze()
learn.fit_one_cycle(1, lr_max=slice(1e-5,1e-3))
lrs = [h['lr'] for h in learn.opt.hypers]
''', path=pets/'images')
    assert V.cnn_learner is V.vision_learner
    assert len(ns['frozen'])>0 and not any(ns['frozen'])
    assert len(ns['lrs'])==3 and ns['lrs'][0]<ns['lrs'][1]<ns['lrs'][2]

def breed_loaders(path):
    fs = V.get_image_files(path)
    return V.ImageDataLoaders.from_name_re(path, fs, pat=r'(.+)_\d+.jpg$', item_tfms=V.Resize(64), bs=8)

@pytest.mark.parametrize('arch', ['densenet121','mobilenet_v3_small','efficientnet_b0','squeezenet1_1'])
def test_any_constructor(pets, arch):
    import torchvision
    dls = breed_loaders(pets/'images')
    learn = V.vision_learner(dls, getattr(torchvision.models, arch), pretrained=False)
    with torch.no_grad(): out = learn.model.eval()(dls.one_batch()[0].as_subclass(torch.Tensor))
    assert out.shape==(8,5) and all(p.requires_grad for p in learn.model.parameters())

def test_weights_are_downloaded_once_and_offline_says_what_to_do(pets, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    dls = breed_loaders(pets/'images')
    torch.manual_seed(1)
    net,buf = V.resnet18(weights=None),io.BytesIO()
    torch.save(net.state_dict(), buf)
    name = f'resnet18-{hashlib.sha256(buf.getvalue()).hexdigest()[:8]}.pth'
    with Server() as server:
        url,_ = server.put(f'/{name}', buf.getvalue())
        w = ResNet18_Weights.IMAGENET1K_V1
        ours = type(w.value)(url=url, transforms=w.value.transforms, meta=w.value.meta)
        monkeypatch.setattr(w, '_value_', ours)
        learn = V.vision_learner(dls, V.resnet18)
        assert torch.equal(learn.model[0][0].weight, net.conv1.weight)
    (tmp_path/'hub'/'checkpoints'/name).unlink()
    with pytest.raises(ConnectionError, match='pretrained=False') as e: V.vision_learner(dls, V.resnet18)
    assert name in str(e.value) and str(tmp_path) in str(e.value)

def test_digits_from_tensors():
    "From the notes on MNIST: a learner on one's own tensors, with one's own loss and metric"
    torch.manual_seed(0)
    y = torch.randint(2, (600,1)).float()
    x = torch.randn(600, 784) + (y-0.5)*torch.randn(784)
    ns,out = run('''
def mnist_loss(predictions,targets):
    predictions = predictions.sigmoid()
    return torch.where(targets==1, 1-predictions, predictions).mean()
def batch_accuracy(xb,yb):
    preds = xb.sigmoid()
    return ((preds>0.5)==yb).float().mean()
dl = DataLoader(list(zip(x[:500],y[:500])), batch_size=50, shuffle=True)
valid_dl = DataLoader(list(zip(x[500:],y[500:])), batch_size=50)
dls = DataLoaders(dl,valid_dl)
learn = Learner(dls, nn.Linear(28*28,1), opt_func=SGD, loss_func=mnist_loss, metrics=batch_accuracy)
learn.fit(10, lr=1.)
accs = L(learn.recorder.values).itemgot(2)
df = pd.DataFrame(tensor(array(x[:28,:28])))
simple_net = nn.Sequential(nn.Linear(28*28,30), nn.ReLU(), nn.Linear(30,1))
learn2 = Learner(dls, simple_net, opt_func=SGD, loss_func=mnist_loss, metrics=batch_accuracy)
learn2.fit(2, 0.1)
plot_function(torch.sigmoid, title='Sigmoid', min=-4, max=4); plot_function(F.relu)
coll = range(15)
parts = list(DataLoader(coll, batch_size=5, shuffle=True))
''', x=x, y=y)
    assert len(ns['accs'])==10 and ns['accs'][-1]>0.75 and 'batch_accuracy' in out
    assert sorted(torch.cat(ns['parts']).tolist())==list(range(15))

def test_a_photo_as_file_and_as_array_is_the_same_animal(tmp_path):
    "At 64 pixels, where files are decoded small"
    draw_pets(tmp_path, per_breed=30, breeds=['Sphynx','samoyed'])
    V.set_seed(1)
    ns,_ = run("""
fs = get_image_files(path/'images')
dls = ImageDataLoaders.from_name_re(path, fs, r'^(.*)_\\d+.jpg$', seed=1, item_tfms=Resize(64), bs=8,
                                    num_workers=0, device='cpu')
body = [ConvLayer(a, b, stride=2) for a,b in ((3,16),(16,32),(32,64))]
head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64,2)]
learn = Learner(dls, nn.Sequential(*body, *head), metrics=accuracy)
with learn.no_bar(), learn.no_logging():
    learn.fit_one_cycle(6, 1e-2)
    a,b = (learn.get_preds(dl=dls.test_dl(items))[0] for items in (fs, [np.array(Image.open(f)) for f in fs]))
    one = [(learn.predict(f)[0], learn.predict(np.array(Image.open(f)))[0]) for f in fs[:8]]
""", path=tmp_path)
    a,b = ns['a'],ns['b']
    top = a.topk(2)[0]
    sure = top[:,0]-top[:,1]>0.06
    assert ns['learn'].recorder.values[-1][2]>0.6 and (a-b).abs().max()<0.03 and sure.float().mean()>0.9
    assert (a.argmax(1)==b.argmax(1))[sure].all() and all(x==y for (x,y),s in zip(ns['one'], sure) if s)
