"""The code of the five notes that the course grew from, cell by cell: only the import differs.

What surrounds it is small: drawn pictures in archives on a server here, laid out as the real ones, a network
of the same parts as a resnet but of few channels, whose weights come from that server, too, and instead of
224 and 460 pixels 32 and 64. The rest of the notes on MNIST is in `test_mnist_notes.py`."""
import hashlib, io
from collections import OrderedDict
import matplotlib
matplotlib.use('Agg')
import pytest, torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from PIL import Image
from torch import nn
from torchvision import models as zoo
from coursekit.data.external import URLs
from coursekit.sketch.pets import draw_pets
import coursekit.vision.all as V
import coursekit.vision.models.resnet as ours
from servers import FaultServer, tgz

BREEDS = 'Bengal','Sphynx','pug','samoyed'

@pytest.fixture(scope='module')
def server():
    with FaultServer() as s: yield s

@pytest.fixture(scope='module')
def pets(server, tmp_path_factory):
    "Address of an archive like Oxford's"
    d = tmp_path_factory.mktemp('pets')
    draw_pets(d, per_breed=5, breeds=BREEDS)
    files = {str(f.relative_to(d)):f.read_bytes() for f in sorted(d.rglob('*')) if f.is_file()}
    return server.put('/oxford-iiit-pet.tgz', tgz(files, root='oxford-iiit-pet/'))[0]

def jpeg(colour, size):
    buf = io.BytesIO()
    noise = Image.effect_noise(size, 60)
    Image.composite(Image.new('RGB', size, colour), Image.new('RGB', size, 'green'), noise).save(buf, 'JPEG')
    return buf.getvalue()

FLOWERS = dict(rose='red', sunflower='yellow', bluebell='blue')

@pytest.fixture(scope='module')
def flowers(server):
    "Address of an archive like fast.ai's of 102 flowers: 102 pictures in one folder"
    kinds = list(FLOWERS)
    files = {f'jpg/image_{i:05d}.jpg': jpeg(FLOWERS[kinds[i%3]], (50,66+i%3)) for i in range(1, 103)}
    return server.put('/oxford-102-flowers.tgz', tgz(files, root='oxford-102-flowers/'))[0]

def small_resnet():
    "Named and ordered as torchvision's, so that it is cut and split like one"
    parts = dict(conv1=nn.Conv2d(3, 8, 3, 4, 1, bias=False), bn1=nn.BatchNorm2d(8), relu=nn.ReLU(),
                 layer1=ours.BasicBlock(8, 8), layer2=ours.BasicBlock(8, 16, 2),
                 avgpool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(16, 1000))
    return nn.Sequential(OrderedDict(parts))

def architecture(known, weights):
    "A constructor as torchvision's, with weights to download"
    def build(*, weights=None, progress=True):
        net = small_resnet()
        if weights is not None: net.load_state_dict(known.verify(weights).get_state_dict(progress=progress))
        return net
    build.__annotations__['weights'] = known | None
    build.__name__ = weights
    return build

@pytest.fixture
def world(server, pets, flowers, tmp_path, monkeypatch):
    "A home, a working folder, addresses and networks"
    for k,v in dict(COURSEKIT_HOME='home', TORCH_HOME='torch').items(): monkeypatch.setenv(k, str(tmp_path/v))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(URLs, 'PETS', pets)
    monkeypatch.setattr(URLs, 'FLOWERS', flowers)
    torch.manual_seed(0)
    for name,known in (('resnet34',zoo.ResNet34_Weights),('resnet50',zoo.ResNet50_Weights)):
        buf = io.BytesIO()
        torch.save(small_resnet().state_dict(), buf)
        url,_ = server.put(f'/{name}-{hashlib.sha256(buf.getvalue()).hexdigest()[:8]}.pth', buf.getvalue())
        w = known.IMAGENET1K_V1
        here = type(w.value)(url=url, meta=w.value.meta, transforms=w.value.transforms)
        monkeypatch.setattr(w, '_value_', here)
        for module in (zoo, ours): monkeypatch.setattr(module, name, architecture(known, name))
    return tmp_path

class Shell(InteractiveShell):
    "Without windows"
    def enable_gui(self, gui=None): pass

