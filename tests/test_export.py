"What `learn.export` writes, and `load_learner` makes of it: networks, data, losses, files, versions."
import io, json, time, warnings
from pathlib import Path
import pytest, safetensors.torch
from coursekit.export import *
from coursekit.recipes import *
from coursekit.vision.all import *
from coursekit.vision import all as vision
for _n in [n for n in globals() if n.startswith('test')]: del globals()[_n]   # fastcore's own
HERE = Path(__file__).parent

@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "Twelve small pictures of random dots, red ones and blue ones"
    d,g = tmp_path_factory.mktemp('pictures'),torch.Generator().manual_seed(0)
    for i in range(12):
        x = torch.randint(0, 120, (24+i,30-i,3), generator=g, dtype=torch.uint8)
        x[...,2*(i%2)] += 120
        Image.fromarray(x.numpy()).save(d/f'{("red","blue")[i%2]}_{i}.png')
    return d

def colour(f): return f.name.split('_')[0]
def colours(f): return ['dots', colour(f)] if int(f.stem.split('_')[1])%3 else []
def brightness(f): return float(int(f.stem.split('_')[1]))
def loaders(d, y=CategoryBlock, get_y=colour, item_tfms=Resize(24), **kw):
    block = DataBlock((ImageBlock,y), get_items=get_image_files, get_y=get_y, splitter=RandomSplitter(seed=1),
                      item_tfms=item_tfms, **kw)
    return block.dataloaders(d, bs=4, num_workers=0)
small = partial(resnet_tiny, stem_szs=(4,4), block_szs=(4,4,8,8))
def learner(dls, arch=small, pretrained=False, path='.', **kw):
    return vision_learner(dls, arch, pretrained=pretrained, path=path, **kw)

def same_answers(learn, twin, files):
    for a,b in zip(learn.get_preds(dl=learn.dls.test_dl(files), with_decoded=True),
                   twin.get_preds(dl=twin.dls.test_dl(files), with_decoded=True)):
        assert a is b is None or torch.equal(a, b)
    a,b = learn.predict(files[0]),twin.predict(files[0])
    assert str(a[0])==str(b[0]) and type(a[0]) is type(b[0]) and torch.equal(a[2], b[2])

def there_and_back(learn, d, **kw):
    file = learn.export(d/'x.safetensors', **kw)
    return load_learner(file, **kw)

# Networks

HEADS = dict(fastai=dict(lin_ftrs=[7,5], ps=[0.1,0.2,0.3], bn_final=True), 
             plain=dict(concat_pool=False, first_bn=False), lin_first=dict(lin_first=True, y_range=(-1,2.5)), 
             linear=dict(linear=True),
             own=dict(custom_head=nn.Sequential(AdaptiveConcatPool2d(), Flatten(), nn.Linear(16, 2))))
@pytest.mark.parametrize('name', HEADS)
def test_heads(name, pictures, tmp_path):
    learn = learner(loaders(pictures), **HEADS[name])
    same_answers(learn, there_and_back(learn, tmp_path), get_image_files(pictures))

BODIES = {'torchvision':(models.squeezenet1_1, {}), 'resnet':(resnet18, {}), 'cut':(resnet18, {'cut':6}),
          'lite':(efficientnet_lite0, {}), 'x':(xresnet18, {}), 'four channels':(small, {'n_in':4}),
          'timm':('test_convnext', {}),
          'timm, tokens':('test_vit', {'size':(64,64)}),
          'of a class':(partial(small, act_cls=nn.Mish), {})}
@pytest.mark.parametrize('name', BODIES)
def test_bodies(name):
    arch,kw = BODIES[name]
    if isinstance(arch, str): pytest.importorskip('timm', reason='timm is not installed')
    model,_ = create_vision_model(arch, 3, pretrained=False, **kw)
    recipe = json.loads(json.dumps(model_recipe(model)))
    twin = made_from(recipe)
    twin.load_state_dict(model.state_dict())
    x = torch.randn(2, kw.get('n_in', 3), *kw.get('size', (64,64)))
    with torch.no_grad(): assert torch.equal(model.eval()(x), twin.eval()(x))

