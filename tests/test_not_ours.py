"Loaders, batches, models, losses, optimizers that are not ours: what can work does, the rest says why not."
import collections, dataclasses
import pytest, torch, torch.nn.functional as F, torch.utils.data as tud
from torch import nn
from coursekit.callback.core import *
from coursekit.callback.hook import *
from coursekit.callback.progress import *
from coursekit.callback.schedule import *
from coursekit.core import *
from coursekit.errors import error_text
from coursekit.learner import *
from coursekit.losses import CrossEntropyLossFlat
from coursekit.metrics import accuracy

x = torch.randn(24,3, generator=torch.Generator().manual_seed(0))
y = (x[:,0]>0).long()
ds = tud.TensorDataset(x,y)
def learner(data, model=None, loss=F.cross_entropy, **kw):
    torch.manual_seed(0)
    dl = data if isinstance(data, tud.DataLoader) else tud.DataLoader(data, 8)
    return Learner((dl,dl), model or nn.Linear(3,2), loss, **kw)
class Outputs(nn.Module): # a linear model whose outputs are wrapped
    def __init__(self, wrap, key=None):
        super().__init__()
        self.lin,self.wrap,self.key = nn.Linear(3,2),wrap,key
    def forward(self, b): return self.wrap(self.lin(b if self.key is None else b[self.key]))
def quietly(learn, f):
    with learn.no_bar(), learn.no_logging(): return f()
def everything(learn, n=24): # All that needs no way to show items
    quietly(learn, lambda: (learn.fit(1), learn.fit_one_cycle(1)))
    quietly(learn, lambda: learn.lr_find(num_it=4, show_plot=False, suggest_funcs=None))
    assert len(learn.validate())==1+len(learn.metrics)
    preds,targs,_,losses = learn.get_preds(with_decoded=True, with_loss=True)
    assert len(losses)==n
    learn.freeze()
    return preds,targs

class Stream(tud.IterableDataset):
    def __iter__(self): return iter(ds)
class Batches:
    def __iter__(self): yield from ([1,2],[3,0])
    def __len__(self): return 2
Pair = collections.namedtuple('Pair', 'x y')

@pytest.mark.parametrize('data,n', [
    (tud.DataLoader(ds, 8, shuffle=True), 24), ([Pair(*o) for o in ds], 24), ([list(o) for o in ds], 24),
    (tud.DataLoader(Stream(), 5, drop_last=True), 24), (tud.DataLoader(ds, batch_sampler=Batches()), 4),
    (tud.DataLoader([(x[:4],y[:4]),(x[4:8],y[4:8])], batch_size=None, shuffle=True), 8)])
@pytest.mark.filterwarnings('ignore')
def test_loaders_of_torch(data, n):
    preds,targs = everything(learner(data, metrics=accuracy), n)
    assert preds.shape==(n,2)
    if n==24: assert torch.equal(targs, y)

def test_predictions_come_in_order_whatever_the_sampler():
    for sampler in (tud.WeightedRandomSampler(torch.rand(24), 50), tud.RandomSampler(ds, replacement=True)):
        learn = learner(tud.DataLoader(ds, 8, sampler=sampler))
        assert torch.equal(learn.get_preds(ds_idx=0)[1], y)
        assert len(learn.get_preds(ds_idx=0, reorder=False)[1])==len(sampler)
    learn = learner(tud.DataLoader(ds, 8, sampler=tud.SubsetRandomSampler([9,3,5])))
    assert torch.equal(learn.get_preds()[1], y[[3,5,9]])
    batches = tud.BatchSampler(tud.RandomSampler(ds), 7, drop_last=True)
    assert torch.equal(learner(tud.DataLoader(ds, batch_sampler=batches)).get_preds()[1], y)

def test_dicts_as_inputs_and_targets():
    by_name = learner([({'a':p},q) for p,q in ds], Outputs(noop, 'a'), metrics=accuracy)
    assert everything(by_name)[0].shape==(24,2)
    assert by_name.predict({'a':x[0]})[2].shape==(2,)
    targets = learner([(p,{'b':q}) for p,q in ds], loss=lambda p,t: F.cross_entropy(p, t['b']))
    assert torch.equal(everything(targets)[1]['b'], y)

def test_a_batch_that_is_a_dict():
    "It is all input: fine for predictions, not for training"
    data = [{'a':p, 'b':q} for p,q in ds]
    learn = learner(data, Outputs(noop, 'a'))
    assert learn.get_preds()[0].shape==(24,2)
    said = error_text(quietly, learn, lambda: learn.fit(1))
    assert 'nothing to learn from' in said and 'dict of a, b' in said and '(inputs, targets)' in said
    assert 'nothing to learn from' in error_text(quietly, learner(x), lambda: learner(x).fit(1))
    assert 'Input shape: a: 8 x 3, b: 8' in str(learn.summary())
    plain = learner(data)
    said = error_text(quietly, plain, plain.get_preds)
    assert "A batch is a dict, of ['a', 'b']" in said and '`collate_fn`' in said