class Notebook:
    "Runs cells in an IPython shell, as Jupyter would; an error in a cell is one here"
    def __init__(self, imports):
        self.shell,self.said = Shell(),''
        self.ns = self.shell.user_ns
        self.run(imports)
    def run(self, cells):
        for cell in cells.strip().split('\n\n'):
            with capture_output() as out:
                self.shell.run_cell(cell.replace('224', '32').replace('460', '64')).raise_error()
            self.said += out.stdout
        V.plt.close('all')
    def __getitem__(self, k): return self.ns[k]

@pytest.fixture
def notebook(world):
    yield Notebook
    matplotlib.use('Agg', force=True)

def test_note_000_the_first_lesson_of_2019(notebook):
    nb = notebook('''
from coursekit import *
from coursekit.vision import *
from coursekit.metrics import error_rate
''')
    nb.run(r'''
path = untar_data(URLs.PETS)
path_img = path/'images'
fnames = get_image_files(path_img)

pat = r'/([^/]+)_\d+.jpg$'
data = ImageDataBunch.from_name_re(path_img, fnames, pat, ds_tfms=get_transforms(), size=224, bs=64,
                                  ).normalize(imagenet_stats)

help(ImageDataBunch)

learn = create_cnn(data, models.resnet34, metrics=error_rate)

learn.fit_one_cycle(4)

learn.lr_find()
learn.recorder.plot()

interp = ClassificationInterpretation.from_learner(learn)
n = 1
interp.most_confused(min_val=n)
''')
    data,learn = nb['data'],nb['learn']
    assert data.classes==sorted(BREEDS) and len(data.valid_ds)==4
    assert tuple(data.one_batch()[0].shape)==(16,3,32,32)
    assert len(learn.recorder.values)==4 and 'error_rate' in nb.said and 'from_name_re' in nb.said
    assert nb['interp'].confusion_matrix().sum()==4

def test_note_001_cat_or_dog(notebook):
    nb = notebook('from coursekit.vision.all import *')
    nb.run('''
path = untar_data(URLs.PETS)/'images'

search_images_bing

def is_cat(x):
    return x[0].isupper()

dls = ImageDataLoaders.from_name_func(path,
    get_image_files(path),
    valid_pct= 0.2,
    seed= 42,
    label_func= is_cat,
    item_tfms= Resize(224))

learn = cnn_learner(dls, resnet34, metrics= error_rate)
learn.fine_tune(1)

dls.show_batch()
''')
    assert nb['dls'].vocab==[False,True] and len(nb['learn'].recorder.values)==1
    assert nb['learn'].dls.valid.n==4 and 'search_images_bing(key' in nb.said

def test_note_002_2019_in_detail(notebook):
    nb = notebook('''
%reload_ext autoreload
%autoreload 2
%matplotlib inline

from coursekit.vision import *
from coursekit.metrics import error_rate
''')
    nb.run(r'''
help(untar_data)

path = untar_data(URLs.PETS)
path_anno = path/'annotations'
path_img = path/'images'
print(path)
print(path_anno)
print(path_img)

path.ls()

import re
temp_name = "/data/oxford-iiit-pet/images/german_shorthaired_105.jpg"
pat = r'/([^/]+)_\d+.jpg$'
pat = re.compile(pat)
print(pat.search(temp_name).group())
print(pat.search(temp_name).group(1))

doc(ImageDataBunch.from_name_re)

fnames = get_image_files(path_img)
fnames[:5]

np.random.seed(2)
pat = r'/([^/]+)_\d+.jpg$'

data = ImageDataBunch.from_name_re(path_img, fnames, pat, ds_tfms=get_transforms(), size=224,
                                   bs=16, num_workers=0).normalize(imagenet_stats)

data.show_batch(rows=3, figsize=(7,6))

print(data.classes)
len(data.classes),data.c

learn = cnn_learner(data, models.resnet34, metrics=error_rate)

learn.model

learn.fit_one_cycle(4)

learn.save('stage-1')

interp = ClassificationInterpretation.from_learner(learn)
losses,idxs = interp.top_losses()
len(data.valid_ds)==len(losses)==len(idxs)

interp.plot_top_losses(4, figsize=(15,11))

doc(interp.plot_top_losses)

interp.plot_confusion_matrix(figsize=(12,12), dpi=60)

interp.most_confused(min_val=2)

learn.show_results(rows=3, figsize=(10,10))

learn.unfreeze()

learn.fit_one_cycle(1)

learn.load('stage-1');

learn.lr_find()

learn.recorder.plot()

learn.unfreeze()
learn.fit_one_cycle(2, max_lr=slice(1e-5,1e-4))

img = open_image(fnames[0])
pred_class,pred_idx,outputs = learn.predict(img)
''')
    assert 'german_shorthaired\n' in nb.said and f'({len(BREEDS)}, {len(BREEDS)})' in nb.said
    learn = nb['learn']
    rates = [h['lr'] for h in learn.opt.hypers]
    assert len(rates)==3 and rates[0]<rates[1]<rates[2], 'one for each group'
    assert 5e-5<max(learn.recorder.lrs)<=1e-4
    assert str(nb['pred_class'])==nb['data'].classes[nb['pred_idx']] and abs(nb['outputs'].sum()-1)<1e-4