def test_all_constructors_of_vision_all_have_a_name():
    known = [n for n in vision.__all__ if arch_name(getattr(vision, n))]
    assert {'resnet34','xresnet50','densenet121','vgg16_bn','efficientnet_lite2','resnet_tiny'} <= {*known}
    for n in known:
        name = arch_name(getattr(vision, n))
        assert arch_name(arch_by_name(name))==name

def test_a_changed_model_is_noticed(pictures, tmp_path):
    learn = learner(loaders(pictures))
    learn.model[0][0][2] = nn.Tanh()
    with pytest.raises(ExportError, match=r'`0\.0\.2`.*Tanh.*ReLU'): learn.export(tmp_path/'x')
    learn = learner(loaders(pictures))
    learn.model[1] = nn.Sequential(*learn.model[1], nn.Linear(2, 2)) # the head is described as it is
    same_answers(learn, there_and_back(learn, tmp_path), get_image_files(pictures))

class OwnNet(nn.Module):
    def __init__(self, nh):
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(2), Flatten(), nn.Linear(12, nh), nn.Linear(nh, 2))
    def forward(self, x): return self.layers(x)

def test_own_networks(pictures, tmp_path, monkeypatch):
    dls = loaders(pictures)
    learn = Learner(dls, OwnNet(3), path=tmp_path)
    with pytest.raises(ExportError, match='OwnNet.*@exportable.*trust=True'): learn.export('x')
    assert not list(tmp_path.glob('x*'))
    monkeypatch.setattr(OwnNet, '__init__', OwnNet.__init__)
    try:
        exportable(OwnNet)
        learn = Learner(dls, OwnNet(3), path=tmp_path)
        same_answers(learn, there_and_back(learn, tmp_path), get_image_files(pictures))
        file = learn.export('x')
    finally: forget('OwnNet')
    with pytest.raises(ExportError, match="'OwnNet'.*@exportable"): load_learner(file)

def test_tied_weights_stay_tied(pictures, tmp_path):
    body = nn.Sequential(nn.AdaptiveAvgPool2d(2), Flatten(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12),
                         nn.Linear(12, 12), nn.Tanh())
    body[4].weight = body[2].weight
    body.append(body[5:7])                                    # and two layers stand there twice
    body.append(nn.Linear(12, 2))
    learn = Learner(loaders(pictures), body, path=tmp_path)
    twin = there_and_back(learn, tmp_path)
    same_answers(learn, twin, get_image_files(pictures))
    assert twin.model[4].weight is twin.model[2].weight and twin.model[7][0].weight is twin.model[5].weight
    assert len(list(twin.model.parameters()))==len(list(body.parameters()))

LAYERS = dict(
    attention=lambda: [ConvLayer(4, 8, act_cls=Mish, xtra=SelfAttention(8)), PooledSelfAttention2d(8),
                       SimpleSelfAttention(8, ks=3)],
    merged=lambda: [SequentialEx(ConvLayer(4, 4), MergeLayer()),
                    SequentialEx(nn.ReLU(), MergeLayer(dense=True)), SequentialEx(nn.Sigmoid(), ProdLayer()),
                    Cat([nn.ReLU(), ResBlock(1, 8, 8)])],
    blocks=lambda: [ResBlock(1, 4, 8, stride=2, norm_type=NormType.Instance, pool=MaxPool,
                             pool_first=False),
                    SEBlock(4, 2, 2, reduction=2, act_cls=Swish), SEModule(8, 2), PixelShuffle_ICNR(8, 4)],
    shapes=lambda: [ResizeBatch(4, 16, 4), View(-1, 4, 64), TimeDistributed(nn.Linear(64, 3), low_mem=True),
                    AdaptiveConcatPool1d(2), Flatten(), BatchNorm1dFlat(16), nn.LazyLinear(2)],
    computed_weights=lambda: [ConvLayer(4, 8, norm_type=NormType.Weight), Lambda(torch.tanh),
                              ConvLayer(8, 4, norm_type=NormType.Spectral),
                              PartialLambda(F.leaky_relu, negative_slope=0.3),
                              nn.utils.parametrizations.weight_norm(nn.Linear(8, 2, bias=False), dim=None)])
