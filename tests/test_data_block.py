"""What a practitioner does with data and gets wrong: tables and files, new items of other kinds, forgotten
brackets, missing labels, misspelt arguments; and what the errors say."""
import inspect
import time
import matplotlib
matplotlib.use('Agg')
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from coursekit.errors import error_text, full_message
from coursekit.vision.all import *
make_test_set = test_set
for _n in [n for n in globals() if n.startswith('test')]: del globals()[_n]   # pytest would collect them

REGEX = using_attr(RegexLabeller(r'(.+)_\d+.jpg$'), 'name')

@pytest.fixture
def table(folder):
    df = pd.DataFrame({'name':[f.name for f in get_image_files(folder)]})
    df['label'] = df.name.str.split('_').str[0]
    df['size']  = np.where(np.arange(20)%3==0, 'big', 'small')
    df['is_valid'] = np.arange(20)%5==0
    return df

kw = dict(item_tfms=Resize(16), bs=4, seed=1, num_workers=0, device='cpu')
by_column = dict(item_tfms=Resize(16), bs=4, num_workers=0, device='cpu', valid_col='is_valid')

def block(**changes):
    usual = dict(blocks=(ImageBlock,CategoryBlock), get_items=get_image_files, get_y=REGEX,
                 item_tfms=Resize(16), splitter=RandomSplitter(seed=1))
    return DataBlock(**usual | changes)

def small_loaders(folder, **changes):
    return block(**changes).dataloaders(folder, bs=4, num_workers=0, device='cpu')
def small_net(n=2): return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12,n))
def from_df(df, folder, **changes): return ImageDataLoaders.from_df(df, folder, **kw | changes)

# ---- new items

@pytest.mark.parametrize('made', ['df','csv','lists','name_func','block'])
def test_new_items_of_every_kind(folder, table, made):
    "Whatever the data was made from, a new item may be a path, a text, bytes, a picture, an array"
    fs = get_image_files(folder)
    table.to_csv(folder/'labels.csv', index=False)
    makers = {
        'df':        lambda: ImageDataLoaders.from_df(table, folder, **kw),
        'csv':       lambda: ImageDataLoaders.from_csv(folder, **kw),
        'lists':     lambda: ImageDataLoaders.from_lists(folder, fs, list(table.label), **kw),
        'name_func': lambda: ImageDataLoaders.from_name_func(folder, fs, lambda n: n[:3], **kw),
        'block':     lambda: small_loaders(folder)}
    dls,f = makers[made](),fs[3]
    def inputs(o): return dls.test_dl([o]).one_batch()[0].as_subclass(Tensor)
    opened,want = Image.open(f).convert('RGB'),inputs(f)
    px = inputs(opened)
    assert (px-want).abs().mean()<0.1     # a file is decoded only as finely as needed
    for o in str(f), f.read_bytes(): assert torch.equal(inputs(o), want), type(o)
    for o in np.array(opened), PILImage.create(opened): assert torch.equal(inputs(o), px), type(o)
    learn = Learner(dls, small_net())
    with learn.no_bar(), learn.no_logging():
        names = [learn.predict(o)[0] for o in (f, str(f), PILImage.create(opened))]
    assert names[0]==names[1] and {*names} <= {'cat','dog'}
    assert dls.test_dl(fs).one_batch()[0].shape[0]==4

def test_rows_are_new_items_of_a_table_too(folder, table):
    dls = ImageDataLoaders.from_df(table, folder, **kw)
    x,y = dls.test_dl(table[:4], with_labels=True).one_batch()
    assert x.shape[0]==4 and [dls.vocab[i] for i in y]==list(table.label[:4])
    assert torch.equal(dls.test_dl(table[:4]).one_batch()[0], x)

def test_empty_loaders_still_know_what_they_take(folder, table):
    dls = ImageDataLoaders.from_df(table, folder, **kw)
    f = get_image_files(folder)[0]
    assert torch.equal(dls.new_empty().test_dl([f]).one_batch()[0], dls.test_dl([f]).one_batch()[0])