def test_note_003_a_breed_and_its_loss(notebook):
    nb = notebook('from coursekit.vision.all import *')
    nb.run(r'''
path = untar_data(URLs.PETS)
fname = (path/"images").ls()[0]

re.findall(r'(.+)_\d+.jpg$', fname.name)

pets = DataBlock(blocks=(ImageBlock, CategoryBlock),
               get_items=get_image_files,
               splitter=RandomSplitter(seed=42),
               get_y=using_attr(RegexLabeller(r'(.+)_\d+.jpg$'), 'name'),
               item_tfms=Resize(460),
               batch_tfms=aug_transforms(size=224, min_scale=0.75)
)
dls = pets.dataloaders(path/"images")

pets.summary(path/"images")

learn = vision_learner(dls, resnet34, metrics=error_rate)
learn.fine_tune(2)

learn.loss_func

x,y = dls.one_batch()
y

preds,_ = learn.get_preds(dl=[(x,y)])
preds[0]

len(preds[0]),preds[0].sum()

set_seed(42)
acts = torch.randn((6,2))*2
(acts[:,0]-acts[:,1]).sigmoid()

def softmax(x):
    return (exp(x) / exp(x).sum(dim=1, keepdim=True))

exp = torch.exp
sm_acts = softmax(acts)

targ = tensor([0,1,0,1,1,0])
idx = range(6)
by_hand = -sm_acts[idx, targ].log()
by_torch = nn.CrossEntropyLoss(reduction='none')(acts, targ)

interp = ClassificationInterpretation.from_learner(learn)
interp.plot_confusion_matrix(figsize=(12,12), dpi=60)

interp.most_confused(min_val=1)

interp.plot_top_losses(4)

learn = vision_learner(dls, resnet34, metrics=error_rate)
learn.lr_find(suggest_funcs=(minimum, steep))

learn.fit_one_cycle(3, 3e-3)
learn.unfreeze()
learn.fit_one_cycle(4, lr_max=slice(1e-6,1e-4))

from coursekit.callback.fp16 import *
learn = vision_learner(dls, resnet50, metrics=error_rate).to_fp16()
''')
    assert type(nb['dls'].loss_func).__name__=='CrossEntropyLossFlat' and 'SuggestedLRs' in nb.said
    assert torch.allclose(nb['by_hand'], nb['by_torch'], atol=1e-6)
    assert torch.allclose(nb['preds'].sum(1), torch.ones(len(nb['preds'])), atol=1e-5)

