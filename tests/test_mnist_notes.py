"""The notes on MNIST, from `untar_data` to a resnet18, run as written: only import and address differ."""
import contextlib, io, shutil
import matplotlib
matplotlib.use('Agg')
import pytest, torch
import coursekit.vision.all as V

def run(code, ns):
    "Run cells in one name space, as a notebook does; returns what they printed"
    out = io.StringIO()
    with contextlib.redirect_stdout(out): exec(code, ns)
    return out.getvalue()

@pytest.fixture(scope='module')
def notes():
    "The name space of the notes after the cells on data"
    V.set_seed(42)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ns = {}
    run('from coursekit.vision.all import *', ns)
    run(DATA, ns)
    yield ns
    torch.set_num_threads(threads)
    V.plt.close('all')

DATA = '''
path = untar_data(URLs.MNIST_SAMPLE_SKETCH)
threes = (path/'train'/'3').ls().sorted()
sevens = (path/'train'/'7').ls().sorted()
threes

im7_path = sevens[1]
im7 = Image.open(im7_path)
im7

part = array(im7)[7:16,8:16]
part_t = tensor(im7)[7:16,8:16]

im7_t = tensor(im7)
df = pd.DataFrame(im7_t[7:20,7:20])
styled = df.style.set_properties(**{'font-size':'6pt'}).background_gradient('Greys')

seven_tensors = [tensor(Image.open(o)) for o in sevens]
three_tensors = [tensor(Image.open(o)) for o in threes]
show_image(three_tensors[2])

stacked_sevens = torch.stack(seven_tensors).float()/255
stacked_threes = torch.stack(three_tensors).float()/255
train_x = torch.cat([stacked_threes, stacked_sevens]).view(-1, 28*28)
train_y = tensor([1]*len(threes) + [0]*len(sevens)).unsqueeze(1)
dset = list(zip(train_x,train_y))

valid_3_tens = torch.stack([tensor(Image.open(o)) for o in (path/'valid'/'3').ls()])
valid_3_tens = valid_3_tens.float()/255
valid_7_tens = torch.stack([tensor(Image.open(o)) for o in (path/'valid'/'7').ls()])
valid_7_tens = valid_7_tens.float()/255
valid_x = torch.cat([valid_3_tens, valid_7_tens]).view(-1, 28*28)
valid_y = tensor([1]*len(valid_3_tens) + [0]*len(valid_7_tens)).unsqueeze(1)
valid_dset = list(zip(valid_x,valid_y))

def init_params(size, std=1.0): return (torch.randn(size)*std).requires_grad_()
weights = init_params((28*28,1))
bias = init_params(1)

def linear(xb): return xb@weights + bias

def mnist_loss(predictions, targets):
    predictions = predictions.sigmoid()
    return torch.where(targets==1, 1-predictions, predictions).mean()

dl = DataLoader(dset, batch_size=256)
valid_dl = DataLoader(valid_dset, batch_size=256)

def calc_grad(xb, yb, model):
    preds = model(xb)
    loss = mnist_loss(preds, yb)
    loss.backward()

def batch_accuracy(xb, yb):
    preds = xb.sigmoid()
    corrects = (preds>0.5)==yb
    return corrects.float().mean()

def validate_epoch(model):
    accs = [batch_accuracy(model(xb),yb) for xb,yb in valid_dl]
    return round(torch.stack(accs).mean().item(),4)
'''

def test_pixels(notes):
    n = notes
    assert len(n['threes'])==6131
    assert len(n['sevens'])==6265
    assert 'train' in repr(n['threes'][0])
    assert n['threes']==n['threes'].sorted()
    assert n['part'].shape==(9,8)==tuple(n['part_t'].shape)
    assert (n['part']==n['part_t'].numpy()).all()
    assert n['part'].dtype==n['part_t'].numpy().dtype
    assert n['df'].shape==(13,13)
    assert n['df'].max().max()>200
    assert 'background-color' in n['styled'].to_html()
    assert 'font-size: 6pt' in n['styled'].to_html()
    assert tuple(n['three_tensors'][2].shape)==(28,28)
    assert tuple(n['train_x'].shape)==(12396,784)
    assert tuple(n['train_y'].shape)==(12396,1)
    assert len(n['dset'])==12396
    assert len(n['valid_dset'])==2038

def test_gradient(notes):
    ns = dict(notes)
    run('''
def f(x): return x**2
xt = tensor(3.).requires_grad_()
xt
yt = f(xt)
yt
yt.backward()
slope = xt.grad

one = (train_x[0]*weights.T).sum() + bias
preds = linear(train_x)
corrects = (preds>0.0).float() == train_y
share = corrects.float().mean().item()
plot_function(torch.sigmoid, title='Sigmoid', min=-4, max=4)

coll = range(15)
parts = list(DataLoader(coll, batch_size=5, shuffle=True))
''', ns)
    assert ns['slope']==6 and torch.allclose(ns['one'], ns['preds'][0], atol=1e-3) and 0.2<ns['share']<0.8
    assert [len(o) for o in ns['parts']]==[5,5,5] and sorted(torch.cat(ns['parts']).tolist())==list(range(15))

def test_gradients_add_up_until_zeroed(notes):
    ns = dict(notes)
    run('''
batch = train_x[:4]
calc_grad(batch, train_y[:4], linear)
first = weights.grad.mean().clone(),bias.grad.clone()
calc_grad(batch, train_y[:4], linear)
second = weights.grad.mean().clone(),bias.grad.clone()
weights.grad.zero_()
bias.grad.zero_();
''', ns)
    assert all(torch.allclose(2*a, b) for a,b in zip(ns['first'],ns['second']))
    assert ns['second'][1]!=0
    assert not ns['weights'].grad.any()