def test_how_many_steps_an_item_is_past_can_be_said(folder):
    ds = block().datasets(folder)
    assert make_test_set(ds, [ds[0][0]], rm_tfms=1)[0][0] is not None and make_test_set(ds, [7], 1)[0]==(7,)
    dls = small_loaders(folder)
    im = PILImage.create(get_image_files(folder)[0])
    assert torch.equal(dls.test_dl([im], rm_type_tfms=1).one_batch()[0], dls.test_dl([im]).one_batch()[0])
    with pytest.raises(Exception): dls.test_dl([get_image_files(folder)[0]], rm_type_tfms=1).one_batch()

def test_use_list_and_types():
    assert TfmdLists(np.arange(3), noop, use_list=True).items==[0,1,2]
    assert isinstance(TfmdLists(np.arange(3), noop).items, np.ndarray)
    tl = TfmdLists([1,2], [str,len], types=[int,str,int])
    assert (tl.infer_idx('x'), tl.infer_idx(3), tl.types)==(1,0,[int,str,int])
    assert TfmdLists([1], [str]).types==[int,str]

def test_items_in_two_subsets():
    assert TfmdLists(range(3), noop, splits=([0,1],[1,2])).overlapping_splits()==[1]

def test_generator_of_files(folder):
    dls = ImageDataLoaders.from_name_func(folder, folder.glob('*.jpg'), lambda n: n[:3], **kw)
    assert len(dls.train_ds)+len(dls.valid_ds)==20
    assert len(block(get_items=lambda p: p.glob('*.jpg')).datasets(folder))==20

def test_rows_may_be_named_tuples(folder, table):
    rows = block(get_items=None, get_x=ColReader('name', pref=folder), get_y=ColReader('label'))
    x,y = rows.dataloaders(list(table.itertuples()), bs=4, num_workers=0).one_batch()
    assert x.shape==(4,3,16,16)

# ---- brackets, names of arguments, sources

def test_forgotten_brackets(folder):
    with pytest.raises(TypeError, match=r'batch_tfms=aug_transforms\(\)'): block(batch_tfms=aug_transforms)
    with pytest.raises(TypeError, match=r'item_tfms=Resize\(size=…\)'): block(item_tfms=Resize)
    fs = get_image_files(folder)
    with pytest.raises(TypeError, match=r'batch_tfms=aug_transforms\(\)'):
        ImageDataLoaders.from_name_func(folder, fs, str.upper, batch_tfms=aug_transforms, **kw)
    with pytest.raises(TypeError, match=r'splitter=RandomSplitter\(\)'):
        block(splitter=RandomSplitter).dataloaders(folder)
    called = [type(f) for f in block(batch_tfms=Flip).batch_tfms]
    assert Flip in called, 'a class that needs nothing is called'

def test_misspelt_arguments(folder):
    fs = get_image_files(folder)
    with pytest.raises(TypeError, match='did you mean `item_tfms`'):
        ImageDataLoaders.from_name_func(folder, fs, lambda n: n[:3], item_tfm=Resize(16))
    with pytest.raises(TypeError, match='item_tfms` belongs to DataBlock'):
        block().dataloaders(folder, item_tfms=Resize(16))
    with pytest.raises(TypeError, match='did you mean `num_workers`'):
        block().dataloaders(folder, num_worker=0)

@pytest.mark.parametrize('name', ['from_folder','from_path_func','from_name_func','from_path_re',
                                  'from_name_re','from_df','from_csv','from_lists'])
def test_signatures_say_what_there_is(name):
    names = inspect.signature(getattr(ImageDataLoaders, name)).parameters.keys()
    usual = 'valid_pct seed item_tfms batch_tfms img_cls bs val_bs shuffle device num_workers'
    assert {*usual.split()} <= names, names

def test_swapped_sources(folder):
    with pytest.raises(TypeError, match='get_image_files'):
        ImageDataLoaders.from_path_func(str(folder), str(folder), REGEX)
    with pytest.raises(ValueError, match='get_items=get_image_files'):
        block(get_items=None).dataloaders(folder)
    with pytest.raises(TypeError, match='looks into a folder'): block().dataloaders(get_image_files(folder))