def test_note_004_better_flowers(notebook, world):
    "Its first part saved a table, a picture and weights: here that comes first"
    nb = notebook('''
from coursekit.vision.all import *
%matplotlib inline
''')
    (world/'data').mkdir()
    (world/'images').mkdir()
    (world/'images'/'sunflower.jpg').write_bytes(jpeg('yellow', (64,48)))
    kinds = list(FLOWERS)
    rows = [(f'jpg/image_{i:05d}.jpg', f' {kinds[i%3]}') for i in range(1, 10)]
    V.pd.DataFrame(rows, columns=['name','class']).to_csv(world/'data'/'df.csv')
    nb.run('''
path = untar_data(URLs.FLOWERS)
df = pd.read_csv('data/df.csv', index_col=0)
files = get_image_files(path/'jpg')
def get_x(r): return path/r['name']
def get_y(r): return r['class']

dblock = DataBlock(blocks=(ImageBlock, CategoryBlock),
                   splitter=RandomSplitter(seed=42),
                   get_x= get_x,
                   get_y= get_y,
                   item_tfms = Resize(224))
dls = dblock.dataloaders(df)

learn = vision_learner(dls, resnet34, metrics=accuracy)
learn.fine_tune(1)
learn.save('flowers-baseline')
''')
    nb.run('''
dls = dblock.dataloaders(df)
learn = vision_learner(dls, resnet34, metrics=accuracy)
learn.load('flowers-baseline')

learn.model.state_dict()

interp = ClassificationInterpretation.from_learner(learn)

interp.plot_confusion_matrix(figsize=(12,12), dpi=60)

interp.most_confused(min_val=2)

flower = PILImage.create('images/sunflower.jpg')
flower.show()

learn.predict(flower)[0]

preds,targs = learn.get_preds()

by_hand = accuracy(preds, targs)

validated = learn.validate()

print(PILImage.create(files[0]).shape)
print(PILImage.create(files[10]).shape)
print(PILImage.create(files[100]).shape)

img = PILImage.create(files[100])
show_image(img, title='original image')

_,axs = plt.subplots(1,3,figsize=(12,4))
for ax in axs:
    rsz = Resize(460, method=ResizeMethod.Crop)
    show_image(rsz(img), title='resized image', ctx=ax);

# Presizing
item_tfms=Resize(460),
batch_tfms=aug_transforms(size=224, min_scale=0.75)

def get_x(r): return path/r['name']
def get_y(r): return r['class']

dblock = DataBlock(blocks=(ImageBlock, CategoryBlock),
                   splitter=RandomSplitter(seed=42),
                   get_x= get_x,
                   get_y= get_y,
                   item_tfms = item_tfms,
                   batch_tfms = batch_tfms)
dls = dblock.dataloaders(df)
# Sanity check: Viewing a batch of images
dls.show_batch(nrows=1, ncols=3)

learn = vision_learner(dls, resnet34, metrics=accuracy)
learn.fine_tune(3)

presized = learn.save('flowers-presizing')

learn = vision_learner(dls, resnet34, metrics=accuracy)
suggested = learn.lr_find()

learn = cnn_learner(dls, resnet34, metrics=accuracy)
learn.fine_tune(3, base_lr=3e-3)

learn = vision_learner(dls, resnet34, metrics=accuracy)
learn.fit_one_cycle(3, 3e-3)

learn.unfreeze()

learn.lr_find()

learn.fit_one_cycle(6, lr_max=1e-5)

learn.recorder.plot_sched()

learn.recorder.plot_loss()

learn = vision_learner(dls, resnet34, metrics=accuracy)
learn.fit_one_cycle(3, 3e-3)
learn.unfreeze()
learn.fit_one_cycle(12, lr_max=slice(1e-6,1e-4))

learn.recorder.plot_loss()

learn.fit_one_cycle(3, lr_max=slice(1e-6,1e-4))

learn.recorder.plot_loss()

from coursekit.callback.fp16 import *

learn = vision_learner(dls, resnet50, metrics=accuracy).to_fp16()
learn.fine_tune(6, freeze_epochs=3)

learn.recorder.plot_loss()

learn.save('flowers-resnet50')

learn.load('flowers-resnet50')
learn.validate()

learn.lr_find()

learn.unfreeze()
learn.fit_one_cycle(3, lr_max=slice(1e-5, 1e-4))

learn.save('flowers-resnet50-best')

best = learn.validate()
''')
    assert nb['dls'].vocab==[f' {k}' for k in sorted(FLOWERS)]
    assert abs(float(nb['by_hand'])-nb['validated'][1])<1e-6
    assert nb['presized'].exists() and nb['suggested'].valley>0
    assert len(nb['learn'].recorder.values)==3 and len(nb['best'])==2
