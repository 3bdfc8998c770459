"Interpretation and show_results: the right items, whatever samples them; unlabelled data; loaders of torch"
import matplotlib
matplotlib.use('Agg')
import numpy as np, pytest, torch
import matplotlib.pyplot as plt
from PIL import Image
from torch import nn
from coursekit.core import one_line
from coursekit.errors import full_message
from coursekit.vision.all import (CategoryBlock, ClassificationInterpretation, CrossEntropyLossFlat,
    DataBlock, DataLoaders, ImageBlock, Interpretation, Learner, MaskBlock, MultiCategoryBlock, PointBlock,
    RandomSplitter, RegressionBlock, Resize, get_image_files, parent_label)

@pytest.fixture(scope='module')
def root(tmp_path_factory):
    d,rng = tmp_path_factory.mktemp('birds'),np.random.default_rng(0)
    for c in ('hen','owl'):
        (d/c).mkdir()
        for i in range(6):
            Image.fromarray(rng.integers(0, 255, (40,40,3), dtype='uint8')).save(d/c/f'{c}{i}.png')
    return d

@pytest.fixture(autouse=True)
def no_figures():
    yield
    plt.close('all')

def small(n_out):
    return nn.Sequential(nn.Conv2d(3,4,3,2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Linear(16,n_out))

def learner(root, block=CategoryBlock, get_y=parent_label, model=None, loss_func=None, **kw):
    block = DataBlock((ImageBlock, block), get_items=get_image_files, get_y=get_y,
                      splitter=RandomSplitter(.25, 2), item_tfms=Resize(32, method='squish'))
    torch.manual_seed(0)
    return Learner(block.dataloaders(root, bs=4, num_workers=0, **kw), model or small(2), loss_func)

kinds = dict(category=lambda r: learner(r),
             number=lambda r: learner(r, RegressionBlock, lambda f: 1., small(1)),
             several=lambda r: learner(r, MultiCategoryBlock, lambda f: [f.parent.name,'bird'], small(3)),
             mask=lambda r: learner(r, MaskBlock(['a','b','c']), lambda f: np.zeros((40,40), np.uint8),
                                    nn.Conv2d(3,3,3,padding=1), CrossEntropyLossFlat(axis=1)),
             points=lambda r: learner(r, PointBlock, lambda f: [[3.,4],[5,6]], small(4)))

@pytest.mark.parametrize('kind', kinds)
def test_show_results_with_and_without_labels(root, kind):
    learn,files = kinds[kind](root),get_image_files(root)
    n_titles = {}
    for labelled in (False,True):
        learn.show_results(dl=learn.dls.test_dl(files, with_labels=labelled), max_n=2)
        axs = plt.gcf().axes
        assert all(len(ax.images) for ax in axs)
        n_titles[labelled] = len(axs[0].get_title().split('\n')) if axs[0].get_title() else 0
    if kind in ('mask','points'): assert len(axs)==4
    elif kind!='several': assert n_titles=={False:1, True:2}           # those may be none

def test_predictions_without_labels_are_those_of_the_files(root):
    learn,files = learner(root),get_image_files(root)
    learn.show_results(dl=learn.dls.test_dl(files, bs=4), max_n=4)
    assert [ax.get_title() for ax in plt.gcf().axes]==[learn.predict(f)[0] for f in files[:4]]

@pytest.mark.parametrize('sampler', [list(range(8,-1,-1)), [3,3,3], list(range(9))*3, 'weighted', None])
def test_top_losses_name_their_items(root, sampler):
    weighted = torch.utils.data.WeightedRandomSampler([1.]*9, 40)
    learn = learner(root, sampler=weighted if sampler=='weighted' else sampler)
    interp = Interpretation.from_learner(learn, ds_idx=0)
    assert len(interp.losses)==9
    losses,idxs,names = interp.top_losses(4, items=True)
    files = learn.dls.train_ds.items
    test_dl = learn.dls.test_dl(list(names), with_labels=True)
    assert [files[int(i)] for i in idxs]==list(names) and len(names)==4
    batches = [(learn.model(x),y) for x,y in test_dl]
    outs,targs = (torch.cat(o).as_subclass(torch.Tensor) for o in zip(*batches))
    real = nn.functional.cross_entropy(outs, targs, reduction='none').detach()
    torch.testing.assert_close(losses.as_subclass(torch.Tensor), real, atol=1e-4, rtol=0)

def torch_learner(targets, n_out=2, **kw):
    ds = torch.utils.data.TensorDataset(torch.randn(len(targets),3,16,16), torch.as_tensor(targets))
    dl = torch.utils.data.DataLoader(ds, 4, shuffle=True)
    return Learner(DataLoaders(dl, dl), small(n_out), loss_func=nn.CrossEntropyLoss(), **kw)

def test_torch_loaders():
    learn = torch_learner([0,1]*5)
    interp = ClassificationInterpretation.from_learner(learn, ds_idx=0)
    assert torch.equal(interp.targs, torch.tensor([0,1]*5)) and interp.confusion_matrix().sum()==10
    interp.plot_confusion_matrix()
    losses,idxs,items = interp.top_losses(2, items=True)
    assert torch.equal(items[0][0], learn.dls.train.dataset[int(idxs[0])][0])
    with pytest.raises(TypeError, match='cannot show its items'): interp.plot_top_losses(2)

def test_classes_that_are_missing_or_unknown():
    one = ClassificationInterpretation.from_learner(torch_learner([0]*6, 1))
    assert one.confusion_matrix().tolist()==[[6]] and one.most_confused()==[]
    one.plot_confusion_matrix()
    one.print_classification_report()
    interp = ClassificationInterpretation.from_learner(torch_learner([0]*6, 5))     # the model knows more
    interp.dl.dataset.classes = ['a','b']
    interp.decoded = torch.tensor([0,1,1,3,4,4])
    assert interp.confusion_matrix().shape==(5,5)
    assert interp.most_confused()==[('a','b',2), ('a',4,2), ('a',3,1)]
    assert interp.most_confused(2)[-1]==('a',4,2)
    interp.targs = torch.tensor([0,0,0,0,0,-100])
    with pytest.raises(ValueError, match='Target -100 is no class'): interp.confusion_matrix()

def test_confused_pairs_of_many_classes_need_no_matrix():
    interp = ClassificationInterpretation.from_learner(torch_learner([0,1]))
    interp.targs,interp.decoded = torch.tensor([0,300_000,300_000]),torch.tensor([0,7,7])
    assert interp.most_confused()==[(300_000,7,2)]

def test_nan_losses_come_first(root):
    interp = Interpretation.from_learner(learner(root), ds_idx=0)
    interp.losses[3] = float('nan')
    assert int(interp.top_losses(1)[1])==3 and int(interp.top_losses(9, largest=False)[1][-1])==3

def test_no_validation_data(root):
    learn = learner(root)
    learn.dls.loaders = learn.dls.loaders[:1]
    with pytest.raises(ValueError, match='no data loader number 1.*pass `dl`'):
        Interpretation.from_learner(learn)

@pytest.mark.parametrize('name', ['<img src=x onerror=alert(1)>', r'$\frac{', 'a_b^c $x$', 'tab\t', 'x'*300])
def test_names_of_classes_are_shown_as_they_are(name):
    interp = ClassificationInterpretation.from_learner(torch_learner([0,1]*4))
    interp.dl.dataset.classes = [name,'other']
    ax = interp.plot_confusion_matrix()
    ax.figure.canvas.draw()
    assert ax.get_xticklabels()[0].get_text()==one_line(name, 30)
    interp.print_classification_report()

@pytest.mark.parametrize('sampler', [[4,2,2,0], 'subset', 'batches'])
def test_torch_loaders_that_choose_items(sampler):
    tud,ds = torch.utils.data,torch_learner([0,1]*5).dls.train.dataset
    if sampler=='subset':    dl = tud.DataLoader(ds, 2, sampler=tud.SubsetRandomSampler([4,2,0]))
    elif sampler=='batches': dl = tud.DataLoader(ds, batch_sampler=[[4,2],[0]])
    else:                    dl = tud.DataLoader(ds, 2, sampler=sampler)
    learn = Learner(DataLoaders(dl, dl), small(2), loss_func=nn.CrossEntropyLoss())
    interp = Interpretation.from_learner(learn)
    losses,idxs,items = interp.top_losses(3, items=True)
    assert len(interp.losses)==3
    for l,(x,y) in zip(losses, items):
        with torch.no_grad(): assert abs(nn.functional.cross_entropy(learn.model(x[None]), y[None])-l)<1e-4

def test_loaders_that_do_not_tell_their_items():
    b = torch.rand(2,3,8,8),torch.tensor([0,1])
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self): return iter(zip(*b))
    for dl in [b], torch.utils.data.DataLoader(Stream(), 2):
        interp = Interpretation.from_learner(Learner((dl,dl), small(2), loss_func=nn.CrossEntropyLoss()))
        assert len(interp.top_losses(2)[0])==2
        with pytest.raises(TypeError, match='does not tell its items'): interp.top_losses(2, items=True)

def test_slips_with_blocks():
    with pytest.raises(TypeError, match=r'one tuple.*DataBlock\(\(ImageBlock, CategoryBlock\)'):
        DataBlock(ImageBlock, CategoryBlock, get_y=parent_label)

def test_batchnorm_and_a_batch_of_one(root):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3,2))
    learn = learner(root, model=model)
    learn.dls.train.bs = 1
    with pytest.raises(ValueError) as e, learn.no_bar(): learn.fit(1)
    assert 'larger `bs`' in full_message(e.value)

def test_a_loss_without_decodes_is_named(root):
    learn = learner(root, loss_func=lambda p,t: nn.functional.cross_entropy(p, t))
    interp = ClassificationInterpretation.from_learner(learn)
    for f in (lambda: interp.plot_top_losses(2), interp.confusion_matrix):
        with pytest.raises((ValueError,TypeError)) as e: f()
        assert 'Has the loss function no `decodes`?' in full_message(e.value)