@pytest.mark.parametrize('name', LAYERS)
def test_layers_of_the_library(name, tmp_path):
    x = torch.randn(3, 4, 8, 8)
    model = nn.Sequential(*LAYERS[name]())
    model(x)                                                  # running statistics, and the lazy layer
    for m in model.modules(): # attention begins with weight 0: then it would say nothing
        if hasattr(m, 'gamma'): nn.init.constant_(m.gamma, 0.5)
    learn = Learner(DataLoaders([], []), model, loss_func=nn.MSELoss(), path=tmp_path)
    twin = there_and_back(learn, tmp_path)
    with torch.no_grad(): assert torch.equal(model.eval()(x), twin.model(x))

LOSSES = [FocalLossFlat(gamma=3., axis=1, weight=tensor([1.,2.])), FocalLoss(gamma=1., reduction='sum'),
          DiceLoss(smooth=0.1, reduction='mean', square_in_union=True)]
@pytest.mark.parametrize('loss', LOSSES, ids=lambda o: type(o).__name__)
def test_losses_of_the_library(loss, tmp_path):
    learn = Learner(DataLoaders([], []), nn.Conv2d(3, 2, 1), loss_func=loss, path=tmp_path)
    twin = there_and_back(learn, tmp_path).loss_func
    pred,targ = torch.randn(2, 2, 4, 4),torch.randint(0, 2, (2,4,4))
    assert type(twin) is type(loss) and torch.equal(twin(pred, targ), loss(pred, targ))

# Data

def test_several_labels(pictures, tmp_path):
    learn = learner(loaders(pictures, MultiCategoryBlock, colours),
                    loss_func=BCEWithLogitsLossFlat(thresh=0.4))
    twin = there_and_back(learn, tmp_path)
    assert twin.dls.vocab==learn.dls.vocab==['blue','dots','red'] and twin.loss_func.thresh==0.4
    same_answers(learn, twin, get_image_files(pictures))

def test_numbers_and_points(pictures, tmp_path):
    learn = learner(loaders(pictures, RegressionBlock, brightness), y_range=(0,12))
    same_answers(learn, there_and_back(learn, tmp_path), get_image_files(pictures))
    learn = learner(loaders(pictures, PointBlock, lambda f: [[3.,4],[9,9]],
                            batch_tfms=aug_transforms(size=16)))
    twin = there_and_back(learn, tmp_path)
    same_answers(learn, twin, get_image_files(pictures))
    assert isinstance(twin.predict(get_image_files(pictures)[0])[0], TensorPoint) and twin.dls.c==4

def test_numbers_as_classes_and_a_class_for_the_unknown(pictures, tmp_path):
    dls = loaders(pictures, CategoryBlock(add_na=True), lambda f: int(colour(f)=='red'))
    twin = there_and_back(learner(dls), tmp_path)
    assert list(twin.dls.vocab)==['#na#',0,1] and type(twin.dls.vocab[1]) is int

def test_a_table_and_functions_of_ones_own(pictures, tmp_path):
    files = get_image_files(pictures)
    df = pd.DataFrame({'name':[f.name for f in files], 'label':[colour(f) for f in files]})
    block = DataBlock((ImageBlock,CategoryBlock), get_x=lambda r: pictures/r['name'],
                      get_y=ColReader('label'), splitter=RandomSplitter(seed=1), item_tfms=Resize(24))
    learn = learner(block.dataloaders(df, bs=4, num_workers=0))
    with warnings.catch_warnings():
        warnings.simplefilter('error')                        # predictions do not need them
        twin = there_and_back(learn, tmp_path)
    same_answers(learn, twin, files)
    with pytest.raises(ValueError, match="'<lambda>', which found the picture.*Give files"):
        twin.get_preds(dl=twin.dls.test_dl(df, num_workers=0))
    learn = learner(loaders(pictures))
    twin = there_and_back(learn, tmp_path)
    with pytest.raises(ValueError, match="'colour', which labelled.*new `DataLoaders`"):
        twin.validate(dl=twin.dls.test_dl(files, with_labels=True, num_workers=0))