def test_sgd_by_hand(notes):
    ns = dict(notes)
    out = run('''
def train_epoch(model, lr, params):
    for xb,yb in dl:
        calc_grad(xb, yb, model)
        for p in params:
            p.data -= p.grad*lr
            p.grad.zero_()
lr = 1.
params = weights,bias
before = validate_epoch(linear)
train_epoch(linear, lr, params)
after = validate_epoch(linear)
for i in range(20):
    train_epoch(linear, lr, params)
    print(validate_epoch(linear), end=' ')
''', ns)
    accs = [float(o) for o in out.split()]
    assert len(accs)==20 and ns['before']<0.8<accs[-1] and accs[-1]>0.97 and accs[-1]>=ns['after']

@pytest.mark.parametrize('opt', ['BasicOptim','SGD'])
def test_optimizer(notes, opt):
    ns = dict(notes)
    V.set_seed(0)
    out = run('''
lr = 1.
linear_model = nn.Linear(28*28,1)
w,b = linear_model.parameters()
class BasicOptim:
    def __init__(self, params, lr): self.params,self.lr = list(params),lr
    def step(self, *args, **kwargs):
        for p in self.params:
            p.data -= p.grad.data*self.lr
    def zero_grad(self, *args, **kwargs):
        for p in self.params:
            p.grad = None
''' + f'opt = {opt}(linear_model.parameters(), lr)' + '''
def train_epoch(model):
    for xb,yb in dl:
        calc_grad(xb, yb, model)
        opt.step()
        opt.zero_grad()
def train_model(model, epochs):
    for i in range(epochs):
        train_epoch(model)
        print(validate_epoch(model), end=' ')
train_model(linear_model, 30)
''', ns)
    assert tuple(ns['w'].shape)==(1,784) and tuple(ns['b'].shape)==(1,)
    accs = [float(o) for o in out.split()]
    assert len(accs)==30 and accs[-1]>0.97

def test_learner_and_simple_net(notes):
    ns = dict(notes)
    V.set_seed(0)
    V.plt.close('all')
    out = run('''
dls = DataLoaders(dl, valid_dl)
learn = Learner(dls, nn.Linear(28*28,1), opt_func=SGD, loss_func=mnist_loss, metrics=batch_accuracy)
learn.fit(10, lr=1.)
linear_accs = L(learn.recorder.values).itemgot(2)

simple_net = nn.Sequential(
    nn.Linear(28*28,30),
    nn.ReLU(),
    nn.Linear(30,1)
)
learn = Learner(dls, simple_net, opt_func=SGD, loss_func=mnist_loss, metrics=batch_accuracy)
learn.fit(40, 0.1)
plt.plot(L(learn.recorder.values).itemgot(2))
plot_function(F.relu)
accs = L(learn.recorder.values).itemgot(2)
final = learn.recorder.values[-1][2]
''', ns)
    assert len(ns['linear_accs'])==10 and ns['linear_accs'][-1]>0.95 and 'batch_accuracy' in out
    first,relu = (V.plt.figure(i).axes[0].lines[0].get_ydata() for i in V.plt.get_fignums())
    assert isinstance(ns['accs'], V.L)
    assert len(ns['accs'])==40
    assert ns['accs'][0]<ns['accs'][-1]==ns['final']>0.982
    assert list(first)==list(ns['accs']) and relu.min()==0 and relu.max()==2

def test_simple_net_by_hand(notes):
    ns = dict(notes)
    run('''
def simple_net(xb):
    s1 = xb@w1+b1
    res = s1.max(tensor(0.0))
    s2 = res@w2+b2
    return s2
w1,b1,w2,b2 = init_params((28*28,30)),init_params(30),init_params((30,1)),init_params(1)
out = simple_net(train_x[:64])
mnist_loss(out, train_y[:64]).backward()
relus = F.relu(train_x[:64]@w1+b1)
''', ns)
    assert tuple(ns['out'].shape)==(64,1)
    assert all(ns[k].grad is not None and ns[k].grad.abs().sum()>0 for k in ('w1','w2','b1','b2'))
    assert torch.allclose(ns['relus']@ns['w2']+ns['b2'], ns['out'], atol=1e-3)

def test_resnet18_one_cycle(notes, tmp_path):
    "On a tenth of the digits: seconds instead of minutes. Smaller batches, so that there are enough steps"
    for part in ('train','valid'):
        for kind in '37':
            dest = tmp_path/part/kind
            dest.mkdir(parents=True)
            for f in sorted((notes['path']/part/kind).iterdir())[::10]: shutil.copy(f, dest)
    V.set_seed(0)
    ns = dict(notes, path=tmp_path)
    out = run('''
dls = ImageDataLoaders.from_folder(path)
as_written = dls
dls = ImageDataLoaders.from_folder(path, bs=16)
learn = cnn_learner(dls, resnet18, pretrained=False, loss_func=F.cross_entropy, metrics=accuracy)
learn.fit_one_cycle(1, 0.1)
accs = L(learn.recorder.values).itemgot(2)
lrs = learn.recorder.lrs
''', ns)
    assert ns['as_written'].bs==64
    assert ns['dls'].vocab==['3','7']
    assert len(ns['dls'].train_ds)==1241
    assert 'accuracy' in out
    assert len(ns['accs'])==1 and ns['accs'][0]>0.85
    assert max(ns['lrs'])>0.09 and ns['lrs'][0]<max(ns['lrs'])>ns['lrs'][-1]