def test_names_of_show_results(folder, table):
    learn = Learner(from_df(table, folder), small_net(), loss_func=CrossEntropyLossFlat())
    plt.close('all')
    with learn.no_bar(), learn.no_logging():
        learn.show_results(rows=2, figsize=(10,10), max_n=4)
        assert len(plt.gcf().axes)==4 and list(plt.gcf().get_size_inches())==[10,10]
        with pytest.raises(TypeError, match='show_results: unknown argument .figsiz.; did you mean `figsize'):
            learn.show_results(figsiz=(3,3))
        with pytest.raises(TypeError, match='show_batch: unknown argument .nrow.'):
            learn.dls.show_batch(nrow=3)
        learn.dls.show_batch(cmap='gray', alpha=.5, zorder=2)

def test_reprs(folder):
    said = repr(block().dataloaders(folder, bs=4))
    assert 'train: 16 items in 4 batches of 4, valid: 4 items in 1 batches of 4, 2 classes: cat, dog' in said
    for word in 'get_image_files','RandomSplitter','Categorize','Resize','input','target':
        assert word in repr(block()), repr(block())

# ---- labels

def test_several_label_columns(folder, table):
    dls = ImageDataLoaders.from_df(table, folder, label_col=['label','size'], **kw)
    y = dls.one_batch()[1]
    assert dls.vocab==['big','cat','dog','small'] and y.shape==(4,4) and (y.sum(1)==2).all()
    table['cat'],table['dog'] = (table.label=='cat').astype(int),(table.label=='dog').astype(int)
    dls = ImageDataLoaders.from_df(table, folder, label_col=['cat','dog'], **kw)
    assert dls.vocab==['cat','dog'] and (dls.one_batch()[1].sum(1)==1).all()
    dls.show_batch()
    plt.close('all')

def test_columns_of_0_and_1_are_answered_with_probabilities(folder, table):
    "A learner on ready-made 0/1 columns has a loss that knows its activation, and decodes by a threshold"
    df = table[['name']].assign(red=[0,1]*10, blue=1)
    labels = MultiCategoryBlock(encoded=True, vocab=['red','blue'])
    dls = ImageDataLoaders.from_df(df, folder, label_col=['red','blue'], y_block=labels, **kw)
    learn = Learner(dls, small_net())
    with torch.no_grad():
        learn.model[2].weight.zero_()
        learn.model[2].bias.copy_(tensor([-2.,2.]))
    assert type(learn.loss_func) is BCEWithLogitsLossFlat
    with learn.no_bar(), learn.no_logging():
        names,chosen,probs = learn.predict(get_image_files(folder)[0])
        preds = learn.get_preds()[0]
    assert names==['blue'] and chosen.tolist()==[False,True]
    assert torch.allclose(probs, tensor([-2.,2.]).sigmoid()) and 0<=preds.min() and preds.max()<=1

def test_tuples_of_labels_are_one_target(folder):
    dls = small_loaders(folder, blocks=(ImageBlock,MultiCategoryBlock), get_y=lambda f: (REGEX(f),'pet'))
    assert dls.vocab==['cat','dog','pet'] and dls.one_batch()[1].shape==(4,3)
    dls = small_loaders(folder, blocks=(ImageBlock,RegressionBlock), get_y=lambda f: (1.,2.))
    assert dls.c==2 and dls.one_batch()[1].shape==(4,2)

def test_two_targets_say_what_they_are(folder, table):
    both = block(blocks=(ImageBlock,CategoryBlock,RegressionBlock), n_inp=1, get_items=None,
                 get_x=ColReader('name', pref=folder), get_y=[ColReader('label'), lambda r: 1.])
    dls = both.dataloaders(table, bs=4, num_workers=0)
    assert dls.c==[2,1] and dls.vocab==['cat','dog'] and dls.loss_func is None
    with pytest.raises(ValueError, match='2 targets'): get_c(dls)
    with pytest.raises(ValueError, match='pass `loss_func`'): Learner(dls, small_net())