def test_labels_that_a_file_can_describe_are_kept(pictures, tmp_path):
    dls = ImageDataLoaders.from_name_re(pictures, get_image_files(pictures), r'^([a-z]+)_', seed=1, bs=4,
                                        item_tfms=Resize(24))
    learn = learner(dls, metrics=accuracy)
    twin,files = there_and_back(learn, tmp_path),get_image_files(pictures)
    a,b = (o.validate(dl=o.dls.test_dl(files, with_labels=True)) for o in (learn,twin))
    assert a==b

class Darker(Transform):
    def __init__(self, k): self.k = k
    def encodes(self, x:TensorImage): return x*self.k
class DarkerSometimes(RandTransform):
    def __init__(self): super().__init__(p=0.5)
    def encodes(self, x:TensorImage): return x*0.5

def test_own_transforms(pictures, tmp_path):
    learn = learner(loaders(pictures, batch_tfms=[Darker(0.5)]))
    why = "'Darker' of `after_batch`.*test_export.Darker is code.*@exportable"
    with pytest.raises(ExportError, match=why):
        learn.export(tmp_path/'x')
    learn = learner(loaders(pictures, batch_tfms=[DarkerSometimes()]))
    with pytest.warns(UserWarning, match='DarkerSometimes .a transform for training'):
        same_answers(learn, there_and_back(learn, tmp_path), get_image_files(pictures))

def test_what_a_picture_goes_through(pictures, tmp_path):
    dls = loaders(pictures, item_tfms=[Resize((30,20), 'pad', 'zeros')], batch_tfms=[*aug_transforms(size=16),
                  Normalize.from_stats(*imagenet_stats)])
    twin = there_and_back(learner(dls), tmp_path)
    for a,b in zip(dls.valid.after_item, twin.dls.valid.after_item): assert repr(a)==repr(b)
    assert [f.name for f in dls.valid.after_batch]==[f.name for f in twin.dls.valid.after_batch]
    assert [o.split_idx for o in (twin.dls.train,twin.dls.valid)]==[0,1]

def test_loaders_without_transforms(tmp_path):
    x,y = torch.randn(8, 3),torch.randint(0, 2, (8,))
    dls = DataLoaders(*[DataLoader(list(zip(x, y)), bs=4)]*2)
    learn = Learner(dls, nn.Linear(3, 2), loss_func=F.cross_entropy, path=tmp_path)
    twin = load_learner(learn.export('x'))
    for a,b in zip(learn.predict(x[0]), twin.predict(x[0])): assert torch.equal(a, b)
    with pytest.raises(ValueError, match='no data.*learn.dls = …'): twin.fit(1)
    twin.dls = dls
    twin.fit(1)

# Losses, metrics, optimizers

def own_loss(pred, targ): return F.cross_entropy(pred, targ)
def own_metric(pred, targ): return (pred.argmax(1)==targ).float().mean()

def test_what_predictions_do_not_need_is_left_out(pictures, tmp_path):
    learn = learner(loaders(pictures), loss_func=own_loss, metrics=[accuracy, own_metric],
                    opt_func=lambda p, lr: SGD(p, lr))
    with pytest.warns(UserWarning) as told: twin = there_and_back(learn, tmp_path)
    said = str(told[0].message)
    for o in ('own_loss (a loss','own_metric (a metric','<lambda> (an optimizer'): assert o in said
    assert [m.name for m in twin.metrics]==['accuracy']
    dls = [o.dls.test_dl(get_image_files(pictures)) for o in (learn,twin)]
    assert torch.equal(learn.get_preds(dl=dls[0])[0], twin.get_preds(dl=dls[1])[0])
    twin.dls = loaders(pictures)
    why = "'own_loss' is not in the exported file.*learn.loss_func"
    with pytest.raises(RuntimeError, match=why): twin.fit(1)
    twin.loss_func = own_loss
    twin.fit(1)

class OwnMeaning(nn.CrossEntropyLoss):
    def activation(self, x): return x.sigmoid()

def test_a_loss_that_predictions_need_is_not_left_out(pictures, tmp_path):
    learn = learner(loaders(pictures), loss_func=OwnMeaning())
    with pytest.raises(ExportError, match='loss_func.*OwnMeaning'): learn.export(tmp_path/'x')