def test_texts_in_a_batch():
    named = learner([({'id':f'item {i}', 'a':p},q) for i,(p,q) in enumerate(ds)], Outputs(noop, 'a'),
                    metrics=accuracy)
    everything(named)
    assert 'id: list' in str(named.summary())
    def length(preds, texts): return F.mse_loss(preds.sum(1), torch.tensor([float(len(o)) for o in texts]))
    captions = learner([(p,'ab'*int(q)) for p,q in ds], loss=length)
    quietly(captions, lambda: captions.fit(1))
    assert len(captions.validate())==1

def test_a_metric_with_a_number_for_each_item():
    data = tud.TensorDataset(x[:20], y[:20])
    learn = learner(data, metrics=lambda preds, targs: (preds.argmax(1)==targs).float())
    assert '`.mean()` at its end' in error_text(quietly, learn, learn.validate)

def test_targets_that_cross_entropy_cannot_read():
    for change,loss,said in ((lambda y: y.int(), nn.CrossEntropyLoss(), '`targets.long()`'),
                             (lambda y: y[:,None], nn.CrossEntropyLoss(), '`targets.squeeze(1)`'),
                             (lambda y: -y, nn.CrossEntropyLoss(), '`ignore_index=-1`'),
                             (lambda y: F.one_hot(y), CrossEntropyLossFlat(), '`targets.argmax(-1)`')):
        learn = learner(tud.TensorDataset(x, change(y)), loss=loss)
        with learn.no_bar(): assert said in error_text(learn.fit, 1)

@dataclasses.dataclass
class Out: logits: torch.Tensor

def test_models_with_other_outputs():
    two = learner(ds, Outputs(lambda o: (o,2*o)), lambda p,t: F.cross_entropy(p[0], t))
    preds,_ = everything(two)
    assert isinstance(preds, tuple) and torch.equal(preds[1], 2*preds[0])
    named = learner(ds, Outputs(lambda o: {'logits':o}), lambda p,t: F.cross_entropy(p['logits'], t))
    assert everything(named)[0]['logits'].shape==(24,2)
    assert named.predict(x[0])[2]['logits'].shape==(2,)
    other = learner(ds, Outputs(Out), lambda p,t: F.cross_entropy(p.logits, t))
    quietly(other, lambda: (other.fit(1), other.validate()))
    assert 'let the model' in error_text(other.get_preds) and 'not Out' in error_text(other.get_preds)
    named.metrics = accuracy
    said = error_text(named.validate)
    assert 'in the metric `accuracy`' in said and 'predictions: dict of logits' in said

@pytest.mark.parametrize('kind', ['SGD','AdamW','RMSprop','Adagrad','Adadelta','NAdam','Rprop'])
def test_optimizers_of_torch(kind):
    learn = learner(ds, opt_func=getattr(torch.optim, kind), splitter=lambda m: [[m.weight],[m.bias]])
    everything(learn)
    assert learn.opt.frozen_idx==1 and not learn.model.weight.requires_grad

def test_an_optimizer_that_wants_to_compute_the_loss():
    learn = learner(ds, opt_func=torch.optim.LBFGS)
    assert 'several times in a step' in error_text(quietly, learn, lambda: learn.fit(1)) and learn.opt is None
    assert learn.get_preds()[0].shape==(24,2)

def test_a_scheduler_of_torch_in_a_callback():
    class Halve(Callback):
        def before_fit(self): self.halving = torch.optim.lr_scheduler.StepLR(self.opt.opt, 1, 0.5)
        def after_epoch(self): self.halving.step()
    learn = learner(ds, opt_func=torch.optim.SGD, lr=0.1)
    quietly(learn, lambda: learn.fit(3, cbs=Halve))
    assert learn.recorder.lrs==[0.1]*3+[0.05]*3+[0.025]*3

@pytest.mark.parametrize('kw,said', [
    (dict(loss=nn.CrossEntropyLoss), 'brackets'), (dict(loss='mse'), "`loss_func` is a function such as"),
    (dict(opt_func='adam'), "`opt_func` is a function such as `Adam`, not str 'adam'"),
    (dict(opt_func=torch.optim.SGD(nn.Linear(1,1).parameters(), lr=1)), 'pass the class `SGD`'),
    (dict(splitter=3), '`splitter` is a function')])
def test_slips_are_named(kw, said): assert said in error_text(learner, ds, **kw)

@pytest.mark.parametrize('dls', ['data', Path('data'), ['a.png'], L('a.png'), None, tud.DataLoader(ds), 7])
def test_what_is_no_data_loaders_is_named(dls):
    assert '`dls` are `DataLoaders' in error_text(Learner, dls, nn.Linear(3,2), F.cross_entropy)

@pytest.mark.parametrize('f', ['get_preds','validate','show_results'])
def test_what_is_no_data_loader_is_named(f):
    learn = learner(ds)
    f = getattr(learn, f)
    for dl,said in ((learn.dls,'not all of them'), ('a.png','test_dl'), (['a.png'],'test_dl'),
                    (x,'single batch'), (ds,'DataLoader(data'), (5,'data loader')):
        assert said in error_text(f, dl=dl)
    assert 'pass `dl=…`' in error_text(f, learn.dls[1])