def test_a_vocab_keeps_its_order_unless_told_not_to(): # the columns of predictions are in this order
    def vocab(names=('dog','cat'), **kwargs): return CategoryBlock(vocab=names, **kwargs).type_tfms[0].vocab
    assert vocab()==['dog','cat'] and vocab(sort=False)==['dog','cat'] and vocab(sort=True)==['cat','dog']
    assert vocab({'dog','cat'})==['cat','dog'], 'a set has no order'
    assert vocab(np.array(['dog','cat']))==vocab(pd.Series(['dog','cat'], index=[4,2]))==['dog','cat']
    assert Categorize(vocab=['cat','dog']).decode(1)=='dog'

@pytest.mark.parametrize('empty', [None, float('nan')])
@pytest.mark.parametrize('row', [7, 10])     # one in training, one in validation
def test_row_without_a_label(folder, table, empty, row):
    table.loc[row,'label'] = empty
    with pytest.raises(ValueError, match='no label') as e:
        ImageDataLoaders.from_df(table, folder, **by_column)
    said = full_message(e.value)
    assert f'row {row} of the table' in said and 'dropna' in said, said

def test_row_without_tags_or_number(folder, table):
    table.loc[3,'size'] = None
    with pytest.raises(ValueError, match='no label for row 3 of the table'):
        ImageDataLoaders.from_df(table, folder, label_col='size', label_delim=' ', **by_column)
    table['age'] = np.arange(20.)
    table.loc[3,'age'] = np.nan
    with pytest.raises(ValueError, match='no label for row 3 of the table'):
        ImageDataLoaders.from_df(table, folder, label_col='age', y_block=RegressionBlock, **by_column)

def test_labels_that_are_none(folder, table):
    with pytest.raises(ValueError, match='none of the 16 training items has a label'):
        from_df(table.assign(label=''), folder, label_delim=';')
    assert from_df(table.assign(label='a  b'), folder, label_delim=' ').vocab==['a','b']

def test_forgotten_get_y(folder):
    with pytest.raises(ValueError, match='file paths themselves.*did you forget `get_y`'):
        block(get_y=None).dataloaders(folder)

def test_a_vocab_that_was_given_is_not_advised(folder, table):
    cats_in_validation = IndexSplitter(table.index[table.label=='cat'])
    rows = block(blocks=(ImageBlock,CategoryBlock(vocab=['dog','cow'])), get_items=None,
                 get_x=ColReader('name', pref=folder), get_y=ColReader('label'), splitter=cats_in_validation)
    with pytest.raises(KeyError, match='2 classes of the vocab that was given') as e: rows.datasets(table)
    assert 'vocab=[' not in full_message(e.value)

# ---- splits

def test_no_train_and_valid(folder):
    for f in get_image_files(folder):
        (folder/REGEX(f)).mkdir(exist_ok=True)
        f.rename(folder/REGEX(f)/f.name)
    with pytest.raises(ValueError, match='valid_pct=0.2') as e:
        ImageDataLoaders.from_folder(folder, item_tfms=Resize(16))
    assert '20 pictures are in 2 folders (cat, dog)' in full_message(e.value)
    assert ImageDataLoaders.from_folder(folder, valid_pct=0.2, **kw).vocab==['cat','dog']

def test_validation_column_of_words(folder, table):
    table['part'] = np.where(table.is_valid, 'valid', 'train')
    with pytest.raises(ValueError, match='must hold true and false') as e:
        from_df(table, folder, valid_col='part')
    assert 'on=' in full_message(e.value)
    rows = block(get_items=None, get_x=ColReader('name', pref=folder), get_y=ColReader('label'),
                 splitter=ColSplitter('part', on='valid'))
    assert len(rows.datasets(table).valid)==4

def test_advice_about_a_validation_column_is_right(folder, table):
    said = table.assign(v=['True','False','False','False']*5)
    with pytest.raises(ValueError, match="on='True'") as e: from_df(said, folder, valid_col='v')
    assert "df['v'] = df['v']=='True'" in full_message(e.value)
    train,valid = ColSplitter('v', on='True')(said)
    assert (len(train),len(valid))==(15,5)
    with pytest.raises(ValueError, match='empty in 1 rows, first in row 3'):
        from_df(table.assign(v=[True]*3+[np.nan]+[False]*16), folder, valid_col='v')