def test_settings_of_training(pictures, tmp_path):
    learn = learner(loaders(pictures), metrics=[error_rate, partial(accuracy, axis=1), Dice(),
                    F1Score(average='macro'), rmse, Perplexity()], lr=3e-3,
                    wd=0.1, moms=(0.9,0.8,0.9), opt_func=partial(RMSProp, mom=0.7),
                    loss_func=LabelSmoothingCrossEntropyFlat(eps=0.2))
    twin = there_and_back(learn, tmp_path)
    assert (twin.lr,twin.wd,twin.moms)==(3e-3,0.1,(0.9,0.8,0.9)) and twin.opt_func.keywords=={'mom':0.7}
    assert twin.metrics[3].kwargs==learn.metrics[3].kwargs and twin.metrics[3].dim_argmax==-1
    assert twin.loss_func.func.eps==0.2 and [m.name for m in twin.metrics]==[m.name for m in learn.metrics]
    twin.create_opt()
    assert len(twin.opt.param_lists)==3

# Names and files

def test_names(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learn = learner(loaders(pictures), path=tmp_path)
    assert learn.export()==tmp_path/'export.pkl'
    assert learn.export('pets')==tmp_path/'pets.safetensors'
    assert learn.export(Path('sub')/'pets.pkl')==tmp_path/'sub'/'pets.pkl'
    assert learn.export(fname='v1.5')==tmp_path/'v1.5.safetensors'
    for f in ('export.pkl', tmp_path/'export.pkl', 'pets', 'pets.safetensors', 'sub/pets.pkl'):
        load_learner(f)
    with pytest.raises(FileNotFoundError, match='export.pkl.*pets.safetensors'): load_learner('pet')
    for fname,why in ((3, 'not int'), (None, 'not None'), (['pets'], 'not list'), (b'{}', 'BytesIO'),
                      ('', 'name of a file'), ('https://nowhere.org/pets', 'is an address.*Download it')):
        with pytest.raises((TypeError,ValueError), match=why): load_learner(fname)
    for fname in ('', None, 3):
        with pytest.raises(ValueError, match='name of a file'): learn.export(fname)
    buf = io.BytesIO()
    learn.export(buf)
    buf.seek(0)
    load_learner(buf)
    for f in (learn.export,load_learner):
        with pytest.raises(TypeError, match='open as text'): f(io.StringIO())
    again = learner(loaders(pictures), path=tmp_path)
    again.load(tmp_path/'pets.safetensors')                    # the weights alone
    assert torch.equal(again.model[1][-1].weight, learn.model[1][-1].weight)
    assert Path('export.pkl').read_bytes()==Path('pets.safetensors').read_bytes()==buf.getvalue()
    assert safetensors.torch.load_file('pets.safetensors').keys()==learn.model.state_dict().keys()

def test_a_pickle_needs_trust_on_both_sides(pictures, tmp_path):
    learn = learner(loaders(pictures, batch_tfms=[Darker(0.5)]), path=tmp_path)
    with pytest.warns(UserWarning, match='the file is a pickle'): file = learn.export('x.pkl', trust=True)
    assert learn.dls.train_ds is not None and len(learn.dls.train_ds)
    with pytest.raises(ExportError, match='pickle.*trust=True'): load_learner(file)
    with pytest.warns(UserWarning, match='runs now'): twin = load_learner(file, trust=True)
    same_answers(learn, twin, get_image_files(pictures))
    learn = learner(loaders(pictures, get_y=lambda f: colour(f)), path=tmp_path)
    with pytest.raises(Exception) as e, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.export('y.pkl', trust=True)
    assert 'holds no lambdas' in '\n'.join(e.value.__notes__) and not (tmp_path/'y.pkl').exists()

def test_nan_is_not_exported(pictures, tmp_path):
    learn = learner(loaders(pictures), path=tmp_path)
    learn.model[1][-1].weight.data[0] = float('nan')
    with pytest.raises(ExportError, match=r"nan.*learning rate"): learn.export('x')

def test_random_numbers_go_on(pictures, tmp_path):
    learn = learner(loaders(pictures), path=tmp_path)
    state = torch.get_rng_state()
    load_learner(learn.export('x'))
    assert torch.equal(state, torch.get_rng_state())

def test_size_and_time_of_the_finale(pictures, tmp_path):
    "The network of lesson 16: at most 1.1 times its weights, and a second"
    dls = loaders(pictures, CategoryBlock(vocab=[f'breed number {i}' for i in range(35)]+['blue','red']),
                  batch_tfms=aug_transforms(size=24))
    learn = learner(dls, efficientnet_lite0, path=tmp_path, linear=True)
    file = learn.export('pets')
    weights = sum(t.numel()*t.element_size() for t in learn.model.state_dict().values())
    assert file.stat().st_size < 1.1*weights
    start = time.process_time()
    load_learner(file)
    assert time.process_time()-start < 1

# ONNX

def in_onnxruntime(file, learn, pictures):
    "Its answers to what the network's batch transforms get, and the notes in the file"
    ort = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    session = ort.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    dl = learn.dls.test_dl(pictures)
    x = torch.stack([dl.after_item((PILImage.create(f),))[0] for f in pictures]).float()/255
    notes = {k:json.loads(v) for k,v in session.get_modelmeta().custom_metadata_map.items()}
    return tensor(session.run(None, {'pictures':x.as_subclass(Tensor).numpy()})[0]),notes

ONNX = dict(classes=dict(), labels=dict(y=MultiCategoryBlock, get_y=colours),
            numbers=dict(y=RegressionBlock, get_y=brightness),
            points=dict(y=PointBlock, get_y=lambda f: [[3.,4],[9,9]], batch_tfms=aug_transforms(size=16)),
            presized=dict(item_tfms=Resize((40,32), 'squish'), batch_tfms=aug_transforms(size=24)),
            cropped=dict(item_tfms=RandomResizedCrop(32), batch_tfms=[*aug_transforms(size=20, min_scale=0.5),
                                                                      Normalize.from_stats(*imagenet_stats)]))
@pytest.mark.parametrize('name', ONNX)
def test_onnx(name, pictures, tmp_path):
    pytest.importorskip('onnx', reason='onnx is not installed')
    learn,files = learner(loaders(pictures, **ONNX[name]), path=tmp_path),get_image_files(pictures)
    file = learn.to_onnx('x')
    assert file==tmp_path/'x.onnx'
    for n in 1,5:
        probs,notes = in_onnxruntime(file, learn, files[:n])
        want,_ = learn.get_preds(dl=learn.dls.test_dl(files[:n]))
        assert (probs-want.reshape(probs.shape)).abs().max()<1e-4
    assert notes['vocab']==(list(learn.dls.vocab) if hasattr(learn.dls, 'vocab') else None)
    size = list(learn.dls.valid.after_item((PILImage.create(files[0]),))[0].shape[1:])
    assert (notes['preparation']['channels'],notes['preparation']['size'])==('RGB',size)
    assert (notes['threshold'] is not None)==(name=='labels')
    assert ('left or top edge' in notes['decoding'])==(name=='points')

class Twins(nn.Module):
    def forward(self, x): return x.mean((2,3)),x.amax((2,3))

def test_onnx_refuses_what_it_cannot_hold(pictures, tmp_path):
    pytest.importorskip('onnx', reason='onnx is not installed')
    learn = learner(loaders(pictures, batch_tfms=[Darker(0.5)]), path=tmp_path)
    with pytest.raises(ExportError, match="'Darker' of batches"): learn.to_onnx('x')
    plain = DataLoader([(torch.randn(3, 8, 8),0)]*4, bs=2)
    for dls,why in ((loaders(pictures),'gives 2 outputs'), (DataLoaders(plain, plain),'no pictures')):
        with pytest.raises(ExportError, match=why):
            Learner(dls, Twins(), loss_func=nn.CrossEntropyLoss(), path=tmp_path).to_onnx('x')
    learn = learner(loaders(pictures), path=tmp_path)
    for kw,why in ((dict(opset=3),'from 9 to 23'), (dict(opset='18'),"opset='18'"), (dict(fname=3),'not 3')):
        with pytest.raises(ValueError, match=why): learn.to_onnx(**kw)
    assert not list(tmp_path.glob('x*'))

# The command

def test_the_command_predict(pictures, tmp_path, capsys):
    from coursekit.course.maintain import main
    file = learner(loaders(pictures), path=tmp_path).export('x')
    assert main(['predict', str(file), str(pictures), '--top', '1', '--csv'])==0
    out = capsys.readouterr().out.splitlines()
    assert len(out)==13 and all(o.count(',')==2 for o in out[1:])
    (tmp_path/'no.jpg').write_bytes(b'')
    names = [str(o) for o in (file,tmp_path/'no.jpg',pictures/'red_0.png')]
    assert main(['predict', *names, '--json', '--bs', '2'])==1
    said = capsys.readouterr()
    rows = [json.loads(o) for o in said.out.splitlines()]
    assert 'the file is empty' in rows[0]['error'] and len(rows[1]['predictions'])==2 and 'no.jpg' in said.err
    assert main(['predict', str(tmp_path/'no.jpg'), str(pictures)])==2
    with pytest.raises(SystemExit): main(['predict', str(file)])
    for options in (('--top','0'), ('--csv','--json')):
        assert main(['predict', str(file), names[2], *options])==2
    said = capsys.readouterr().err
    assert 'top' in said and 'choose one' in said

def test_a_pipe_that_is_closed_ends_the_command_quietly(pictures, tmp_path):
    from coursekit.predictions import predict_files
    class Closed(io.StringIO):
        def write(self, s): raise BrokenPipeError
    file = learner(loaders(pictures), path=tmp_path).export('x')
    assert predict_files(str(file), [str(pictures)], out=Closed())==0

# Versions

V1 = HERE/'exported'/'v1.safetensors'
V1_PROBS = [0.290601,0.709399]

def test_a_file_of_format_1_is_loaded():
    "Written by coursekit 0.1.0; the file stays as it is, whatever later versions write"
    assert V1.stat().st_size<20_000
    learn = load_learner(V1)
    g = torch.Generator().manual_seed(0)
    im = PILImage.create(torch.randint(0, 256, (40,30,3), generator=g, dtype=torch.uint8).numpy())
    label,i,probs = learn.predict(im)
    assert (label,int(i))==('red',1) and list(learn.dls.vocab)==['blue','red']
    assert torch.allclose(probs, tensor(V1_PROBS), atol=1e-5)

def test_a_unet_comes_back_with_its_masks(tmp_path, capsys):
    from coursekit.course.maintain import main
    files = []
    for i in range(6):
        files.append(tmp_path/f'{i}.png')
        Image.fromarray(np.full((32,40,3), i*40, np.uint8)).save(files[-1])
    mask = PILMask.create(np.eye(32, 40, dtype=np.uint8))
    dls = SegmentationDataLoaders.from_label_func(tmp_path, files, lambda f: mask, codes=['off','line'],
                                                  seed=42, item_tfms=Resize(32), bs=2)
    learn = unet_learner(dls, small, pretrained=False, self_attention=True, blur=True)
    file = learn.export(tmp_path/'unet')
    back = load_learner(file)
    (mask,_,probs),(same,_,same_probs) = (o.predict(files[1]) for o in (learn,back))
    assert type(same) is TensorMask and torch.equal(same, mask) and torch.equal(same_probs, probs)
    assert list(back.dls.vocab)==['off','line'] and back.model.places==learn.model.places
    assert main(['predict', str(file), str(files[0]), '--json'])==0 # the share of the picture that each takes
    shares = json.loads(capsys.readouterr().out)['predictions']
    assert sum(o['share'] for o in shares)==pytest.approx(1) and {o['label'] for o in shares}<={'off','line'}
    assert main(['serve', str(file), '--port', '0'])==2 and 'for each pixel' in capsys.readouterr().err
    odd = create_unet_model(small, 2, (32,32), pretrained=False)(torch.rand(2,3,33,47))
    assert odd.shape==(2,2,33,47)
    pytest.importorskip('onnx', reason='onnx is not installed')
    seen,notes = in_onnxruntime(learn.to_onnx(tmp_path/'unet'), learn, files[:3])
    want,_ = learn.get_preds(dl=learn.dls.test_dl(files[:3]))
    assert (seen-want).abs().max()<1e-4 and 'for each pixel' in notes['decoding']
    assert notes['vocab']==['off','line']