def test_shares(folder):
    with pytest.raises(TypeError, match='must be a number'): RandomSplitter('0.2')
    with pytest.raises(ValueError, match='from 0 to 1[.]?$'): RandomSplitter(-0.1)
    with pytest.raises(ValueError, match='for 20 per cent write 0.2'):
        ImageDataLoaders.from_name_func(folder, get_image_files(folder), str.upper, valid_pct=20)

# ---- several inputs

class TwoInputs(nn.Module):
    def __init__(self, n=3):
        super().__init__()
        self.lin = nn.Linear(2*n, 1)
    def forward(self, a, b): return self.lin(torch.cat([a,b], 1))[:,0]

PAIRS = [(torch.rand(3),torch.rand(3),torch.tensor(1.))]*8
def pair(i): return PAIRS[i]
def pair_and_0(i): return *PAIRS[i],0.
def of_pairs(f): return TfmdLists(range(8), f, splits=(range(4),range(4,8))).dataloaders(bs=2, num_workers=0)
LOADERS = {'torch':     lambda: torch.utils.data.DataLoader(PAIRS, batch_size=2),
           'ours':      lambda: DataLoader(PAIRS, bs=2),
           'TfmdDL':    lambda: TfmdDL(PAIRS, bs=2, num_workers=0),
           'TfmdLists': lambda: of_pairs(pair).train}

@pytest.mark.parametrize('kind', LOADERS)
def test_all_parts_of_a_batch_but_the_last_are_inputs(kind):
    dl = LOADERS[kind]()
    learn = Learner(DataLoaders(dl, dl), TwoInputs(), loss_func=F.mse_loss, lr=0.1)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        preds,targs = learn.get_preds()
        if kind in ('torch','ours'): assert len(learn.predict(PAIRS[0][:2])[2].reshape(-1))==1
    assert len(preds)==len(dl)*2 and targs.unique().item()==1

def test_the_number_of_inputs_can_be_said():
    dl = DataLoader([(torch.rand(3),torch.rand(3),torch.tensor(1.),torch.tensor(2.))]*8, bs=2)
    dls = DataLoaders(dl, dl)
    dls.n_inp = 2
    learn = Learner(dls, TwoInputs(), loss_func=lambda p,y,z: F.mse_loss(p, y*z), lr=0.1)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        assert len(learn.get_preds()[1])==2
    dls = of_pairs(pair_and_0)
    assert dls.n_inp is None
    dls.n_inp = 2
    assert dls.valid.new().n_inp==2==dls.test_dl([1]).n_inp

# ---- tables

def test_big_tables_are_read_by_columns(folder):
    n = 20000
    df = pd.DataFrame({'name':[f'{i}.jpg' for i in range(n)], 'label':['ab'[i%2] for i in range(n)]})
    start = time.perf_counter()
    for i in range(n): df.iloc[i]
    rows,start = time.perf_counter()-start,time.perf_counter()
    dls = from_df(df, folder)
    ours = time.perf_counter()-start
    assert ours < rows, f'{ours:.2f} s; only to take the rows one by one costs {rows:.2f} s'
    assert dls.vocab==['a','b'] and len(dls.train_ds)==16000

def test_a_column_that_is_not_there_is_missed_at_once(folder, table):
    with pytest.raises(KeyError, match="There is no column 'nme'"): from_df(table, folder, fn_col='nme')

# ---- an error in an item keeps its class, and names the item, its file or row, and the step

def test_missing_file(folder):
    learn = Learner(small_loaders(folder), small_net())
    with learn.no_bar(), learn.no_logging():
        with pytest.raises(FileNotFoundError, match='missing.jpg') as e: learn.predict('missing.jpg')
        assert 'in item 0, missing.jpg' in full_message(e.value)
        with pytest.raises(FileNotFoundError, match='missing.jpg'):
            learn.get_preds(dl=learn.dls.test_dl(['missing.jpg'], num_workers=1))

def test_label_function_that_fails(folder):
    fs = get_image_files(folder)
    def second_part(p): return (p.name[:3],p.name.split('_')[1])[0]
    def only_with_underscore(p): return ('x','y')['_' not in p.name and 2]
    (folder/'odd.jpg').write_bytes((folder/'cat_0.jpg').read_bytes())
    said = error_text(ImageDataLoaders.from_path_func, folder, fs, lambda p: p.name.split('_')[9], **kw)
    assert said.startswith('IndexError') and 'in training item 0, ' in said and 'in step `' in said, said
    said = error_text(block(get_y=second_part, splitter=EndSplitter(0.1)).dataloaders, folder)
    assert said.startswith('IndexError') and 'in step `second_part`' in said and 'odd.jpg' in said, said
    said = error_text(block(get_y=only_with_underscore, splitter=EndSplitter(0.1)).dataloaders, folder)
    assert said.startswith('IndexError') and 'in validation item ' in said and 'odd.jpg' in said, said

def test_unequal_sizes_name_the_files(folder, table):
    with pytest.raises(ValueError) as e: small_loaders(folder, item_tfms=None).one_batch()
    said = full_message(e.value)
    assert said.count(str(folder))==2 and '.jpg has shape (3, ' in said and 'part 0 of item ' in said, said
    with pytest.raises(ValueError, match=r"part 0 of row \d+ of the table, \{'name': '.*'label'.*has shape"):
        from_df(table, folder, item_tfms=None).one_batch()

def test_items_that_fail_name_the_row_and_the_step(folder, table):
    df = table[['name','label']].astype(object)
    df.loc[7,'name'] = np.nan
    df.index = [f'r{i}' for i in range(len(df))]
    dls = from_df(df, folder)
    with pytest.raises(TypeError) as e: [list(dl) for dl in dls]
    said = full_message(e.value)
    pat = r"TypeError in row r7 of the table, \{'name': nan, 'label': '...'\}"
    assert re.search(pat, said), said
    assert 'in step `create`' in said, said

# ---- summary: which step, on what, with which shapes, what helps

def test_summary_of_a_recipe_that_works(folder, capsys):
    block(batch_tfms=aug_transforms(size=8)).summary(folder, show_batch=True)
    plt.close('all')
    out = capsys.readouterr().out
    for word in ('20 items', '.jpg', 'PILImage of size', 'TensorCategory', '(4, 3, 16, 16), uint8',
                 '(4, 3, 8, 8), float32', 'All steps work'):
        assert word in out, (word, out)

class Bad(Transform):
    order = 30
    def encodes(self, o:TensorImage): return o @ torch.ones(5)

@pytest.mark.parametrize('change,where,given,helps', [
    (dict(get_y=RegexLabeller(r'x(\d+)$')),       'target', '.jpg', 're.search'),
    (dict(get_x=lambda p: p.parent/'no'/p.name),  'input',  '.jpg', 'get_x'),
    (dict(item_tfms=None),                        'stacking', 'shape', 'Resize(224)'),
    (dict(batch_tfms=Bad()),                      'batch transform `Bad`', '(4, 3, 16, 16)', 'batch axis'),
    (dict(item_tfms=[Resize(16), Bad()]),         'item transform `Bad`', '(3, 16, 16)', 'one item'),
    (dict(get_items=lambda p: 1/0),               'get_items', 'Path', 'alone'),
    (dict(splitter=lambda o: 1/0),                'splitter', 'cat_', 'two lists')])
def test_summary_names_the_step(folder, capsys, change, where, given, helps):
    with pytest.raises(Exception) as e: block(**change).summary(folder)
    out = capsys.readouterr().out
    for text in (full_message(e.value), out):
        assert where in text and helps in text and given in text, (text, out)
    assert '✗' in out

def test_summary_of_tables(folder, table, capsys):
    block(get_items=None, get_x=ColReader('name', pref=folder), get_y=ColReader('label')).summary(table)
    assert 'All steps work' in capsys.readouterr().out

def test_summary_about_a_vocab_that_lacks_a_label(folder, capsys):
    with pytest.raises(KeyError): block(blocks=(ImageBlock,CategoryBlock(vocab=['dog']))).summary(folder)
    out = capsys.readouterr().out
    assert '✗' in out and 'add the label to `vocab`' in out, out

# ---- what is shared, and what stays as it was

def test_each_loader_has_transforms_of_its_own(folder, tmp_path_factory):
    dark = tmp_path_factory.mktemp('dark')
    for f in get_image_files(folder): Image.new('RGB', (20,20)).save(dark/f.name)
    b = block(batch_tfms=Normalize())
    bright,black = (b.dataloaders(o, bs=4, num_workers=0) for o in (folder,dark))
    assert bright.after_batch.normalize.mean.min()>0.1 and black.after_batch.normalize.mean.max()==0
    assert bright.valid.after_batch.normalize is bright.train.after_batch.normalize

class FailsSecond(Transform):
    "Can be set up for one loader only"
    seen = 0
    def setups(self, dl):
        FailsSecond.seen += 1
        if FailsSecond.seen==2: raise ValueError('not again')

def test_transforms_that_cannot_be_added_leave_the_loaders_alone(folder):
    dls = small_loaders(folder)
    before = [list(dl.after_batch.fs) for dl in dls]
    with pytest.raises(ValueError, match='not again'):
        dls.add_tfms([Normalize(),FailsSecond()], 'after_batch')
    assert [list(dl.after_batch.fs) for dl in dls]==before
    b = block()
    with pytest.raises(TypeError, match='neither a transform nor a function'): b.new(FlipItem(), [3])
    assert not any(isinstance(f, FlipItem) for f in b.item_tfms)
    p = Pipeline([noop, FailsSecond(), FailsSecond()])
    FailsSecond.seen = 0
    with pytest.raises(ValueError, match='not again'): p.setup([1])
    assert len(p)==3

def test_lists_of_the_caller_stay(folder):
    blocks,items,batches,getters = [ImageBlock,CategoryBlock],[Resize(16)],[Normalize()],[noop,REGEX]
    DataBlock(blocks, getters=getters, get_items=get_image_files, get_y=REGEX, item_tfms=items,
              batch_tfms=batches).dataloaders(folder, bs=4, num_workers=0)
    assert (len(blocks),len(items),len(batches)) == (2,1,1) and getters==[noop,REGEX]
    assert batches[0].mean is None

def test_blocks_without_brackets():
    assert 'put several blocks into one tuple' in error_text(DataBlock, ImageBlock, CategoryBlock)

# ---- splitters

def test_validation_sets_that_are_empty(folder, table):
    for splitter in RandomSplitter(.01),EndSplitter(.01),FuncSplitter(lambda o: False):
        with pytest.warns(UserWarning, match='no validation set|no item is for validation'):
            assert len(small_loaders(folder, splitter=splitter).valid)==0
    with pytest.warns(UserWarning, match="column 'none' is true in no row"):
        ColSplitter('none')(table.assign(none=False))
    with pytest.raises(ValueError, match="no row has on='valdi'"): ColSplitter('size', on='valdi')(table)
    with pytest.raises(ValueError, match='training set is empty'):
        small_loaders(folder, splitter=RandomSplitter(1))

def test_seeds():
    files = range(20)
    assert RandomSplitter(seed=np.int64(3))(files)==RandomSplitter(seed=3)(files)
    before = torch.get_rng_state()
    RandomSplitter(seed=-1)(files)
    assert torch.equal(before, torch.get_rng_state())
    for seed in 1.5,'a':
        with pytest.raises(TypeError, match='whole number'): RandomSplitter(seed=seed)(files)

def test_a_list_of_names(folder, tmp_path):
    names,files = tmp_path/'valid.txt',get_image_files(folder)
    names.write_text('\ufeffcat_0.jpg\r\ndog_1.jpg \nnope.jpg\n', encoding='utf-8')
    with pytest.warns(UserWarning, match='1 of the 3 names'): valid = FileSplitter(names)(files)[1]
    assert files[valid].attrgot('name')==['cat_0.jpg','dog_1.jpg']
    names.write_text('nope.jpg')
    with pytest.raises(ValueError, match="are no item's.*an item is called"): FileSplitter(names)(files)

def test_masks():
    assert MaskSplitter(pd.Series([True,False], index=[3,4]))('ab')==([1],[0])
    for mask in [True,None],['False','True'],[float('nan'),1]:
        with pytest.raises(ValueError, match='neither true nor false'): MaskSplitter(mask)
